"""Drawing one of several things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")


def choose(rng: np.random.Generator, things: Sequence[Thing]) -> Thing:
    """Choose one of the things, all equally likely. ValueError if there are none."""
    return things[int(rng.integers(len(things)))]
