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


# Every study changes some part of this.
BASE = ("experiment=shapes_attention", "train.lr_schedule=cosine", "scorers=[llr,elbo,contrast,oracle]")
# Every linear layer and convolution of the network, not the attention's projections alone.
LAYERS = "adapter.targets=[all]"
LOSERS = ("select.losers=3", "train.lr=5e-4")

STUDIES: dict[str, Study] = {
    "objectives": Study(
        "Which objective gets most out of the same candidates, at the same number of pictures trained on?",
        {
            "mse": Arm(),
            "weighted": Arm(("train.objective=weighted", "select.k=12", "train.temperature=0.5")),
            "dpo": Arm(("train.objective=dpo", "train.batch_size=24", *LOSERS)),
            "kto": Arm(("train.objective=kto", *LOSERS)),
            "nft": Arm(("train.objective=nft", "train.beta_nft=1", *LOSERS)),
        },
        BASE,
    ),
    "training": Study(
        "How long, and how much of the network?",
        {
            "attention, 300 steps": Arm(),
            "attention, 900 steps": Arm(("train.steps=900",)),
            "attention and text encoder, 300 steps": Arm(("adapter.text_encoder=true",)),
            "all layers, 300 steps": Arm((LAYERS,)),
            "all layers, 900 steps": Arm((LAYERS, "train.steps=900")),
        },
        BASE,
    ),
    "pools": Study(
        "From which pictures: drawn without guidance, with the default one, or with much of it? Judged at the default.",
        {
            "guidance 1": Arm(("generate.guidance=1",)),
            "guidance 1.5": Arm(),
            "guidance 2": Arm(("generate.guidance=2",)),
            "guidance 4": Arm(("generate.guidance=4",)),
        },
        (*BASE, LAYERS, "train.steps=600"),
    ),
    "sets": Study(
        "Which of the candidates: how many winners a prompt, how many candidates, only the clear cases?",
        {
            "1 of 12": Arm(("select.k=1",)),
            "3 of 12": Arm(),
            "6 of 12": Arm(("select.k=6",)),
            "3 of 24": Arm(("generate.candidates=24",)),
            "3 of 12, the clearest half": Arm(("select.fraction=0.5",)),
            "3 of 12, the clearest of every category": Arm(("select.fraction=0.5", "select.balance=true")),
            "3 of 12, hard prompts more": Arm(("select.difficulty=0.5",)),
            "up to 6 of 12, those that stand out": Arm(("select.k=6", "select.threshold=0.7"), "z(contrast)"),
        },
        (*BASE, LAYERS, "train.steps=600"),
    ),
    "scorers": Study(
        "Whose choice?",
        {
            "llr (free)": Arm(by="llr"),
            "elbo (16 rows)": Arm(by="elbo"),
            "contrast (56 rows)": Arm(by="contrast"),
            "both": Arm(by="z(contrast)+z(elbo)"),
        },
        (*BASE, LAYERS, "train.steps=600"),
    ),
    "rounds": Study(
        "How many rounds, and does the adapter go on or start afresh?",
        {
            "goes on": Arm(),
            "afresh": Arm(("train.fresh=true",)),
        },
        (*BASE, LAYERS, "train.steps=600", "rounds=3"),
    ),
}
"""All studies by name."""
