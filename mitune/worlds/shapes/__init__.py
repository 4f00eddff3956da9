"""The shapes world: coloured, textured shapes, a prompt grammar, a renderer with masks, an exact oracle."""

from mitune.worlds.shapes.captions import (
    CORRUPTIONS,
    corrupt,
    describe,
)
from mitune.worlds.shapes.grammar import (
    CATEGORIES,
    ObjectSpec,
    PromptSpec,
    all_prompts,
    is_test_prompt,
    parse_prompt,
    split,
)
from mitune.worlds.shapes.oracle import (
    ParsedObject,
    oracle_score,
    oracle_scores,
    parse_picture,
    score_scene,
)
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import Object, Scene, random_scene
from mitune.worlds.shapes.vocabulary import COLOURS, PICTURE_SIZE, RELATIONS, SHAPES, SIZES, TEXTURES

__all__ = [
    "CATEGORIES",
    "COLOURS",
    "CORRUPTIONS",
    "PICTURE_SIZE",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Object",
    "ObjectSpec",
    "ParsedObject",
    "PromptSpec",
    "Scene",
    "all_prompts",
    "corrupt",
    "describe",
    "is_test_prompt",
    "oracle_score",
    "oracle_scores",
    "parse_picture",
    "parse_prompt",
    "random_scene",
    "render",
    "score_scene",
    "split",
]
