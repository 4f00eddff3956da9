"""A score is one row: its code is there, and a new one needs no edit elsewhere."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from mitune.config import ScorerConfig
from mitune.information.catalogue import Score, TimesConfig
from mitune.scores import RACERS, SCORES

ARGUMENTS = {
    "path": ["schedule", "settings"],
    "latent": ["denoiser", "z0", "given", "noising", "settings"],
    "picture": ["settings", "device"],
}
DEFAULTS = {
    name: vars(getattr(ScorerConfig(), name))
    for name in {score.home for score in SCORES.values()} - {"llr", "oracle"}
}


@pytest.mark.parametrize("name", SCORES)
def test_the_code_of_a_row_is_there_and_takes_what_it_is_given(name: str) -> None:
    score = SCORES[name]
    takes = ["denoiser", "tasks", "settings"] if score.reads_prompts else ARGUMENTS[score.where]
    assert list(inspect.signature(score.load()).parameters) == takes
    own = score.own(DEFAULTS)
    assert (own is None) == (score.settings is None)
    assert (score.rows(own) > 0) == (score.where == "latent")
    assert all(other in SCORES for other in score.shares_pass_with)
    if score.where == "path":
        assert SCORES[score.on_pictures].where == "latent"
    if name in RACERS and score.where == "latent":
        assert issubclass(score.settings or object, TimesConfig)


def test_a_row_without_code_or_place_is_refused_where_it_stands() -> None:
    for row in ({"make": ""}, {"make": "mitune.information.elbo:measure", "where": "letter"}):
        with pytest.raises(ValueError, match="the row of the score toy"):
            Score("toy", "a toy", **row)


TOY = """
import sys
from dataclasses import dataclass

from mitune.information import catalogue
from mitune.parts import Catalogue
from mitune.settings import key


@dataclass
class ToyConfig(catalogue.ElboConfig):
    scale: float = key(2.0, "what it is multiplied with", above=0)


def measure(denoiser, z0, given, noising, settings):
    from mitune.information.elbo import elbo

    assert settings.scale == 3 and len(given.tasks) == len(z0) == len(noising.seeds)
    return settings.scale * elbo(denoiser, z0, given.condition, noising)


if __name__ == "__main__":
    row = catalogue.Score(
        "toy", "a toy", "toy:measure", ToyConfig, rows=lambda own: 2 * own.times, unit=lambda own: "toys", races=True
    )
    catalogue.SCORES = Catalogue("score", *catalogue.SCORES.values(), row)
    from tests.cli import main

    sys.exit(main(sys.argv[1:]))
"""


def test_a_new_score_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(TOY)

    def mitune(*words: str) -> str:
        command = [sys.executable, "toy.py", *words, "scorer.toy.scale=3", "run=run"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("experiment=shapes", "prompts.limit=2", "generate.candidates=3", "generate.keep=3", "select.k=1",
             "sampler.steps=4", "scorer.toy.times=2", "scorer.elbo.times=2")  # fmt: skip
    mitune(
        "generate", *small, "scorers=[mi,toy,elbo]", "select.by=z(toy)+mi", "sampler.racing.by=toy",
        "sampler.racing.times=1", "sampler.racing.survivors=[2]",
    )  # fmt: skip
    candidates = tmp_path / "run" / "round-1" / "candidates"
    drawn = pd.concat(map(pd.read_parquet, candidates.glob("*.parquet")))
    drawn = drawn[drawn["toy"].notna()]
    assert len(drawn) == 4  # two of three survive the race
    assert (drawn["toy"] - 3 * drawn["elbo"]).abs().max() < 1e-4 * drawn["elbo"].abs().max()
    mitune(
        "score", *small, f"score.source={candidates}", "score.scorers=[toy,elbo]", "score.by=toy",
        "score.out=table.parquet",
    )  # fmt: skip
    judged = pd.read_parquet(tmp_path / "table.parquet")
    assert (judged["toy"] - 3 * judged["elbo"]).abs().max() < 1e-4 * judged["elbo"].abs().max()
