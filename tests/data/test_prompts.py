"""Prompt sources: every kind of file, folders of them, datasets, the embedded world; and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mitune.data.prompts import UNCATEGORISED, load_prompts, make_prompt
from mitune.errors import UserError


def texts(*args: object, **kwargs: object) -> list[str]:
    return [prompt.text for prompt in load_prompts(*args, **kwargs)]  # type: ignore[arg-type]


def test_the_id_is_a_digest_of_the_text_and_white_space_does_not_count() -> None:
    prompt = make_prompt("  a red\n  cat ")
    assert prompt.text == "a red cat"
    assert prompt.id == hashlib.sha256(b"a red cat").hexdigest()[:12]
    assert prompt.category == UNCATEGORISED


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(
        "\ufeffa red cat\r\n\r\n  a blue dog \r\na red cat\r\n# a hash, and a comma\r\nété".encode()
    )
    prompts = load_prompts(path)
    assert [p.text for p in prompts] == ["a red cat", "a blue dog", "# a hash, and a comma", "été"]
    assert {p.category for p in prompts} == {UNCATEGORISED}


def test_tables_of_every_kind_agree(tmp_path: Path) -> None:
    rows = [("a cat, red", "color"), ("a dog", "shape"), ('a "bird"', "color")]
    (tmp_path / "t.csv").write_text(
        'caption,category,n\n"a cat, red",color,1\na dog,shape,2\n"a ""bird""",color,3\n'
    )
    (tmp_path / "t.tsv").write_text(
        'caption\tcategory\na cat, red\tcolor\na dog\tshape\n"a ""bird"""\tcolor\n'
    )
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"caption": a, "category": b}) for a, b in rows) + "\n\n"
    )
    pq.write_table(
        pa.table({"caption": [a for a, _ in rows], "category": [b for _, b in rows]}), tmp_path / "t.parquet"
    )
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        assert [(p.text, p.category) for p in load_prompts(tmp_path / f"t.{suffix}")] == rows


def test_columns_can_be_chosen_and_blank_cells_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Prompt,other,kind\na,x,1\n,y,\nc,z,2\n")
    assert texts(path) == ["a", "c"]
    prompts = load_prompts(path, column="other", category_column="kind")
    assert [(p.text, p.category) for p in prompts] == [("x", "1"), ("y", UNCATEGORISED), ("z", "2")]
    lines = tmp_path / "l.jsonl"
    lines.write_text('"a cat"\n"a dog"\n')
    assert texts(lines) == ["a cat", "a dog"]


@pytest.fixture
def compbench(tmp_path: Path) -> Path:
    """A folder laid out as T2I-CompBench lays its own out."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for category in ("color", "non_spatial", "complex"):
        train = [f"{category} train {i}" for i in range(4)]
        val = [f"{category} val {i}" for i in range(2)]
        (folder / f"{category}_train.txt").write_text("\n".join(train))
        (folder / f"{category}_val.txt").write_text("\n".join(val) + "\n")
        (folder / f"{category}.txt").write_text("\n".join(train + val))
    (folder / "complex_train_action.txt").write_text("complex train action")
    (folder / "notes.md").write_text("not prompts")
    return folder


def test_t2i_compbench_files_work_as_they_are(compbench: Path) -> None:
    train = load_prompts(compbench, split="train")
    assert Counter(p.category for p in train) == {"color": 4, "non_spatial": 4, "complex": 5}
    assert not any("val" in p.text for p in train)
    held_out = load_prompts(compbench, split="test")
    assert held_out == load_prompts(compbench, split="val")
    assert Counter(p.category for p in held_out) == {"color": 2, "non_spatial": 2, "complex": 2}
    assert not {p.id for p in train} & {p.id for p in held_out}
    assert load_prompts(compbench) == train
    assert {p.category for p in load_prompts(compbench / "color_val.txt", split="test")} == {"color"}
    assert {p.category for p in load_prompts(compbench / "color.txt")} == {"color"}


def test_a_limit_is_spread_over_the_categories_in_the_order_of_the_source(compbench: Path) -> None:
    few = load_prompts(compbench, split="train", limit=7)
    assert Counter(p.category for p in few) == {"color": 3, "complex": 2, "non_spatial": 2}
    everything = load_prompts(compbench, split="train")
    assert [p for p in everything if p in few] == few
    assert Counter(p.category for p in load_prompts(compbench, split="train", per_category=2)) == {
        "color": 2,
        "non_spatial": 2,
        "complex": 2,
    }
    path = compbench / "color_train.txt"
    assert texts(path, limit=2) == ["color train 0", "color train 1"]


def test_a_split_column_is_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a", "split": "train"}\n{"text": "b", "split": "val"}\n')
    assert texts(path, split="train") == ["a"]
    assert texts(path, split="test") == ["b"]
    assert texts(path) == ["a"]
    assert texts(path, held_out=True) == ["b"]


def test_datasets_on_disk_are_read_without_their_pictures(tmp_path: Path) -> None:
    table = {"image": [b"no picture"] * 3, "text": ["a", "b", "a"], "category": ["x", "y", "x"]}
    part = datasets.Dataset.from_dict(table)
    part = part.cast(datasets.Features({**part.features, "image": datasets.Value("binary")}))
    part.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "validation": part.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert [(p.text, p.category) for p in load_prompts(tmp_path / "one")] == [("a", "x"), ("b", "y")]
    assert texts(tmp_path / "two", split="test") == ["b"]
    assert texts(tmp_path / "two") == ["a", "b"]


def test_a_hub_id_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, subset: str | None) -> datasets.DatasetDict:
        asked.append((name, subset))
        return datasets.DatasetDict(
            {"train": datasets.Dataset.from_dict({"Prompt": ["a"], "Category": ["Animals"]})}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    prompts = load_prompts("someone/prompts", subset="small")
    assert [(p.text, p.category) for p in prompts] == [("a", "Animals")]
    assert asked == [("someone/prompts", "small")]
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        load_prompts("someone/prompts", split="test")

    def refuse(name: str, subset: str | None) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"nobody/nothing is neither a file or folder here.*no route$"):
        load_prompts("nobody/nothing")


def test_the_world_has_disjoint_splits_and_its_six_categories() -> None:
    train, test = load_prompts("shapes", "train", limit=60), load_prompts("shapes", "test", limit=30)
    assert Counter(p.category for p in train) == dict.fromkeys(
        ("color", "shape", "texture", "spatial", "non_spatial", "complex"), 10
    )
    everything = {p.id for p in load_prompts("shapes", "train")}
    assert {p.id for p in train} < everything
    assert not everything & {p.id for p in test}
    assert load_prompts("shapes", "val", limit=30) == test
    with pytest.raises(UserError, match="did you mean 'train'"):
        load_prompts("shapes", "trane")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("absent.txt", None, {}, "there is no file or folder .*absent.txt"),
        ("empty.txt", b"\n \n", {}, "no prompt in .*empty.txt"),
        ("empty.csv", b"prompt\n", {}, "no prompt in"),
        ("latin.txt", "été".encode("latin-1"), {}, "latin.txt is not UTF-8 text .byte 0"),
        ("a.csv", b"prompt,kind\na,b\n", {"column": "promt"}, "no column 'promt'.*did you mean 'prompt'"),
        ("b.csv", b"prompt,kind\na,b\n", {"category_column": "knd"}, "no column 'knd'.*did you mean 'kind'"),
        ("c.csv", b"one,two\na,b\n", {}, "which column holds the prompts"),
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', {}, "d.jsonl, line 2 is not valid JSON"),
        ("e.jsonl", b"[1]\n", {}, "e.jsonl, line 1: expected an object or a string, found list"),
        ("f.jsonl", b'{"text": ["a"]}\n', {}, "row 1: column 'text' holds list"),
        ("g.parquet", b"PAR1 not really", {}, "g.parquet is not a readable parquet file"),
        ("h.txt", b"a\n", {"split": "test"}, "has no split 'test'"),
        ("i.txt", b"a\n", {"limit": 0}, "limit=0: must be at least 1"),
        ("j.txt", b"a\n", {"per_category": -1}, "per_category=-1"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, object], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(tmp_path / name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no .txt, .csv"):
        load_prompts(tmp_path)
    (tmp_path / "color_train.txt").write_text("a")
    with pytest.raises(UserError, match="split 'test'"):
        load_prompts(tmp_path, split="test")
    with pytest.raises(UserError, match=r"did you mean 'color_train.txt'"):
        load_prompts(tmp_path / "colour_train.txt")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable dataset folder"):
        load_prompts(broken)
