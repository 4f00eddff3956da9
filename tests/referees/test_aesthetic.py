"""The aesthetic head: linear or stacked, from safetensors alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mitune.errors import UserError
from mitune.referees.weighted import load_reward
from tests.referees.conftest import TEXTS, pictures, settings


def stack(*widths: int) -> nn.Sequential:
    """As improved-aesthetic-predictor builds it: linear layers with dropout, so numbers are left out in the names."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.Dropout(0.2)]
    return nn.Sequential(*layers[:-1]).eval()


def judge(clip: Path, head: Path | str | None) -> Any:
    section = settings()
    section["aesthetic"] |= {"path": str(clip), "head": None if head is None else str(head)}
    return load_reward("aesthetic", section)


@pytest.mark.parametrize(("widths", "prefix"), [((24, 1), ""), ((24, 40, 12, 1), "layers.")])
def test_it_is_the_head_on_the_feature(
    clip_folder: Path, tmp_path: Path, widths: tuple[int, ...], prefix: str
) -> None:
    head: nn.Module = nn.Linear(*widths) if len(widths) == 2 else stack(*widths)
    save_file(
        {f"{prefix}{name}": value for name, value in head.state_dict().items()}, tmp_path / "h.safetensors"
    )
    reward = judge(clip_folder, tmp_path / "h.safetensors")
    shown = pictures(3).requires_grad_()
    score = reward.score(shown, TEXTS)
    expected = head(reward.clip.image_features(shown)).squeeze(-1)
    torch.testing.assert_close(score, expected)
    assert reward.differentiable
    (gradient,) = torch.autograd.grad(score.sum(), shown)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert "h@" in reward.identity


def test_the_order_of_layers_is_that_of_their_numbers(clip_folder: Path, tmp_path: Path) -> None:
    """Ten comes after two, which sorting by letters would get wrong."""
    first, last = nn.Linear(24, 6), nn.Linear(6, 1)
    weights = {f"layers.{number}.{name}": value for number, layer in ((2, first), (10, last))
               for name, value in layer.state_dict().items()}  # fmt: skip
    save_file(weights, tmp_path / "h.safetensors")
    reward, shown = judge(clip_folder, tmp_path / "h.safetensors"), pictures(2)
    expected = last(first(reward.clip.image_features(shown))).squeeze(-1)
    torch.testing.assert_close(reward.score(shown, TEXTS[:2]), expected)


def test_a_pickle_is_refused_with_the_way_out(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sac+logos+ava1-l14-linearMSE.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a pickle .*weights_only=True.*linearMSE\.safetensors") as error:
        judge(clip_folder, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    assert "\n" not in str(error.value)


def test_no_head_and_no_file_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scorer\.aesthetic\.head=FILE"):
        judge(clip_folder, None)
    with pytest.raises(UserError, match="there is no such file"):
        judge(clip_folder, tmp_path / "h.safetensors")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, "reads features of 7.*of 24"),
        ({"weight": torch.zeros(2, 24), "bias": torch.zeros(2)}, "the last of one output"),
        ({"weight": torch.zeros(1, 24)}, "no linear layer"),
        ({"0.weight": torch.zeros(5, 24), "0.bias": torch.zeros(5), "1.weight": torch.zeros(1, 4),
          "1.bias": torch.zeros(1)}, "follows the one before"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(
    clip_folder: Path, tmp_path: Path, weights: dict[str, torch.Tensor], says: str
) -> None:
    save_file(weights, tmp_path / "h.safetensors")
    with pytest.raises(UserError, match=says):
        judge(clip_folder, tmp_path / "h.safetensors").score(pictures(1), TEXTS[:1])
