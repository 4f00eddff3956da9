"""A score that reads attention is a file and a row with its keys: one is added here, to a copy of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.extended import ask, extend

MEASURE = '''
from __future__ import annotations

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.information.catalogue import NamedConfig
from mitune.information.given import Given
from mitune.information.noising import Noising


class Shares:
    """Adds up how much of each layer's look at the text goes to the columns [n, tokens] of 0 and 1."""

    def __init__(self, denoiser: Denoiser, columns: Tensor) -> None:
        self.denoiser, self.columns = denoiser, columns
        self.total, self.layers = torch.zeros(len(columns)), 0

    def layer(self, place: str, kind: str, maps: Tensor) -> None:
        text = self.denoiser.to_text(kind, maps)
        if text is not None:
            told = text.mean((1, 2))
            self.total = self.total + (told * self.columns).sum(1) / told.sum(1)
            self.layers += 1


@torch.no_grad()
def measure(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: NamedConfig
) -> Tensor:
    plan, condition = noising.plan(denoiser.schedule), given.condition
    columns = torch.zeros(len(z0), condition.tensors["text"].shape[1])
    for row, task in enumerate(given.tasks):
        for span in denoiser.spans(task.text):
            if span.word in settings.words:
                columns[row, [column for own in span.columns.values() for column in own]] = 1
    share = torch.zeros(len(z0))
    eps = torch.stack([plan.draw(seed, z0, noising.path)[0] for seed in noising.seeds], 1)
    for t, own in zip(noising.t.tolist(), eps, strict=True):
        tap = Shares(denoiser, columns)
        denoiser.predict(denoiser.schedule.add_noise(z0, own, t), t, condition, tap)
        share += tap.total / tap.layers / len(noising.t)
    return share
'''
PLACES = {
    "@dataclass\nclass CASConfig(Settings):\n": """@dataclass
class NamedConfig(TimesConfig):
    times: int = key(3, "times a picture is noised at", low=1, high=STEPS)
    words: list[str] = key(["circle", "square", "triangle", "cross"], "words that name things", filled=True)


@dataclass
class CASConfig(Settings):
""",
    '    Score("cas",': """    Score("named", "share of the attention to the text that goes to words that name things",
          "mitune.information.named:measure", NamedConfig, rows=lambda own: own.times, races=True),
    Score("cas",""",
}
KINDS = "circle,square,triangle,cross"


def test_a_score_that_reads_attention_draws_races_and_judges(tmp_path: Path) -> None:
    folder = extend(tmp_path, {"information/named.py": MEASURE}, {"information/catalogue.py": PLACES})
    common = ["model=shapes", "prompts.limit=2", "scorer.named.times=2", "run=run"]

    def judged(words: str, out: str) -> list[str]:
        more = [
            "score.source=run/round-1/candidates",
            "score.scorers=[named]",
            f"scorer.named.words=[{words}]",
        ]
        return ["score", *common, *more, f"score.out={out}.parquet"]

    answers = ask(
        folder,
        [
            [
                "generate", *common, "generate.candidates=3", "generate.keep=2", "select.k=1", "sampler.steps=4",
                "scorers=[named]", "select.by=named", "sampler.racing.by=named", "sampler.racing.times=1",
                "sampler.racing.survivors=[2]",
            ],
            judged(KINDS, "whole"), judged("circle", "circles"), judged("square,triangle,cross", "others"),
            ["help", "named"], ["score", *common, "scorer.named.words=[]"],
        ],
    )  # fmt: skip
    assert [answer.code for answer in answers] == [0, 0, 0, 0, 0, 2], answers
    candidates = tmp_path / "run" / "round-1" / "candidates"
    drawn = pd.concat(map(pd.read_parquet, sorted(candidates.glob("*.parquet"))))
    finished = drawn[drawn["named"].notna()]
    assert len(finished) == 4  # two of three survive the race
    assert drawn["race"].notna().all()
    assert finished["named"].between(0.01, 0.99).all()
    assert finished["named"].nunique() == 4
    whole, circles, others = (
        pd.read_parquet(tmp_path / f"{name}.parquet")["named"] for name in ("whole", "circles", "others")
    )
    assert np.allclose(whole, finished["named"], atol=1e-5)
    assert np.allclose(whole, circles + others, atol=1e-5)
    assert circles.max() > 0
    assert "share of the attention to the text" in answers[4].out
    assert answers[5].err == "mitune: scorer.named.words is empty: give at least one\n"
