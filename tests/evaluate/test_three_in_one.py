"""T2I-CompBench's 3-in-1 against its rule written out, on random scores; adjectives are left out for CLIP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mitune.english import Word
from mitune.evaluate.benchmarks import three_in_one
from mitune.evaluate.benchmarks.compbench import ABOUT
from mitune.evaluate.benchmarks.lines import Line
from mitune.evaluate.benchmarks.three_in_one import ThreeInOne, without_adjectives

PLACED = "The red box is on the left of the dog."
NOWHERE = "The red box jumps."


def read(text: str) -> list[Word]:
    """A stand-in for spaCy: what is red is an adjective."""
    return [Word(word, 0, 0, "ADJ" if word == "red" else "NOUN") for word in text.replace(".", " .").split()]


class Told:
    """A judge that says what it is given, and keeps what it was asked."""

    def __init__(self, name: str, values: dict[float, float]) -> None:
        self.identity, self.values = f"{name}#1", values
        self.asked: list[str] = []

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        self.asked += prompts
        return torch.tensor(
            [self.values[float(picture.flatten()[0])] for picture in pictures], dtype=torch.float64
        )


def test_adjectives_are_left_out_as_the_benchmark_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three_in_one, "words", read)
    assert without_adjectives("The red box jumps.") == "The box jumps ."


def test_a_prompt_is_judged_by_what_its_list_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three_in_one, "words", read)
    generator, rows = np.random.default_rng(0), 240
    scores = {part: generator.uniform(0, 1, rows) for part in ("attribute", "spatial", "action")}
    about = generator.choice(["spatial", "action", "both"], rows).tolist()
    texts = generator.choice([PLACED, NOWHERE], rows).tolist()
    judges: dict[str, Any] = {
        part: Told(part, dict(zip(map(float, range(rows)), map(float, own), strict=True)))
        for part, own in scores.items()
    }
    pictures = torch.arange(rows, dtype=torch.float32).view(rows, 1, 1, 1).expand(rows, 3, 2, 2)
    lines = [Line("complex", row, texts[row], {ABOUT: about[row]}) for row in range(rows)]
    judge = ThreeInOne(**judges)
    found = judge.in_parts(pictures, lines)
    for row, answer in enumerate(found):
        attribute = float(f"{scores['attribute'][row]:.4f}")
        place = scores["spatial"][row] if texts[row] == PLACED else 0.0
        action = scores["action"][row]
        if about[row] == "spatial":
            expected = (place + attribute) * 0.5
        elif about[row] == "action":
            expected = (action + attribute) * 0.5
        else:
            expected = (attribute + place + action) / 3
        assert answer.value == pytest.approx(expected, abs=1e-12)
    assert {*judges["action"].asked} == {"The box is on the left of the dog .", "The box jumps ."}
    assert {*judges["spatial"].asked} == {PLACED}
    assert judge.identity == "attribute: attribute#1, spatial: spatial#1, action: action#1"
