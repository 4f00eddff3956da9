"""The training set of chosen rows: every process decodes a share of them, the first one puts the set together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from mitune.data.dataset import encode_png
from mitune.data.dataset_writer import write_set
from mitune.data.pieces import Pieces, Place
from mitune.data.store import LATENT_ROW, UNIT, CandidateStore
from mitune.denoiser import Denoiser
from mitune.distributed import broadcast, said_first, state, visible, wait, work_queue
from mitune.files import atomic_folder
from mitune.stages.progress import progress
from mitune.stages.real import RealPictures


def write_training_set(
    folder: Path,
    store: CandidateStore,
    rows: pd.DataFrame | None,
    real: RealPictures | None,
    denoiser: Denoiser,
    batch_size: int,
    number: int,
    model: str,
) -> None:
    """Write the set of the candidates ``rows``, and after them the real pictures, to ``folder``: whole, or not at all.

    No process holds more pictures than are decoded at once. All processes call it and leave it together.

    Args:
        folder: is replaced.
        store: has the latents.
        rows: as :func:`mitune.data.selection.choose` gives them; on the first process, others have None.
        real: chosen real pictures, or None.
        denoiser: decodes, and encodes real pictures.
        batch_size: latents decoded at once.
        number: of the round.
        model: identity of the one that drew the candidates.
    """
    with _made_together(folder) as partial:
        pieces = Pieces(partial / "pieces")
        own = _decode(pieces, store, rows, denoiser, batch_size)
        others = [] if real is None else _encode(pieces, Pieces(partial / "files"), real, denoiser, len(own))
        wait()
        if rows is not None:
            models = [model] * len(rows)
            if real is not None:
                models += [f"real: {real.figures['source']}"] * len(real.picked)
                rows = pd.concat([rows, real.rows], ignore_index=True)
            places = [*_places(own), *_places(others, len(own))]
            write_set(partial, rows, pieces, places, tuple(denoiser.latent_shape), number, models)
            pieces.remove()
    wait()


@contextlib.contextmanager
def _made_together(folder: Path) -> Iterator[Path]:
    """Yield one folder to all processes, which the first one puts in its place in the end."""
    with contextlib.ExitStack() as stack:
        partial = Path(broadcast(lambda: str(stack.enter_context(atomic_folder(folder)))))
        visible(partial)
        with said_first():
            yield partial


def _places(parts: Sequence[slice], first: int = 0) -> list[Place]:
    """Where the rows lie, if each of ``parts`` is a piece."""
    return [
        (number, row) for number, part in enumerate(parts, first) for row in range(part.stop - part.start)
    ]


def _parts(count: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


def _decode(
    pieces: Pieces, store: CandidateStore, rows: pd.DataFrame | None, denoiser: Denoiser, batch_size: int
) -> list[slice]:
    """Write the pieces of the candidates; gives the rows of each."""

    def choose() -> list[list[int]]:
        assert rows is not None
        if len(rows):
            store.check_kept(rows)
        found: list[list[int]] = rows[[UNIT, LATENT_ROW]].to_numpy().tolist()
        return found

    chosen = broadcast(choose)
    parts = _parts(len(chosen), batch_size)
    with progress("decode", len(chosen), unit="pictures") as bar:
        shown = 0
        for number, part in work_queue(parts):
            bar(sum(other.stop - other.start for other in parts[shown:number]))  # the others'
            shown = number + 1
            latents = store.latents(pd.DataFrame(chosen[part], columns=[UNIT, LATENT_ROW]))
            pieces.write(number, _pictured(latents, denoiser))
            bar(part.stop - part.start)
    return parts


def _pictured(latents: Tensor, denoiser: Denoiser) -> Iterator[dict[str, bytes]]:
    """The rows of latents and the pictures that they decode to, which are not held together."""
    for part in latents.split(denoiser.pictures_at_once):
        pictures = denoiser.decode(part.to(denoiser.device)).float().cpu()
        yield from _rows(pictures, part.float())


def _rows(pictures: Tensor, latents: Tensor) -> Iterator[dict[str, bytes]]:
    for picture, latent in zip(pictures, latents, strict=True):
        yield {"image": encode_png(picture), "latent": latent.numpy().tobytes()}


@torch.no_grad()
def _encode(pieces: Pieces, files: Pieces, real: RealPictures, denoiser: Denoiser, first: int) -> list[slice]:
    """Write the pieces of the real pictures, from number ``first`` on; gives the rows of each.

    Files are read in the order in which their source gives them quickly, and encoded in that of the set.
    """
    parts = _parts(len(real.picked), denoiser.pictures_at_once)
    ordered = sorted(real.picked)
    place: dict[int, Place] = {}
    for number, part in enumerate(parts):
        place |= {row: (number, at) for at, row in enumerate(ordered[part])}
    for number, part in work_queue(parts):
        files.write(number, ({"file": real.read(row)} for row in ordered[part]))
    wait()
    for number, part in work_queue(parts):
        picked = real.picked[part]
        found = files.read([place[row] for row in picked])
        pictures = torch.stack(
            [real.decode(row, one["file"], denoiser) for row, one in zip(picked, found, strict=True)]
        )
        latents = denoiser.encode_image(pictures.to(denoiser.device)).float().cpu()
        pieces.write(first + number, _rows(pictures, latents))
    wait()
    if state().is_main_process:
        files.remove()
    return parts
