"""The processes of ``accelerate launch``, or the one process there is."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable

import torch
from accelerate import PartialState
from torch import Tensor, nn


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


def told(answer: bool) -> bool:
    """The main process's ``answer``, on every process: what one has looked up, all go by."""
    if state().num_processes == 1:
        return answer
    flag = torch.tensor([int(answer)], device=state().device)
    torch.distributed.broadcast(flag, 0)
    return bool(flag.item())


def sum_gradients(parameters: Iterable[nn.Parameter], *totals: Tensor) -> list[Tensor]:
    """Sum every gradient over the processes, in place, and scalar ``totals`` with them: one message for all.

    A parameter without gradient counts as 0. Gives the totals' sums; one process alone changes nothing.
    """
    if state().num_processes == 1:
        return list(totals)
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([part.reshape(-1) for part in (*gradients, *totals)])
    torch.distributed.all_reduce(flat)
    parts = flat.split([part.numel() for part in (*gradients, *totals)])
    summed = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=False)]
    torch._foreach_copy_(gradients, summed)
    return [part.view_as(total) for part, total in zip(parts[len(gradients) :], totals, strict=True)]


def stop() -> None:
    """Leave the process group, so that the launcher sees a clean end."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
