"""Gradients of several processes, with the others' share played by the test; whole launches are in end_to_end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mitune import distributed
from mitune.finetune.gradients import Gradients


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What two processes send; the other one's share is 10 everywhere."""
    messages: list[Tensor] = []

    def all_reduce(flat: Tensor) -> None:
        messages.append(flat.clone())
        flat += 10

    monkeypatch.setattr(distributed, "state", lambda: SimpleNamespace(num_processes=2))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return messages


def parameters() -> list[nn.Parameter]:
    """One that takes part in ``loss``, one that does not."""
    return [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))]


def loss(used: nn.Parameter) -> Tensor:
    return (used * torch.arange(4.0).view(2, 2)).sum()


def gradient(parameter: nn.Parameter) -> list[float]:
    assert parameter.grad is not None
    return parameter.grad.flatten().tolist()  # type: ignore[no-any-return]


def test_one_process_alone_changes_nothing() -> None:
    used, unused = parameters()
    gradients = Gradients([used, unused], totals=1)
    loss(used).backward()
    before, total = used.grad, torch.tensor(3.0)
    assert gradients.sum(total) == [total]
    assert used.grad is before
    assert gradient(used) == [0, 1, 2, 3]
    assert unused.grad is None
    assert gradients.clip(None) == pytest.approx(14**0.5)
    assert gradient(used) == [0, 1, 2, 3]
    gradients.clear()
    assert used.grad is None


def test_gradients_and_totals_travel_in_one_message(sent: list[Tensor]) -> None:
    used, unused = parameters()
    gradients = Gradients([used, unused], totals=1)
    for _ in range(2):  # the second step begins where the first one did
        for _ in range(2):  # micro-batches
            loss(used).backward()
        (total,) = gradients.sum(torch.tensor(3.0))
        assert sent.pop().tolist() == [0, 2, 4, 6, 0, 0, 0, 3]
        assert gradient(used) == [10, 12, 14, 16]
        assert gradient(unused) == [10, 10, 10]
        gradients.clear()
        assert total.shape == ()
        assert total == 13
    assert not sent


def test_the_norm_is_that_of_all_gradients_and_is_brought_down_to_the_limit(sent: list[Tensor]) -> None:
    both, alone = parameters(), parameters()
    gradients = Gradients(both, totals=2)
    loss(both[0]).backward()
    gradients.sum(torch.tensor(1e6), torch.tensor(1e6))  # no part of the norm
    for own, other in zip(alone, both, strict=True):
        assert other.grad is not None
        own.grad = other.grad.clone()
    expected = nn.utils.clip_grad_norm_(alone, 2.0)
    torch.testing.assert_close(gradients.clip(2.0), expected)
    for own, other in zip(alone, both, strict=True):
        torch.testing.assert_close(other.grad, own.grad)


def test_gradients_that_were_made_elsewhere_are_taken_along(sent: list[Tensor]) -> None:
    used, unused = parameters()
    gradients = Gradients([used, unused])
    loss(used).backward()
    assert used.grad is not None
    used.grad = used.grad.clone()  # as of a module that went to another device and back
    unused.grad = None
    assert gradients.sum() == []
    assert gradient(used) == [10, 11, 12, 13]
    assert gradient(unused) == [10, 10, 10]
    gradients.clear()
    assert gradient(used) == [0, 0, 0, 0]
