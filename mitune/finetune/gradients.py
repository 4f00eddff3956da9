"""The gradients of what trains: of several processes they lie in one buffer, which is summed over them as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from mitune import distributed


class Gradients:
    """Sums, clips and clears the gradients of ``parameters``, which are of one type and on one device.

    An adapter is hundreds of small tensors. Where there are other processes their gradients are views of one buffer:
    one message, one norm and one clearing for all of them, and nothing is gathered or handed out. One process alone
    leaves them as autograd makes them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], totals: int = 0) -> None:
        """``totals``: scalars that travel with the gradients."""
        self._parameters = parameters
        self._buffer: Tensor | None = None
        if distributed.state().num_processes > 1:
            ends = [0, *accumulate(parameter.numel() for parameter in parameters)]
            self._places = list(pairwise(ends))
            buffer = self._buffer = parameters[0].detach().new_zeros(ends[-1] + totals)
            self._all = buffer[: ends[-1]]
            self._all.grad = buffer[: ends[-1]]  # where torch's clipping looks for it
            self._collect(buffer)

    def sum(self, *totals: Tensor) -> list[Tensor]:
        """Sum every gradient over the processes, in place, and scalar ``totals`` with them: one message for all.

        A parameter without gradient counts as 0. Gives the totals' sums; one process alone changes nothing.
        """
        buffer = self._buffer
        if buffer is None:
            return list(totals)
        self._collect(buffer)
        rest = buffer[len(self._all) :]
        if totals:
            torch.stack(totals, out=rest)
        with distributed.collective():
            torch.distributed.all_reduce(buffer)
        return list(rest.clone())

    def clip(self, limit: float | None) -> Tensor:
        """Bring their norm down to ``limit`` (None: leave it); gives what it was."""
        whole = self._parameters if self._buffer is None else [self._all]
        return nn.utils.clip_grad_norm_(whole, limit or math.inf)

    def clear(self) -> None:
        """Begin anew."""
        if self._buffer is None:
            for parameter in self._parameters:
                parameter.grad = None
        else:
            self._buffer.zero_()

    def _collect(self, buffer: Tensor) -> None:
        """Bring into the buffer whatever lies elsewhere: autograd adds to what is there, but a module that was moved
        to another device and back took its gradients along."""
        for parameter, (start, end) in zip(self._parameters, self._places, strict=True):
            place, gradient = buffer[start:end], parameter.grad
            if gradient is not None and gradient.data_ptr() == place.data_ptr():
                continue
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.reshape(-1))
            parameter.grad = place.view_as(parameter)
