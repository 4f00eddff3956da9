"""Gradients of several processes, with the others' share played by the test; whole launches are in end_to_end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mitune import distributed


def parameters() -> list[nn.Parameter]:
    """One with a gradient, one that no gradient reached."""
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    used.grad = torch.arange(4.0).view(2, 2)
    return [used, unused]


def test_one_process_alone_changes_nothing() -> None:
    used, unused = parameters()
    loss = torch.tensor(3.0)
    assert distributed.sum_gradients([used, unused], loss) == [loss]
    assert used.grad is not None
    assert used.grad.tolist() == [[0, 1], [2, 3]]
    assert unused.grad is None


def test_gradients_and_totals_travel_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def all_reduce(flat: torch.Tensor) -> None:
        sent.append(flat.clone())
        flat += 10

    monkeypatch.setattr(distributed, "state", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    used, unused = parameters()
    (total,) = distributed.sum_gradients([used, unused], torch.tensor(3.0))
    assert [part.tolist() for part in sent] == [[0, 1, 2, 3, 0, 0, 0, 3]]
    assert used.grad is not None
    assert unused.grad is not None
    assert used.grad.tolist() == [[10, 11], [12, 13]]
    assert unused.grad.tolist() == [10, 10, 10]
    assert total.shape == ()
    assert total == 13
