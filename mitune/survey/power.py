"""The power that a survey has: how surely a difference between two of the things compared is found.

In a round a person chooses one of two and not the other (they *differ*, in a share of the rounds), or both, or neither.
The difference of a person's shares has the variance v (ρ + (1 − ρ) / r) over r rounds that compare the two: v of one
round, and ρ, how alike the rounds of a person are. A t test over the persons finds a difference x with the power of
the noncentral t distribution; the report's interval from resampled persons goes the same way.
"""

from __future__ import annotations

import math
from typing import Any

LEVEL = 0.05  # two-sided
POWERS = (0.8, 0.9)
MOST = 100_000  # participants, or rounds of one, that are thought of
DIFFER, ALIKE = 0.5, 0.05  # where nothing is known: as of two independent choices by halves; hardly


def power(
    difference: float, people: int, rounds: float, differ: float = DIFFER, alike: float = ALIKE
) -> float:
    """Compute how probable it is that the 95 % interval of a difference leaves out 0 on its side.

    Args:
        difference: of the shares of rounds in which the one and the other are chosen; not 0.
        people: participants.
        rounds: of each, that compare the two; on average.
        differ: share of the rounds in which just one of the two is chosen.
        alike: correlation between the rounds of a participant.
    """
    from scipy import stats

    if people < 2:
        return 0.0
    differ = max(differ, abs(difference))
    spread = math.sqrt(max(differ - difference**2, 1e-12) * (alike + (1 - alike) / rounds))
    center = abs(difference) * math.sqrt(people) / spread
    edge = float(stats.t.ppf(1 - LEVEL / 2, people - 1))
    found = float(stats.nct.sf(edge, people - 1, center))
    return found if math.isfinite(found) else 1.0  # so far out that the tail underflows


def people_needed(
    wanted: float, difference: float, rounds: float, differ: float = DIFFER, alike: float = ALIKE
) -> int | None:
    """Give the fewest participants with this power; None beyond :data:`MOST`.

    Args:
        wanted: the power.
        difference, rounds, differ, alike: as :func:`power` takes them.
    """
    return _fewest(lambda people: power(difference, people, rounds, differ, alike) >= wanted, 2)


def rounds_needed(
    wanted: float, difference: float, people: int, differ: float = DIFFER, alike: float = ALIKE
) -> int | None:
    """Give the fewest rounds, that compare the two, of each participant; None where no number is enough.

    Args:
        wanted: the power.
        difference, people, differ, alike: as :func:`power` takes them.
    """
    return _fewest(lambda rounds: power(difference, people, rounds, differ, alike) >= wanted, 1)


def _fewest(enough: Any, low: int) -> int | None:
    """The smallest number from ``low`` that is enough, of a thing that stays so."""
    if not enough(MOST):
        return None
    high = low
    while not enough(high):
        low, high = high + 1, min(2 * high, MOST)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def comparing(kind: str, names: int, shown: int) -> float:
    """Give the share of the rounds that compare two given names: in ``agree`` two rounds are needed for it."""
    if names < 2:
        return 1.0
    if kind == "agree":
        return 1 / names
    return shown * (shown - 1) / (names * (names - 1))


def planned(
    difference: float, people: int, rounds: int, share: float, differ: float, alike: float
) -> dict[str, Any]:
    """Say the plan with its power, as ``survey.json`` keeps it.

    Args:
        difference, people, differ, alike: as :func:`power` takes them.
        rounds: of a participant.
        share: of them that compare two given names (:func:`comparing`).
    """
    own = rounds * share
    needed = {}
    for wanted in POWERS:
        least = rounds_needed(wanted, difference, people, differ, alike)
        needed[f"{wanted:g}"] = {
            "participants": people_needed(wanted, difference, own, differ, alike),
            "rounds": None if least is None else math.ceil(least / share),
        }
    return {
        "participants": people,
        "rounds": rounds,
        "difference": difference,
        "differ": differ,
        "alike": alike,
        "comparing": share,
        "power": power(difference, people, own, differ, alike),
        "needed": needed,
    }
