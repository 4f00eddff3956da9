"""Which rows of tables of pictures are of the split that is meant, where a column says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mitune.data.pictures.rows import Wanted
from mitune.data.splits import KEYWORDS, TRAIN, choose_label, label_of, labels_of, split_of
from mitune.errors import UserError, short


def chosen_rows(
    parts: Sequence[Sequence[Any] | None], wanted: Wanted, where: str, named: bool = False
) -> list[list[int] | None]:
    """For each table the rows that are meant, None for all. ``parts``: the cells of its split column, None where it has
    none; ``named``: a name has told the split already, so that a column without any usual label means something else.

    Of pictures that are trained on where no split is asked for: those of ``train``. Raises UserError where a column
    has the split in no row, or is empty in some.
    """
    everything: list[list[int] | None] = [None] * len(parts)
    if wanted.split is None and not wanted.training:
        return everything
    column = f"{where}: the column 'split'"
    found = [set() if cells is None else labels_of(cells, column) for cells in parts]
    labels: set[str] = set().union(*found)
    if not labels or (named and labels.isdisjoint(KEYWORDS)):
        return everything
    if not named and not all(found):
        labels.add(TRAIN)  # a table without it is one by itself
    name = choose_label(labels, wanted.split, stand_in=False)
    if name is None:
        way = "choose one with score.split=" if wanted.split else "mark the rows to train on as train"
        raise UserError(
            f"{column} has no split '{wanted.split or TRAIN}'; it has {short(', '.join(sorted(labels)))}; {way}, or"
            " rename the column"
        )
    return [
        (None if named or name == TRAIN else []) if not own or cells is None
        else [row for row, cell in enumerate(cells) if label_of(cell) == name]
        for cells, own in zip(parts, found, strict=True)
    ]  # fmt: skip


def check_lone(source: Path, own: str | None, wanted: Wanted) -> None:
    """Raise UserError where another split is asked for than that of a table without a column of them: ``own``."""
    asked = label_of(wanted.split)
    if asked and asked != (label_of(own) or TRAIN):
        said = f"it is of '{own}'" if own else "nothing in it tells splits"
        raise UserError(f"{source} has no split '{wanted.split}': {said}; leave out score.split")


def is_named(path: Path, root: Path | None) -> bool:
    """Tell whether the name of a file, or of a folder above it up to ``root``, tells a split."""
    parts = (path.name,) if root is None else path.relative_to(root).parts
    return any(split_of(part) for part in parts)
