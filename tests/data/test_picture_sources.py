"""Sources of pictures with captions: every form gives the same rows, and what cannot be read is named."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mitune.data.decoding import decode_picture
from mitune.data.pictures import loading
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures, numbers
from mitune.data.pictures.writing import write_pictures, written_here
from mitune.data.prompts import make_prompt
from mitune.data.store import CandidateStore, plan_units
from mitune.errors import UserError

CAPTIONS = ["a red circle", "a blue  square", "a red circle"]


def png(level: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level,) * len(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def image_folder(folder: Path, kind: str = "csv") -> Path:
    folder.mkdir()
    rows = [{"file_name": f"{number}.png", "text": text} for number, text in enumerate(CAPTIONS)]
    for number in range(len(rows)):
        (folder / f"{number}.png").write_bytes(png(50 * number))
    if kind == "csv":
        pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sources(tmp_path: Path) -> dict[str, Path]:
    """The same three pictures in every form."""
    cells = [{"bytes": png(50 * number), "path": None} for number in range(3)]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    saved = datasets.Dataset.from_dict({"image": cells, "caption": CAPTIONS}, features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    saved.to_parquet(str(tmp_path / "one.parquet"))
    (tmp_path / "parts" / "data").mkdir(parents=True)
    for part in range(3):
        table = pa.table({"image": [png(50 * part)], "caption": [CAPTIONS[part]]})
        pq.write_table(table, tmp_path / "parts" / "data" / f"train-{part}.parquet")
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(str(tmp_path / "splits"))
    split = image_folder(tmp_path / "folder")
    (tmp_path / "by_split").mkdir()
    split.rename(tmp_path / "by_split" / "train")
    return {
        "csv": image_folder(tmp_path / "csv folder"),
        "jsonl": image_folder(tmp_path / "jsonl", "jsonl"),
        "table": image_folder(tmp_path / "table", "jsonl") / "metadata.jsonl",
        "parquet": tmp_path / "one.parquet",
        "parts": tmp_path / "parts",
        "saved": tmp_path / "saved",
        "splits": tmp_path / "splits",
        "by_split": tmp_path / "by_split",
    }


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    for name, path in sources(tmp_path).items():
        found = load_pictures(path, split="train" if name == "by_split" else None)
        assert found.texts == ["a red circle", "a blue square", "a red circle"], name
        assert found.read is not None
        for row in (2, 0, 1):  # in any order
            picture, own = decode_picture(found.read(row), (16, 16), "x")
            assert own is None
            assert picture[0, 0, 0] == pytest.approx(50 * row / 255), name
        assert load_pictures(path, split="train" if name == "by_split" else None).digest == found.digest
    assert len(load_pictures(tmp_path / "splits", split="test")) == 1


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    found = load_pictures(image_folder(tmp_path / "a"), limit=2)
    assert found.names == ["0.png", "1.png"]
    assert len(load_pictures(tmp_path / "a", limit=9)) == 3


def test_equal_captions_are_numbered() -> None:
    assert numbers(["a", "b", "a", "a", "b"]) == [0, 0, 1, 2, 1]


def test_pictures_without_a_caption_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a red dog\n1.png,\n2.png,  \n")
    with pytest.raises(UserError, match=r"1\.png has no caption, nor have 1 others.*score\.skip=true"):
        load_pictures(folder)
    found = load_pictures(folder, skip=True)
    assert (found.names, found.left_out) == (["0.png"], 2)
    (folder / "metadata.csv").write_text("file_name,text\n0.png,\n")
    with pytest.raises(UserError, match="no picture with a caption"):
        load_pictures(folder, skip=True)


def test_another_size_a_turn_and_transparency() -> None:
    wide = Image.new("RGB", (32, 8), "white")
    wide.paste("black", (8, 0, 24, 8))  # only the middle is left when it is cut to a square
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    picture, own = decode_picture(buffer.getvalue(), (8, 8), "x")
    assert own == (8, 32)
    assert picture.shape == (3, 8, 8)
    assert picture.max() < 0.2
    clear, _ = decode_picture(png(0, (4, 4), "RGBA"), (4, 4), "x")
    assert clear.min() == 1.0
    grey, _ = decode_picture(png(128, (4, 4), "L"), (4, 4), "x")
    assert grey.shape == (3, 4, 4)
    turned = Image.new("RGB", (8, 4), "white")
    turned.paste("black", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    buffer = io.BytesIO()
    turned.save(buffer, "JPEG", exif=exif)
    upright, own = decode_picture(buffer.getvalue(), (8, 4), "x")
    assert own is None
    assert upright[:, :3].mean() < 0.1 < 0.9 < upright[:, 5:].mean()


@pytest.mark.parametrize("data", [b"", b"no picture", png(1)[:40]])
def test_bytes_that_are_no_picture(data: bytes) -> None:
    with pytest.raises(UserError, match=r"the third one does not decode.*score\.skip=true"):
        decode_picture(data, (8, 8), "the third one")


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"no column 'txt' \(score\.text_column\), did you mean 'text'"):
        load_pictures(folder, text_column="txt")
    with pytest.raises(UserError, match=r"no column 'img' \(score\.image_column\)"):
        load_pictures(folder, image_column="img")


def test_a_source_that_is_not_there_is_named_with_its_neighbour(tmp_path: Path) -> None:
    image_folder(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"no picture source .*picturs, did you mean 'pictures'"):
        load_pictures(tmp_path / "picturs")


def test_tables_that_do_not_say_enough(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"no metadata\.csv, metadata\.jsonl or parquet file"):
        load_pictures(tmp_path / "a")
    table = tmp_path / "a" / "metadata.csv"
    table.write_text("file_name,label\n0.png,x\n")
    with pytest.raises(UserError, match=r"which column holds the captions.*file_name, label"):
        load_pictures(tmp_path / "a")
    table.write_text("file_name,text\n")
    with pytest.raises(UserError, match="has no rows"):
        load_pictures(tmp_path / "a")
    table.write_text("file_name,text\n,a dog\n")
    with pytest.raises(UserError, match="row 1: column 'file_name' names no picture"):
        load_pictures(tmp_path / "a")
    table.write_text("file_name,text\nlost.png,a dog\n")
    found = load_pictures(tmp_path / "a")
    assert found.read is not None
    with pytest.raises(UserError, match=r"lost\.png .*does not exist.*score\.skip=true"):
        found.read(0)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable parquet file"):
        load_pictures(tmp_path / "b.parquet")
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}),
        tmp_path / "c.parquet",
    )
    with pytest.raises(UserError, match="has no rows"):
        load_pictures(tmp_path / "c.parquet")
    (tmp_path / "d" / "cats").mkdir(parents=True)
    (tmp_path / "d" / "cats" / "metadata.csv").write_text("file_name,text\n")
    with pytest.raises(UserError, match="its parts cats have one"):
        load_pictures(tmp_path / "d")


def test_candidates_bring_their_latents_seeds_and_scores(tmp_path: Path) -> None:
    prompts = [make_prompt(text) for text in ("a red dog", "a blue cat")]
    units = plan_units(prompts, 2, 2)
    store = CandidateStore(tmp_path / "candidates")
    store.bind(units)
    for unit in units:
        table = {
            "prompt_id": [unit.prompts[0].id] * 2, "prompt": [unit.prompts[0].text] * 2, "category": ["c"] * 2,
            "candidate": [0, 1], "seed": [5, 6], "kept": [unit.index == 0, True], "mi": [0.5, 1.5],
        }  # fmt: skip
        latents = torch.full((sum(table["kept"]), 4, 2, 2), float(unit.index))
        store.write_unit(unit, table, latents)
    for path in (tmp_path / "candidates", tmp_path):  # the folder itself, or the round's
        found = load_pictures(path)
        assert (len(found), found.left_out) == (3, 1)
        assert found.texts == ["a red dog", "a red dog", "a blue cat"]
        assert found.seeds == [5, 6, 6]
        assert found.keys["candidate"] == [0, 1, 1]
        assert found.scores == {"mi": [0.5, 1.5, 1.5]}
        assert found.latents is not None
        assert found.latents([2, 0])[:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert len(load_pictures(tmp_path, limit=1)) == 1


def test_a_part_of_the_rows_keeps_what_belongs_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["", "one", "two"]
    whole = Pictures(
        "here", lines, ["a", "b", "c"], lambda row: b"%d" % row, seeds=[1, 2, 3], made_from=lines
    )
    monkeypatch.setattr(loading, "_open", lambda *_: whole)
    found = load_pictures("here", skip=True)
    assert (found.texts, found.names, found.seeds, found.made_from) == (
        lines[1:],
        ["b", "c"],
        [2, 3],
        lines[1:],
    )
    assert found.read is not None
    assert (found.read(1), found.left_out) == (b"2", 1)


def test_the_embedded_world_draws_its_own_pictures() -> None:
    from mitune.worlds.shapes import parse_prompt

    one, again, other = (load_pictures("shapes", limit=6, seed=seed) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert one.read is not None
    assert again.read is not None
    assert one.read(3) == again.read(3)
    assert decode_picture(one.read(0), (64, 64), "x")[1] is None
    for text in one.texts:
        parse_prompt(text)


def test_what_is_written_can_be_read_by_all(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"row": [4, 2], "text": ["a dog", "a cat"], "elbo": [1.5, -2.0], "fine": [True, False]}
    )
    contents = [png(10), png(20)]
    write_pictures(tmp_path / "top", table, contents.__getitem__)
    assert written_here(tmp_path / "top")
    found = load_pictures(tmp_path / "top")
    assert found.texts == ["a dog", "a cat"]
    assert found.read is not None
    assert [found.read(row) for row in range(2)] == contents
    loaded = datasets.load_dataset(str(tmp_path / "top"), cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.column_names == ["image", "row", "text", "elbo", "fine"]
    assert np.array(loaded[1]["image"])[0, 0, 0] == 20
    assert loaded[0]["elbo"] == 1.5
    (tmp_path / "top" / "mine.txt").write_text("a file of the user's")
    assert not written_here(tmp_path / "top")
    assert not written_here(tmp_path)


def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"image": datasets.Image(), "prompt": datasets.Value("string")})
    rows = {"image": [{"bytes": png(9), "path": None}], "prompt": ["a red dog"]}
    loaded = datasets.DatasetDict({"validation": datasets.Dataset.from_dict(rows, features=features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: loaded)
    found: Pictures = load_pictures("owner/name")
    assert found.texts == ["a red dog"]
    assert found.read is not None
    assert found.read(0) == png(9)
    with pytest.raises(UserError, match="owner/name has no split 'train'; it has validation"):
        load_pictures("owner/name", split="train")

    def offline(name: str) -> None:
        raise ConnectionError("no network here\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        UserError, match="owner/name is neither a file or folder here nor a dataset of the Hub: no net"
    ):
        load_pictures("owner/name")
