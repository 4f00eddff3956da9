"""Tables as they are in the wild: each is read as it is meant, or refused with what was seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mitune.data.prompts import load_prompts
from mitune.data.table_files import open_table
from mitune.errors import UserError


def read_rows(path: Path, columns: list[str] | None = None) -> list[Any]:
    """Read the rows of a file, with ``columns`` only where they are given."""
    return list(open_table(path, columns or ()).rows(columns))


TWO = [("a cat, red", "animals"), ("a car", "vehicles")]
PAIRS = {
    "objects.json": json.dumps([{"prompt": a, "category": b} for a, b in TWO], indent=2),
    "columns.json": json.dumps({"prompt": [a for a, _ in TWO], "category": [b for _, b in TWO]}),
    "wrapped.json": json.dumps({"version": 1, "data": [{"prompt": a, "category": b} for a, b in TWO]}),
    "rows.json": json.dumps({"prompts": [{"prompt": a, "category": b} for a, b in TWO]}),
    "lines.json": "\n".join(json.dumps({"prompt": a, "category": b}) for a, b in TWO),
    "by_category.json": json.dumps({"animals": ["a cat, red"], "vehicles": ["a car", "a car"]}),
    "by_id.json": json.dumps({f"{n:03}": {"category": b, "prompt": a} for n, (a, b) in enumerate(TWO)}),
    "pandas.json": json.dumps(
        {"prompt": {"0": "a cat, red", "1": "a car"}, "category": {"0": "animals", "1": "vehicles"}}
    ),
    "pandas_split.json": json.dumps({"columns": ["prompt", "category"], "index": [0, 1], "data": TWO}),
    "lines.ndjson": "\n".join(json.dumps({"prompt": a, "category": b}) for a, b in TWO),
    "geneval.jsonl": "\n".join(json.dumps({"tag": b, "include": [{"n": 1}], "prompt": a}) for a, b in TWO),
    "late.jsonl": '{"note": 1}\n' + "\n".join(json.dumps({"category": b, "prompt": a}) for a, b in TWO),
    "comma.csv": 'Prompts,Category\n"a cat, red",animals\na car,vehicles\n',
    "UPPER.CSV": 'prompt,category\r\n"a cat, red",animals\r\na car,vehicles\r\n',
    "european.csv": "Nr;Prompt;Category\n1;a cat, red;animals\n2;a car;vehicles\n",
    "excel.csv": "sep=;\nprompt;category\na cat, red;animals\na car;vehicles\n",
    "tabs.csv": "prompt\tcategory\na cat, red\tanimals\na car\tvehicles\n",
    "bars.csv": "prompt|category\na cat, red|animals\na car|vehicles\n",
    "commas.tsv": 'prompt,category\n"a cat, red",animals\na car,vehicles\n',
    "PartiPrompts.tsv": "Prompt\tCategory\tChallenge\tNote\na cat, red\tanimals\tBasic\t\na car\tvehicles\tBasic\n",
    "spaced.csv": '\n prompt , category \n"a cat, red",animals\n\na car,vehicles\n',
    "index.csv": ',prompt,category\n0,"a cat, red",animals\n1,a car,vehicles\n',
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_recognised(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(PAIRS[name].encode(encoding))
    assert [(p.text, p.category) for p in load_prompts(tmp_path / name)] == TWO


@pytest.mark.parametrize(
    ("name", "text", "texts"),
    [
        ("hpsv2.json", '["a cat", "a dog, sitting"]', ["a cat", "a dog, sitting"]),
        ("wrapped.json", '{"prompts": ["a", "b"]}', ["a", "b"]),
        ("data.json", '{"data": ["a", "b"]}', ["a", "b"]),
        ("one.json", '{"prompt": "a", "category": "x"}', ["a"]),
        (
            "coco.json",
            '{"info": {}, "images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}], "licenses": []}',
            ["a"],
        ),
        ("splits.json", '{"train": ["a"], "test": ["b"], "val": [{"prompt": "c"}]}', ["a"]),
        ("Split.csv", "prompt,Split\na,train\nb,test\n", ["a"]),
        ("quotes.tsv", 'prompt\tn\n"Stop" sign\t1\nplain\t2\n', ['"Stop" sign', "plain"]),
        ("multi.csv", 'prompt,n\n"a\nb",1\n"c\r\nd",2\n', ["a b", "c d"]),
        ("only.csv", "caption\na cat\n\na dog\n", ["a cat", "a dog"]),
        ("strange.jsonl", '"a"\n{"prompt": "b", "n": 1}\n', ["a", "b"]),
        ("brackets.txt", "[a cat] in a hat\n{b}\n", ["[a cat] in a hat", "{b}"]),
        ("comma.txt", "prompt of a cat, red\na; b | c\n", ["prompt of a cat, red", "a; b | c"]),
        (
            "parts.txt",
            "a photo, caption, text\na cat, red, big\n",
            ["a photo, caption, text", "a cat, red, big"],
        ),
        ("semicolon.txt", "text; on a wall\na; b\n", ["text; on a wall", "a; b"]),
        ("two.txt", "prompt, cat\na dog, red\n", ["prompt, cat", "a dog, red"]),
        ("uneven.txt", "prompt,cat\na dog\n", ["prompt,cat", "a dog"]),
        ("one.txt", "prompt,cat\n", ["prompt,cat"]),
        ("word.txt", "prompt\n", ["prompt"]),
        ("later.txt", "a cat\nprompt\n", ["a cat", "prompt"]),
        ("tabs.txt", "\ta cat\n\ta dog\n", ["a cat", "a dog"]),
        ("tabs at the end.txt", "a cat\t\na dog\t\n", ["a cat", "a dog"]),
        ("empty list.txt", "[]\na cat\n", ["[]", "a cat"]),
        ("empty object.txt", "{}\na cat\n", ["{}", "a cat"]),
        ("list.txt", "[1]\na cat\n", ["[1]", "a cat"]),
        ("text in a list.txt", '["a cat"]\n[a dog]\n', ['["a cat"]', "[a dog]"]),
    ],
)
def test_a_list_is_recognised(tmp_path: Path, name: str, text: str, texts: list[str]) -> None:
    (tmp_path / name).write_text(text, newline="")
    assert [prompt.text for prompt in load_prompts(tmp_path / name)] == texts


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.md", b"# hello\n", "notes.md is of no form that is known: it has the suffix '.md'; .*txt"),
        ("prompts", b"a cat\n", "has no suffix; .*txt"),
        ("p.yaml", b"- a\n", "suffix '.yaml'"),
        ("p.pdf", b"%PDF-1.4", "a PDF document and has the suffix '.pdf'"),
        ("p.xlsx", b"PK\x03\x04..", "a zip archive .*'.xlsx'"),
        ("p.png", b"\x89PNG\r\n", "a PNG picture"),
        ("p.csv.gz", b"\x1f\x8b..", "gzip-compressed and has the suffix '.gz'"),
        ("p.html", b"\n<!DOCTYPE html><html>", "an HTML page"),
        ("page.txt", b"<!DOCTYPE html>\n<html>\n", "page.txt is an HTML page, not what its suffix says"),
        ("page.csv", b"<html>\n", "is an HTML page"),
        ("doc.txt", b"%PDF-1.4\n", "is a PDF document"),
        ("array.txt", b'["a",\n "b"]\n', "holds JSON, not a prompt a line; name it .json"),
        (
            "lines.txt",
            b'{"prompt": "a"}\n{"prompt": "b"}\n',
            "holds JSON, not a prompt a line; name it .jsonl",
        ),
        ("objects.txt", b'{"a": 1}\n\n{"b": 2}\n', "holds JSON, not a prompt a line; name it .jsonl"),
        ("names.txt", b'Prompt; "Category"\na; b\n', "begins with the header of a table"),
        ("words.txt", b"n,prompt\n1,a\n2,b\n", "begins with the header of a table"),
        ("column.txt", b"\nPrompt\na cat\n", "begins with 'Prompt': the name of a column, or a prompt"),
        ("table.txt", b"prompt,category\na,b\n", "begins with the header of a table"),
        ("tabs.txt", b"a cat\tanimals\na car\tvehicles\n", "all its lines have 2 parts between tabs"),
        ("control.txt", b"a\nb\x01\x02\n", "line 2 is not text: it holds control characters"),
        ("parquet.csv", b"PAR1\x15\x04\x15\xff\x00", "not UTF-8|NUL"),
        ("headless.csv", b"a red cat\na blue dog\n", "is its first line, 'a red cat', a prompt or the name"),
        ("headless.tsv", b"a red cat\tcolor\na dog\tshape\n", "which column .* put a header above it"),
        ("word.csv", b"dog\ncat\n", "is its first line, 'dog', a prompt or the name"),
        (
            "comma.csv",
            b"prompt\na cat, red\n",
            "line 2: 2 cells under a header of 1; put a cell that holds .*','",
        ),
        ("wide.csv", b"prompt,n\n\na,1\nb,2,3\n", "line 4: 3 cells under a header of 2"),
        (
            "short.csv",
            b"n,prompt\n1,a\n2\n",
            "line 3: 1 cells under a header of 2; fill in the missing ones, or remove the row",
        ),
        ("open.csv", b'prompt,n\na,1\n"b,2\nc,3\n', "line 3: not a readable table .*; mend"),
        ("after.csv", b'prompt,n\n"a" b,1\n', "line 2: not a readable table"),
        ("mac.csv", b"prompt,n\ra,1\rb,2\r", "line 1: not a readable table"),
        ("null.json", b"null", "holds nothing .null.; give an array"),
        ("string.json", b'"a cat"', "holds one str, no rows"),
        (
            "by_id.json",
            b'{"1": "a cat", "2": "a dog"}',
            "holds an object .'1', '2'. whose rows are not known",
        ),
        ("nested.json", b'[["a", "b"]]', "item 1: expected an object or a string, found list"),
        ("mixed.json", b'["a", 1]', "item 2: .* found int"),
        ("uneven.json", b'{"prompt": ["a", "b"], "category": ["x"]}', "'category' has 1 rows, 'prompt' 2"),
        (
            "equal.json",
            b'{"one": ["a"], "two": ["b"]}',
            "2 equally long lists .*columns, or prompts by category",
        ),
        ("two.json", b'{"one": [{"text": "a"}], "two": [{"text": "b"}]}', "several lists of rows .one, two."),
        ("mixed.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "row 2 has its text in text, others in prompt"),
        (
            "cases.json",
            b'[{"prompt": "a"}, {"Prompt": "b"}]',
            "row 2 has its text in Prompt, others in prompt",
        ),
        ("array.jsonl", b'[\n"a"\n]\n', "line 1 is not valid JSON"),
        ("cut.json", b'[{"prompt": "a"}', "cut.json is not valid JSON"),
        (
            "val.csv",
            b"prompt,split\na,test\n",
            "the column 'split' of .*val.csv has no split 'train'; it has test",
        ),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_with_what_was_seen(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(tmp_path / name, split="train")
    assert "\n" not in str(caught.value)


def test_named_columns_tell_a_header_and_columns_from_categories(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Beschreibung;Art\neine Katze, rot;Tier\n")
    (prompt,) = load_prompts(tmp_path / "t.csv", column="Beschreibung", category_column="Art")
    assert (prompt.text, prompt.category) == ("eine Katze, rot", "Tier")
    (tmp_path / "one.csv").write_text("Beschreibung\neine Katze\n")
    assert load_prompts(tmp_path / "one.csv", column="Beschreibung")[0].text == "eine Katze"
    (tmp_path / "t.json").write_text('{"one": ["a"], "two": ["b"]}')
    assert [p.text for p in load_prompts(tmp_path / "t.json", column="two")] == ["b"]


# All that ``str.splitlines`` cuts at beside \n and \r\n.
BREAKS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"


@pytest.mark.parametrize("character", BREAKS, ids=ascii)
def test_lines_are_cut_at_line_feeds_only(tmp_path: Path, character: str) -> None:
    text = f"a{character}b"
    (tmp_path / "t.txt").write_text(f"{text}\r\nc\n", encoding="utf-8", newline="")
    assert [row["prompt"] for row in read_rows(tmp_path / "t.txt")] == [text, "c"]
    (tmp_path / "t.jsonl").write_text(
        json.dumps({"prompt": text}, ensure_ascii=False) + '\r\n{"prompt": "c"}', encoding="utf-8", newline=""
    )
    assert [row["prompt"] for row in read_rows(tmp_path / "t.jsonl")] == [text, "c"]
    quoted = f'"{text}"' if character == "\r" else text
    for name, separator in (("t.csv", ","), ("t.tsv", "\t")):
        (tmp_path / name).write_text(
            f"prompt{separator}n\r\n{quoted}{separator}1\r\nc{separator}2\n", encoding="utf-8", newline=""
        )
        assert [row["prompt"] for row in read_rows(tmp_path / name)] == [text, "c"]
    assert [p.text for p in load_prompts(tmp_path / "t.txt")] == ["a b", "c"]


def test_only_the_columns_asked_for_are_given_and_lists_survive(tmp_path: Path) -> None:
    rows = [{"file": "a.png", "texts": ["x", "y"], "n": 1}]
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    pq.write_table(pa.table({"file": ["a.png"], "texts": [["x", "y"]], "n": [1]}), tmp_path / "t.parquet")
    for suffix in ("json", "jsonl", "parquet"):
        path = tmp_path / f"t.{suffix}"
        assert read_rows(path) == rows
        assert read_rows(path, ["texts"]) == [{"texts": ["x", "y"]}]
        assert read_rows(path, ["n", "none"]) == [{"n": 1}]
        assert open_table(path).columns == ["file", "texts", "n"]


MEASURE = """
import resource, sys
from mitune.data.prompts import load_prompts
import pyarrow.parquet
def peak():
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    # Not ru_maxrss: on Linux it counts in what the process that started this one had held.
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
before = peak()
assert len(load_prompts(sys.argv[1], limit=100)) == 100
few = peak() - before
assert len(load_prompts(sys.argv[1])) == 100_000
print(few, peak() - before)
"""


def test_a_parquet_file_of_one_row_group_is_streamed(tmp_path: Path) -> None:
    count, path = 100_000, tmp_path / "big.parquet"
    noise = os.urandom(1000 + count)
    schema = pa.schema({"prompt": pa.string(), "image": pa.binary()})
    columns = [
        pa.array([f"prompt {number}{' word' * 20}" for number in range(count)]),
        pa.array([noise[number : number + 1000] for number in range(count)]),
    ]
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=count, compression="none")
    assert pq.ParquetFile(path).num_row_groups == 1
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    few, everything = map(float, done.stdout.split())
    path.unlink()
    assert few < 60
    assert everything < 150


def test_the_index_that_pandas_saves_is_no_column(tmp_path: Path) -> None:
    table = pa.table({"description": ["a cat", "a dog"], "__index_level_0__": [3, 5]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [prompt.text for prompt in load_prompts(tmp_path / "t.parquet")] == ["a cat", "a dog"]
    assert read_rows(tmp_path / "t.parquet") == [{"description": "a cat"}, {"description": "a dog"}]
