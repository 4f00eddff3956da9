"""Seeds and noise of candidates: a candidate can be drawn again alone, whatever batch it was first drawn in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def candidate_seed(run_seed: int, prompt: str, index: int) -> int:
    """Seed of candidate ``index`` of a task: 63 bits of a SHA-256 over (run seed, the key of the task, index) alone."""
    digest = hashlib.sha256(f"{run_seed}\x1f{index}\x1f{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def candidate_noise(seed: int, shape: Sequence[int], steps: int) -> Tensor:
    """Noise [steps + 1, *shape] float32 on the CPU: the initial latent first, then one map per step.

    The maps are drawn one after another, so fewer steps give a prefix of the same numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randn(*shape, generator=generator) for _ in range(steps + 1)])


class NoiseStreams:
    """The noise of a population, one generator per row, drawn step by step: the CPU draws while the device computes.

    Row i yields the same maps as ``candidate_noise(seeds[i], …)``. ``select`` follows a resampled population: the
    first copy of a row keeps its stream, further copies take over the streams of rows that died, and any copies
    beyond those get a stream derived from (seed, copy number), so no two rows ever share noise.

    >>> streams = NoiseStreams([5, 6], (3,), torch.device("cpu"), torch.float32)
    >>> bool((streams.next()[1] == candidate_noise(6, (3,), 0)[0]).all())
    True
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device, dtype: torch.dtype):
        self.seeds = list(seeds)
        self._shape = tuple(shape)
        self._device = device
        self._dtype = dtype
        self._generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def next(self) -> Tensor:
        """The next noise map of every row: [n, *shape] on the device (copied without waiting for it)."""
        pinned = self._device.type == "cuda"
        noise = torch.empty(len(self.seeds), *self._shape, pin_memory=pinned)
        for row, generator in zip(noise, self._generators, strict=True):
            torch.randn(self._shape, generator=generator, out=row)
        return noise.to(device=self._device, dtype=self._dtype, non_blocking=pinned)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the rows of a resampled population, in its order."""
        taken = set(rows)
        free = [row for row in range(len(self.seeds)) if row not in taken]
        seen: dict[int, int] = {}
        seeds, generators = [], []
        for row in rows:
            copy = seen.get(row, 0)
            seen[row] = copy + 1
            if copy and not free:
                seed = candidate_seed(self.seeds[row], "copy", copy)
                generator = torch.Generator().manual_seed(seed)
            else:
                source = free.pop(0) if copy else row
                seed, generator = self.seeds[source], self._generators[source]
            seeds.append(seed)
            generators.append(generator)
        self.seeds, self._generators = seeds, generators
