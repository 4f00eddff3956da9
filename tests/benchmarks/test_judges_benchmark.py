"""The bare forwards that judges are held against are those that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import judges
from tests.referees.small_blips import SMALL


@pytest.mark.parametrize("name", ["blip_vqa", "blip2_itc", "vqascore"])
def test_caught_calls_are_the_outermost_and_can_be_made_again(name: str, tmp_path: Path) -> None:
    judge = judges.opened(name, SMALL, 2, tmp_path, "cpu")
    shown, prompts, made = torch.rand(4, 3, 40, 40), list(judges.TEXTS), []
    judge.score(shown, prompts)
    found = judges.calls_of(judge.model, lambda: judge.score(shown, prompts))
    kinds = [type(module).__name__ for module, _, _ in found]
    if name == "blip_vqa":
        assert [kind for kind in kinds if kind != "BlipTextLMHeadModel"] == [
            "BlipVisionModel",
            "BlipTextModel",
        ] * 2
    if name == "vqascore":
        assert kinds == ["LlavaForConditionalGeneration"] * 2
    first = found[0][0]
    hook = first.register_forward_hook(lambda *_: made.append(1))
    with torch.no_grad():
        for module, given, named in found:
            module(*given, **named)
    hook.remove()
    assert len(made) == sum(module is first for module, _, _ in found)


def test_the_gradient_of_a_judge_reaches_the_latents(tmp_path: Path) -> None:
    judge = judges.opened("blip_itm", SMALL, 8, tmp_path, "cpu")
    options = judges.argparse.Namespace(device="cpu")
    found = judges.gradients(judge, options)
    assert found["finite"]
    assert found["least norm"] > 0
