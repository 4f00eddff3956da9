"""One door to what is segmented: a picture, a source of pictures with captions, or a data set in its public layout."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mitune.data.catalogue import Layout
from mitune.data.labelled.classes import Classes
from mitune.data.labelled.labels import IGNORED, Label, check_label, decode_label
from mitune.data.labelled.places import find_set, is_picture, picture_caption
from mitune.data.labelled.world import SCENES, scene_label, scene_png, world_scenes
from mitune.data.pictures.cells import Place
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures
from mitune.data.prompts import make_prompt
from mitune.data.settings import WORLD
from mitune.errors import UserError, short
from mitune.reading import home, is_file, is_folder, lines, parse_json, read_text
from mitune.threads import side_by_side

PHRASES, LABELS = "phrases", ("label", "mask")
"""Columns of a table, beside the picture's file and its caption: the phrases, and the file of their places."""
SOURCE = "segment.source"
PARTS = ("train", "test")
_MEND = "mend it, or leave its row out"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures, the phrases that are looked for in each, and, where that is known, the places where they are.

    Attributes:
        pictures: with their captions.
        phrases: of each picture, in the order of its caption; None: they are yet to be found in it.
        labels: the contents of each picture's label file as numbers; None where there is none.
        own: label value -> number of the phrase, from 1, of each picture of a data set, whose caption names all of its
            classes in order; None: the label has the phrases' numbers.
        most: the highest number that a label may have, where that is not the number of phrases.
        classes: what each phrase is counted as; None: as itself.
        note: what is to be said of figures on these pictures.
    """

    pictures: Pictures
    phrases: list[tuple[str, ...] | None]
    labels: list[Callable[[], Label] | None]
    own: Sequence[Mapping[int, int]] | None = None
    most: int | None = None
    classes: list[tuple[str, ...]] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def labelled(self) -> bool:
        """Tell whether any picture has a label."""
        return any(label is not None for label in self.labels)

    def label(self, row: int, phrases: int, size: tuple[int, int]) -> Label | None:
        """Give the number of the phrase (from 1) at each pixel [H, W], 0 for none, 255 where nobody judged; None where
        the picture has no label. Raises UserError for one of another size (H, W) or with other numbers."""
        read = self.labels[row]
        if read is None:
            return None
        found = read()
        check_label(found, size, self.most or phrases, f"the label of {self.pictures.what(row)}")
        return found if self.own is None else _renumbered(found, self.own[row])


def load_labelled(
    source: str,
    phrases: Sequence[str] = (),
    caption: str | None = None,
    template: str = "{}",
    layout: str | None = None,
    of_several: str | None = None,
    split: str | None = None,
    what: str = SOURCE,
    **asked: Any,
) -> Labelled:
    """Open what is to be segmented.

    Args:
        source: the file of a picture, a data set's folder, "shapes", or a source as of :func:`load_pictures`. Its table
            may have a column ``phrases`` (a list), and one ``label`` or ``mask``: a palette or grey PNG, which is 1
            where the first phrase is.
        phrases: looked for in every picture; none: those of the table, or of the caption.
        caption: of a picture; none: made of the phrases.
        template: what a caption is made of; "{}" is the place of the phrases, with commas between.
        layout: the data set that the source is; none: told by its folders.
        of_several: the one that it is where its folders could be several.
        split: of a data set, or of a source that has several.
        what: the key that names the source.
        asked: ``limit``, ``skip``, ``seed``, ``outside``, ``image_column``, ``text_column``, as of ``load_pictures``;
            ``caption_of``: its ``caption``.

    Raises UserError: not there, no phrases, columns or labels that cannot be read.
    """
    if is_picture(source) and layout is None:
        return _one(home(source), phrases, caption, template)
    if caption is not None:
        raise UserError(f"segment.caption is of one picture, and {what}={source} is none; leave it out")
    if source == WORLD:
        part = split or ("test" if what == SOURCE else "train")
        return _world(part, asked.get("limit") or SCENES, asked.get("seed") or 0, phrases)
    found = find_set(source, layout, what, of_several) if layout or is_folder(home(source)) else None
    if found is not None:
        if phrases:
            raise UserError(
                f"segment.phrases: {what}={source} is a data set, whose classes are looked for; leave it out"
            )
        return _data_set(*found, split, template, asked.get("limit"))
    return _table(source, phrases, split, what, asked)


def _one(path: Path, phrases: Sequence[str], caption: str | None, template: str) -> Labelled:
    """The file of a picture."""
    given = tuple(" ".join(phrase.split()) for phrase in phrases)
    text = make_prompt(picture_caption(given, caption, template)).text
    place = Place(path.parent, outside=True)
    pictures = Pictures(
        str(path.parent), [text], [path.name], lambda row: place.read(path, f"the picture {path}")
    )
    return Labelled(pictures, [given or None], [None])


def _world(part: str, count: int, seed: int, phrases: Sequence[str]) -> Labelled:
    """Scenes of the embedded world."""
    if phrases:
        raise UserError("segment.phrases: the scenes of the embedded world have their own; leave it out")
    if part not in PARTS:
        raise UserError(f"the embedded world has no split '{short(part)}'; give {' or '.join(PARTS)}")
    scenes = world_scenes(part, count, seed)
    pictures = Pictures(
        f"the embedded world ({part})",
        [text for text, _, _ in scenes],
        [f"scene {row}" for row in range(len(scenes))],
        lambda row: scene_png(scenes[row][2]),
    )
    own = [{number: number for number in range(1, len(told) + 1)} for _, told, _ in scenes]
    labels = [functools.partial(scene_label, scene) for _, _, scene in scenes]
    return Labelled(pictures, [told for _, told, _ in scenes], [*labels], [*own])


def _table(
    source: str, phrases: Sequence[str], split: str | None, what: str, asked: Mapping[str, Any]
) -> Labelled:
    """Any source of pictures with captions."""
    how = {"caption" if name == "caption_of" else name: value for name, value in asked.items()}
    pictures = load_pictures(source, split=split, more=(PHRASES, *LABELS), **how)
    if pictures.read is None:
        raise UserError(
            f"{what}={source} keeps latents, not pictures; give the folder of pictures that mitune sample writes"
        )
    count = len(pictures)
    given = tuple(" ".join(phrase.split()) for phrase in phrases) or None
    cells = pictures.more.get(PHRASES, [None] * count)
    own = [given or _phrases(cell, pictures.what(row)) for row, cell in enumerate(cells)]
    column = next((pictures.more[name] for name in LABELS if name in pictures.more), [None] * count)
    labels = [_label_of(pictures, row, cell) for row, cell in enumerate(column)]
    return Labelled(pictures, own, labels)


def _phrases(cell: Any, what: str) -> tuple[str, ...] | None:
    """The phrases of a table's cell: a list, a list in writing, or texts parted by "|"; None for an empty cell."""
    if cell is None or cell == "":
        return None
    if isinstance(cell, str):
        cell = parse_json(cell, what, _MEND) if cell.strip().startswith("[") else cell.split("|")
    if not isinstance(cell, (list, tuple)) or not all(isinstance(one, str) for one in cell):
        raise UserError(f'the phrases of {what} are no list of texts; write ["a cat", "a dog"]')
    if not cell:
        raise UserError(f"{what} has an empty list of phrases; name at least one, or leave the cell out")
    return tuple(" ".join(one.split()) for one in cell)


def _label_of(pictures: Pictures, row: int, cell: Any) -> Callable[[], Label] | None:
    if cell is None or cell == "":
        return None
    what = f"the label of {pictures.what(row)}"
    beside = pictures.beside
    assert beside is not None  # only tables of files have further columns
    return lambda: decode_label(beside(cell, what), what)


# -- data sets ---------------------------------------------------------------------------------------------------------


def _data_set(folder: Path, layout: Layout, split: str | None, template: str, limit: int | None) -> Labelled:
    """The pictures of a split, in the order of its list, with the classes that their labels have as phrases."""
    named = next(iter(layout.splits)) if split is None else split
    own = layout.splits.get(named, named)
    classes: Classes = layout.load()
    names = _names(folder, layout, own)[:limit]
    labels = next(path for part in layout.labels if is_folder(path := folder / part.replace("{split}", own)))
    shown = folder / layout.pictures.replace("{split}", own)
    place = Place(folder, way_out="copy it there")

    def label(name: str) -> Label:
        path = labels / f"{name}{layout.ending}"
        what = f"the label {path}"
        place.check(path, what)
        found = decode_label(place.read(path, what), what)
        _check_numbers(found, layout, len(classes.words), what)
        shifted = np.where(found == IGNORED, IGNORED, found + layout.shift)
        shifted[(shifted > len(classes.words)) & (shifted != IGNORED)] = 0
        return shifted

    there = side_by_side(lambda name: sorted({*np.unique(label(name)).tolist()} - {0, IGNORED}), names)
    rows = [row for row, numbers in enumerate(there) if numbers]
    if not rows:
        raise UserError(f"{folder}: no picture of '{own}' shows a class of the set; give another split")
    words = [tuple(classes.words[number - 1] for number in there[row]) for row in rows]
    kept = [names[row] for row in rows]
    files = [f"{name}.jpg" for name in kept]
    pictures = Pictures(
        str(folder),
        [template.replace("{}", ", ".join(own)) for own in words],
        files,
        lambda row: place.read(shown / files[row], f"the picture {shown / files[row]}"),
        left_out=len(names) - len(rows),
    )
    return Labelled(
        pictures,
        [*words],
        [functools.partial(label, name) for name in kept],
        [{number: place for place, number in enumerate(there[row], start=1)} for row in rows],
        len(classes.words),
        words,
        f"{layout.meaning}: the classes of each picture are taken from its label, so only where they are is judged",
    )


def _names(folder: Path, layout: Layout, split: str) -> list[str]:
    """The names of a split's pictures, without their ending. Raises UserError for a split that there is not."""
    if layout.lists:
        path = folder / layout.lists.replace("{split}", split)
        if not is_file(path):
            raise UserError(
                f"{folder} has no split '{short(split)}': there is no {path}; give another score.split"
            )
        found = [parts[0] for line in lines(read_text(path)) if (parts := line.split())]
    else:
        place = folder / layout.labels[0].replace("{split}", split)
        if not is_folder(place):
            raise UserError(
                f"{folder} has no split '{short(split)}': there is no {place}; give another score.split"
            )
        ends = (path.name for path in place.iterdir() if path.name.endswith(layout.ending))
        found = sorted(name.removesuffix(layout.ending) for name in ends)
    if not found:
        raise UserError(f"{folder}: the split '{short(split)}' has no picture; give another score.split")
    return found


def _check_numbers(label: Label, layout: Layout, classes: int, what: str) -> None:
    """Raise UserError for a number that the set does not have."""
    most = max(classes - layout.shift, layout.stuff)
    check_label(label, label.shape, most, what)  # type: ignore[arg-type]


def _renumbered(label: Label, own: Mapping[int, int]) -> Label:
    table = np.zeros(IGNORED + 1, dtype=np.int64)
    table[IGNORED] = IGNORED
    for value, number in own.items():
        table[value] = number
    return table[label]
