"""Datasets of the ``datasets`` library: saved ones and those of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mitune.data.pictures.cells import Place
from mitune.data.pictures.columns import find_columns, of_rows
from mitune.data.pictures.rows import Pictures, Wanted
from mitune.data.pictures.splits import check_lone, chosen_rows
from mitune.data.prompts import open_saved
from mitune.data.splits import canonical, split_column
from mitune.errors import UserError, nearest
from mitune.reading import loading, reading


def read_saved(folder: Path, wanted: Wanted) -> Pictures:
    """Open what ``datasets.save_to_disk`` wrote."""
    return _dataset(open_saved(folder), str(folder), wanted, Place(folder, wanted.outside))


def read_hub(name: str, wanted: Wanted) -> Pictures:
    """Read a dataset of the Hub; pictures that it keeps as files lie in the cache."""
    import datasets
    from huggingface_hub import constants

    with loading(f"{name} is neither a file or folder here nor a dataset of the Hub"):
        loaded = datasets.load_dataset(name)
    caches = (Path(datasets.config.HF_DATASETS_CACHE), Path(datasets.config.DOWNLOADED_DATASETS_PATH))
    place = Place(Path(constants.HF_HUB_CACHE), wanted.outside, caches)
    return _dataset(loaded, name, wanted, place)


def _dataset(loaded: Any, where: str, wanted: Wanted, place: Place) -> Pictures:
    """A ``datasets`` dataset, or the named split (default: ``train``, or the only one) of several."""
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        parts = {str(name): part for name, part in loaded.items()}
        if len(parts) == 1 and split_column(next(iter(parts.values())).column_names):
            (name,) = parts  # its column decides
        else:
            name = choose_split(list(parts), where, wanted.split)
        loaded = _of_split(parts[name], where, wanted, name)
    else:
        loaded = _of_split(loaded, where, wanted, None)
    columns = find_columns(loaded.column_names, wanted, where)
    if not len(loaded):
        raise UserError(f"{where} has no rows; give a source with at least one picture")
    raw = loaded.select_columns(list(columns.pictures))
    for name in columns.pictures:
        if isinstance(raw.features[name], datasets.Image):
            raw = raw.cast_column(name, datasets.Image(decode=False))
    with reading(where):
        values = list(loaded[columns.caption])
        labels = list(zip(*(list(loaded[name]) for name in columns.labels), strict=True))

    def read(row: int, side: int) -> bytes:
        what = f"the picture of row {row} of {where}"
        with reading(what):
            cell = raw[row][columns.pictures[side]]
        return place.contents(cell, what)

    return of_rows(where, values, labels, columns, wanted, read)


def _of_split(part: Any, where: str, wanted: Wanted, name: str | None) -> Any:
    """The rows of a dataset that are of the split that is meant; ``name``: that of the part it is of several."""
    own = str(part.split) if name is None and part.split is not None else name
    column = split_column(part.column_names)
    rows: list[int] | None = None
    if column is not None and (wanted.split or wanted.training):
        with reading(where):
            cells = list(part[column])
        names = getattr(part.features[column], "names", None)  # of a ClassLabel
        if names:
            cells = [
                names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else cell for cell in cells
            ]
        (rows,) = chosen_rows([cells], wanted, where, named=own is not None)
    if rows is None:
        check_lone(Path(where), own, wanted)
        return part
    return part.select(rows)


def choose_split(there: list[str], where: str, split: str | None) -> str:
    """Choose the split asked for (``val`` is ``validation``), else ``train``, else the only one. Raises UserError where
    that is none of ``there``.
    """
    if split is None and "train" not in there and len(there) > 1:
        raise UserError(f"{where} has several splits ({', '.join(there)}); choose one with score.split=")
    asked = split or ("train" if "train" in there else there[0] if there else "train")
    chosen = next(
        (name for name in (asked, *there) if name in there and canonical(name) == canonical(asked)), None
    )
    if chosen is None:
        raise UserError(
            f"{where} has no split '{asked}'{nearest(asked, there)}; it has {', '.join(there) or 'none'}"
        )
    return chosen
