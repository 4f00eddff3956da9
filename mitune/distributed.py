"""The processes of ``accelerate launch``, or the one process there is."""

from __future__ import annotations

import functools
import os

import torch
from accelerate import PartialState


@functools.lru_cache(maxsize=1)
def state() -> PartialState:
    """This process among its fellows; starts the process group on first use.

    The first ``PartialState`` of a process decides for all later ones: accelerate sees the fellows of a process
    without accelerator only when it is told that the CPU is meant.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=asked or not torch.accelerator.is_available())


def wait() -> None:
    """Until every process is here."""
    state().wait_for_everyone()


def stop() -> None:
    """Leave the process group, so that the launcher sees a clean end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
