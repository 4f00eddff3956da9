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
    base: Sequence[str] = ("experiment=shapes", "sampler=ddim", "sampler.steps=20")
    by: str = "z(contrast)+0.5*z(elbo)"
    controls: Sequence[str] = CONTROLS  # who else chooses, everything else being the same

    def chooser(self, arm: str) -> str:
        """The score by which ``arm`` chooses its winners."""
        return self.arms[arm].by or self.by


# Every study changes some part of this: the preset on fewer prompts and half as long.
BASE = ("experiment=shapes_full", "prompts.limit=150", "train.steps=600")
# Its projections alone, not every linear layer and convolution of the network.
ATTENTION = "adapter.targets=[]"
HARD = "train.soft_labels=null"
# Beside the clearest of one's own pictures as many real ones, of captions as wrong as the base model's training data.
REAL = ("select.real=shapes", "select.real_limit=2000")
HALF = (
    *REAL,
    "select.k=5",
    "select.losers=5",
    "select.real_fraction=0.5",
    "train.beta_nft=0.2",
    "train.lr=1e-3",
)
# The paper's objective sees winners alone, so fewer and better ones.
MSE = ("train.objective=mse", HARD, "select.k=4", "select.losers=0", "train.lr=1e-3")

STUDIES: dict[str, Study] = {
    "objectives": Study(
        "Which objective gets most out of the same candidates, at the same number of pictures trained on?",
        {
            "nft, soft labels": Arm(),
            "nft": Arm((HARD,)),
            "mse": Arm(MSE),
            "weighted": Arm((*MSE, "train.objective=weighted", "select.k=16", "train.temperature=0.5")),
            "dpo": Arm(("train.objective=dpo", HARD, "train.batch_size=24")),
            "kto": Arm(("train.objective=kto", HARD)),
        },
        BASE,
    ),
    "training": Study(
        "How long, and how much of the network?",
        {
            "attention, 600 steps": Arm((ATTENTION,)),
            "attention and text encoder, 600 steps": Arm((ATTENTION, "adapter.text_encoder=true")),
            "all layers, 300 steps": Arm(("train.steps=300",)),
            "all layers, 600 steps": Arm(),
            "all layers, 1200 steps": Arm(("train.steps=1200",)),
        },
        BASE,
    ),
    "pools": Study(
        "From which pictures: drawn without guidance, with the default one, or with much of it? Judged at the default.",
        {
            "guidance 1": Arm(),
            "guidance 1.5": Arm(("generate.guidance=1.5",)),
            "guidance 4": Arm(("generate.guidance=4",)),
            "guidance 1, mse": Arm(MSE),
            "guidance 1.5, mse": Arm((*MSE, "generate.guidance=1.5")),
            "guidance 4, mse": Arm((*MSE, "generate.guidance=4")),
        },
        BASE,
    ),
    "sets": Study(
        "Which of the candidates: how many of how many, only the clear cases, hard prompts more, real pictures too?",
        {
            "8 and 8 of 16": Arm((HARD,)),
            "4 and 4 of 16": Arm((HARD, "select.k=4", "select.losers=4")),
            "all 16 by their scores": Arm(),
            "all 8 by their scores": Arm(("generate.candidates=8", "select.k=4", "select.losers=4")),
            "the clearest half of the prompts": Arm(("select.fraction=0.5",)),
            "the clearest of every category": Arm(("select.fraction=0.5", "select.balance=true")),
            "hard prompts more": Arm(("select.difficulty=0.5",)),
            "mse, 4 of 16": Arm(MSE),
            "mse, those that stand out": Arm((*MSE, "select.k=8", "select.threshold=0.7"), "z(contrast)"),
        },
        BASE,
    ),
    "real": Study(
        "Real pictures whose captions the model believes: beside its own, in their place, or not at all?",
        {
            "own alone": Arm(),
            "own alone, mse": Arm(MSE),
            "half real": Arm(HALF),
            "real alone": Arm(
                (
                    *MSE,
                    *REAL,
                    "generate.candidates=6",  # drawn for the report alone
                    "select.k=6",
                    "select.real_fraction=1",
                    "train.caption_dropout=0.1",
                )
            ),
            "mse, a fifth real": Arm((*MSE, *REAL, "select.real_fraction=0.2")),
        },
        BASE,
    ),
    "scorers": Study(
        "Whose choice?",
        {
            "llr (free)": Arm(by="llr"),
            "elbo (16 rows)": Arm(by="elbo"),
            "contrast (56 rows)": Arm(by="contrast"),
            "both": Arm(),
        },
        (*BASE, "scorers=[llr,elbo,contrast,oracle]"),
    ),
    "rounds": Study(
        "How many rounds, and does the adapter go on or start afresh?",
        {
            "nft": Arm(),
            "mse, goes on": Arm(MSE),
            "mse, afresh": Arm((*MSE, "train.fresh=true")),
        },
        (*BASE, "rounds=3"),
    ),
}
"""All studies by name."""
