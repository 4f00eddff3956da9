"""The training set: a ``datasets`` dataset of chosen pictures: latents, prompts, scores, provenance."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from mitune.data.decoding import as_tensor, open_picture
from mitune.data.selection import scorers
from mitune.data.store import PICTURE
from mitune.errors import UserError, first_line, nearest, short
from mitune.files import atomic_folder
from mitune.reading import read_bytes

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

REQUIRED = ("image", "text")


def encode_png(picture: Tensor | Image.Image | bytes) -> bytes:
    """Encode a picture as PNG bytes: [3, H, W] floats in [0, 1], a PIL image, or PNG bytes already."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Tensor):
        levels = (picture.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu()
        picture = Image.fromarray(levels.numpy())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def decode_png(data: bytes, what: str = "a picture") -> Tensor:
    """Decode a picture [3, H, W], floats in [0, 1]. Raises UserError naming ``what`` if the bytes are no picture."""
    return as_tensor(open_picture(data, what, "remove it from the dataset or write it again"))


def build(
    rows: pd.DataFrame,
    pictures: Iterable[Tensor | Image.Image | bytes],
    latents: Tensor | None,
    round: int = 1,
    model: str | Sequence[str] = "",
) -> Dataset:
    """Make the training set.

    Args:
        rows: the result of :func:`mitune.data.selection.select`.
        pictures: one for each row (an iterable, so that they may be decoded batch by batch);
            kept as PNG bytes.
        latents: [rows, C, H, W] (or [rows, d]), float32 in the set; None leaves the column out.
        round: the round these candidates were made in.
        model: identity of the model that made them (``Denoiser.identity``), of all or of each.

    Columns: image, text, latent, score, scores (JSON object of all score columns), seed, candidate,
    prompt_id, category, picture (what it was made from, only where there is one), preferred, weight (how
    much the row counts in training; 1 unless chosen otherwise), real
    (whether no model drew it), round, model.

    Raises UserError for no rows, ValueError where the numbers of rows, pictures and latents differ.
    """
    check_some(rows)
    count = len(rows)
    columns = {"image": [cell(encode_png(picture)) for picture in pictures], **columns_of(rows, round, model)}
    shape: tuple[int, ...] | None = None
    if latents is not None:
        latents = latents.detach().float().cpu()
        shape = tuple(latents.shape[1:])
        columns["latent"] = list(latents.numpy())
    wrong = {name: len(column) for name, column in columns.items() if len(column) != count}
    if wrong:
        raise ValueError(f"{count} rows, but {wrong}")
    return _with_fingerprint(table_of(columns, shape))


def check_some(rows: pd.DataFrame) -> None:
    """Raise UserError for no rows."""
    if not len(rows):
        raise UserError("no candidate was chosen for the training set; check select.k and the prompts")


def columns_of(rows: pd.DataFrame, round: int, model: str | Sequence[str]) -> dict[str, list[Any]]:
    """Give what a set says of its rows, column by column, as :func:`build` does: all but the picture and the latent."""
    names, count = scorers(rows), len(rows)
    columns: dict[str, list[Any]] = {
        "text": rows["prompt"].tolist(),
        "score": rows["score"].astype(float).tolist(),
        "scores": [
            # Not every picture has every score: a real one has none of the sampler's path.
            json.dumps(
                {name: float(value) for name, value in zip(names, values, strict=True) if value == value}
            )
            for values in rows[names].to_numpy()
        ],
        "seed": rows["seed"].tolist(),
        "candidate": rows["candidate"].tolist(),
        "prompt_id": rows["prompt_id"].tolist(),
        "category": rows["category"].tolist(),
        "preferred": rows["preferred"].tolist(),
        "weight": rows["weight"].astype(float).tolist() if "weight" in rows else [1.0] * count,
        "real": rows["real"].tolist() if "real" in rows else [False] * count,
        "round": [round] * count,
        "model": [model] * count if isinstance(model, str) else list(model),
    }
    if PICTURE in rows:  # what they were made from
        columns[PICTURE] = rows[PICTURE].tolist()
    return columns


def table_of(columns: Mapping[str, list[Any]], shape: tuple[int, ...] | None = None) -> Dataset:
    """Make a ``datasets`` set of columns; ``shape``: of a latent, where these are among them."""
    import datasets
    from datasets import Features, Value

    kinds = {
        "score": "float64", "weight": "float64", "preferred": "bool", "real": "bool",
        "seed": "int64", "candidate": "int64", "round": "int64",
    }  # fmt: skip
    features = {name: Value(kinds.get(name, "string")) for name in columns}
    columns = dict(columns)
    if "image" in columns:
        features["image"] = datasets.Image()
    if shape is not None and len(shape) == 3:
        features["latent"] = datasets.Array3D(shape=shape, dtype="float32")
    elif shape is not None:
        size = math.prod(shape)
        columns["latent"] = [latent.reshape(size) for latent in columns["latent"]]
        features["latent"] = datasets.Sequence(Value("float32"), length=size)
    return datasets.Dataset.from_dict(columns, features=Features(features))


def cell(png: bytes) -> dict[str, Any]:
    """Give what a cell of the column ``image`` holds."""
    return {"bytes": png, "path": None}


class Content:
    """The digest of what a set holds: pictures first, as they come, then the other columns."""

    def __init__(self, schema: pa.Schema) -> None:
        self._digest = hashlib.sha256(str(schema.remove_metadata()).encode())

    def picture(self, png: bytes) -> None:
        """Add the next picture."""
        self._digest.update(png)

    def fingerprint(self, table: pa.Table) -> str:
        """Add the columns of all rows, and give the fingerprint."""
        own = [PICTURE] if PICTURE in table.column_names else []
        for name in (
            "text", "score", "seed", "candidate", "preferred", "weight", "real", "round", "model", *own,
        ):  # fmt: skip
            self._digest.update(repr(table.column(name).to_pylist()).encode())
        return self._digest.hexdigest()[:16]


def _with_fingerprint(dataset: Dataset) -> Dataset:
    """The same set with a fingerprint of its content alone, so that equal sets are equal files.

    The library's own fingerprint depends on the clock.
    """
    import datasets

    table: pa.Table = dataset.data.table
    content = Content(table.schema)
    for chunk in table.column("image").chunks:
        for cell in chunk:
            content.picture(cell["bytes"].as_py())
    return datasets.Dataset(table, info=dataset.info, fingerprint=content.fingerprint(table))


def save(dataset: Dataset, folder: str | Path) -> None:
    """Write the set to ``folder``, atomically: it is there whole, or not at all."""
    import datasets

    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with atomic_folder(folder) as partial:
            dataset.save_to_disk(str(partial))
    finally:
        if not silent:
            datasets.enable_progress_bars()


def load(folder: str | Path, columns: Sequence[str] = REQUIRED) -> Dataset:
    """Open a set written by :func:`save`, or any dataset folder with at least ``columns``.

    It is read from disk where it lies: nothing is copied, no cache is made.

    Raises UserError: no such folder, not a dataset, a column missing, no rows.
    """
    import datasets

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no training set at {folder}; run the select stage first")
    try:
        dataset = datasets.load_from_disk(str(folder), keep_in_memory=False)
    except Exception as error:  # many types, one meaning
        raise UserError(
            f"{folder} is not a readable dataset ({first_line(error)}); delete it and run the select stage again"
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        raise UserError(
            f"{folder} holds several splits ({', '.join(dataset)}); give one, such as {folder}/train"
        )
    for name in columns:
        if name not in dataset.column_names:
            there = dataset.column_names
            raise UserError(
                f"{folder} has no column '{name}'{nearest(name, there)}; it has {', '.join(there)}"
            )
    if not len(dataset):
        raise UserError(f"the training set {folder} is empty; run the select stage again with more prompts")
    return dataset


def latents(dataset: Dataset) -> Tensor:
    """Give all latents of the set, float32 [rows, ...]. Raises UserError if it has none."""
    if "latent" not in dataset.column_names:
        raise UserError("the training set has no column 'latent'; encode its pictures first")
    values = dataset.select_columns(["latent"]).with_format("numpy")[:]["latent"]
    return torch.from_numpy(np.array(values, dtype=np.float32))


def latent_places(dataset: Dataset) -> list[tuple[Path, int, int]] | None:
    """Find where the latents lie in the files of a set that was opened from a folder and not changed since: (file, its
    byte at which some begin side by side, float32, how many); None for any other set.
    """
    if not _as_saved(dataset):
        return None
    size = _latent_size(dataset.features["latent"])
    found = []
    for file in dataset.cache_files:
        source = pa.memory_map(file["filename"])
        begin = source.read_buffer(1).address
        source.seek(0)
        for batch in pa.ipc.open_stream(source):
            values = batch.column(batch.schema.get_field_index("latent"))
            values = getattr(values, "storage", values)
            while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
                values = values.flatten()
            if values.null_count or values.type != pa.float32() or len(values) != batch.num_rows * size:
                return None
            place = values.buffers()[1].address + 4 * values.offset - begin
            if not 0 <= place <= source.size() - values.nbytes:  # compressed: it lies nowhere as it is
                return None
            found.append((Path(file["filename"]), place, batch.num_rows))
    return found if sum(rows for _, _, rows in found) == len(dataset) else None


def _as_saved(dataset: Dataset) -> bool:
    """Whether the set is what lies in its files: one that was changed has another fingerprint than they have when they
    are opened."""
    import datasets

    if not dataset.cache_files or dataset._indices is not None:
        return False
    folder = os.path.dirname(dataset.cache_files[0]["filename"])
    try:
        there = datasets.load_from_disk(folder)
    except Exception:  # many types; it is no folder of a set
        return False
    return bool(getattr(there, "_fingerprint", None) == dataset._fingerprint)


def _latent_size(feature: Any) -> int:
    """Numbers of a latent, where all have as many by their type; else −1."""
    shape = getattr(feature, "shape", None) or (getattr(feature, "length", -1),)
    return math.prod(shape) if all(isinstance(side, int) and side > 0 for side in shape) else -1


def pictures(dataset: Dataset, first: int = 0) -> Tensor:
    """Give all pictures of the set, [rows, 3, H, W] floats in [0, 1]; ``first``: number of the first row, of a part.

    Raises UserError naming a row that does not decode.
    """
    import datasets

    raw = dataset.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    texts = dataset["text"]
    decoded = []
    for row, cell in enumerate(raw):
        what = f"the picture of row {first + row} ({texts[row]!r})"
        data = _contents(cell["image"], raw, what)
        decoded.append(decode_png(data, what))
        if decoded[-1].shape != decoded[0].shape:
            raise UserError(
                f"{what} is {_size(decoded[-1])}, the first one {_size(decoded[0])}; make them all one size"
            )
    return torch.stack(decoded)


def _contents(cell: Any, dataset: Dataset, what: str) -> bytes:
    """File contents of a picture cell. A set that names files is often somebody else's: only its own are read."""
    cell = cell or {}
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if not cell.get("path"):
        raise UserError(f"{what} is empty; remove the row, or write the set again")
    own = [os.path.dirname(os.path.realpath(file["filename"])) for file in dataset.cache_files]
    path = os.path.realpath(os.path.join(own[0] if own else "", cell["path"]))
    if not any(path.startswith(folder + os.sep) for folder in own):
        raise UserError(
            f"{what} lies outside the training set ({short(path)}); write the set with its pictures in it, as bytes"
        )
    return read_bytes(path, what)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"
