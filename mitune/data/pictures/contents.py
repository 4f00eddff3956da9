"""The digest of what rows of a source hold: the pictures themselves, whatever their names and wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.data.pictures.rows import Pictures
from mitune.errors import UserError

_AT_ONCE = 64  # latents in memory


class Contents:
    """It takes rows in their order as they are read, in portions of any size; ``digest`` tells them from others."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def picture(self, data: bytes | None) -> None:
        """Add a picture's file as it is; None for one that cannot be read."""
        self._sha256.update(b"none;" if data is None else f"{len(data)};".encode())
        self._sha256.update(data or b"")

    def latents(self, latents: Tensor, seeds: Sequence[int]) -> None:
        """Add latents [n, …], each with the seed that its noise comes from."""
        for latent, seed in zip(latents.detach().cpu(), seeds, strict=True):
            self._sha256.update(f"{seed} {latent.dtype} {tuple(latent.shape)};".encode())
            self._sha256.update(latent.contiguous().reshape(-1).view(torch.uint8).numpy())

    @property
    def digest(self) -> str:
        """The digest is of all rows so far."""
        return self._sha256.hexdigest()


def read_contents(pictures: Pictures, rows: Sequence[int]) -> str:
    """The digest of ``rows``, read anew. One that cannot be read counts as such. Raises UserError for latents that
    cannot be."""
    found = Contents()
    if pictures.latents is not None:
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            found.latents(pictures.latents(part), seeds_of(pictures, part))
        return found.digest
    for row in rows:
        found.picture(read_or_none(pictures, row))
    return found.digest


def seeds_of(pictures: Pictures, rows: Sequence[int]) -> list[int]:
    """Give the seeds that the source itself gives its rows; 0 where it gives none."""
    return [0 if pictures.seeds is None else pictures.seeds[row] for row in rows]


def read_or_none(pictures: Pictures, row: int, skip: bool = True) -> bytes | None:
    """Read the contents of a picture's file; None for one that cannot be read, for which UserError without ``skip``."""
    assert pictures.read is not None
    try:
        return pictures.read(row)
    except UserError:
        if not skip:
            raise
        return None
