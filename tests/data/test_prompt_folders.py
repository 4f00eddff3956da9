"""Folders of prompts as they are public: whose split counts, which files are prompts, what their categories are."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mitune.data.prompts import UNCATEGORISED, load_prompts
from mitune.errors import UserError
from mitune.stages.inputs import held_out_prompts, training_prompts
from tests.cli import compose


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
    return folder


def pairs(source: Path, split: str | None = None, **options: object) -> list[tuple[str, str]]:
    return [(p.text, p.category) for p in load_prompts(source, split, **options)]  # type: ignore[arg-type]


def texts(source: Path, split: str | None = None, **options: object) -> list[str]:
    return [text for text, _ in pairs(source, split, **options)]


TRAIN_AND_TEST = {
    "flat": {"train.txt": "a\n", "test.txt": "b\n"},
    "shards": {
        "data/train-00000-of-00002.jsonl": '{"prompt": "a"}',
        "data/train-00001-of-00002.jsonl": '{"prompt": "a"}',
        "data/test-00000-of-00001.jsonl": '{"prompt": "b"}',
    },
    "data": {"data/train.csv": "prompt\na\n", "data/test.csv": "prompt\nb\n"},
    "folders": {"train/x.json": '["a"]', "test/x.json": '["b"]'},
    "data folders": {"data/train/x.txt": "a", "data/eval/y.txt": "b"},
    "validation": {"prompts_training.txt": "a", "prompts-dev.txt": "b", "all.txt": "a\nb\nc"},
    "capitals": {"Train.TXT": "a", "TEST.txt": "b"},
    "mixed": {"train.txt": "a", "test/rest.txt": "b"},
    "column": {"all.csv": "prompt,split\na,train\nb,test\n"},
    "column in a file of train": {"data/train-00000-of-00001.csv": "prompt,Split\na,TRAIN\nb,test\n"},
    "column in one of two": {"train.csv": "prompt,split\na,train\nb,test\n", "test.csv": "prompt\nb\n"},
    "columns in both": {"train.csv": "prompt,split\na,train\n", "test.csv": "prompt,split\na,train\nb,val\n"},
    "columns without names": {"x.csv": "prompt,split\na,train\n", "y.csv": "prompt,split\nb,test\n"},
    "a list beside": {"x.csv": "prompt,split\nb,test\n", "y.txt": "a"},
    "a column of another meaning": {"train.csv": "prompt,split\na,banana\n", "test.csv": "prompt\nb\n"},
    "results beside": {
        "train.txt": "a",
        "test.txt": "b",
        "eval_results.json": '{"accuracy": 1}',
        "x.json": "{",
    },
    "columns": {"all.json": json.dumps([{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "val"}])},
}


@pytest.mark.parametrize("layout", TRAIN_AND_TEST)
def test_held_out_prompts_are_never_among_the_training_prompts(tmp_path: Path, layout: str) -> None:
    folder = put(tmp_path / "set", TRAIN_AND_TEST[layout])
    assert texts(folder, "train") == texts(folder) == ["a"]
    if layout != "results beside":
        assert texts(folder, "test") == texts(folder, "val") == texts(folder, held_out=True) == ["b"]
    with pytest.raises(UserError, match="split 'other'"):
        load_prompts(folder, "other")


def test_shards_of_one_split_are_one_category_in_order(tmp_path: Path) -> None:
    names = [f"train-{number:05}-of-00003" for number in range(3)]
    folder = put(tmp_path, {f"{name}.txt": f"{name} one\n{name} two\n" for name in names})
    assert pairs(folder, "train") == [
        (f"{name} {word}", UNCATEGORISED) for name in names for word in ("one", "two")
    ]
    more = put(tmp_path / "more", {f"color-{name}.txt": f"{name}\n" for name in names})
    assert pairs(more) == [(name, "color") for name in names]


def test_a_file_s_name_is_its_category_in_a_folder(tmp_path: Path) -> None:
    flat = put(
        tmp_path / "flat", {"animals.txt": "a", "part-1.txt": "b", "t.csv": "prompt,category\nc,x\nd,\n"}
    )
    assert pairs(flat) == [("a", "animals"), ("b", "part-1"), ("c", "x"), ("d", "t")]
    deep = put(tmp_path / "deep", {"data/train/animals.txt": "a", "data/train/shard_0.txt": "b"})
    assert pairs(deep) == [("a", "animals"), ("b", UNCATEGORISED)]
    parted = put(tmp_path / "parted", {"train.txt": "a", "train_1.txt": "b", "cars.training.txt": "c"})
    assert sorted(pairs(parted)) == [("a", UNCATEGORISED), ("b", UNCATEGORISED), ("c", "cars")]
    shards = put(tmp_path / "shards", {f"cars-0000{number}-of-00002.txt": f"{number}" for number in range(2)})
    assert pairs(shards) == [("0", "cars"), ("1", "cars")]


T2I = {
    "color_train.txt": "a red cup\r\na red cup\r\na green bag\r\n",
    "color_val.txt": "a blue hat\r\n",
    "color.txt": "a red cup\r\na green bag\r\na blue hat\r\n",
    "color_val_seen.txt": "a blue hat\r\n",
    "color_val_unseen.txt": "",
    "complex_train.txt": "a man walks\r\n",
    "complex_train_action.txt": "a man runs\r\n",
    "complex_val.txt": "a dog runs\r\n",
    "new_objects.txt": "cup - cups\nknife - knives\n",
}


def test_only_files_that_carry_a_split_are_prompts_of_t2i_compbench(tmp_path: Path) -> None:
    folder = put(tmp_path, T2I)
    train = [
        ("a red cup", "color"),
        ("a green bag", "color"),
        ("a man walks", "complex"),
        ("a man runs", "complex"),
    ]
    assert pairs(folder, "train") == pairs(folder) == train
    assert (
        pairs(folder, "val")
        == pairs(folder, held_out=True)
        == [("a blue hat", "color"), ("a dog runs", "complex")]
    )
    unions = put(tmp_path / "unions", {name: T2I[name] for name in ("color.txt", "new_objects.txt")})
    assert texts(unions) == ["a red cup", "a green bag", "a blue hat"]
    rest = put(tmp_path / "rest", {"prompts.txt": "a", "color_val.txt": "b"})
    with pytest.raises(UserError, match=r"named for the split 'train'.*its files are of validation"):
        load_prompts(rest, "train")
    assert texts(rest) == ["b"]  # as of a Hub dataset that has this split only


def test_hpsv2_s_benchmark_has_a_category_a_file_and_is_held_out(tmp_path: Path) -> None:
    names = ("anime", "concept-art", "paintings", "photo")
    folder = put(tmp_path, {f"{name}.json": json.dumps([f"{name} one", f"{name} two"]) for name in names})
    expected = [(f"{name} {word}", name) for name in names for word in ("one", "two")]
    for split in (None, "test"):
        assert pairs(folder, split) == expected
    with pytest.raises(UserError, match=r"held out \(a public benchmark\).*prompts\.split=null"):
        load_prompts(folder, "train")
    assert pairs(folder / "anime.json", "test") == expected[:2]


def test_geneval_s_folder_has_its_tags_and_not_its_nouns(tmp_path: Path) -> None:
    rows = [
        {"tag": "counting", "include": [], "prompt": "two cats"},
        {"tag": "colors", "prompt": "a red cat"},
    ]
    folder = put(
        tmp_path,
        {"evaluation_metadata.jsonl": "\n".join(map(json.dumps, rows)), "object_names.txt": "cat\ndog\n"},
    )
    assert pairs(folder, "test") == pairs(folder) == [("two cats", "counting"), ("a red cat", "colors")]
    assert pairs(folder / "evaluation_metadata.jsonl") == pairs(folder, "test")
    with pytest.raises(UserError, match="its files are of test"):
        load_prompts(folder, "train")
    with pytest.raises(UserError, match="its name says 'test'"):
        load_prompts(folder / "evaluation_metadata.jsonl", "train")


def test_diffusiondb_s_table_is_read_by_its_prompts(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image_name": ["a.png", "b.png", "c.png"],
            "prompt": ["a cat", "a dog", None],
            "part_id": pa.array([1, 2, 3], pa.uint16()),
            "cfg": [7.5, float("nan"), 7.0],
            "timestamp": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
            "image_nsfw": pa.array([0.1, 2.0, None], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "metadata.parquet")
    assert pairs(tmp_path / "metadata.parquet") == [("a cat", UNCATEGORISED), ("a dog", UNCATEGORISED)]


def test_a_limit_is_the_same_as_taking_the_first_of_each_category(tmp_path: Path) -> None:
    rows = [{"text": f"{number % 90}", "category": f"c{number % 7 % 4}"} for number in range(200)]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    everything = pairs(path)
    assert len(everything) == 90
    for limit, per_category in ((1, None), (10, None), (33, None), (10, 2), (None, 5), (89, 40)):
        rank: dict[str, int] = {}
        turns = []
        for position, (_, category) in enumerate(everything):
            rank[category] = rank.get(category, -1) + 1
            if per_category is None or rank[category] < per_category:
                turns.append((rank[category], position))
        expected = [everything[position] for position in sorted(p for _, p in sorted(turns)[:limit])]
        assert pairs(path, limit=limit, per_category=per_category) == expected


KARPATHY = "prompt,split\na,train\nb,Test\nc,restval\nd,TRAIN\ne,validation\nf,val\ng,Dev\nh,training\n"


def test_spellings_of_a_split_are_one_and_other_labels_are_splits_of_their_own(tmp_path: Path) -> None:
    path = put(tmp_path, {"karpathy.csv": KARPATHY}) / "karpathy.csv"
    for source in (path, tmp_path):
        assert texts(source) == texts(source, "train") == texts(source, "Training") == ["a", "d", "h"]
        assert texts(source, held_out=True) == texts(source, "test") == ["b"]
        assert texts(source, "val") == texts(source, "valid") == ["e", "f", "g"]
        assert texts(source, "restval") == texts(source, "RestVal") == ["c"]
        with pytest.raises(UserError, match=r"split 'other'.* restval, test, train, validation"):
            load_prompts(source, "other")


@pytest.mark.parametrize("labels", [("test", "restval"), ("train2014", "val2014"), ("test", "test"), (0, 1)])
def test_labels_without_train_are_named_not_taken(tmp_path: Path, labels: tuple[object, object]) -> None:
    path = put(tmp_path, {"t.csv": "prompt,split\n" + "".join(f"a,{label}\n" for label in labels)}) / "t.csv"
    with pytest.raises(UserError, match=rf"no split 'train'; it has .*{labels[0]}"):
        load_prompts(path)
    with pytest.raises(UserError, match=rf"split 'train'.*files are of .*{labels[0]}"):
        load_prompts(tmp_path)


def test_rows_without_a_split_beside_others_are_refused(tmp_path: Path) -> None:
    for name, text in {
        "t.csv": "prompt,split\na,train\nb,\n",
        "t.json": '[{"prompt": "a", "split": "train"}, {"prompt": "b"}]',
    }.items():
        with pytest.raises(UserError, match=r"column 'split' of .* is empty in 1 rows, such as row 2"):
            load_prompts(put(tmp_path, {name: text}) / name)
    assert texts(put(tmp_path, {"u.csv": "prompt,split\na,train\n,\n"}) / "u.csv") == ["a"]
    assert texts(put(tmp_path, {"v.csv": "prompt,split\na,\nb,\n"}) / "v.csv") == ["a", "b"]


def test_the_only_part_of_a_saved_dataset_is_parted_by_its_column(tmp_path: Path) -> None:
    kind = datasets.ClassLabel(names=["train", "test"])
    features = datasets.Features({"prompt": datasets.Value("string"), "split": kind})
    part = datasets.Dataset.from_dict({"prompt": ["a", "b"], "split": [0, 1]}, features=features)
    datasets.DatasetDict({"test": part}).save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one") == ["a"]
    assert texts(tmp_path / "one", "test") == ["b"]
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "two"))
    assert texts(tmp_path / "two") == ["a"]
    assert texts(tmp_path / "two", "test") == ["b"]


def test_saved_datasets_keep_to_their_splits(tmp_path: Path) -> None:
    part = datasets.Dataset.from_dict({"prompt": ["a", "b"], "split": ["train", "test"]})
    part.save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one") == ["a"]
    assert texts(tmp_path / "one", "test") == ["b"]
    plain = part.remove_columns("split")
    plain.save_to_disk(str(tmp_path / "plain"))
    assert texts(tmp_path / "plain") == texts(tmp_path / "plain", "train") == ["a", "b"]
    with pytest.raises(UserError, match=r"plain has no split 'test'.*prompts\.split=null"):
        load_prompts(tmp_path / "plain", "test")
    own = datasets.Dataset.from_dict({"prompt": ["a"]}, split=datasets.Split.TEST)
    own.save_to_disk(str(tmp_path / "own"))
    assert texts(tmp_path / "own", "test") == texts(tmp_path / "own") == ["a"]
    with pytest.raises(UserError, match="no split 'train': it is held out"):
        load_prompts(tmp_path / "own", "train")
    datasets.DatasetDict({"test": plain.select([1]), "training": plain.select([0])}).save_to_disk(
        str(tmp_path / "two")
    )
    assert texts(tmp_path / "two") == ["a"]
    assert texts(tmp_path / "two", held_out=True) == ["b"]
    with pytest.raises(UserError, match="no split 'other'; it has test, training"):
        load_prompts(tmp_path / "two", "other")


def test_a_source_without_a_held_out_split_is_not_evaluated_on(tmp_path: Path) -> None:
    folder = put(tmp_path, {"train.txt": "a"})
    with pytest.raises(UserError, match=r"split 'test'.*its files are of train"):
        load_prompts(folder, held_out=True)
    path = tmp_path / "t.csv"
    path.write_text("prompt,split\na,train\n")
    with pytest.raises(UserError, match="no held-out split; it has train"):
        load_prompts(path, held_out=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PartiPrompts.tsv", "Prompt\tCategory\tChallenge\tNote\na\tx\tBasic\t\n"),
        ("DrawBench.csv", "Prompts,Category\na,x\n"),
        ("geneval.jsonl", '{"tag": "x", "include": [], "prompt": "a"}'),
    ],
)
def test_public_benchmarks_are_held_out_by_their_columns(tmp_path: Path, name: str, text: str) -> None:
    path = put(tmp_path, {name: text}) / name
    assert pairs(path, "test") == pairs(path) == [("a", "x")]
    with pytest.raises(UserError, match=r"held out \(a public benchmark\).*prompts\.split=null"):
        load_prompts(path, "train")
    config = compose([f"evaluate.prompts.source={path}", "evaluate.scorers=[mi]"])
    assert [prompt.text for prompt in held_out_prompts(config)] == ["a"]


@pytest.mark.parametrize("name", ["test.txt", "color_val.txt", "dev.csv", "my-eval.jsonl"])
def test_a_lone_file_named_held_out_is_no_training_split(tmp_path: Path, name: str) -> None:
    text = {"csv": "prompt\na\n", "jsonl": '{"prompt": "a"}'}.get(name.split(".")[1], "a\n")
    path = put(tmp_path, {name: text}) / name
    assert texts(path) == texts(path, "test") == ["a"]
    for source in (path, tmp_path):
        with pytest.raises(UserError, match="split 'train'"):
            load_prompts(source, "train")


def test_files_in_folders_below_are_not_passed_over_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path, {"prompts.txt": "a", "extra/more.txt": "b", "extra/deep/more.csv": "prompt\nc\n"})
    assert texts(folder) == texts(folder) == ["a"]
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "has prompts.txt, so 2 further files in folders below (extra/deep/more.csv) are left out" in said
    (folder / "prompts.txt").unlink()
    assert texts(folder) == ["c", "b"]  # as those of a folder that has none itself
    named = put(tmp_path / "named", {"train.txt": "a", "extra/more.txt": "b", "pictures/x.png": "c"})
    assert texts(named) == ["a"]
    assert not capsys.readouterr().err  # files that carry no split count only where no file carries one


@pytest.mark.parametrize("name", ["metadata.json", "package.json", "more.csv"])
def test_a_file_of_a_folder_that_is_no_list_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    text = "one,two\n1,2\n" if name.endswith("csv") else '{"name": "x", "version": "1"}'
    for folder in ("list", "train"):
        source = put(
            tmp_path / folder, {f"{folder}.txt": "a", f"{'' if folder == 'list' else 'train/'}{name}": text}
        )
        with pytest.raises(
            UserError, match=rf"{name}.*if {name} is no list of prompts, move it out of the folder"
        ):
            load_prompts(source)


JUDGES = "scorers=[mi,llr,elbo,contrast]"  # the oracle judges the prompts of the embedded world only


@pytest.mark.parametrize("name", ["mine.txt", "mine.TXT", "mine.json"])
def test_a_list_of_one_s_own_needs_no_split_on_the_command_line(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, {name: '["a", "b"]' if name.endswith("json") else "a\nb\n"}) / name
    config = compose(
        [f"prompts.source={path}", f"evaluate.prompts.source={path}", "evaluate.scorers=[mi]", JUDGES]
    )
    assert [prompt.text for prompt in training_prompts(config)] == ["a", "b"]
    assert [prompt.text for prompt in held_out_prompts(config)] == ["a", "b"]


def test_a_table_with_splits_is_parted_on_the_command_line(tmp_path: Path) -> None:
    path = put(tmp_path, {"mine.csv": "prompt,split\na,train\nb,test\n"}) / "mine.csv"
    config = compose(
        [f"prompts.source={path}", f"evaluate.prompts.source={path}", "evaluate.scorers=[mi]", JUDGES]
    )
    assert [prompt.text for prompt in training_prompts(config)] == ["a"]
    assert [prompt.text for prompt in held_out_prompts(config)] == ["b"]
