"""Sources of (picture, caption) pairs as one list: image folders, parquet, saved and Hub datasets, candidate stores.

Captions are read at once, pictures one at a time when they are asked for, from where they lie.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mitune.data.dataset import encode_png
from mitune.data.prompts import Prompt, make_prompt, open_saved, read_rows
from mitune.data.store import KEYS, CandidateStore, find_store
from mitune.errors import UserError, first_line, nearest, short
from mitune.files import atomic_folder

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = ("file_name", "image", "img", "picture", "file", "path", "image_path", "jpg", "png")
CAPTION_COLUMNS = ("text", "caption", "prompt")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
WORLD = "shapes"
WORLD_SIZE = 1000  # pictures of the embedded world where no limit is given: it has no end
WORLD_WRONG = 0.3  # share of its captions that are wrong, as in its training corpus
_FILE, _MARK = "train-00000.parquet", "mitune.pictures"
_SHARD = 256  # pictures a row group of a written dataset


@dataclass(frozen=True, eq=False)
class Pictures:
    """A source: row by row a caption, a name for messages, and a picture or a latent.

    ``keys``: further columns that identify a row in the table of scores. ``scores``: columns known already.
    ``read``: file contents of a row's picture (None: there is only a latent). ``latents``: the latents of some rows
    [n, …]. ``seeds``: those of the candidates; other pictures get theirs from :func:`numbers`.
    """

    where: str
    texts: list[str]
    names: list[str]
    read: Callable[[int], bytes] | None = None
    latents: Callable[[Sequence[int]], Tensor] | None = None
    seeds: list[int] | None = None
    keys: Mapping[str, list[Any]] = field(default_factory=dict)
    scores: Mapping[str, list[float]] = field(default_factory=dict)
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def what(self, row: int) -> str:
        """The row in words, for messages."""
        return f"the picture {self.names[row]} of {self.where} ({short(self.texts[row], 80)!r})"

    @property
    def digest(self) -> str:
        """What the rows are, whatever folder they lie in."""
        lines = "\x1f".join(f"{name}\x1e{text}" for name, text in zip(self.names, self.texts, strict=True))
        return hashlib.sha256(lines.encode()).hexdigest()


def numbers(texts: Iterable[str]) -> list[int]:
    """How many earlier rows have the same caption: with it, the number that a picture's seed comes from."""
    seen: dict[str, int] = {}
    result = []
    for text in texts:
        result.append(seen.get(text, 0))
        seen[text] = result[-1] + 1
    return result


def decode_picture(data: bytes, size: tuple[int, int], what: str) -> tuple[Tensor, tuple[int, int] | None]:
    """A picture [3, H, W] in [0, 1] of ``size`` (H, W), and its own (H, W) where that was another.

    One of another size is scaled to cover ``size`` and cut to its middle; the turn that a camera noted is obeyed, and
    transparent parts are white. Raises UserError naming ``what`` for bytes that are no picture.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data))
        picture = ImageOps.exif_transpose(picture)
        if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
            clear = picture.convert("RGBA")
            picture = Image.new("RGBA", clear.size, "white")
            picture.alpha_composite(clear)
        picture = picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{what} does not decode ({error}); mend or remove it, or leave such out with score.skip=true"
        ) from error
    own = (picture.height, picture.width)
    height, width = size
    if own != size:
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    array = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return array, None if own == size else own


def load_pictures(
    source: str | Path,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    limit: int | None = None,
    skip: bool = False,
    seed: int = 0,
) -> Pictures:
    """Open a source of pictures with captions.

    Args:
        source: a folder with ``metadata.csv``, ``.jsonl`` or ``.parquet`` (columns ``file_name`` and ``text``), such a
            table alone, a parquet file or a folder of them, a folder made by ``datasets.save_to_disk``, the candidates
            of a run, a Hub dataset id, or ``shapes``: the embedded world's own pictures, some with wrong captions.
        split: of a source that has several.
        image_column, text_column: default ``IMAGE_COLUMNS``, ``CAPTION_COLUMNS``.
        limit: at most so many rows, from the first.
        skip: leave out rows without a caption instead of refusing the source.
        seed: of the pictures of the embedded world.

    Raises UserError: not there, no rows, no such column, a row without a caption.
    """
    found = _open(str(source), split, image_column, text_column, limit, seed)
    rows = range(len(found) if limit is None else min(limit, len(found)))
    empty = [row for row in rows if not found.texts[row]]
    if empty and not skip:
        raise UserError(
            f"{found.where}: the picture {found.names[empty[0]]} has no caption"
            f"{f', nor have {len(empty) - 1} others' if len(empty) > 1 else ''};"
            " write one, or leave such out with score.skip=true"
        )
    if not rows or len(empty) == len(rows):
        raise UserError(f"{found.where} has no picture with a caption; give a source with at least one row")
    if not empty and len(rows) == len(found):
        return found
    chosen = [row for row in rows if found.texts[row]]
    return _rows_of(found, chosen, len(empty))


def _rows_of(found: Pictures, rows: list[int], left_out: int) -> Pictures:
    """The source with ``rows`` only."""
    read, latents = found.read, found.latents
    return Pictures(
        found.where,
        [found.texts[row] for row in rows],
        [found.names[row] for row in rows],
        None if read is None else lambda row: read(rows[row]),
        None if latents is None else lambda wanted: latents([rows[row] for row in wanted]),
        None if found.seeds is None else [found.seeds[row] for row in rows],
        {name: [column[row] for row in rows] for name, column in found.keys.items()},
        {name: [column[row] for row in rows] for name, column in found.scores.items()},
        left_out,
    )


def _open(
    source: str, split: str | None, image: str | None, text: str | None, limit: int | None, seed: int
) -> Pictures:
    if source == WORLD:
        return _world(limit or WORLD_SIZE, seed)
    path = Path(source).expanduser()
    if path.is_dir():
        store = find_store(path)
        if store is not None:
            return _candidates(store)
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _saved(path, split, image, text)
        return _folder(path, split, image, text)
    if path.is_file():
        return _parquet([path], image, text) if path.suffix == ".parquet" else _listed(path, image, text)
    if path.suffix or source.count("/") != 1 or source.startswith((".", "~")):
        others = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no picture source {source}{nearest(path.name, others)}")
    return _hub(source, split, image, text)


# -- tables that name files --------------------------------------------------------------------------------------------


def _folder(folder: Path, split: str | None, image: str | None, text: str | None) -> Pictures:
    for place in (folder / split, folder) if split else (folder,):
        for name in METADATA:
            if (place / name).is_file():
                return _listed(place / name, image, text)
    parts = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    if split and any(part.name.startswith(f"{split}-") for part in parts):
        parts = [part for part in parts if part.name.startswith(f"{split}-")]
    if parts:
        return _parquet(parts, image, text)
    below = sorted(place.parent.name for name in METADATA for place in folder.glob(f"*/{name}"))
    if below:
        hint = f"; its parts {', '.join(below)} have one: give one of them, such as {folder / below[0]}"
    else:
        hint = "; write one with the columns file_name and text"
    raise UserError(f"{folder} has no metadata.csv, metadata.jsonl or parquet file{hint}")


def _listed(table: Path, image: str | None, text: str | None) -> Pictures:
    """A table of file names and captions; the files lie beside it."""
    if table.suffix not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise UserError(
            f"{table} is no table of pictures; give a folder with metadata.csv or metadata.jsonl, or a parquet file"
        )
    rows = read_rows(table)
    if not rows:
        raise UserError(f"{table} has no rows; give a source with at least one picture")
    # A row of a csv or jsonl may lack a column that others have.
    names = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))
    files = _column(names, image, IMAGE_COLUMNS, str(table), "score.image_column", "pictures")
    captions = _column(names, text, CAPTION_COLUMNS, str(table), "score.text_column", "captions")
    cells = [row.get(files) for row in rows]
    for row, cell in enumerate(cells):
        if not isinstance(cell, (str, dict, bytes)) or not cell:
            raise UserError(f"{table}, row {row + 1}: column '{files}' names no picture; fill it in")
    shown = [cell if isinstance(cell, str) else f"of row {row}" for row, cell in enumerate(cells)]
    return Pictures(
        str(table.parent if table.name in METADATA else table),
        [_caption(row.get(captions)) for row in rows],
        shown,
        lambda row: _contents(cells[row], table.parent, f"the picture {shown[row]} of {table}"),
    )


def _column(
    there: Sequence[str], given: str | None, usual: Sequence[str], where: str, key: str, what: str
) -> str:
    if given is not None:
        if given not in there:
            raise UserError(
                f"{where} has no column '{given}' ({key}){nearest(given, there)}; it has {', '.join(there)}"
            )
        return given
    lower = {name.lower(): name for name in reversed(there)}
    for name in usual:
        if name in lower:
            return lower[name]
    raise UserError(f"{where}: which column holds the {what}? Set {key} to one of {', '.join(there)}")


def _caption(value: Any) -> str:
    """The caption with its white space put in order; empty for none."""
    return make_prompt(value).text if isinstance(value, str) else ""


def _contents(cell: Any, beside: Path, what: str) -> bytes:
    """File contents of a picture cell: bytes, a path, or the mapping of both that ``datasets`` writes."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if not isinstance(cell, str) or not cell:
        raise UserError(f"{what} is empty; remove the row, or leave such out with score.skip=true")
    try:
        return (beside / Path(cell).expanduser()).read_bytes()
    except OSError as error:
        raise UserError(
            f"{what} cannot be read ({error.strerror}); put it there, or leave such out with score.skip=true"
        ) from error


# -- parquet and datasets ----------------------------------------------------------------------------------------------


def _parquet(paths: list[Path], image: str | None, text: str | None) -> Pictures:
    files, captions, places = [], [], []  # places: (file, row group, row in it)
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    for number, path in enumerate(paths):
        try:
            file = pq.ParquetFile(path)
            names = file.schema_arrow.names
            pictures = _column(names, image, IMAGE_COLUMNS, str(path), "score.image_column", "pictures")
            wanted = _column(names, text, CAPTION_COLUMNS, str(path), "score.text_column", "captions")
            captions += [_caption(value) for value in file.read([wanted]).column(0).to_pylist()]
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a readable parquet file: {first_line(error)}") from error
        files.append((file, pictures, path.parent))
        for group in range(file.num_row_groups):
            places += [(number, group, row) for row in range(file.metadata.row_group(group).num_rows)]
    if not captions:
        raise UserError(f"{where} has no rows; give a source with at least one picture")
    held: dict[tuple[int, int], Any] = {}  # the row group read last: rows are asked for in order

    def read(row: int) -> bytes:
        number, group, place = places[row]
        file, pictures, folder = files[number]
        if (number, group) not in held:
            held.clear()
            held[number, group] = file.read_row_group(group, [pictures]).column(0)
        return _contents(held[number, group][place].as_py(), folder, f"the picture of row {row} of {where}")

    return Pictures(where, captions, [f"of row {row}" for row in range(len(captions))], read)


def _saved(folder: Path, split: str | None, image: str | None, text: str | None) -> Pictures:
    return _dataset(open_saved(folder), str(folder), split, image, text)


def _hub(name: str, split: str | None, image: str | None, text: str | None) -> Pictures:
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # of a dozen types; all mean the same to the user
        raise UserError(
            f"{name} is neither a file or folder here nor a dataset of the Hub: {first_line(error)}"
        ) from error
    return _dataset(loaded, name, split, image, text)


def _dataset(loaded: Any, where: str, split: str | None, image: str | None, text: str | None) -> Pictures:
    """A ``datasets`` dataset, or the named split (default: ``train``, or the only one) of several."""
    import datasets

    if isinstance(loaded, datasets.DatasetDict):
        there = [str(name) for name in loaded]
        chosen = split or ("train" if "train" in there else there[0] if len(there) == 1 else None)
        if chosen not in there:
            wrong = (
                f"no split '{split}'{nearest(split, there)}" if split else "several splits: set score.split"
            )
            raise UserError(f"{where} has {wrong}; it has {', '.join(there)}")
        loaded = loaded[chosen]
    names = loaded.column_names
    pictures = _column(names, image, IMAGE_COLUMNS, where, "score.image_column", "pictures")
    captions = _column(names, text, CAPTION_COLUMNS, where, "score.text_column", "captions")
    if not len(loaded):
        raise UserError(f"{where} has no rows; give a source with at least one picture")
    raw = loaded.select_columns([pictures])
    if isinstance(raw.features[pictures], datasets.Image):
        raw = raw.cast_column(pictures, datasets.Image(decode=False))
    return Pictures(
        where,
        [_caption(value) for value in loaded[captions]],
        [f"of row {row}" for row in range(len(loaded))],
        lambda row: _contents(raw[row][pictures], Path(), f"the picture of row {row} of {where}"),
    )


# -- candidates and the embedded world ---------------------------------------------------------------------------------


def _candidates(store: CandidateStore) -> Pictures:
    """The kept candidates of a run: their latents are used as they are, their scores carried on."""
    folder, table = store.folder, store.table()
    kept = table[table["kept"]].reset_index(drop=True)
    if not len(kept):
        raise UserError(
            f"{folder} kept no latent of its {len(table)} candidates; generate again with generate.keep=1000"
        )
    scores = [name for name in kept.columns if name not in (*KEYS, "unit", "latent_row")]
    keys = ("prompt_id", "category", "candidate", "seed")
    return Pictures(
        str(folder),
        kept["prompt"].tolist(),
        [
            f"{number} of {prompt_id}"
            for number, prompt_id in zip(kept["candidate"], kept["prompt_id"], strict=True)
        ],
        latents=lambda rows: store.latents(kept.iloc[list(rows)]),
        seeds=kept["seed"].tolist(),
        keys={name: kept[name].tolist() for name in keys},
        scores={name: kept[name].tolist() for name in scores},
        left_out=len(store.table(dropped=True)) - len(kept),
    )


def _world(count: int, seed: int) -> Pictures:
    """Pictures of the embedded world's renderer, one caption each, some of them wrong, as captions of the web are."""
    from mitune.worlds.shapes.corpus import build_corpus

    corpus = build_corpus(count, 1, WORLD_WRONG, seed)
    return Pictures(
        "the embedded world",
        [texts[0] for texts in corpus.texts],
        [f"of row {row}" for row in range(count)],
        lambda row: encode_png(Image.fromarray(corpus.pictures[row])),
    )


# -- writing -----------------------------------------------------------------------------------------------------------


def write_pictures(folder: str | Path, table: pd.DataFrame, contents: Callable[[int], bytes]) -> None:
    """Write rows of (image, text, further columns) as parquet that ``datasets.load_dataset`` opens, atomically.

    ``table`` needs ``text``; ``contents(i)`` gives the file contents of its i-th picture. Pictures are copied as they
    are, ``_SHARD`` in memory at a time.
    """
    rest = pa.Table.from_pandas(table.reset_index(drop=True), preserve_index=False)
    rest = rest.drop_columns([name for name in ("image",) if name in rest.column_names])
    kinds = {name: _kind(rest.schema.field(name).type) for name in rest.column_names}
    features = {"image": {"_type": "Image"}} | {
        name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()
    }
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema([("image", cell), *((name, rest.schema.field(name).type) for name in kinds)])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}}), _MARK: "1"})
    with (
        atomic_folder(folder) as partial,
        pq.ParquetWriter(partial / _FILE, schema) as writer,
    ):
        for start in range(0, len(table), _SHARD):
            part = rest.slice(start, _SHARD)
            cells = [{"bytes": contents(start + row), "path": None} for row in range(len(part))]
            writer.write_table(
                pa.table([pa.array(cells, type=cell), *part.columns], schema=schema), row_group_size=_SHARD
            )


def written_here(folder: Path) -> bool:
    """Whether a folder holds nothing but what :func:`write_pictures` wrote."""
    try:
        metadata = pq.read_schema(folder / _FILE).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return False
    return _MARK.encode() in metadata and [path.name for path in folder.iterdir()] == [_FILE]


def _kind(kind: pa.DataType) -> str:
    """Arrow's name of a type as ``datasets`` writes it."""
    return {"double": "float64", "float": "float32", "large_string": "string"}.get(str(kind), str(kind))


def prompts_of(pictures: Pictures) -> list[Prompt]:
    """The distinct captions."""
    return [make_prompt(text) for text in dict.fromkeys(pictures.texts)]
