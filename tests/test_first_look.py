"""A wrong path or name is refused before anything heavy is imported: within a second, whatever the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.server import ENVIRONMENT
from mitune.errors import UserError
from mitune.stages.first_look import segment_folder
from tests.cli import compose, main

HEAVY = ("torch", "pandas", "datasets", "diffusers", "transformers", "accelerate", "pyarrow", "numpy")
ASK = """
import contextlib, io, json, sys
from mitune.cli import main
answers = []
for words in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    answers.append([code, said.getvalue(), [name for name in %r if name in sys.modules]])
print(json.dumps(answers))
"""
DEMO = "experiment=shapes"
COMMANDS: list[tuple[list[str], str]] = [
    (["run", DEMO, "model.path=/no/where"], "/no/where is neither a folder nor a Hub id"),
    (["generate", DEMO, "model.path=./nowhere"], "./nowhere is neither a folder nor a Hub id"),
    (["agree", DEMO, "model.path=EMPTY"], "is not a diffusers pipeline: it has no model_index.json"),
    (["calibrate", DEMO, "model.path=PICKLE.ckpt"], "pickled checkpoints can run any code"),
    (["run", DEMO, "model.device=gpu"], "model.device=gpu is no device"),
    (["run", DEMO, "prompts.source=HERE/promts.txt"], "did you mean 'prompts.txt'"),
    (["run", DEMO, "evaluate.prompts.source=nowhere.csv"], "there is no file or folder nowhere.csv"),
    (["sample", DEMO, "prompts.source=nowhere.csv"], "there is no file or folder nowhere.csv"),
    (["generate", DEMO, "model.adapter=/no/where"], "there is no adapter at /no/where"),
    (["generate", DEMO, "scorer.profile=/no/where.json"], "scorer.profile=/no/where.json: there is no such file"),
    (["run", DEMO, "select.real=/no/where"], "there is no picture source /no/where"),
    (["score", DEMO, "score.source=/nowhere"], "there is no picture source /nowhere"),
    (["score", DEMO], "score: say which pictures"),
    (["segment", DEMO], "segment: say which pictures"),
    (["segment", DEMO, "segment.source=/nowhere/a.png"], "segment.source=/nowhere/a.png: there is no such file"),
    (["segment", DEMO, "segment.source=EMPTY", "segment.tune=/nowhere"], "there is no picture source /nowhere"),
    (["segment", DEMO, "segment.source=EMPTY", "segment.layout=voc"], "is not PASCAL VOC 2012: it has no"),
    (["segment", DEMO, "segment.source=EMPTY", "model.compile=true"], "a compiled network shows no attention"),
    (["score", DEMO, "score.source=EMPTY", "score.adapter=/no/where"], "there is no adapter at /no/where"),
    (["agree", DEMO, "agree.source=/no/where"], "agree.source=/no/where does not exist"),
    (["evaluate", DEMO, "evaluate.scorers=[clip]", "scorer.clip.path=/no"], "scorer.clip.path=/no is neither"),
    (["run", DEMO, "scorers=[mi,contrast,elbo,aesthetic]"], "the aesthetic score needs its head"),
    (["sample", DEMO, "sampler=das", "reward=clip", "scorer.clip.path=/no"], "scorer.clip.path=/no is neither"),
    (["run", DEMO, "launch=mulit_gpu"], "did you mean 'multi_gpu'"),
    (["run", DEMO, "launch=cpu_2", "model.path=/no/where"], "/no/where is neither a folder nor a Hub id"),
    (["run", DEMO, "run=HERE/prompts.txt/run"], "a part of this path is a file, not a folder"),
    (["run", DEMO, "run=HERE/prompts.txt"], "a file is where a folder is needed"),
    # The run folder of a command that writes elsewhere may be anywhere.
    (["sample", DEMO, "run=HERE/prompts.txt", "sample.out=HERE/o", "prompts.source=no.csv"], "file or folder no.csv"),
    (["sample", DEMO, "sample.out=HERE/prompts.txt/out"], "a part of this path is a file, not a folder"),
    (["score", DEMO, "run=HERE/prompts.txt", "score.source=EMPTY", "score.adapter=/no"], "there is no adapter at /no"),
    (["score", DEMO, "score.source=EMPTY", "score.out=HERE/prompts.txt/a.parquet"], "a file is where a folder is"),
    # What is opened in some cases only.
    (["train", DEMO, "train.keep_best_by=elbo", "scorer.profile=/no.json"], "scorer.profile=/no.json: there is no"),
    (["train", DEMO, "train.pictures_every=2", "scorer.profile=/no.json"], "scorer.profile=/no.json: there is no"),
    (["select", DEMO, "select.real=EMPTY", "scorer.profile=/no.json"], "scorer.profile=/no.json: there is no"),
    (["train", DEMO, "train.keep_best_by=clip", "scorer.clip.path=/no"], "scorer.clip.path=/no is neither"),
]  # fmt: skip


def test_a_wrong_path_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "empty").mkdir()
    places = {"HERE": str(tmp_path), "EMPTY": str(tmp_path / "empty")}

    def placed(word: str) -> str:
        for name, place in places.items():
            word = word.replace(name, place)
        return word

    asked = [
        [*map(placed, words), *([] if any("run=" in word for word in words) else [f"run={tmp_path / 'run'}"])]
        for words, _ in COMMANDS
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK % (HEAVY,)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (words, hint), (code, said, heavy) in zip(COMMANDS, json.loads(done.stdout), strict=True):
        assert (code, said.count("\n")) == (2, 1), (words, said)
        assert hint in said, words
        assert heavy == [], words
    assert not (tmp_path / "run").exists()


BY_CLIP = ("scorers=[clip]", "select.by=clip", "scorer.clip.path=/no/where")


@pytest.mark.parametrize("words", [("scorer.profile=/no/where.json",), BY_CLIP])
@pytest.mark.parametrize(("stage", "missing"), [("select", "candidates"), ("train", "dataset")])
def test_what_a_stage_does_not_open_may_have_moved_since(
    stage: str, missing: str, words: tuple[str, ...], tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    line = refused([stage, *words, f"run={tmp_path / 'run'}"])
    assert f"{missing} is not complete" in line


def test_a_run_folder_that_may_not_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[list[str]], str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    line = refused(["generate", f"run={tmp_path / 'run'}"])
    assert "permission denied; choose a folder you may write to with run=" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["often", "-1", "nan", "inf", "30s"])
def test_a_pace_that_is_none_is_refused(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[[list[str]], str]
) -> None:
    monkeypatch.setenv("MITUNE_LOG_EVERY", value)
    line = refused(["generate", f"run={tmp_path / 'run'}"])
    assert line.startswith(f"mitune: MITUNE_LOG_EVERY={value}: give the seconds")


def test_a_finished_run_is_told_again_though_its_prompts_have_gone(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle and a blue square\n")
    words = [
        f"model.path={tiny_pipeline_folder}",
        "model.device=cpu",
        "prompts=file",
        f"prompts.source={prompts}",
    ]
    words += [
        "scorers=[mi]",
        "select=mi",
        "sampler.steps=2",
        "generate.candidates=2",
        "generate.guidance=null",
    ]
    words += [f"run={tmp_path / 'run'}", "select.k=1"]
    assert main(["generate", *words]) == 0
    prompts.unlink()
    assert main(["generate", *words]) == 0


def test_pictures_are_not_segmented_into_their_own_folder(tmp_path: Path) -> None:
    words = [f"segment.source={tmp_path}", f"segment.out={tmp_path}"]
    with pytest.raises(UserError, match=r"is the folder of segment\.source"):
        segment_folder(compose(words, "segment"))
