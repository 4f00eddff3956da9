"""What ``plan`` counts is what a run counts: network rows by stage, candidates, steps, decoded pictures, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune.files import read_json
from mitune.stages.planning import Plan, plan
from tests.cli import compose, main

Arguments = Callable[..., list[str]]
CASES = {
    "free scores, guided": (),
    "unguided, shared passes, losers": (
        "scorers=[elbo,mi_image,llr_image]", "select=elbo", "scorer.elbo.times=3", "scorer.mi_image.times=3",
        "scorer.llr_image.times=2", "scorer.llr_image.paths=2", "generate.guidance=1", "select.losers=1",
        "train.objective=nft", "evaluate.scorers=[elbo]", "evaluate.guidance=1", "rounds=2",
    ),
    "nothing scored along the path": ("scorers=[jpeg]", "select.by=jpeg", "sampler.guidance=1",
                                      "evaluate.scorers=[jpeg]", "train.objective=mse"),
    "a race by the path": ("sampler.steps=4", "sampler.racing.by=llr", "sampler.racing.at=[2]",
                           "sampler.racing.survivors=[2]"),
    "a race by looks, pairs": (
        "sampler.steps=4", "generate.candidates=4", "sampler.racing.by=contrast", "sampler.racing.at=[1,3]",
        "sampler.racing.survivors=[3,2]", "sampler.racing.times=2", "sampler.racing.edits=2", "scorers=[contrast]",
        "select=contrast", "scorer.contrast.times=2", "scorer.contrast.edits=5", "select.losers=1",
        "train.objective=dpo",
    ),
    "contrast against fewer edits than asked for": (
        "scorers=[contrast,mi]", "select=contrast", "scorer.contrast.times=2", "scorer.contrast.edits=30",
        "evaluate.scorers=[contrast]", "train.keep_best_by=contrast", "train.validation_prompts=2",
        "train.checkpoint_every=3",
    ),
}  # fmt: skip


def planned(words: list[str], exact: bool = True) -> Plan:
    return plan(compose(words[1:], "run"), exact=exact)


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_what_the_run_counts(case: str, arguments: Arguments, tmp_path: Path) -> None:
    words = arguments("run", *CASES[case])
    found = planned(words)
    assert main(words) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    for entry in summary["rounds"]:
        for stage in ("generate", "select", "train", "evaluate"):
            counted: Any = entry[stage].get("forwards", 0)
            assert found.of(stage, entry["round"]).total == counted, (stage, entry["round"])
        assert entry["generate"]["candidates"] == found.of("generate", entry["round"]).pictures
        assert entry["generate"].get("racing", {}).get("looks", 0) == found.of("generate").rows.get(
            "looks", 0
        )
        assert entry["train"]["steps"] == found.of("train", entry["round"]).steps
        assert (
            entry["evaluate"]["after"]["all"]["n"] == found.of("evaluate", 2).pictures
            if found.rounds > 1
            else True
        )
    assert found.rows == summary["forwards"]
    assert found.of("evaluate").pictures == 2 * summary["rounds"][0]["evaluate"]["before"]["all"]["n"]
    units = [*(tmp_path / "run" / "round-1").glob("candidates/unit-*.parquet")]
    assert len(units) == found.of("generate").units


def test_without_mining_the_rows_are_a_bound_and_said_to_be(arguments: Arguments) -> None:
    words = arguments("run", *CASES["contrast against fewer edits than asked for"])
    exact, bound = planned(words), planned(words, exact=False)
    assert bound.at_most
    assert bound.rows > exact.rows
    assert "at most" in bound.line()
    assert f"{bound.rows:,}" in bound.line()
    assert "\n" not in bound.line()
