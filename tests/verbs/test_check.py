"""``mitune check``: what it tells before anything is loaded, what it refuses as the run would, and its probe."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune.cli import main
from mitune.config import compose
from mitune.stages import probe as probing
from mitune.stages.planning import Plan, Work, plan
from mitune.stages.probe import Speed
from tests.end_to_end.conftest import commands

Words = Callable[..., list[str]]


@pytest.fixture
def words(tiny_pipeline_folder: Path, tmp_path: Path) -> Words:
    """``words(*overrides)``: those of ``mitune run`` on the tiny pipeline."""
    make = commands(tiny_pipeline_folder, tmp_path)
    return lambda *more: make("run", *more)[1:]


def test_it_tells_the_plan_without_opening_the_model_or_writing(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "load_model", lambda *_: pytest.fail("the model was loaded"))
    more = ["scorers=[contrast,elbo]", "select=contrast", "rounds=2"]
    assert main(["check", *words(*more)]) == 0
    shown = capsys.readouterr().out
    found = plan(compose(words(*more), "run"), exact=True)
    assert f"{found.rows:,} network rows in all" in shown
    assert "at most" not in shown.split("memory")[0]  # the edits were counted
    for stage in ("generate", "train", "evaluate"):
        assert f"{found.of(stage).total:,} network rows" in shown
    assert f"later: evaluate: {found.of('evaluate', 2).pictures:,} pictures" in shown
    for word in ("torch ", "StableDiffusionPipeline", "M parameters", "4 to train on", "2 held out", "a red circle",
                 "not measured", "more while select writes its set", "are free there", "(new)"):  # fmt: skip
        assert word in shown
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_begun_is_said_to_go_on(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: shapes\n")
    assert main(["check", *words()]) == 0
    assert "begun there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (["model.path=/nowhere/model"], "/nowhere/model is neither a folder nor a Hub id"),
        (["prompts.source=/nowhere/prompts.txt"], "/nowhere/prompts.txt"),
        (["select.k=9"], "select.k=9 but only generate.candidates=3"),
        (["scorers=[mi]", "select.by=elbo"], "the candidates do not get this score"),
        (["scorers=[mi,oracle]"], "the oracle judges prompts of the embedded world only"),
        (["sampler.racing.by=mi", "sampler.racing.survivors=[3]"], "leaves 3 of 3 candidates"),
        (["probe=soon"], "probe=soon: give its seconds"),
        (["probe=0"], "probe=0: give its seconds"),
        (["seeed=1"], "there is no key 'seeed', did you mean 'seed'?"),
        (["model.device=tpu"], "model.device=tpu"),
    ],
)
def test_it_refuses_what_the_run_would(
    wrong: list[str], line: str, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words(*wrong)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [one for one in said if one.startswith("mitune: ") and line in one]


def test_a_prompt_without_an_edit_is_told_before_anything_is_drawn(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.txt"
    one.write_text("unrepeatable\n")
    given = words(f"prompts.source={one}", "scorers=[contrast]", "select=contrast")
    assert main(["check", *given]) == 2
    assert "contrast finds no edit of the prompt 'unrepeatable'" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["weights", "class", "header"])
def test_a_damaged_model_is_refused_with_its_place(
    harm: str, words: Words, tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_pipeline_folder, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    if harm == "weights":
        weights.write_bytes(weights.read_bytes()[:40])
    elif harm == "header":
        weights.write_bytes(b"\xff" * 64)
    else:
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "OtherPipeline"}))
    assert main(["check", *words(f"model.path={copy}")]) == 2
    said = capsys.readouterr().err
    assert str(weights) in said if harm != "class" else "OtherPipeline" in said


def test_a_probe_times_the_model_itself(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "probe=0.3", *words("train.objective=nft", "select.losers=1")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith("time ")]
    assert "rows a second" in told
    assert [line for line in lines if line.strip().startswith("train: ")]


def test_the_time_is_the_plan_at_the_speed_that_was_found() -> None:
    speed = Speed(rows=10.0, trained=2.0, decoded=4.0)
    works = (
        Work(1, "generate", rows={"drawing": 100, "elbo": 20}),
        Work(1, "train", rows={"training": 8, "reference": 10}),
        Work(1, "evaluate", rows={"drawing": 30}, decoded=8),
    )
    assert [speed.seconds(work) for work in works] == [12.0, 5.0, 5.0]
    assert speed.total(Plan(1, 1, 1, 1, 1, works)) == 22.0


def test_a_wrong_path_is_told_before_torch_is_imported() -> None:
    code = (
        "import sys, mitune.cli; code = mitune.cli.main(['check', 'model.path=/nowhere/m']);"
        " sys.exit(9 if 'torch' in sys.modules else code)"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
