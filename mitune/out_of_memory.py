"""Out of memory: find out what would have fitted, and say so."""

from __future__ import annotations

from collections.abc import Callable

import torch


def largest_that_fits(size: int, attempt: Callable[[int], object]) -> int | None:
    """Give the largest of size/2, size/4, … 1 with which ``attempt`` does not run out of memory; None if none does."""
    while size > 1:
        size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            continue
        return size
    return None


def advice(what: str, size: int, fits: int | None, key: str) -> str:
    """Give the line a user reads: what did not fit, what does, and the keys to turn."""
    if fits is None:
        return (
            f"out of memory with {what} of {size}, and not even 1 fits: see model.dtype, model.offload,"
            " model.quantization, train.gradient_checkpointing"
        )
    return f"out of memory with {what} of {size}; {fits} fits: say {key.format(fits=fits)}"
