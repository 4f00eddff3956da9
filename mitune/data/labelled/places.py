"""Whether a folder is a data set in its public layout, and what a source of pictures to segment is. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mitune.data.catalogue import LAYOUTS, Layout
from mitune.data.places import find_pictures
from mitune.errors import UserError
from mitune.reading import home, is_file, is_folder

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".avif")
"""Of a file that is one picture."""


def is_picture(source: str) -> bool:
    """Tell whether a source is the file of one picture."""
    path = home(source)
    return path.suffix.lower() in SUFFIXES and not is_folder(path)


def check_source(source: str, layout: str | None = None, what: str = "segment.source") -> None:
    """Raise UserError for a source that is not there, or no data set of ``layout`` where that is named."""
    if layout is not None:
        find_set(source, layout, what)
    elif is_picture(source) and not is_file(home(source)):
        raise UserError(f"{what}={source}: there is no such file; check the path")
    else:
        find_pictures(source)


def picture_caption(phrases: Sequence[str], caption: str | None, template: str) -> str:
    """Give the prompt of one picture: its caption, or one made of the phrases.

    >>> picture_caption(["a cat", "a dog"], None, "a photo of {}")
    'a photo of a cat, a dog'

    Raises UserError where there is neither.
    """
    if caption is None and not phrases:
        raise UserError(
            "segment: say what is looked for in the picture: segment.phrases=[a cat,a dog], or segment.caption= with a"
            " prompt whose phrases are found in it"
        )
    text = template.replace("{}", ", ".join(phrases)) if caption is None else caption
    if not text.strip():
        raise UserError("segment.caption is empty; give the prompt of the picture, or leave it out")
    return " ".join(text.split())


def find_set(
    source: str, layout: str | None = None, what: str = "segment.source", of_several: str | None = None
) -> tuple[Path, Layout] | None:
    """Find the data set that a folder is, or has in it under its usual name; None for a folder that is none.

    Args:
        source: the folder.
        layout: the set that it has to be.
        what: the key that names it.
        of_several: the set that it is where it could be several.

    Raises UserError where it is not ``layout``, or where it is several and none is named.
    """
    folder = home(source)
    wanted = [LAYOUTS[layout]] if layout else [*LAYOUTS.values()]
    found = [place for own in wanted for place in _places(folder, own)]
    if layout and not found:
        own = LAYOUTS[layout]
        raise UserError(
            f"{what}={source} is not {own.meaning.partition(',')[0]}: it has no"
            f" {' or '.join(_shown(part, own) for part in own.labels)} beside {_shown(own.pictures, own)}"
        )
    if len(found) > 1:
        found = [(place, own) for place, own in found if own.name == of_several] or found
    if len({own.name for _, own in found}) > 1:
        names = " or ".join(dict.fromkeys(own.name for _, own in found))
        raise UserError(f"{what}={source} is several data sets; say which with segment.layout= {names}")
    return found[0] if found else None


def _shown(part: str, own: Layout) -> str:
    return part.replace("{split}", next(iter(own.splits.values())))


def _places(folder: Path, own: Layout) -> Iterator[tuple[Path, Layout]]:
    """The folder, or those of usual names below it, that have what the layout has."""
    for place in (folder, *(folder / name for name in own.usual)):
        if any(_has(place, own, split) for split in own.splits.values()):
            yield place, own
            return


def _has(place: Path, own: Layout, split: str) -> bool:
    labels = [place / part.replace("{split}", split) for part in own.labels]
    if not any(map(is_folder, labels)) or not is_folder(place / own.pictures.replace("{split}", split)):
        return False
    # Two sets have the same folders, but other names in them.
    return own.ending == ".png" or any(path.name.endswith(own.ending) for path in labels[0].iterdir())
