"""T2I-CompBench's 3-in-1: prompts of ``complex`` judged by those of attributes, places and actions together.

A prompt in the list of places gets the mean of attribute and place, one in the list of actions that of attribute and
action, any other the mean of all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from mitune.english import words
from mitune.evaluate.benchmarks.compbench import ABOUT, PARTS
from mitune.evaluate.benchmarks.lines import Answer, Line
from mitune.referees.placement import relation_of

NAME = "three_in_one"
_OF = {"spatial": ("spatial", "attribute"), "action": ("action", "attribute"), "both": PARTS}


class ThreeInOne:
    """Judges prompts of ``complex`` by three judges, of attributes, of places and of actions."""

    def __init__(self, attribute: Any, spatial: Any, action: Any) -> None:
        self._judges = {"attribute": attribute, "spatial": spatial, "action": action}

    @property
    def identity(self) -> str:
        """All three."""
        return ", ".join(f"{part}: {judge.identity}" for part, judge in self._judges.items())

    def in_parts(self, pictures: Tensor, lines: Sequence[Line]) -> list[Answer]:
        """Judge ``pictures`` [n, 3, H, W] in [0, 1], each for its own line; an answer has the three parts, too."""
        texts = [line.text for line in lines]
        attribute = self._scored("attribute", pictures, texts)
        action = self._scored("action", pictures, [without_adjectives(text) for text in texts])
        spatial = self._placed(pictures, texts, [line.note[ABOUT] != "action" for line in lines])
        found = []
        for row, line in enumerate(lines):
            # The benchmark reads the attribute from a file of four decimals.
            parts = {"attribute": round(attribute[row], 4), "spatial": spatial[row], "action": action[row]}
            found.append(Answer(fmean(parts[part] for part in _OF[line.note[ABOUT]]), parts))
        return found

    def _scored(self, part: str, pictures: Tensor, texts: list[str]) -> list[float]:
        scores: list[float] = self._judges[part].score(pictures, texts).double().cpu().tolist()
        return scores

    def _placed(self, pictures: Tensor, texts: Sequence[str], wanted: Sequence[bool]) -> list[float]:
        """The scores of places, where they count. A prompt without a relation that the rule knows has 0 by it."""
        found = [0.0] * len(texts)
        rows = [row for row, text in enumerate(texts) if wanted[row] and relation_of(text) is not None]
        if rows:
            scores = self._scored("spatial", pictures[torch.tensor(rows)], [texts[row] for row in rows])
            found = [dict(zip(rows, scores, strict=True)).get(row, 0.0) for row in range(len(texts))]
        return found


def without_adjectives(prompt: str) -> str:
    """Give the words of a prompt that are no adjectives, with a blank between each two, as the benchmark's CLIP reads
    it. UserError where spaCy or its model is not installed."""
    return " ".join(word.text for word in words(prompt) if word.kind != "ADJ")
