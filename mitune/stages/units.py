"""What the units of a stage leave beside their tables: which model made them, and what each took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.files import read_json, write_json
from mitune.information.scoring import Scoring
from mitune.search.referee import Effort
from mitune.stages.racing import Watch


def bind_model(
    folder: Path,
    identity: str,
    holds: str,
    key: str,
    judges: Mapping[str, str] | None = None,
    steps: str | None = None,
) -> None:
    """Bind what a folder holds to the model that makes it. Main process only.

    Args:
        folder: where ``model.json`` says it.
        identity: of the model.
        holds: what the folder holds, in words.
        key: what chooses another folder, in words.
        judges: identity by scorer, of the judges of the pictures.
        steps: of what is drawn there now, as :func:`mitune.sampling.grids.laid` says.

    Raises UserError if another model or judge has begun there, or a version that laid the steps otherwise.
    """
    path = folder / "model.json"
    now: dict[str, Any] = {"model": identity} | ({"judges": dict(judges)} if judges else {})
    now |= {"steps": steps} if steps else {}
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    if before["model"] != identity:
        raise UserError(
            f"{folder} holds {holds} the model {before['model']}, this one is {identity}; choose another {key}, or"
            " delete that folder"
        )
    if steps is not None and before.get("steps") != steps:
        raise UserError(
            f"{folder} was begun by a version that laid the steps of this sampler otherwise; choose another {key},"
            " delete that folder, or finish it with that version"
        )
    for name, judge in (judges or {}).items():
        if (other := before.get("judges", {}).get(name, judge)) != judge:
            raise UserError(
                f"{folder} holds scores '{name}' by {other}, this one is {judge}; choose another {key}, or delete"
                " that folder"
            )


@dataclass(frozen=True)
class Cost:
    """Adds up network rows, in all and beyond the drawing by scorer and by a race's looks; seconds of all processes.
    ``whole``: rows that scores measured in passes would have taken in full; ``referee``: what a climbed judge saw.

    >>> Cost(40, 1.5, {"mi": 0}).total
    {'forwards': 40, 'seconds': 1.5}
    """

    forwards: int
    seconds: float
    scorers: dict[str, int]
    looks: int = 0
    whole: Mapping[str, int] = field(default_factory=dict)
    referee: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, float]:
        """``{"forwards", "seconds"}``, as the summaries have them."""
        return {"forwards": self.forwards, "seconds": self.seconds}


class CostCounter:
    """Counts what a unit takes, from when it is made."""

    def __init__(
        self,
        denoiser: Denoiser,
        scoring: Scoring,
        watch: Watch | None = None,
        effort: Effort | None = None,
    ) -> None:
        self.denoiser, self.scoring, self.watch, self.effort = denoiser, scoring, watch, effort
        if effort is not None:
            effort.add({name: -count for name, count in effort.counts.items()})
        self.before = 0 if watch is None else watch.forwards
        denoiser.forwards = 0
        scoring.forwards.clear()
        scoring.whole.clear()
        self.started = time.perf_counter()

    def add(self, cost: Mapping[str, Any]) -> None:
        """Count what an earlier command spent on the unit, as :meth:`read` said it."""
        self.denoiser.forwards += cost["forwards"]
        self.started -= cost["seconds"]
        self.scoring.forwards.update(cost["scorers"])
        if self.effort is not None:
            self.effort.add(cost["referee"])

    def read(self) -> dict[str, Any]:
        """Read what it took, for the unit's note."""
        cost: dict[str, Any] = {
            "forwards": self.denoiser.forwards,
            "seconds": time.perf_counter() - self.started,
            "scorers": {name: self.scoring.forwards[name] for name in self.scoring.scorers},
        }
        if self.watch is not None:
            cost["looks"] = self.watch.forwards - self.before
        if self.effort is not None:
            cost["referee"] = self.effort.counts
        if self.scoring.whole:
            cost["whole"] = dict(self.scoring.whole)
        return cost


def total_cost(notes: Iterable[Mapping[str, Any]]) -> Cost:
    """Add up what units took, as their notes say, whichever command made them."""
    parts = list(notes)
    scorers: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    referee: Counter[str] = Counter()
    for part in parts:
        scorers.update(part.get("scorers", {}))
        whole.update(part.get("whole", {}))
        referee.update(part.get("referee", {}))
    return Cost(
        sum(part["forwards"] for part in parts),
        round(sum(part["seconds"] for part in parts), 3),
        dict(scorers),
        sum(part.get("looks", 0) for part in parts),
        dict(whole),
        dict(referee),
    )
