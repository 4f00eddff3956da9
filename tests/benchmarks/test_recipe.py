"""The recipe study, run whole at a tiny size: sweeps, controls, pairs, page and plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.recipe import __main__ as benchmark
from benchmarks.recipe.studies import STUDIES, Arm, Study
from tests.cli import compose

TINY = (
    "prompts.limit=2", "scorers=[llr,oracle]", "generate.candidates=3", "sampler.steps=2", "select.k=1",
    "adapter.rank=2", "train.steps=1", "train.batch_size=2", "evaluate.prompts.limit=2", "evaluate.candidates=2",
    "evaluate.scorers=[oracle]", "model.device=cpu",
)  # fmt: skip


@pytest.mark.exhaustive
def test_a_study_runs_reports_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(
        "Which?", {"plain, as it is": Arm(), "other": Arm()}, ("experiment=shapes", *TINY), "llr", ("random",)
    )
    monkeypatch.setitem(STUDIES, "tiny", study)
    call = ["tiny", "--arms", "plain, as it is", "--seeds", "3", "4", "--out", str(tmp_path)]
    call += ["--runs", str(tmp_path / "runs")]
    assert benchmark.main(call) == 0
    record = json.loads((tmp_path / "tiny.json").read_text())
    found = {(row["arm"], row["role"]): row for row in record["rows"]}
    assert set(found) == {("plain, as it is", "own"), ("plain, as it is", "random")}
    row = found["plain, as it is", "own"]
    assert row["seeds"] == [3, 4]
    assert row["pictures"] == 2 * 2 * 2
    assert sum(row["by_seed"]) / 2 == pytest.approx(row["gain"]["value"], abs=1e-9)
    difference = row["gain"]["value"] - found["plain, as it is", "random"]["gain"]["value"]
    assert row["above_random"]["value"] == pytest.approx(difference, abs=1e-9)
    assert found["plain, as it is", "random"]["above_random"] is None
    # Runs that draw alike share their candidates: one set a seed.
    assert len(list((tmp_path / "runs" / "share").glob("candidates-*"))) == 2
    assert "| plain, as it is | llr | 1 |" in (tmp_path / "tiny.md").read_text()
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")
    # Again: nothing is left to run.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("summary.json")}
    assert len(before) == 4
    assert benchmark.main(call) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_every_study_is_a_configuration(name: str) -> None:
    study = STUDIES[name]
    for arm, own in study.arms.items():
        for choice in (study.chooser(arm), *study.controls):
            config = compose([*study.base, *own.words, f"select.by={choice}", "seed=3"])
            assert config.select.by == choice
            assert config.sampler.guidance == 1.5  # what all are judged at


def test_an_arm_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["objectives", "--arms", "msee"])
    assert caught.value.code == 2
    assert "msee is no arm of objectives: nft, soft labels; nft; mse;" in capsys.readouterr().err
