"""What ``plan`` counts is what a run counts: network rows by stage, candidates, steps, decoded pictures, files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune.errors import UserError
from mitune.files import read_json
from mitune.noise import NoiseSchedule
from mitune.sampling.catalogue import SAMPLERS, SamplerConfig
from mitune.sampling.loop import sample
from mitune.stages import inputs, run
from mitune.stages.catalogue import ROUND
from mitune.stages.planning import Plan, plan
from tests.analytic import three_clouds
from tests.cli import compose, main

Arguments = Callable[..., list[str]]
WHOLE = {
    "unguided, shared passes, winners and losers, two rounds": (
        "scorers=[elbo,mi_image,llr_image]", "select=elbo", "scorer.elbo.times=3", "scorer.mi_image.times=3",
        "scorer.llr_image.times=2", "scorer.llr_image.paths=2", "generate.guidance=1", "select.losers=1",
        "train.objective=nft", "train.steps=2", "evaluate.scorers=[elbo]", "evaluate.guidance=1", "rounds=2",
        "evaluate.candidates=1",
    ),
    "nothing scored along the path, pairs": (
        "scorers=[jpeg]", "select.by=jpeg", "sampler.guidance=1", "evaluate.scorers=[jpeg]", "select.losers=1",
        "train.objective=dpo",
    ),
    "contrast against fewer edits than asked for": (
        "scorers=[contrast,mi]", "select=contrast", "scorer.contrast.times=2", "scorer.contrast.edits=30",
        "evaluate.scorers=[contrast]", "train.keep_best_by=contrast", "train.validation_prompts=2",
        "train.checkpoint_every=3", "train.pictures_every=2",
    ),
}  # fmt: skip
DRAWN = {
    "free scores, guided": (),
    "cas": ("scorers=[cas]", "select.by=cas", "scorer.cas.steps=2", "scorer.cas.probes=1"),
    "a race of two evaluations a step": (
        "sampler=heun", "sampler.steps=4", "sampler.racing.by=mi", "sampler.racing.at=[2]",
        "sampler.racing.survivors=[2]", "scorers=[mi]", "select=mi",
    ),
    "a race by the path": (
        "sampler.steps=4", "sampler.racing.by=llr", "sampler.racing.at=[2]", "sampler.racing.survivors=[2]",
    ),
    "a race by looks": (
        "sampler.steps=4", "generate.candidates=4", "sampler.racing.by=contrast", "sampler.racing.at=[1,3]",
        "sampler.racing.survivors=[3,2]", "sampler.racing.times=2", "sampler.racing.edits=2", "scorers=[contrast]",
        "select=contrast", "scorer.contrast.times=2", "scorer.contrast.edits=5",
    ),
}  # fmt: skip


def planned(words: list[str], exact: bool = True) -> Plan:
    return plan(compose(words[1:], "run"), exact=exact)


@pytest.mark.parametrize("case", WHOLE)
def test_a_plan_is_what_the_run_counts(case: str, arguments: Arguments, tmp_path: Path) -> None:
    words = arguments("run", *WHOLE[case])
    found = planned(words)
    assert main(words) == 0
    summary = read_json(tmp_path / "run" / "summary.json")
    assert found.rounds == len(summary["rounds"])
    for entry in summary["rounds"]:
        for stage in ROUND:
            counted: Any = entry[stage].get("forwards", 0)
            assert found.of(stage, entry["round"]).total == counted, (stage, entry["round"])
        assert entry["generate"]["candidates"] == found.of("generate", entry["round"]).pictures
        assert entry["train"]["steps"] == found.of("train", entry["round"]).steps
    assert found.rows == summary["forwards"]
    assert found.of("evaluate").pictures == 2 * summary["rounds"][0]["evaluate"]["before"]["all"]["n"]


@pytest.mark.parametrize("case", DRAWN)
def test_a_plan_is_what_drawing_counts(case: str, arguments: Arguments, tmp_path: Path) -> None:
    words = arguments("generate", *DRAWN[case])
    found = planned(words).of("generate")
    assert main(words) == 0
    figures = read_json(tmp_path / "run" / "round-1" / "done" / "generate.json")
    assert (figures["forwards"], figures["candidates"]) == (found.total, found.pictures)
    assert figures.get("racing", {}).get("looks", 0) == found.rows.get("looks", 0)
    assert not found.at_most
    assert len([*(tmp_path / "run" / "round-1" / "candidates").glob("unit-*.parquet")]) == found.units


@pytest.mark.parametrize("reward", ["llr", "contrast"])
def test_a_search_takes_no_more_than_its_plan_says(reward: str, arguments: Arguments, tmp_path: Path) -> None:
    words = arguments("generate", "sampler=das", f"reward={reward}", "sampler.steps=3", "scorers=[mi]")
    found = planned(words).of("generate")
    assert main(words) == 0
    (mark,) = (tmp_path / "run").glob("round-1/done/generate.json")
    assert found.at_most
    assert 0.7 * found.total < read_json(mark)["forwards"] <= found.total


def test_the_line_of_a_plan_opens_no_source_again(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the Hub each time is a question, and its warnings come again."""
    opened: list[str] = []
    read = inputs.load_prompts
    monkeypatch.setattr(
        inputs, "load_prompts", lambda source, **asked: opened.append(source) or read(source, **asked)
    )

    def first_stage(*_: Any) -> Any:
        raise UserError("far enough")

    monkeypatch.setattr(run, "run_stage", first_stage)
    monkeypatch.setenv("MITUNE_LOG_EVERY", "60")
    words = arguments("run", "train.keep_best_by=mi")
    assert main(words) == 2
    assert "plan: 1 round" in capsys.readouterr().err
    assert len(opened) == len({*opened}) == 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_evaluates_the_network_as_often_as_it_says(name: str) -> None:
    flow = SAMPLERS[name].flow_only
    model = three_clouds(NoiseSchedule.rectified_flow(), "flow") if flow else three_clouds()
    sample(model, model.encode_prompts(["a", "b"]), range(2), SamplerConfig(name, 7, guidance=3))
    assert model.forwards == 2 * sum(SAMPLERS[name].evaluated(7)) * model.branches


def test_without_mining_the_rows_are_a_bound_and_said_to_be(arguments: Arguments) -> None:
    words = arguments("run", *WHOLE["contrast against fewer edits than asked for"])
    exact, bound = planned(words), planned(words, exact=False)
    assert bound.at_most
    assert bound.rows > exact.rows
    assert "at most" in bound.line()
    assert f"{bound.rows:,}" in bound.line()
    assert "\n" not in bound.line()
