"""Pictures and captions as everybody's tools lay them out; and no file outside the source is read."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mitune.data import dataset
from mitune.data.decoding import decode_picture
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures
from mitune.data.pictures.writing import write_pictures
from mitune.errors import UserError
from mitune.stages.picture_scores import ScoredPictures


def png(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def shades(found: Pictures) -> list[int]:
    """The grey level of each picture, which tells it."""
    assert found.read is not None
    return [
        round(255 * float(decode_picture(found.read(row), (8, 8), "x")[0].max())) for row in range(len(found))
    ]


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


# -- captions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [["a dog", "a cat"], [None, " ", "a dog", "b"], '["a dog", "a cat"]', "['a dog', 'it\\'s']", [{"raw": "a dog"}],
     {"raw": ["a dog"]}, [["a dog"], ["b"]]],
)  # fmt: skip
def test_of_several_captions_the_first_is_taken(tmp_path: Path, value: Any) -> None:
    put(tmp_path, {"a.png": png(), "metadata.jsonl": json.dumps({"file_name": "a.png", "text": value})})
    assert load_pictures(tmp_path).texts == ["a dog"]


@pytest.mark.parametrize(
    "text", ["[V] dog", "[a dog", "['a' dog]", "[1, 2]", '["a", 5]', "[dog], [cat]", "'a'"]
)
def test_text_with_brackets_is_text(tmp_path: Path, text: str) -> None:
    put(tmp_path, {"a.png": png(), "metadata.jsonl": json.dumps({"file_name": "a.png", "text": text})})
    assert load_pictures(tmp_path).texts == [text]


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "int"), (True, "bool"), (1.5, "float"), ({"x": 1}, "dict"), ([3], "int")]
)
def test_a_caption_that_is_no_text_is_named_with_its_type(tmp_path: Path, value: Any, kind: str) -> None:
    put(tmp_path, {"a.png": png(), "metadata.jsonl": json.dumps({"file_name": "a.png", "text": value})})
    with pytest.raises(UserError, match=rf"the caption a\.png is {kind}, not text"):
        load_pictures(tmp_path)


@pytest.mark.parametrize("value", [[], [None], ["", " "], None, ""])
def test_an_empty_list_is_no_caption(tmp_path: Path, value: Any) -> None:
    put(tmp_path, {"a.png": png(), "metadata.jsonl": json.dumps({"file_name": "a.png", "text": value})})
    with pytest.raises(UserError, match=r"a\.png has no caption"):
        load_pictures(tmp_path)


def test_a_random_caption_follows_from_the_seed_and_the_row_not_from_the_order(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(4)]
    rows = [{"file_name": f"{number}.png", "text": captions} for number in range(40)]

    def chosen(rows: list[dict[str, Any]], seed: int) -> dict[str, str]:
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = load_pictures(tmp_path, caption="random", seed=seed)
        return dict(zip(found.names, found.texts, strict=True))

    first = chosen(rows, 0)
    assert set(first.values()) == set(captions)
    assert chosen(rows[::-1], 0) == first != chosen(rows, 1)
    assert chosen(rows[5:6], 0) == {"5.png": first["5.png"]}


# -- layouts -----------------------------------------------------------------------------------------------------------


def test_text_files_beside_pictures(tmp_path: Path) -> None:
    put(tmp_path, {
        "b.JPG": png(20), "b.txt": "\ufeffa blue  dog\n", "10_cat/a.webp": png(30), "10_cat/a.caption": "a cat",
        "a.png": png(10), "a.txt": "a red dog\na second\n", "c.png": png(40), "c.png.txt": "a tree",
        "d.png": png(50), "d.json": '{"width": 3, "caption": "a house"}', ".hidden.png": png(), "notes.txt": "x",
    })  # fmt: skip
    found = load_pictures(tmp_path)
    assert found.names == ["a.png", "b.JPG", "c.png", "d.png", "10_cat/a.webp"]
    assert found.texts == ["a red dog", "a blue dog", "a tree", "a house", "a cat"]
    assert shades(found) == [10, 20, 40, 50, 30]
    assert any("1 text files have several lines" in note for note in found.notes)
    assert any("repeats" in note for note in found.notes)
    os.remove(tmp_path / "b.txt")
    with pytest.raises(UserError, match=r"b\.JPG has no caption"):
        load_pictures(tmp_path)
    assert load_pictures(tmp_path, skip=True).left_out == 1


def test_pictures_without_any_caption_are_refused_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path, {"cats/a.png": png(), "dogs/b.png": png()})
    with pytest.raises(UserError, match=r"has 2 pictures and no caption.*cats/a\.txt beside cats/a\.png"):
        load_pictures(tmp_path)


def test_tar_shards(tmp_path: Path) -> None:
    tar(tmp_path / "00000.tar", {
        "a/000.png": png(1), "a/000.txt": b"a dog,\na red one", "a/001.jpg": png(2), "a/001.cls": b"3",
        "a/001.json": b'{"key": "1", "caption": ["a cat", "b"]}', "__key__.info": b"x", "002.seg.png": png(3),
        "002.caption": b"a tree",
    })  # fmt: skip
    tar(tmp_path / "00001.tar", {"000.webp": png(4), "000.json": b'{"text": "a house", "note": "n"}'})
    pq.write_table(
        pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "00000.parquet"
    )  # img2dataset's notes
    found = load_pictures(tmp_path)
    assert found.texts == ["a dog, a red one", "a cat", "a tree", "a house"]
    assert found.names == ["a/000 of 00000.tar", "a/001 of 00000.tar", "002 of 00000.tar", "000 of 00001.tar"]
    assert shades(found) == [1, 2, 3, 4]
    assert shades(load_pictures(str(tmp_path / "{00000..00001}.tar"))) == [1, 2, 3, 4]
    assert shades(load_pictures(tmp_path / "00001.tar", limit=1)) == [4]
    assert shades(load_pictures(tmp_path / "00000.tar", image_column="jpg")) == [2]
    assert load_pictures(tmp_path / "00001.tar", text_column="note").texts == ["n"]
    with pytest.raises(UserError, match=r"no field 'note' \(score\.text_column\)"):
        load_pictures(tmp_path, text_column="note", skip=True)


def test_damaged_tars_and_members_that_are_no_files(tmp_path: Path) -> None:
    whole = tar(
        tmp_path / "a.tar", {"a.png": png(1), "a.txt": b"a dog", "b.png": png(2), "b.txt": b"a cat"}
    ).read_bytes()
    header = 512 * (1 + -(-len(png(1)) // 512) + 2)  # of b.png
    flipped = bytearray(whole)
    flipped[header + 10] ^= 1  # the library takes this for the end
    for name, data in {
        "cut at a member": whole[:header], "cut in a member": whole[: header + 600],
        "no end mark": whole[: header + 512 * 4],
        "cut in a header": whole[: header + 100], "flipped": bytes(flipped), "two in one": whole + whole, "empty": b"",
    }.items():  # fmt: skip
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(UserError, match=r"b\.tar is (cut|damaged|not a readable tar)"):
            load_pictures(tmp_path / "b.tar")
        assert len(data) != len(whole) or name == "flipped"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "c.tar", "w") as file:
            member = tarfile.TarInfo("a.png")
            member.type, member.linkname = kind, "/etc/passwd"
            file.addfile(member)
        with pytest.raises(UserError, match=r"a\.png is a link, a device"):
            load_pictures(tmp_path / "c.tar")
    tar(tmp_path / "d.tar", {"a.png": png(), "a.jpg": png(), "a.txt": b"x"})
    with pytest.raises(UserError, match=r"has the pictures jpg, png; choose one with score\.image_column"):
        load_pictures(tmp_path / "d.tar")
    tar(tmp_path / "e.tar", {"a.txt": b"x"})
    with pytest.raises(UserError, match="has no picture"):
        load_pictures(tmp_path / "e.tar")
    with tarfile.open(tmp_path / "f.tar.gz", "w:gz") as file:
        file.add(tmp_path / "a.tar", "a.tar")
    with pytest.raises(UserError, match="is compressed"):
        load_pictures(tmp_path / "f.tar.gz")


def pairs(count: int) -> pa.Table:
    return pa.table({
        "are_different": [True] * count, "caption": [f"caption {row}" for row in range(count)],
        "jpg_0": [png(2 * row) for row in range(count)], "jpg_1": [png(2 * row + 1) for row in range(count)],
        "label_0": [1.0, 0.5] * (count // 2), "label_1": [0.0, 0.5] * (count // 2),
    })  # fmt: skip


def test_both_pictures_of_a_pair_are_rows(tmp_path: Path) -> None:
    pq.write_table(pairs(4), tmp_path / "a.parquet", row_group_size=3)
    saved = datasets.Dataset(pairs(4))
    saved.save_to_disk(str(tmp_path / "saved"))
    for source in (tmp_path / "a.parquet", tmp_path / "saved"):
        found = load_pictures(source)
        assert shades(found) == list(range(8))
        assert found.texts[:3] == ["caption 0", "caption 0", "caption 1"]
        assert found.names[:2] == ["of row 0 (jpg_0)", "of row 0 (jpg_1)"]
        assert found.keys["pair"] == [0, 0, 1, 1, 2, 2, 3, 3]
        assert found.keys["side"] == [0, 1] * 4
        assert found.keys["label"] == [1.0, 0.0, 0.5, 0.5] * 2
        assert len(set(found.names)) == 8
        one = load_pictures(source, image_column="jpg_1")
        assert (shades(one), one.keys) == ([1, 3, 5, 7], {})


def test_tables_of_addresses_say_what_is_missing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["http://x/a.png"], "TEXT": ["a dog"]}), tmp_path / "laion.parquet")
    with pytest.raises(UserError, match=r"web addresses \(column 'URL'\).*img2dataset"):
        load_pictures(tmp_path / "laion.parquet")
    with pytest.raises(UserError, match="web addresses"):
        load_pictures(tmp_path)
    found = load_pictures(put(tmp_path / "a", {"metadata.csv": "file_name,text\nhttps://x/a.png,a dog\n"}))
    assert found.read is not None
    with pytest.raises(UserError, match="is a web address"):
        found.read(0)


def test_splits_by_names(tmp_path: Path) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        (tmp_path / "p" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"image": [png(number)], "text": ["x"]}), tmp_path / "p" / "data" / f"{name}.parquet"
        )
    for name in ("train", "test"):
        put(tmp_path / "m" / name, {"a.png": png(len(name)), "metadata.csv": "file_name,text\na.png,x\n"})
        put(tmp_path / "s" / name, {"a.png": png(len(name)), "a.txt": "x"})
        (tmp_path / "t").mkdir(exist_ok=True)
        tar(tmp_path / "t" / f"{name}-0.tar", {"a.png": png(len(name)), "a.txt": b"x"})
    table = "file_name,text\ntrain/a.png,x\ntest/a.png,x\n"
    put(tmp_path / "r", {"metadata.csv": table, "train/a.png": png(5), "test/a.png": png(4)})
    for source, train, test in (
        ("p", [0, 1], [2]),
        ("m", [5], [4]),
        ("s", [5], [4]),
        ("t", [5], [4]),
        ("r", [5], [4]),
    ):
        assert shades(load_pictures(tmp_path / source, split="train")) == train, source
        assert shades(load_pictures(tmp_path / source, split="test")) == test, source
        assert shades(load_pictures(tmp_path / source, training=True)) == train, source
        with pytest.raises(UserError, match="no split 'validation'"):
            load_pictures(tmp_path / source, split="validation")
    assert shades(load_pictures(tmp_path / "r")) == [5, 4]  # a table that is asked for is given whole


def test_metadata_in_every_form(tmp_path: Path) -> None:
    forms = {
        "metadata.json": json.dumps([{"file_name": "a.png", "text": "a dog, red"}]),
        "metadata.csv": '\ufefffile_name,text\r\na.png,"a dog, red"\r\n',
        "metadata.jsonl": json.dumps({"image_file_name": "a.png", "text": "a dog, red"}),
    }
    for number, (name, text) in enumerate(forms.items()):
        found = load_pictures(put(tmp_path / str(number), {name: text, "a.png": png(7)}))
        assert found.texts == ["a dog, red"]
        assert shades(found) == [7]
    put(tmp_path / "x", {"metadata.jsonl": json.dumps({"file_name": ["a.png", "b.png"], "text": "x"})})
    with pytest.raises(UserError, match="row 1: column 'file_name' names 2 pictures in one row"):
        load_pictures(tmp_path / "x")


# -- special files and paths -------------------------------------------------------------------------------------------


def opened(folder: Path, name: str, **more: Any) -> bytes:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
    found = load_pictures(folder, **more)
    assert found.read is not None
    return found.read(0)


def test_files_outside_the_folder_are_refused_unless_allowed(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", {"in/a.png": png(1)})
    put(tmp_path, {"b.png": png(2), "setx/c.png": png(3)})
    (folder / "link.png").symlink_to(tmp_path / "b.png")
    (folder / "links").symlink_to(tmp_path)
    (folder / "inner.png").symlink_to(folder / "in" / "a.png")
    for name in ("in/a.png", "./in/../in/a.png", str(folder / "in" / "a.png"), "inner.png", "in\\a.png"):
        assert opened(folder, name) == png(1), name
    for name in ("../b.png", str(tmp_path / "b.png"), "link.png", "links/b.png", "in/../../b.png"):
        with pytest.raises(UserError, match=r"lies outside .*score\.outside=true"):
            opened(folder, name)
        assert opened(folder, name, outside=True) == png(2), name
    with pytest.raises(UserError, match="lies outside"):
        opened(folder, "../setx/c.png")
    with pytest.raises(UserError, match="lies outside"):
        opened(folder, "~/x.png")
    with pytest.raises(UserError, match="no such user"):
        opened(folder, "~nobody-of-this-name/x.png")


@pytest.mark.parametrize("outside", [False, True])
def test_devices_and_pipes_are_not_read(tmp_path: Path, outside: bool) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png", "/dev/zero", "."):
        with pytest.raises(UserError, match=r"named pipe|outside|a device|a folder"):
            opened(tmp_path, name, outside=outside)
    with pytest.raises(UserError, match="named pipe"):
        load_pictures(tmp_path / "pipe.png")
    for name in ("a\0b", "x" * 5000, "x/" * 3000):
        with pytest.raises(UserError, match=r"no path|too long"):
            opened(tmp_path, name)
        with pytest.raises(UserError):
            load_pictures(name)
    os.truncate(put(tmp_path, {"huge.png": b""}) / "huge.png", 2**32)  # of no blocks
    with pytest.raises(UserError, match="no picture is that large"):
        opened(tmp_path, "huge.png")


def test_a_table_of_metadata_that_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    for name, make, message in (
        (
            "link",
            lambda path: path.symlink_to(tmp_path / "absent.csv"),
            "is a link to a file that is not there",
        ),
        ("pipe", os.mkfifo, "is a named pipe"),
        ("folder", os.mkdir, "is a folder"),
    ):
        put(tmp_path / name, {"a.png": png(), "a.txt": "x"})
        make(tmp_path / name / "metadata.csv")
        with pytest.raises(UserError, match=rf"metadata\.csv {message}"):
            load_pictures(tmp_path / name)


def test_the_reason_is_said_where_every_picture_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, {"b.png": png(), "set/metadata.csv": "file_name,text\n../b.png,x\n"})
    work = ScoredPictures(tmp_path / "run", load_pictures(tmp_path / "set"), 4)
    message = str(work.none_opened("none decodes"))
    assert message.startswith("none decodes; the first: the picture ../b.png")
    assert "score.outside=true" in message
    assert "score.skip" not in message
    put(tmp_path / "set", {"metadata.csv": "file_name,text\nc.png,x\n", "c.png": b"no picture"})
    assert str(ScoredPictures(tmp_path / "run", load_pictures(tmp_path / "set"), 4).none_opened("x")) == "x"


def test_other_peoples_parquet_files_read_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, {"b.png": png(2), "set/a.png": png(1)})
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    for name, inside in (("a.png", True), ("../b.png", False), (str(tmp_path / "b.png"), False)):
        cells = pa.array([{"bytes": None, "path": name}], cell)
        pq.write_table(pa.table({"image": cells, "text": ["x"]}), tmp_path / "set" / "p.parquet")
        # Without the feature Image: `datasets` puts the files of such a column into what it saves.
        datasets.Dataset(pa.table({"image": cells, "text": ["x"]})).save_to_disk(str(tmp_path / "saved"))
        put(tmp_path / "saved", {"a.png": png(1)})
        for source in (tmp_path / "set" / "p.parquet", tmp_path / "saved"):
            found = load_pictures(source)
            assert found.read is not None
            if inside:
                assert found.read(0) == png(1)
                continue
            with pytest.raises(UserError, match="lies outside"):
                found.read(0)
            assert shades(load_pictures(source, outside=True)) == [2]
        if inside:
            assert dataset.pictures(dataset.load(tmp_path / "saved")).shape == (1, 3, 8, 8)
        else:
            with pytest.raises(UserError, match="lies outside the training set"):
                dataset.pictures(dataset.load(tmp_path / "saved"))


def test_a_snapshot_in_the_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    files = {"metadata.csv": b"file_name,text\nin/a.png,x\n", "in/a.png": png(5)}
    put(tmp_path, {"secret.png": png(9)})
    for number, (name, data) in enumerate(files.items()):
        put(repository / "blobs", {str(number): data})
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(
            os.path.relpath(repository / "blobs" / str(number), (snapshot / name).parent)
        )
    assert shades(load_pictures(snapshot)) == [5]
    put(repository / "blobs", {"2": b"file_name,text\nb.png,x\n"})
    (snapshot / "b.png").symlink_to(tmp_path / "secret.png")
    (snapshot / "metadata.csv").unlink()
    (snapshot / "metadata.csv").symlink_to("../../blobs/2")
    with pytest.raises(UserError, match="lies outside"):
        shades(load_pictures(snapshot))
    for name in ("a.parquet", "a.tar"):  # and no table, shard or caption elsewhere
        place = tmp_path / name.replace(".", "-")
        place.mkdir()
        (place / name).symlink_to(tmp_path / "secret.png")
        with pytest.raises(UserError, match="lies outside"):
            load_pictures(place)
    put(tmp_path / "beside", {"a.png": png()})
    (tmp_path / "beside" / "a.txt").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="lies outside"):
        load_pictures(tmp_path / "beside")


# -- columns and row groups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_group", [5, 64, 1000])
def test_rows_are_found_in_any_order(tmp_path: Path, row_group: int) -> None:
    table = pa.table({"image": [png(row) for row in range(100)], "text": [str(row) for row in range(100)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group)
    found = load_pictures(tmp_path / "a.parquet")
    assert found.read is not None
    order = [3, 4, 99, 0, 50, 51, 49, 64, 63, 63, 5]
    assert [found.read(row) for row in order] == [png(row) for row in order]
    assert load_pictures(tmp_path / "a.parquet", limit=7).texts == [str(row) for row in range(7)]


def test_only_the_columns_asked_for_are_read_and_a_few_rows_at_a_time(tmp_path: Path) -> None:
    size, count = 2000, 6000
    random = np.random.default_rng(0)
    large = [random.bytes(size) for _ in range(count)]
    table = pa.table({"text": [str(row) for row in range(count)], "image": large, "other": large[::-1]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=count)
    del table
    before, pool = pa.total_allocated_bytes(), pa.default_memory_pool()
    found = load_pictures(tmp_path / "a.parquet")
    assert found.read is not None
    assert pa.total_allocated_bytes() - before < 2**20  # captions only
    most = 0
    for row in range(count):
        assert found.read(row) == large[row]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < size * count / 2, (most, pool.backend_name)


def test_damaged_pages_and_text_that_is_no_text(tmp_path: Path) -> None:
    table = pa.table(
        {"image": [png(row) for row in range(9)], "text": [f"caption {row}" for row in range(9)]}
    )
    pq.write_table(
        table, tmp_path / "a.parquet", write_page_checksum=True, compression="none", use_dictionary=False
    )
    whole = (tmp_path / "a.parquet").read_bytes()
    for place in (whole.index(b"caption 3"), whole.index(b"IHDR", len(png()) * 4)):  # not in the statistics
        (tmp_path / "b.parquet").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with pytest.raises(UserError, match=r"b\.parquet is not a readable parquet file"):
            shades(load_pictures(tmp_path / "b.parquet"))
    bad = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [png()], "text": bad}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c\.parquet is not a readable parquet file"):
        load_pictures(tmp_path / "c.parquet")


def test_pictures_written_in_another_order_than_they_are_read(tmp_path: Path) -> None:
    asked: list[int] = []

    def contents(place: int) -> bytes:
        asked.append(place)
        return png(place)

    table = pd.DataFrame({"text": ["a", "b", "c"]})
    write_pictures(tmp_path / "top", table, contents, order=[2, 0, 1])
    assert asked == [2, 0, 1]
    assert shades(load_pictures(tmp_path / "top")) == [0, 1, 2]
    assert os.listdir(tmp_path / "top") == ["train-00000.parquet"]
