"""Splits by name: the rules of ``datasets``, held to the library's own; which split is meant."""

from __future__ import annotations

import os
from pathlib import Path

import datasets.data_files as library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.data import splits
from mitune.data.splits import KEYWORDS, TEST, TRAIN, VALIDATION, by_split, canonical, choose, split_of
from mitune.errors import UserError

SUFFIXES = (".txt", ".csv", ".parquet")


def put(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a cat\n")
    return folder


def names(folder: Path) -> dict[str | None, list[str]]:
    return {
        split: [str(path.relative_to(folder)) for path in paths]
        for split, paths in by_split(folder, SUFFIXES).items()
    }


def by_library(folder: Path) -> dict[str, list[str]]:
    patterns = library.get_data_patterns(str(folder))
    return {
        split: sorted({os.path.relpath(path, folder) for one in ones for path in _resolved(one, folder)})
        for split, ones in patterns.items()
    }


def _resolved(pattern: str, folder: Path) -> list[str]:
    try:
        return library.resolve_pattern(pattern, str(folder))
    except FileNotFoundError:
        return []


def test_the_words_and_what_parts_them_are_the_library_s() -> None:
    assert {str(split): tuple(words) for split, words in library.SPLIT_KEYWORDS.items()} == KEYWORDS
    assert library.NON_WORDS_CHARS == "-._ 0-9"


@pytest.mark.parametrize(
    "files",
    [
        ("train.txt", "test.txt"),
        ("color_train.txt", "color_val.txt", "color.txt", "new_objects.txt"),
        ("data/train.csv", "data/test.csv"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/extra.parquet"),
        ("data/random-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/a.txt", "train/b.txt", "test/a.txt"),
        ("data/train/a.txt", "data/validation/x/b.txt"),
        ("train_0.csv", "train_1.csv", "evaluation-0.csv", "dev.csv"),
        ("my.training.csv", "2test.csv"),
        ("my_train_set/a.csv", "my eval/b.csv"),
    ],
    ids=" ".join,
)
def test_folders_are_read_as_the_library_reads_them(tmp_path: Path, files: tuple[str, ...]) -> None:
    put(tmp_path, *files, "README.md", ".hidden/test.txt")
    (tmp_path / "README.md").unlink()
    assert names(tmp_path) == by_library(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["train", "test", "val", "eval", "contest", "color", "a"]), min_size=1, max_size=3
    ),
    st.sampled_from(["-", "_", ".", " ", "0", "x", ""]),
)
def test_a_name_has_a_split_exactly_where_the_library_finds_one(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], between: str
) -> None:
    name = between.join(words) + ".txt"
    folder = put(tmp_path_factory.mktemp("named"), name)
    found = {split for split, paths in library.get_data_patterns(str(folder)).items() if "**" not in paths}
    assert (split_of(name) in found) if found else (split_of(name) is None)


def test_case_does_not_count_and_the_first_word_does() -> None:
    assert [split_of(name) for name in ("Test.csv", "TRAIN.txt", "color_VAL.txt")] == [
        TEST,
        TRAIN,
        VALIDATION,
    ]
    assert split_of("train_eval.txt") == TRAIN
    assert split_of("eval_train.txt") == TEST
    assert split_of("line\nbreak_test.txt") == TEST


def test_files_without_a_split_count_only_where_no_file_has_one(tmp_path: Path) -> None:
    put(tmp_path, "a.txt", "b.csv", "notes.md", "README.txt", "LICENSE.txt", "requirements.txt", "._a.txt")
    assert names(tmp_path) == {None: ["a.txt", "b.csv"]}
    put(tmp_path, "test/c.txt")
    assert names(tmp_path) == {TEST: ["test/c.txt"]}
    assert names(put(tmp_path / "deep", "one/a.txt", "two/b.txt")) == {None: ["one/a.txt", "two/b.txt"]}
    assert names(put(tmp_path / "named", "x.TXT", "dir_train.txt/y.csv")) == {TRAIN: ["dir_train.txt/y.csv"]}


def test_a_packed_table_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt", "train.csv.gz", "pictures.tar.gz")
    with pytest.raises(UserError, match=r"train.csv.gz is compressed; unpack it"):
        by_split(tmp_path, SUFFIXES)
    (tmp_path / "train.csv.gz").unlink()
    assert names(tmp_path) == {None: ["notes.txt"]}


def test_special_files_are_no_files_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "train.txt")
    os.mkfifo(tmp_path / "test.txt")
    assert names(tmp_path) == {TRAIN: ["train.txt"]}


def test_a_folder_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitune.data.splits._MOST", 3)
    put(tmp_path, *(f"x/{number}.txt" for number in range(5)))
    with pytest.raises(UserError, match="holds more than 3 files"):
        by_split(tmp_path, SUFFIXES)


def test_which_split_is_meant() -> None:
    assert choose(None, ["test", "train"]) == "train"
    assert choose(None, ["validation", "test"]) == "validation"
    assert choose("train", ["validation", "test"]) is None
    assert choose("test", ["train", "validation"]) == "validation"
    assert choose("dev", ["val", "test"]) == "val"
    assert choose("val", ["train", "test"]) == "test"
    assert choose("test", ["train", "Testing"]) == "Testing"
    assert choose("train", ["training"]) == "training"
    assert choose("other", ["train", "other"]) == "other"
    assert choose(None, ["train", "validation"], held_out=True) == "validation"
    assert choose(None, ["train"], held_out=True) is None
    assert choose(None, [], held_out=True) is None
    assert canonical("dev") == VALIDATION
    assert canonical("random") == "random"


def test_a_folder_of_folders_without_end_is_not_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    for number in range(6):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "more.txt").write_text("b\n")
    assert len(splits.passed_over(tmp_path, (".txt",))) == 6
    monkeypatch.setattr(splits, "_MOST", 9)
    assert 0 < len(splits.passed_over(tmp_path, (".txt",))) < 6
