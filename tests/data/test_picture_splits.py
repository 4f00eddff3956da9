"""A column of splits is obeyed in every table of pictures: what is held out is not trained on."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mitune.data.pictures.loading import load_pictures
from mitune.errors import UserError

KARPATHY = ["train", "Test", "restval", "TRAIN", "val", "validation", "test", "training"]


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def table(labels: Sequence[str | None], column: str = "split") -> pa.Table:
    count = range(len(labels))
    return pa.table(
        {
            "image": [png(row) for row in count],
            "text": [str(row) for row in count],
            column: pa.array(labels, pa.string()),
        }
    )


def parquet(place: Path, labels: Sequence[str | None]) -> Path:
    pq.write_table(table(labels, "Split"), place / "a.parquet", row_group_size=3)
    return place / "a.parquet"


def folder(place: Path, labels: Sequence[str | None]) -> Path:
    (place / "f").mkdir()
    pq.write_table(table(labels), place / "f" / "a.parquet")
    return place / "f"


def saved(place: Path, labels: Sequence[str | None]) -> Path:
    datasets.Dataset(table(labels)).save_to_disk(str(place / "saved"))
    return place / "saved"


def of_one_part(place: Path, labels: Sequence[str | None]) -> Path:
    datasets.DatasetDict({"test": datasets.Dataset(table(labels))}).save_to_disk(str(place / "part"))
    return place / "part"


def metadata(place: Path, labels: Sequence[str | None]) -> Path:
    for row in range(len(labels)):
        (place / f"{row}.png").write_bytes(png(row))
    rows = [{"file_name": f"{row}.png", "text": str(row), "Split": label} for row, label in enumerate(labels)]
    pd.DataFrame(rows).to_csv(place / "metadata.csv", index=False)
    return place


FORMS = [parquet, folder, saved, of_one_part, metadata]


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_a_split_column(tmp_path: Path, form: Callable[[Path, Sequence[str | None]], Path]) -> None:
    source = form(tmp_path, KARPATHY)

    def rows(**more: object) -> list[int]:
        found = load_pictures(source, **more)  # type: ignore[arg-type]
        assert found.read is not None
        assert [found.read(row) for row in range(len(found))] == [png(int(text)) for text in found.texts]
        return [int(text) for text in found.texts]

    assert rows(training=True) == rows(split="train") == [0, 3, 7]
    assert rows(training=True, limit=2) == [0, 3]
    assert rows(split="test") == [1, 6]
    assert rows(split="dev") == [4, 5]
    assert rows(split="restval") == [2]
    assert rows() == list(range(8))  # scored as a whole where none is asked for
    with pytest.raises(UserError, match="no split 'other'; it has restval, test, train, validation"):
        rows(split="other")


@pytest.mark.parametrize("form", FORMS)
def test_labels_without_train_and_empty_cells_are_refused(
    tmp_path: Path, form: Callable[[Path, Sequence[str | None]], Path]
) -> None:
    for number, (labels, message) in enumerate(
        (
            (["test", "restval"], "no split 'train'; it has restval, test"),
            (["2014", "2017"], "no split 'train'; it has 2014, 2017"),
            (["train", None], "column 'split' is empty in 1 rows, such as row 2"),
        )
    ):
        place = tmp_path / f"number {number}"
        place.mkdir()
        if form is of_one_part and number == 1:
            continue  # the part's name has told the split
        with pytest.raises(UserError, match=message):
            load_pictures(form(place, labels), training=True)


def test_a_column_tells_more_within_files_named_for_splits(tmp_path: Path) -> None:
    for name in ("train", "test"):
        pq.write_table(table(["train", "test", "test"]), tmp_path / f"{name}.parquet")
    assert load_pictures(tmp_path, training=True).texts == ["0"]
    assert load_pictures(tmp_path, split="test").texts == ["1", "2"]
    for name in ("train", "test"):  # of another meaning
        pq.write_table(table(["easy", "hard"]), tmp_path / f"{name}.parquet")
    assert load_pictures(tmp_path, training=True).texts == ["0", "1"]


def test_files_of_one_folder_each_with_rows_of_its_own_split(tmp_path: Path) -> None:
    pq.write_table(table(["train", "train"]), tmp_path / "a.parquet")
    pq.write_table(table(["test", "test", "test"]), tmp_path / "b.parquet")
    assert load_pictures(tmp_path, training=True).texts == ["0", "1"]
    assert load_pictures(tmp_path, split="test").texts == ["0", "1", "2"]


def test_a_numbered_label_counts_by_its_name(tmp_path: Path) -> None:
    features = {"image": datasets.Value("binary"), "text": datasets.Value("string")}
    kind = datasets.ClassLabel(names=["train", "test"])
    rows = {"image": [png(0), png(1)], "text": ["0", "1"], "split": [0, 1]}
    part = datasets.Dataset.from_dict(rows, features=datasets.Features({**features, "split": kind}))
    part.save_to_disk(str(tmp_path / "saved"))
    assert load_pictures(tmp_path / "saved", training=True).texts == ["0"]


@pytest.mark.parametrize("form", [parquet, saved])
def test_a_table_without_splits_has_none_but_train(
    tmp_path: Path, form: Callable[[Path, Sequence[str | None]], Path]
) -> None:
    source = form(tmp_path, [None, None])
    assert len(load_pictures(source, split="train")) == len(load_pictures(source, training=True)) == 2
    with pytest.raises(UserError, match="has no split 'test': nothing in it tells splits"):
        load_pictures(source, split="test")
    if form is parquet:
        source = source.rename(tmp_path / "my_test.parquet")
        assert len(load_pictures(source, split="test")) == 2
        with pytest.raises(UserError, match="has no split 'train': it is of 'test'"):
            load_pictures(source, split="train")
