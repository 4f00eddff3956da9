"""Data sets in the exact layout of their archives: what is in each picture, in which words, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from mitune.data.labelled.classes import ADE, COCO, CONTEXT, VOC
from mitune.data.labelled.labels import IGNORED
from mitune.data.labelled.places import find_set
from mitune.data.labelled.source import Labelled, load_labelled
from mitune.errors import UserError
from mitune.pixels.drawings import palette

BAND = np.repeat([[0, 1, 20, 255]], 3, axis=0)  # rows of a label


def save(path: Path, numbers: ArrayLike, colours: bool) -> None:
    """A label picture, with a palette as PASCAL's have, or grey as the others'."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(numbers, dtype=np.uint8))
    if colours:
        picture.putpalette([level for colour in palette() for level in colour])
    picture.save(path)


def photo(path: Path, size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path, "JPEG")


def voc(root: Path, labels: str = "SegmentationClass") -> Path:
    """VOCdevkit/VOC2012 as its archive has it."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name, numbers in {
        "2007_000033": BAND,
        "2007_000042": np.full((3, 4), 7),
        "2007_000061": BAND * 0,
    }.items():
        photo(folder / "JPEGImages" / f"{name}.jpg")
        save(folder / labels / f"{name}.png", numbers, colours=True)
    photo(folder / "JPEGImages" / "2012_004331.jpg")  # of another task
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000042\n2007_000033\n2007_000061\n")
    (lists / "train.txt").write_text("2007_000033\n")
    return folder


def context(root: Path) -> Path:
    folder = root / "VOCdevkit" / "VOC2010"
    photo(folder / "JPEGImages" / "2008_000002.jpg")
    save(
        folder / "SegmentationClassContext" / "2008_000002.png", np.repeat([[0, 23, 58, 59]], 3, axis=0), True
    )
    (folder / "ImageSets" / "SegmentationContext").mkdir(parents=True)
    (folder / "ImageSets" / "SegmentationContext" / "val.txt").write_text("2008_000002\n")
    return folder


def coco(root: Path) -> Path:
    folder = root / "coco_stuff164k"
    photo(folder / "images" / "val2017" / "000000000139.jpg")
    labels = folder / "annotations" / "val2017"
    save(labels / "000000000139_labelTrainIds.png", np.repeat([[0, 79, 80, 255]], 3, axis=0), False)
    save(labels / "000000000139.png", np.full((3, 4), 183), False)  # COCO-Stuff's own numbers
    return folder


def ade(root: Path) -> Path:
    folder = root / "ADEChallengeData2016"
    photo(folder / "images" / "validation" / "ADE_val_00000001.jpg")
    save(
        folder / "annotations" / "validation" / "ADE_val_00000001.png",
        np.repeat([[0, 57, 16, 150]], 3, axis=0),
        False,
    )
    (folder / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    (folder / "sceneCategories.txt").write_text("ADE_val_00000001 abbey\n")
    return folder


def load(folder: Path, **asked: str | int | None) -> Labelled:
    return load_labelled(str(folder), template="a photo of {}", **asked)  # type: ignore[arg-type]


def test_the_word_lists_have_as_many_words_as_the_sets_have_classes() -> None:
    assert [len(one.words) for one in (VOC, CONTEXT, COCO, ADE)] == [20, 59, 80, 150]
    # As the paper renames them.
    assert [VOC.words[number - 1] for number in (1, 6, 11, 15, 20)] == [
        "plane",
        "buses",
        "table",
        "people",
        "monitor",
    ]
    # Places that a slip in a list would shift.
    assert (CONTEXT.words[22], CONTEXT.words[58], COCO.words[79], ADE.words[56]) == (
        "dog", "wood", "toothbrush", "pool table",
    )  # fmt: skip
    assert len({*ADE.words}) == 150


def test_a_class_is_found_by_its_other_names() -> None:
    assert (VOC.find("aeroplane"), VOC.find("TV"), VOC.find("dining  table"), VOC.find("unicorn")) == (
        1,
        20,
        11,
        None,
    )


@pytest.mark.parametrize("labels", ["SegmentationClass", "SegmentationClassAug"])
def test_voc_by_its_list_with_border_pixels_that_nobody_judged(tmp_path: Path, labels: str) -> None:
    found = load(voc(tmp_path, labels))
    assert found.pictures.names == ["2007_000042.jpg", "2007_000033.jpg"]  # one shows no class
    assert found.pictures.left_out == 1
    assert found.phrases == [("car",), ("plane", "monitor")]
    assert found.pictures.texts[1] == "a photo of plane, monitor"
    label = found.label(1, 2, (3, 4))
    assert label is not None
    assert label[0].tolist() == [0, 1, 2, IGNORED]
    assert found.pictures.read is not None
    assert found.pictures.read(1)[:2] == b"\xff\xd8"
    assert "only where they are is judged" in found.note
    assert load(voc(tmp_path / "b"), split="train").pictures.names == ["2007_000033.jpg"]
    assert len(load(voc(tmp_path / "c"), limit=1)) == 1


def test_augmented_labels_go_before_the_first_ones(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    for name in ("2007_000033", "2007_000042", "2007_000061"):
        save(folder / "SegmentationClassAug" / f"{name}.png", np.full((3, 4), 3), True)
    assert load(folder).phrases == [("bird",)] * 3


def test_context(tmp_path: Path) -> None:
    found = load(context(tmp_path))
    assert found.phrases == [("dog", "window", "wood")]


def test_coco_counts_its_stuff_as_background(tmp_path: Path) -> None:
    found = load(coco(tmp_path), split="val")
    assert found.phrases == [("person", "toothbrush")]
    label = found.label(0, 2, (3, 4))
    assert label is not None
    assert label[0].tolist() == [1, 2, 0, IGNORED]


def test_ade(tmp_path: Path) -> None:
    found = load(ade(tmp_path))
    # In the order of their numbers: the table is not that of "pool table".
    assert found.phrases == [("table", "pool table", "flag")]
    label = found.label(0, 3, (3, 4))
    assert label is not None
    assert label[0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize(("make", "name"), [(voc, "voc"), (context, "context"), (coco, "coco"), (ade, "ade")])
def test_a_set_is_known_by_its_folders_and_found_below_the_one_that_is_given(
    make: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    for given in (folder, tmp_path):
        found = find_set(str(given))
        assert found is not None
        assert (found[0], found[1].name) == (folder, name)


def test_a_folder_of_two_sets_has_to_be_told_which(tmp_path: Path) -> None:
    folder = context(tmp_path)
    save(folder / "SegmentationClass" / "2008_000002.png", BAND, True)
    with pytest.raises(UserError, match=r"several data sets; say which with segment\.layout= voc or context"):
        load(folder)
    assert load(folder, layout="context").phrases == [("dog", "window", "wood")]
    # What a threshold is fitted on is of the same layout as what is segmented, where it can be.
    asked = load_labelled(str(folder), of_several="context", what="segment.tune")
    assert len(asked) == 1
    assert asked.note.startswith("PASCAL Context")


def test_scenes_of_the_world_have_the_renderers_own_labels() -> None:
    found = load_labelled("shapes", limit=7, seed=3)
    again = load_labelled("shapes", limit=7, seed=3)
    tune = load_labelled("shapes", limit=7, seed=3, what="segment.tune")
    assert found.pictures.texts == again.pictures.texts
    assert not {*found.pictures.texts} & {*tune.pictures.texts}  # other prompts
    for row, phrases in enumerate(found.phrases):
        assert phrases is not None
        assert all(phrase in found.pictures.texts[row] for phrase in phrases)
        label = found.label(row, len(phrases), (64, 64))
        assert label is not None
        assert {*np.unique(label).tolist()} == {*range(len(phrases) + 1)}
        assert found.pictures.read is not None
        assert again.pictures.read is not None
        assert found.pictures.read(row) == again.pictures.read(row)
    assert "has no split 'val'; give train or test" in refused(lambda: load_labelled("shapes", split="val"))


def refused(make: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_a_set_is_named(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    assert "has no split 'test'" in refused(lambda: load(folder, split="test"))
    assert (
        "is not ADE20K scene parsing: it has no annotations/validation beside images/validation"
        in refused(lambda: load(folder, layout="ade"))
    )
    label = folder / "SegmentationClass" / "2007_000042.png"
    save(label, np.full((3, 4), 21), True)
    assert "has the number 21 in 12 pixels; it is 0 for the background, 1 to 20, or 255" in refused(
        lambda: load(folder)
    )
    Image.new("RGB", (4, 3), "red").save(label)
    assert "has colours (mode RGB), not a number a pixel" in refused(lambda: load(folder))
    label.write_bytes(b"no picture")
    assert f"the label {label} cannot be read" in refused(lambda: load(folder))
    label.unlink()
    assert "does not exist" in refused(lambda: load(folder))


def test_a_label_of_another_size_is_refused_when_its_picture_is_known(tmp_path: Path) -> None:
    found = load(voc(tmp_path))
    assert "has 4 x 3 pixels, its picture 8 x 6" in refused(lambda: found.label(0, 1, (6, 8)))


def test_names_of_a_list_do_not_lead_out_of_the_set(tmp_path: Path) -> None:
    folder = voc(tmp_path)
    save(tmp_path / "outside.png", BAND, True)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("../../../../outside\n")
    assert "lies outside" in refused(lambda: load(folder))
