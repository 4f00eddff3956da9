"""Where a survey's pictures come from: run folders, samples, folders and tables of pictures, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitune.errors import UserError, short
from mitune.reading import home, is_file, is_folder, is_number
from mitune.tasks import UNCATEGORISED

if TYPE_CHECKING:  # with torch: only where there are pictures to be read
    import pandas as pd
    from PIL.Image import Image

    from mitune.data.store import CandidateStore

Decoder = Callable[["CandidateStore", "pd.DataFrame"], "list[Image]"]
"""Draws the pictures of rows of a store: who decodes latents needs the model, and is told from above."""

BEFORE, AFTER = "before", "after"
_NO_SCORE = {"seed", "candidate", "row", "unit", "latent_row", "width", "height", "id", "index"}
_CATEGORY, _TEXT = ("category", "tag"), ("text", "prompt", "caption")
_IMAGE = ("image", "file_name")


@dataclass(frozen=True)
class Shot:
    """A picture of a source, not yet opened.

    Attributes:
        prompt, category: of the picture.
        seed: that it was drawn from; None where that is not known.
        number: among its source's pictures of the prompt.
        scores: by name.
        image: the name of its file in its source; empty where it has none.
    """

    prompt: str
    category: str
    seed: int | None
    number: int
    scores: Mapping[str, float] = field(default_factory=dict)
    image: str = ""


@dataclass(frozen=True, eq=False)
class Source:
    """A source under the name that its pictures go by.

    ``open``: gives the pictures of some rows, in their order.
    """

    name: str
    where: str
    shots: list[Shot]
    open: Callable[[Sequence[int]], Iterator[Image]]


def read_source(place: str, name: str, decode: Decoder) -> list[Source]:
    """Read what a word of ``mitune survey build`` names.

    A run's folder gives the pictures of its last evaluation as two sources, before and after, where ``name`` is empty,
    and those after where it is not. Raises UserError where there are no pictures with prompts.
    """
    path = home(place)
    if is_folder(path) and is_file(path / "config.yaml") and list(path.glob("round-*")):
        return _of_run(path, name, decode)
    if is_folder(path / "pictures") and is_file(path / "sample.json"):
        path = path / "pictures"
    return [_of_pictures(path, name or path.stem, decode)]


def candidates_of(place: str) -> str:
    """Give the candidates of the last round where ``place`` is a run's folder; else the place itself."""
    rounds = _rounds(home(place), "candidates")
    return str(rounds[-1]) if rounds else place


def _rounds(run: Path, inside: str) -> list[Path]:
    """The folders of that name in a run's rounds, in the order of the rounds."""
    if not is_folder(run):
        return []
    numbered = [path for path in run.glob("round-*") if path.name.removeprefix("round-").isdecimal()]
    ordered = sorted(numbered, key=lambda path: int(path.name.removeprefix("round-")))
    return [path / inside for path in ordered if is_folder(path / inside)]


def _of_run(run: Path, name: str, decode: Decoder) -> list[Source]:
    after, before = (
        _rounds(run, "after"),
        sorted(run.glob("baseline-*"), key=lambda path: path.stat().st_mtime),
    )
    if not after or not before:
        raise UserError(
            f"{run} has no pictures of an evaluation; run mitune evaluate run={run} first, or give a folder of pictures"
        )
    tuned = _of_pictures(after[-1], name or AFTER, decode)
    return [tuned] if name else [_of_pictures(before[-1], BEFORE, decode), tuned]


def _of_pictures(path: Path, name: str, decode: Decoder) -> Source:
    """A folder, a table or a store of candidates."""
    from mitune.data.store import find_store

    store = find_store(path) if is_folder(path) else None
    return _of_store(store, name, decode) if store is not None else _of_files(path, name)


def _of_store(store: CandidateStore, name: str, decode: Decoder) -> Source:
    table = store.table()
    table = table[table["kept"]].reset_index(drop=True)
    if not len(table):
        raise UserError(f"{store.folder} kept no latent; generate again with generate.keep=1000")
    return Source(
        name,
        str(store.folder),
        _shots(table.to_dict("records"), table["prompt"].tolist()),
        lambda rows: iter(decode(store, table.iloc[list(rows)])),
    )


def _of_files(path: Path, name: str) -> Source:
    from mitune.data.decoding import open_picture
    from mitune.data.pictures.folders import METADATA, TABLES
    from mitune.data.pictures.loading import load_pictures
    from mitune.data.table_files import open_table

    found = load_pictures(str(path))
    if found.read is None:
        raise UserError(f"{path} holds no pictures, only latents; give the folder of the run")
    table = next((path / own for own in METADATA if is_file(path / own)), path) if is_folder(path) else path
    rows: list[Mapping[str, Any]] = [{} for _ in found.texts]
    if is_file(table) and table.suffix.lower() in TABLES:
        own: list[Mapping[str, Any]] = [*open_table(table).rows(None)]
        rows = own if len(own) == len(rows) else rows  # rows of a packed table may hold several pictures
    read = found.read

    def pictures(wanted: Sequence[int]) -> Iterator[Image]:
        for row in wanted:
            yield open_picture(read(row), found.what(row), "mend it, or take it out of the source")

    named = [{**row, _IMAGE[0]: image} for row, image in zip(rows, found.names, strict=True)]
    return Source(name, found.where, _shots(named, found.texts), pictures)


def _shots(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[Shot]:
    shots, seen = [], dict[str, int]()
    for row, text in zip(rows, texts, strict=True):
        prompt = " ".join(text.split())
        number = seen[prompt] = seen.get(prompt, -1) + 1
        category = next((row[name] for name in _CATEGORY if isinstance(row.get(name), str)), "")
        seed = _number(row.get("seed"))
        shots.append(
            Shot(
                prompt,
                category or UNCATEGORISED,
                None if seed is None else int(seed),
                number,
                _scores(row),
                str(row.get(_IMAGE[0], "")),
            )
        )
    return shots


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that are scores, by their columns."""
    found = {str(name): _number(value) for name, value in row.items() if name not in _NO_SCORE}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: object) -> float | None:
    """A number of a table: of text where a CSV has it; None for what is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    value = value.item() if hasattr(value, "item") else value
    return value if is_number(value) else None


def with_table(source: Source, table: Path) -> Source:
    """Add the scores of a table, such as ``mitune score`` writes: by picture and text, or, where it names no pictures,
    by text and order.

    Raises UserError for a table without such columns, or none of whose rows is of a picture here.
    """
    from mitune.data.table_files import open_table

    opened = open_table(table, [*_IMAGE])
    text, image = (next((name for name in names if name in opened.columns), "") for names in (_TEXT, _IMAGE))
    if not text:
        raise UserError(
            f"{table} has no column of prompts ({', '.join(_TEXT)}); it has {short(', '.join(opened.columns))}"
        )
    known: dict[tuple[str, object], dict[str, float]] = {}
    seen: dict[str, int] = {}
    for row in opened.rows(None):
        prompt = " ".join(str(row.get(text)).split())
        number = seen[prompt] = seen.get(prompt, -1) + 1
        known[prompt, row.get(image) if image else number] = _scores(row)
    keys = [(shot.prompt, shot.image if image else shot.number) for shot in source.shots]
    if not any(key in known for key in keys):
        raise UserError(
            f"{table} has scores of none of the pictures of {source.where}; give the table of theirs"
        )
    shots = [
        replace(shot, scores={**shot.scores, **known.get(key, {})})
        for shot, key in zip(source.shots, keys, strict=True)
    ]
    return replace(source, shots=shots)
