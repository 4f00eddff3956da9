"""Whatever a damaged or hostile file holds, a reader of pictures gives a result or one line, and no warning."""

from __future__ import annotations

import functools
import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mitune.data.decoding import decode_picture
from mitune.data.pictures.loading import load_pictures
from mitune.errors import UserError
from tests.times import TIMES

FILES = settings(
    max_examples=200 * TIMES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)  # fmt: skip
SIZE = (8, 8)


@functools.cache
def picture_files() -> tuple[bytes, ...]:
    """One small file of each kind, with whatever metadata it can carry."""
    levels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    rgb = Image.fromarray(levels)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("PNG", rgb, {"exif": exif}), ("PNG", rgb.quantize(16), {"transparency": 3}), ("PNG", deep, {}),
        ("JPEG", rgb, {"exif": exif}), ("JPEG", rgb.convert("CMYK"), {}), ("TIFF", deep, {}),
        ("TIFF", rgb, {"compression": "tiff_lzw"}), ("GIF", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("WEBP", rgb.convert("RGBA"), {"exif": exif}), ("BMP", rgb, {}), ("PPM", deep, {}), ("ICO", rgb, {}),
        ("TGA", rgb, {"compression": "tga_rle"}), ("JPEG2000", rgb, {}), ("AVIF", rgb, {}),
    ]  # fmt: skip
    files = []
    for kind, picture, options in kinds:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return tuple(files)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with some bytes changed, cut, doubled or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(len(data) - 1, draw(st.sampled_from([64, 400, 10**6]))))))
        what = draw(st.sampled_from(["change", "cut", "put in", "leave out", "high"]))
        if what == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif what == "high":
            data[place : place + 4] = b"\xff\xff\xff\x7f"
        elif what == "cut":
            del data[place:]
        elif what == "put in":
            data[place:place] = draw(st.binary(max_size=8))
        else:
            del data[place : place + draw(st.integers(1, 8))]
    return bytes(data)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def one_line(error: UserError) -> None:
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)
    length = len(str(error))  # by itself: a failure shall not print it
    assert length < 800


@FILES
@given(st.sampled_from(range(15)).flatmap(lambda kind: damaged(picture_files()[kind])))
def test_a_damaged_picture_decodes_or_is_refused(data: bytes) -> None:
    try:
        picture, _ = decode_picture(data, SIZE, "the picture")
    except UserError as error:
        one_line(error)
    else:
        assert picture.shape == (3, *SIZE)
        assert 0 <= picture.min() <= picture.max() <= 1


def read_all(source: Path) -> None:
    """Open a source and read every row, as ``score`` does."""
    for skip in (False, True):
        try:
            found = load_pictures(source, skip=skip)
            assert found.read is not None
            for row in range(len(found)):
                decode_picture(found.read(row), SIZE, found.what(row))
        except UserError as error:
            one_line(error)


@functools.cache
def parquet_file() -> bytes:
    cells = [{"bytes": picture_files()[0], "path": None}, {"bytes": None, "path": "/dev/zero"}] * 3
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": cells, "text": ["a dog", "größer"] * 3}), buffer, compression="none")
    return buffer.getvalue()


@functools.cache
def tar_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (
            ("a.png", picture_files()[0]), ("a.txt", b"a dog"), ("b.jpg", picture_files()[3]),
            ("b.json", json.dumps({"caption": ["a cat", None]}).encode()),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


METADATA = {
    "metadata.csv": b"file_name,text\na.png,\"a dog, red\"\na.png,\"['a', 'b']\"\n",
    "metadata.jsonl": b'{"file_name": "a.png", "text": ["a dog", "b"]}\n{"file_name": "a.png", "text": "x"}\n',
    "metadata.json": b'[{"file_name": "a.png", "text": "a dog"}, {"file_name": "../a.png", "text": "a dog"}]',
    "a.txt": b"a dog\na cat\n",
    "a.json": b'{"caption": {"raw": ["a dog"]}, "width": 5}',
}


@FILES
@given(
    st.one_of(
        st.tuples(st.just("a.parquet"), st.deferred(lambda: damaged(parquet_file()))),
        st.tuples(st.just("0.tar"), st.deferred(lambda: damaged(tar_file()))),
        *(st.tuples(st.just(name), damaged(data)) for name, data in METADATA.items()),
    )
)
def test_a_damaged_source_is_read_or_refused(file: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if file[0] in METADATA:
            (folder / "a.png").write_bytes(picture_files()[0])
        (folder / file[0]).write_bytes(file[1])
        read_all(folder)
        read_all(folder / file[0])


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["a.png", "../a.png", "/dev/zero", "~nobody/x", "a\0b", "x" * 5000, "file:///etc/passwd", "."]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["bytes", "path", "raw"]), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip


@FILES
@given(st.lists(st.fixed_dictionaries({"file_name": CELLS, "text": CELLS}), min_size=1, max_size=3))
def test_any_cells_are_read_or_refused(rows: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "a.png").write_bytes(picture_files()[0])
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        read_all(folder)
