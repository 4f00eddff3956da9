"""Any file at all as a source of prompts: its prompts as they are meant, or one line; generated files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mitune.data.prompts import load_prompts
from mitune.errors import UserError
from mitune.tasks import Task
from tests.times import TIMES

ROWS = [("a cat, red", "color"), ("a dög", "shape"), ('a "bird"', "color"), ("two\tthings", "shape")] * 5
FUZZ = settings(
    max_examples=150 * TIMES, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def outcome(path: Path, **options: object) -> list[Task] | str:
    """The prompts, or the one line; anything else fails the test."""
    try:
        prompts = load_prompts(path, **options)  # type: ignore[arg-type]
    except UserError as error:
        line = str(error)
    else:
        line = ""
    if line:
        assert "\n" not in line
        assert len(line) < 1500
        return line
    assert prompts
    for prompt in prompts:
        assert prompt.text == " ".join(prompt.text.split())
        assert "\0" not in prompt.text + prompt.category
        (prompt.text + prompt.category).encode()
    return prompts


def _parquet(**options: object) -> bytes:
    table = pa.table({"prompt": [text for text, _ in ROWS], "category": [category for _, category in ROWS]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _separated(separator: str) -> bytes:
    quoted = (separator.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS)
    return "\n".join([separator.join(("prompt", "category")), *quoted]).encode()


OBJECTS = [{"prompt": text, "category": category} for text, category in ROWS]
VALID = {
    "t.txt": "\n".join(text for text, _ in ROWS).encode(),
    "t.csv": _separated(","),
    "semicolon.csv": _separated(";"),
    "t.tsv": _separated("\t"),
    "t.json": json.dumps(OBJECTS).encode(),
    "columns.json": json.dumps({"prompt": [text for text, _ in ROWS]}).encode(),
    "t.jsonl": "\n".join(map(json.dumps, OBJECTS)).encode(),
    "t.parquet": _parquet(compression="snappy", write_page_checksum=True),
    "plain.parquet": _parquet(compression="none", use_dictionary=False),
}


@FUZZ
@given(st.sampled_from(sorted({*VALID, "t", "t.md", "T.NDJSON", "t.CSV"})), st.binary(max_size=300))
def test_random_bytes_are_prompts_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"random-{name}"
    path.write_bytes(data)
    outcome(path)


@FUZZ
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "cut", "insert"]), st.integers(1, 255)
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_damaged_files_are_prompts_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, damage: list[tuple[float, str, int]]
) -> None:
    data = bytearray(VALID[name])
    for where, kind, value in damage:
        place = int(where * max(len(data), 1))
        if kind == "insert":
            data[place:place] = bytes([value])
        elif kind == "cut" and value > 200:
            del data[place:]
        elif place < len(data):
            data[place] ^= value
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    path.write_bytes(data)
    outcome(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["prompt", "text", "category", "split", "tag", "data", "train", "test", "columns", "x", ""]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@FUZZ
@given(JSON, st.sampled_from(["v.json", "v.jsonl", "v.txt"]), st.sampled_from([None, "test"]), st.booleans())
def test_any_json_value_is_prompts_or_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object, name: str, split: str | None, held_out: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_text(json.dumps(value))
    outcome(path, split=split, held_out=held_out)


CELLS = st.one_of(
    st.lists(st.none() | st.text(max_size=5), min_size=2, max_size=2),
    st.lists(st.floats(), min_size=2, max_size=2),
    st.lists(st.binary(max_size=4), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(-5, 5), max_size=2), min_size=2, max_size=2),
    st.lists(st.dates(), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=2, max_size=2),
)


@settings(FUZZ, max_examples=60 * TIMES)
@given(
    st.dictionaries(st.sampled_from(["prompt", "Text", "category", "tag", "split", "a.b"]), CELLS, min_size=1)
)
def test_columns_of_any_type_are_prompts_or_refused(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "typed.parquet"
    pq.write_table(pa.table(columns), path)
    outcome(path)


@pytest.mark.parametrize("name", sorted(VALID))
def test_the_files_that_are_damaged_read_while_they_are_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(VALID[name])
    prompts = outcome(tmp_path / name)
    assert not isinstance(prompts, str)
    assert [prompt.text for prompt in prompts] == ["a cat, red", "a dög", 'a "bird"', "two things"]


def test_every_cut_of_a_saved_dataset_is_prompts_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"prompt": ["a"] * 50, "category": ["b"] * 50}).save_to_disk(str(folder))
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == 3
    for path, data in whole.items():
        for damaged in (
            b"",
            b"[]",
            b"{}",
            data[: len(data) // 2],
            data[:-3],
            b"\xff" * 40,
            data[::-1],
            b"[" * 99_999,
        ):
            path.write_bytes(damaged)
            outcome(folder)
        path.unlink()
        outcome(folder)
        path.write_bytes(data)
    os.mkfifo(folder / "data-00001-of-00002.arrow")
    assert "a named pipe" in str(outcome(folder))


def _raw(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None  # type: ignore[func-returns-value]


def _invalid_utf8(path: Path) -> None:
    cells = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"prompt": cells}), path)


def _flipped_page(path: Path) -> None:
    data = bytearray(VALID["t.parquet"])
    place = data.index(b"bird")
    data[place] ^= 1
    path.write_bytes(data)


def _twice(path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), path)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("invalid.parquet", _invalid_utf8, "not a readable parquet file.*utf-8"),
        ("flipped.parquet", _flipped_page, "not a readable parquet file.*(CRC|checksum|crc)"),
        ("twice.parquet", _twice, "2 columns 'prompt'"),
        ("twice.csv", _raw(b"prompt,prompt\na,b\n"), "2 columns 'prompt'"),
        ("pipe.txt", os.mkfifo, "is a named pipe"),
        ("deep.json", _raw(b"[" * 200_000), "nested too deeply|not valid JSON"),
        ("deep.jsonl", _raw(b'{"a":' * 200_000), "line 1 is nested too deeply|not valid JSON"),
        ("digits.json", _raw(b"[" + b"9" * 5000 + b"]"), "digits.json is not valid JSON"),
        ("surrogate.json", _raw(b'["\\ud800"]'), "surrogate"),
        ("surrogate.jsonl", _raw(b'"a"\n"\\udfff"\n'), "line 2 .*surrogate"),
        ("nul.json", _raw(b'["a\\u0000b"]'), "row 1: column 'prompt' holds a NUL"),
        ("nul.csv", _raw(b"prompt\na\0b\n"), "NUL"),
        (
            "long.csv",
            _raw(b"prompt,n\n" + b"a" * 200_000 + b",1\n"),
            "long.csv, line 2: not a readable table",
        ),
        ("nan.json", _raw(b'[{"prompt": NaN}]'), "row 1: column 'prompt' holds float"),
        ("number.json", _raw(b"[1, 2]"), "number.json, item 1: expected an object or a string, found int"),
        ("category.json", _raw(b'[{"prompt": "a", "category": ["b"]}]'), "column 'category' holds list"),
        ("latin.csv", _raw("prompt\nété\n".encode("latin-1")), "not UTF-8"),
        ("lfs.parquet", _raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
        ("lfs.txt", _raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    ],
)
def test_what_harms_readers_is_one_line(
    tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x" * 5000 + ".txt", "there is no file or folder"),
        ("a\0b.txt", "holds a NUL character"),
        ("~nobody-of-that-name/a.txt", "no such user"),
        ("/dev/zero", "is a device"),
        ("/dev/null", "is a device"),
        ("\ud800.txt", "there is no file or folder"),
        ("", "prompts.source is empty"),
        ("/root/" + "y/" * 3000, "there is no file or folder"),
    ],
)
def test_sources_that_no_file_can_be_are_one_line(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(source)
    assert len(str(caught.value)) < 1000
