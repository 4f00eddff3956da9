"""What is compared: every study is a base, and arms that change words of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONTROLS = ("random", "oracle")


@dataclass(frozen=True)
class Arm:
    """``words``: of ``mitune run``, after the base's; ``by``: who chooses (None: the study's own)."""

    words: Sequence[str] = ()
    by: str | None = None


@dataclass(frozen=True)
class Study:
    """``question``: what it is to settle; ``by``: who chooses where the arm does not say."""

    question: str
    arms: Mapping[str, Arm]
    base: Sequence[str] = ("experiment=shapes",)
    by: str = "contrast"
    controls: Sequence[str] = CONTROLS  # who else chooses, everything else being the same

    def chooser(self, arm: str) -> str:
        """The score by which ``arm`` chooses its winners."""
        return self.arms[arm].by or self.by


STUDIES: dict[str, Study] = {
    "objectives": Study(
        "Which objective gets most out of the same candidates, at the same number of pictures trained on?",
        {
            "mse": Arm(),
            "weighted": Arm(("train.objective=weighted", "select.k=12", "train.temperature=0.5")),
            "dpo": Arm(("train.objective=dpo", "select.losers=3", "train.lr=5e-4", "train.batch_size=24")),
            "kto": Arm(("train.objective=kto", "select.losers=3", "train.lr=5e-4")),
            "nft": Arm(("train.objective=nft", "select.losers=3", "train.lr=5e-4", "train.beta_nft=1")),
        },
    ),
}
"""All studies by name."""
