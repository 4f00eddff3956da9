"""T2I-CompBench's rule of 3D placement: two boxes, and a map of depth.

Pure functions on texts, boxes and numbers. Facts: T2I-CompBench++ (arXiv 2307.06350v3) and its public code
(github.com/Karine-Huang/T2I-CompBench, ``UniDet_eval/3D_spatial_eval.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mitune.referees.detection import Box, Detection
from mitune.referees.placement import Asked, overlap

RELATIONS = ("in front of", "behind", "hidden")
"""The first of these that stands in a prompt is its relation; hidden is behind."""
FULL = 0.5
"""Share of two boxes' union above which nearer and farther count in full."""


def depth_relation_of(prompt: str) -> str | None:
    """Find the relation in a prompt; None without one."""
    return next((one for one in RELATIONS if one in prompt), None)


def depth_score(asked: Asked, found: Sequence[Detection], depth: Tensor) -> float:
    """Score a picture, 0 to 1, by what was ``found`` in it, the most confident first.

    A quarter of the confidence of each object and, where both are there, half of how far the relation holds. An object
    is what has its name in its label. Unlike in 2D no score is cut off.

    Args:
        asked: what the prompt asks for.
        found: boxes as :func:`mitune.referees.placement.framed` has them.
        depth: [h, w] of that frame, larger = nearer.
    """
    first, second = _both(asked.first, asked.second, found)
    score = 0.0
    if first is not None and second is not None:
        score = 0.25 * first.confidence + 0.25 * second.confidence
        score += _fulfilled(asked.relation, first.box, second.box, depth) / 2
    elif first is not None or second is not None:
        only = first or second
        score = 0.25 * only.confidence if only else 0.0
    return score


def _both(
    first: str | None, second: str | None, found: Sequence[Detection]
) -> tuple[Detection | None, Detection | None]:
    """The detections of two objects: where both are there, each the last of its own until both have been seen; else
    the first of the one that is.
    """
    have = [[at for at, one in enumerate(found) if name and name in one.label] for name in (first, second)]
    if not have[0] or not have[1]:
        return (found[have[0][0]] if have[0] else None, found[have[1][0]] if have[1] else None)
    until = max(have[0][0], have[1][0])
    return tuple(found[max(at for at in own if at <= until)] for own in have)  # type: ignore[return-value]


def _fulfilled(relation: str | None, one: Box, other: Box, depth: Tensor) -> float:
    """How far box ``one`` is in the ``relation`` to the ``other``: boxes must overlap, and the mean depths differ."""
    nearer = _mean(depth, one) - _mean(depth, other)
    holds = nearer > 0 if relation == RELATIONS[0] else nearer < 0
    shared = overlap(one, other)
    if (
        not holds or relation is None or shared == FULL
    ):  # as the benchmark has it: exactly one half is nothing
        return 0.0
    return 1.0 if shared > FULL else shared / FULL


def _mean(depth: Tensor, box: Box) -> float:
    """The mean depth of a box. The benchmark reads its map by columns first, as if it were transposed, and so does
    this; not a number where nothing of the box is in it, which is neither nearer nor farther.
    """
    left, top, right, bottom = map(int, box)
    return float(depth[left:right, top:bottom].mean())
