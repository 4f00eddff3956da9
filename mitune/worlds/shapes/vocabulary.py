"""The words of the shapes world and what they mean in pixels."""

from __future__ import annotations

PICTURE_SIZE = 64  # px, both sides

# Flat RGB shades at well-separated hues (0, 50, 132, 185, 228 and 284 degrees), all of similar saturation.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "yellow": (235, 200, 30),
    "green": (30, 180, 60),
    "cyan": (40, 200, 215),
    "blue": (45, 80, 225),
    "purple": (160, 50, 200),
}
SHAPES = ("circle", "square", "triangle", "cross")
TEXTURES = ("solid", "striped", "dotted")

# Radius (half the side of the bounding box, px) that each size word, or its absence, allows the sampler.
SIZES: dict[str, tuple[float, float]] = {"small": (7.0, 8.0), "big": (12.0, 14.0)}
ANY_SIZE = (8.0, 13.0)
SIZE_BOUNDARY = 10.0  # px: below it an object counts as small, from it on as big

DIRECTIONS = ("left of", "right of", "above", "below")
NON_SPATIAL = ("touching", "far from", "bigger than", "smaller than")
RELATIONS = DIRECTIONS + NON_SPATIAL

DARK = 0.55  # the second shade of stripes and dots, as a fraction of the first
PERIOD = 6.0  # px, of stripes and of the grid of dots
DOT_RADIUS = 1.75  # px


def size_word(radius: float) -> str:
    """Give the size word that is true of an object of this radius (px)."""
    return "small" if radius < SIZE_BOUNDARY else "big"
