"""A survey from what a run has left: its candidates, the pictures of its evaluation, samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mitune.data.store import CandidateStore
from mitune.evaluate.drawings import to_image
from mitune.stages.candidates import decode_rows
from mitune.stages.inputs import load_model
from mitune.survey.design import ROUND, Survey, read_survey
from tests.cli import compose, main

Arguments = Callable[..., list[str]]


def build(folder: Path, *words: str) -> Survey:
    assert main(["survey", "build", str(folder), *words, "attention=0", "practice=0"]) == 0
    return read_survey(folder)


def test_a_run_gives_a_survey_of_each_kind(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("run")) == 0
    run = tmp_path / "run"

    best = build(tmp_path / "best", str(run), "kind=best_of_scores", "scores=[mi,llr]")
    table = CandidateStore(run / "round-1" / "candidates").table()
    assert {one.prompt for one in best.rounds} == {*table["prompt"]}
    model = load_model(compose(arguments("generate")[1:]))
    for one in best.rounds:
        own = table[(table["prompt"] == one.prompt) & table["kept"]]
        tops = {name: own.loc[own[name].idxmax()] for name in ("mi", "llr")}
        for picture in one.pictures:
            row = pd.DataFrame([tops[picture.shows[0]]])
            drawn = decode_rows(CandidateStore(run / "round-1" / "candidates"), row, model)[0]
            shown = np.asarray(Image.open(tmp_path / "best" / picture.file)).astype(int)
            assert np.abs(shown - np.asarray(to_image(drawn)).astype(int)).max() <= 1

    both = build(tmp_path / "both", str(run), "kind=agree")
    assert both.names == ("before", "after")
    held_out = {line.strip() for line in (tmp_path / "held out.txt").read_text().splitlines()}
    assert {one.prompt for one in both.rounds} == held_out
    assert len([one for one in both.rounds if one.kind == ROUND]) == 2 * len(held_out)

    for number in (0, 1):
        assert main(arguments("sample", "sample.pictures=1", f"sample.round={number}")) == 0
    samples = [f"{name}={run / 'samples' / f'00{place}'}" for place, name in ((1, "base"), (2, "tuned"))]
    methods = build(tmp_path / "methods", *samples)
    assert methods.names == ("base", "tuned")
    assert len(methods.rounds) == 4
    assert "mitune survey report" in capsys.readouterr().out


def test_a_run_without_an_evaluation_says_so_and_latents_without_their_run(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("generate")) == 0
    assert main(["survey", "build", str(tmp_path / "s"), str(tmp_path / "run")]) == 2
    assert "mitune evaluate" in capsys.readouterr().err
    place = tmp_path / "elsewhere"
    (tmp_path / "run" / "round-1" / "candidates").rename(place)
    assert main(["survey", "build", str(tmp_path / "s"), str(place), "kind=best_of_scores"]) == 2
    assert "lies in no run's folder" in capsys.readouterr().err
