"""Data sets of labelled pictures, a row each: where pictures and labels lie. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mitune.parts import Catalogue, Part


@dataclass(frozen=True)
class Layout(Part):
    """Says where a data set has what, below its folder. ``make``: its classes.

    Attributes:
        pictures: folder of the .jpg pictures; "{split}" is the split's own folder.
        labels: folders of the label pictures, the first that is there.
        ending: of a label picture's name, in place of ".jpg".
        lists: the file that lists a split's names; empty: all pictures of its folder are in it.
        splits: another name of a split -> the set's own; the first is the default.
        usual: names that its folder usually has, looked for below the one that is given.
        shift: what is added to a label's value, so that the first class has number 1.
        stuff: values up to here that are no class of it: they are background.
    """

    pictures: str = ""
    labels: tuple[str, ...] = ()
    ending: str = ".png"
    lists: str = ""
    splits: Mapping[str, str] = field(default_factory=dict)
    usual: tuple[str, ...] = ()
    shift: int = 0
    stuff: int = 0


LAYOUTS: Catalogue[Layout] = Catalogue(
    "data set",
    Layout(
        "voc",
        "PASCAL VOC 2012, 20 classes",
        "mitune.data.labelled.classes:VOC",
        pictures="JPEGImages",
        labels=("SegmentationClassAug", "SegmentationClass"),
        lists="ImageSets/Segmentation/{split}.txt",
        splits={"val": "val"},
        usual=("VOCdevkit/VOC2012", "VOC2012"),
    ),
    Layout(
        "context",
        "PASCAL Context on VOC 2010, 59 classes",
        "mitune.data.labelled.classes:CONTEXT",
        pictures="JPEGImages",
        labels=("SegmentationClassContext",),
        lists="ImageSets/SegmentationContext/{split}.txt",
        splits={"val": "val"},
        usual=("VOCdevkit/VOC2010", "VOC2010"),
    ),
    Layout(
        "coco",
        "COCO-Stuff 164k, its 80 things",
        "mitune.data.labelled.classes:COCO",
        pictures="images/{split}",
        labels=("annotations/{split}",),
        ending="_labelTrainIds.png",
        splits={"val": "val2017", "train": "train2017"},
        usual=("coco_stuff164k",),
        shift=1,
        stuff=170,
    ),
    Layout(
        "ade",
        "ADE20K scene parsing, 150 classes",
        "mitune.data.labelled.classes:ADE",
        pictures="images/{split}",
        labels=("annotations/{split}",),
        splits={"val": "validation", "train": "training"},
        usual=("ade/ADEChallengeData2016", "ADEChallengeData2016"),
    ),
)
