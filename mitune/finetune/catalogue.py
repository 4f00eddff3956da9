"""The objectives that an adapter is trained with, and the keys of the sections ``adapter`` and ``train``.

A new objective is a function in ``objectives``, a row here, with the key of its strength where it has one, and a test.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any, TypeVar

from mitune.parts import Catalogue, Part
from mitune.settings import BATCH, ROWS, STEPS, TRAINING, Settings, check_interval, key

ALL = "all"  # as the targets of an adapter: every linear layer and convolution


@dataclass(frozen=True)
class Objective(Part):
    """An objective is a loss of rows, ``load()(denoiser, batch, strength)`` -> [n], and what it asks of the data.

        OBJECTIVES["dpo"].pairs        OBJECTIVES["nft"].strength        OBJECTIVES.where(lambda row: row.losers)

    Attributes:
        pairs: an item of data is a winner and a loser of its prompt.
        unpaired: winners and losers are items of their own.
        labels: an item may lie between winner and loser (``train.soft_labels``), or be a real picture.
        scored: items count by their scores (``train.temperature``).
        anchor: the model that the loss compares with, where there is one: "base", without an adapter, or "start", with
            the adapter as it was when this training began, so the one that drew the pictures.
        strength: name of the number of ``train`` that the loss takes; a row says ``own`` where it declares this key.
        own: that key, as ``mitune.settings.key`` declares it.
    """

    pairs: bool = False
    unpaired: bool = False
    labels: bool = False
    scored: bool = False
    anchor: str | None = None
    strength: str = ""
    own: Any = None

    @property
    def losers(self) -> bool:
        """Tell whether it learns from losers too."""
        return self.pairs or self.unpaired

    @property
    def rows(self) -> int:
        """Count the rows of a forward that one item of data takes."""
        return 2 if self.pairs else 1


_HOME = "mitune.finetune.objectives"
OBJECTIVES = Catalogue(
    "train.objective",
    Objective("mse", "the error of denoising on the winners (the paper's)", f"{_HOME}:mse"),
    # Reward-weighted regression: mse times exp(s/τ) / mean exp(s/τ), s the score standardised within the prompt
    # (Peters and Schaal 2007; for diffusion, Lee et al., 2302.12192, and RWR of Black et al., 2305.13301). With
    # τ → ∞ this is mse on all candidates, with τ → 0 on the best of each prompt.
    Objective("weighted", "mse, each picture by its score", f"{_HOME}:mse", scored=True),
    Objective(
        "dpo", "winners against losers of their prompt, held to the base model", f"{_HOME}:dpo",
        pairs=True, anchor="base", strength="beta_dpo",
        own=key(2000.0, "strength of the tie of dpo, spin and kto to their reference", low=0, high=1e9),
    ),
    Objective(
        "spin", "dpo held to the model that drew the pictures", f"{_HOME}:spin",
        pairs=True, anchor="start", strength="beta_dpo",
    ),
    Objective(
        "kto", "winners and losers each for itself, held to the base model", f"{_HOME}:kto",
        unpaired=True, anchor="base", strength="beta_dpo",
    ),
    Objective(
        "nft", "away from losers as far as towards winners, from the model that drew them", f"{_HOME}:nft",
        unpaired=True, labels=True, anchor="start", strength="beta_nft",
        own=key(0.1, "nft: its steps go 1/beta times as far as winners and losers are apart", above=0, high=1000),
    ),
)  # fmt: skip


@dataclass
class AdapterConfig(Settings):
    """These keys say which adapter is trained: ``attach(denoiser, AdapterConfig(kind="lora", rank=8, alpha=8))``."""

    kind: str = key(
        "dora",
        "how it changes a weight",
        choices={"dora": "its direction and its length", "lora": "by a product of two thin matrices"},
    )
    rank: int = key(32, "rank r", low=1, high=4096, basic=True)
    alpha: int = key(32, "scale alpha (the update is multiplied by alpha / r)", low=1, high=1_000_000)
    dropout: float = key(0.0, "dropout on the adapter's input", low=0, high=1, below=1)
    targets: list[str] = key(
        [],
        "layers of the denoiser network (default: its attention's projections); [all]: linear ones and convolutions",
    )
    text_encoder: bool = key(False, "adapt the text encoder too")
    text_targets: list[str] = key(
        ["q_proj", "k_proj", "v_proj", "out_proj"], "layers of the text encoder; [all]: all"
    )


T = TypeVar("T")


def _with_strengths(section: type[T]) -> type[T]:
    """Add the keys that the objectives declare."""
    own = {row.strength: row.own for row in OBJECTIVES.values() if row.own is not None}
    names = {"__doc__": section.__doc__, "__module__": __name__}
    fields = [(name, float, declared) for name, declared in own.items()]
    return make_dataclass(section.__name__, fields, bases=(section,), namespace=names)


@_with_strengths
@dataclass
class TrainConfig(Settings):
    """These keys say how it is trained: ``train(denoiser, dataset, TrainConfig(objective="dpo"), "run")``.

    Their defaults are the paper's (Wang et al., 2405.20759).
    """

    objective: str = key("mse", "loss that is minimised", choices=OBJECTIVES.meanings, basic=True)
    steps: int = key(300, "optimizer steps", low=1, high=TRAINING, basic=True)
    batch_size: int = key(
        400, "pictures an optimizer step, over all processes", low=1, high=BATCH, basic=True
    )
    micro_batch: int | None = key(
        None,
        "pictures a forward; the rest is accumulated (default: a process's share)",
        low=1,
        high=BATCH,
        basic=True,
    )
    lr: float = key(1e-4, "learning rate", low=0, high=100, basic=True)
    lr_schedule: str = key(
        "constant",
        "course of the learning rate",
        choices={
            "constant": "the same at every step after train.warmup",
            "constant_with_warmup": "another name of it",
            "linear": "down to 0 along a line",
            "cosine": "down to 0 along half a cosine",
        },
    )
    warmup: int = key(0, "warm-up steps", low=0, high=TRAINING)
    betas: list[float] = key([0.9, 0.999], "AdamW", low=0, below=1, sizes=2)
    weight_decay: float = key(1e-2, "AdamW", low=0, high=1000)
    eps: float = key(1e-8, "AdamW", low=1e-30, high=1)
    max_grad_norm: float = key(1.0, "gradient clipping", low=0, high=1e9)
    t_min: int = key(500, "lowest training time", low=0, high=STEPS)
    t_max: int = key(1000, "highest training time (excluded)", low=0, high=STEPS)
    density: str = key(
        "uniform",
        "of the training times between them",
        choices={"uniform": "all alike", "logit_normal": "more in the middle (Esser et al., 2403.03206)"},
    )
    density_mean: float = key(
        0.0, "logit_normal: mean of logit(t); a flow's shift s adds ln s", low=-20, high=20
    )
    density_std: float = key(1.0, "logit_normal: standard deviation of logit(t)", above=0, high=100)
    layout_weight: float = key(
        0.0, "p of the factor SNR^-p on errors of the noise where SNR < 1; 0: the paper's", low=0, high=1
    )
    caption_dropout: float = key(
        0.0,
        "share of prompts replaced by the null prompt; of pictures told beside them as many are left out (up to 2/3),"
        " half of both at once",
        low=0,
        high=1,
    )
    fresh: bool = key(
        False, "every round trains a new adapter on the base model instead of going on from the last round's"
    )
    soft_labels: float | None = key(
        None,
        "nft: a picture counts by its score, wholly where that is so many standard deviations from its prompt's mean;"
        " null: the chosen wholly for, the others wholly against",
        above=0,
        high=1e6,
    )
    temperature: float = key(
        1.0, "weighted: of exp(score/temperature), scores standardised within a prompt", above=0, high=1e6
    )
    checkpoint_every: int = key(50, "steps between checkpoints", low=1, high=TRAINING)
    keep_checkpoints: int = key(2, "newest checkpoints kept", low=1, high=TRAINING)
    keep_best_by: str | None = key(None, "scorer that picks the best checkpoint on validation prompts")
    validation_prompts: int = key(
        24,
        "prompts that keep_best_by looks at, of the training source, not trained on; pictures_every shows 12 of them",
        low=1,
        high=ROWS,
    )
    pictures_every: int | None = key(
        None,
        "steps between two sheets of pictures of validation prompts, from the same seeds (null: none)",
        low=1,
        high=TRAINING,
    )
    log_every: int = key(10, "steps between two rows of metrics.jsonl", low=1, high=TRAINING)
    mixed_precision: str = key(
        "no",
        "of the forwards",
        choices={
            "no": "as the weights are",
            "bf16": "autocast to bfloat16",
            "fp16": "autocast to float16, the loss scaled; a GPU's alone",
        },
    )
    gradient_checkpointing: bool = key(False, "trade time for memory")
    compile: bool = key(False, "torch.compile the network for training")

    def check(self, prefix: str = "") -> None:
        """Raise UserError, naming the key after ``prefix``, for a value that its declaration does not allow, and for
        times that are no interval."""
        super().check(prefix)
        check_interval(prefix, self.t_min, self.t_max)
