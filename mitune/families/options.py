"""What a model is asked to run on and in: a device and a number type that are there."""

from __future__ import annotations

import os

import torch

from mitune.errors import UserError, check_known, short
from mitune.families.settings import FORMATS

DTYPES = {name: getattr(torch, name) for name in FORMATS}
_DEVICES = ("cpu", "cuda", "mps")


def find_device(device: str | torch.device) -> torch.device:
    """Find a device that is there; auto is this process's own. Raises UserError for another."""
    if str(device) == "auto":
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda", rank % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"model.device={short(str(device))} is no device; give auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if found.type not in _DEVICES:
        raise UserError(
            f"model.device={device}: models do not run on {found.type}; give auto, cpu, cuda, cuda:1 or mps"
        )
    if found.type != "cuda" and (found.index or 0) > 0:
        raise UserError(
            f"model.device={device}: there is one {found.type} only; give model.device={found.type}"
        )
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"model.device={device}: this machine shows {torch.cuda.device_count()} CUDA devices; use "
            "model.device=auto"
        )
    if found.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("model.device=mps: this machine has no Apple GPU; use model.device=auto")
    return found


def find_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Find the number type of the weights; auto is bfloat16 on CUDA, else float32. Raises UserError for another."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    check_known("model.dtype", dtype, ("auto", *DTYPES))
    return DTYPES[dtype]
