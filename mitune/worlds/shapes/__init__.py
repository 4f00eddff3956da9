"""The shapes world: coloured, textured shapes, a prompt grammar, a renderer with masks, an exact oracle."""

from mitune.worlds.shapes.grammar import (
    CATEGORIES,
    PromptSpec,
    all_prompts,
    is_test_prompt,
    parse_prompt,
    split,
)
from mitune.worlds.shapes.parsing import oracle_score, oracle_scores, score_scene
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import random_scene

__all__ = [
    "CATEGORIES", "PromptSpec", "all_prompts", "is_test_prompt", "oracle_score", "oracle_scores",
    "parse_prompt", "random_scene", "render", "score_scene", "split",
]  # fmt: skip
