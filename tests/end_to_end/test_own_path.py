"""The path of a user with a model and prompts of one's own: only the first command says what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.cli import main
from tests.end_to_end.conftest import commands

SMALL = [
    "scorers=[mi,llr]", "select=mi", "sampler.steps=2", "generate.candidates=3", "select.k=1", "adapter.rank=2",
    "train.steps=2", "train.batch_size=2", "evaluate.candidates=1", "evaluate.scorers=[mi]", "prompts.limit=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an own model on own prompts, by no preset."""
    place = tmp_path_factory.mktemp("own")
    commands(tiny_pipeline_folder, place)  # writes the prompts
    own = [
        f"model.path={tiny_pipeline_folder}", "model.device=cpu", f"prompts.source={place / 'prompts.txt'}",
        f"evaluate.prompts.source={place / 'held out.txt'}",
    ]  # fmt: skip
    assert main(["run", f"run={place / 'run'}", *own, *SMALL]) == 0
    return place / "run"


def test_a_later_command_needs_the_run_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert "shapes" not in summary["model"]
    for stage in ("generate", "select", "train", "evaluate", "run"):
        assert main([stage, f"run={run}"]) == 0
        assert "done before" in capsys.readouterr().out
    assert (
        main(["agree", f"run={run}", "agree.prompts=2", "agree.candidates=3", "agree.scorers=[mi,llr]"]) == 0
    )
    assert json.loads((run / "agree" / "agreement.json").read_text())["model"] == summary["model"]


def test_prompts_that_changed_since_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.parent / "prompts.txt"
    before = path.read_text()
    first = before.splitlines()[0]
    try:
        path.write_text(before.replace(first, "a yellow dog", 1))
        capsys.readouterr()
        assert main(["run", f"run={run}"]) == 0
        assert "prompts.source: it holds other prompts" in capsys.readouterr().err
    finally:
        path.write_text(before)
    assert main(["run", f"run={run}"]) == 0
    assert "other prompts" not in capsys.readouterr().err


def test_pictures_are_scored_by_the_runs_model(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.parquet"
    words = [f"score.source={run / 'round-1' / 'candidates'}", "score.scorers=[elbo]", f"score.out={out}"]
    assert main(["score", f"run={run}", *words]) == 0
    made = json.loads((tmp_path / "scored" / "score.json").read_text())
    assert made["model"] == json.loads((run / "summary.json").read_text())["model"]


def test_a_key_that_a_finished_stage_has_read_is_refused_by_name(
    run: Path, refused: Callable[[list[str]], str]
) -> None:
    line = refused(["generate", f"run={run}", "sampler.steps=3"])
    assert "sampler.steps (2 there, 3 now)" in line


def test_sampling_never_meets_what_was_sampled_before(
    run: Path, capsys: pytest.CaptureFixture[str], refused: Callable[[list[str]], str]
) -> None:
    own = ["sample", f"run={run}", "sample.pictures=1"]
    assert "sample.by" in refused([*own, "sample.prompt=a red circle", "sample.of=2"])
    kinds = [
        ["sample.prompt=a red circle"],
        ["sample.prompt=a cat", "seed=1"],
        ["sampler=ddpm", "sample.round=1"],
    ]
    for number, words in enumerate(kinds, 1):
        assert main([*own, *words]) == 0
        assert f"samples/{number:03d}/pictures" in capsys.readouterr().out.replace("\n", "")
    before = (run / "samples" / "002" / "sheet.png").stat().st_mtime_ns
    assert main([*own, *kinds[1]]) == 0  # the same again: in the same place
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["001", "002", "003"]
    assert before <= (run / "samples" / "002" / "sheet.png").stat().st_mtime_ns
    assert len(list((run / "samples").glob("*/pictures/000000.png"))) == 3


def test_words_that_were_refused_are_not_of_the_run(
    run: Path, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    before = (run / "config.yaml").read_bytes()
    refused(["run", f"run={run}", "rounds=2", "model.quantization=8bit"])
    assert (run / "config.yaml").read_bytes() == before
    model = json.loads((run / "summary.json").read_text())["model"].partition("#")[0]
    flow = ["generate", "experiment=shapes", f"run={tmp_path}", "scorers=[rfmi]", "select.by=rfmi"]
    refused([*flow, "prompts.limit=2"])  # a score of flows, by a model that is none
    assert "rfmi" in refused([*flow, "prompts.limit=3"])
    assert model in before.decode()
