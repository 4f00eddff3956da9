"""What runs reached on the embedded world's held-out pictures, and how these compare, picture by picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf

from benchmarks.fidelity import kernel_distance
from mitune.config import compose
from mitune.data.store import CandidateStore
from mitune.evaluate.bootstrap import mean_ci
from mitune.families import load_denoiser
from mitune.referees.weighted import load_reward
from mitune.stages.candidates import decode_rows
from mitune.worlds.shapes.grammar import parse_prompt
from mitune.worlds.shapes.render import render
from mitune.worlds.shapes.scenes import random_scene

KEY = ["seed", "prompt_id", "candidate"]


def gains(run: Path, number: int) -> pd.DataFrame:
    """One row a held-out picture: seed, prompt, category and what the oracle gives it more than the base's."""
    table = pd.read_parquet(run / f"round-{number}" / "evaluation.parquet")
    table["seed"] = int(OmegaConf.load(run / "config.yaml").seed)
    before, after = (table[table["model"] == side].set_index(KEY) for side in ("before", "after"))
    gain = after["oracle"] - before["oracle"]
    return after.assign(gain=gain)[["prompt", "category", "gain"]].reset_index()


def above(own: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """How much more one run gained than another on the same pictures, with a 95 % interval over prompts."""
    both = own.merge(other, on=KEY, suffixes=("", "_other"))
    estimate = mean_ci(both["gain"] - both["gain_other"], both["prompt_id"])
    return {"value": estimate.mean, "ci95": estimate.interval}


class Fidelity:
    """Distance of held-out pictures to the renderer's of the same prompts, by the world's small CLIP."""

    def __init__(self) -> None:
        self.config = compose(["experiment=shapes"])
        self.denoiser = load_denoiser(self.config.model)
        settings: Any = {"clip": {**self.config.scorer.clip}}
        self.clip = load_reward("clip", settings).clip  # type: ignore[attr-defined]
        self.known: dict[str, Any] = {}

    def __call__(self, run: Path, number: int) -> dict[str, float]:
        """``before`` and ``after``: kernel distances of the base's pictures and the tuned model's."""
        (base,) = run.glob("baseline-*")
        after = run / f"round-{number}" / "after"
        real = self._real(CandidateStore(after).table()["prompt"].tolist())
        sides = {"before": base, "after": after}
        return {side: kernel_distance(self._features(folder), real) for side, folder in sides.items()}

    def _features(self, folder: Path) -> torch.Tensor:
        name = str(folder.resolve())
        if name not in self.known:
            store = CandidateStore(folder)
            pictures = decode_rows(store, store.table(), self.denoiser, 96)
            self.known[name] = self._look(torch.stack(list(pictures)))
        return self.known[name]

    def _real(self, prompts: Sequence[str]) -> torch.Tensor:
        name = "\n".join(prompts)
        if name not in self.known:
            rng = np.random.default_rng(0)
            drawn = [render(random_scene(rng, parse_prompt(prompt)))[0] for prompt in prompts]
            self.known[name] = self._look(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255)
        return self.known[name]

    def _look(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.clip.image_features(pictures).float()
        return features * features.shape[1] ** 0.5  # of length one: entries of size one
