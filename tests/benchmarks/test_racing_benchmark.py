"""The benchmark of racing runs on two prompts and writes its record; nothing is timed here."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.racing import Arm, main, outcome
from mitune.files import read_json
from mitune.sampling.racing import Cut


def test_races_are_read_from_words() -> None:
    assert Arm.read("llr@8=6") == Arm("llr@8=6", "llr", None, 3, (Cut(8, 6),))
    arm = Arm.read("contrast:2x4@6=11,12=4")
    assert (arm.by, arm.times, arm.edits, arm.cuts) == ("contrast", 2, 4, (Cut(6, 11), Cut(12, 4)))
    for text in ("llr", "llr:2@8=6", "elbo@8=6", "oracle:2@8=6", "llr@8", "llr@8=6,"):
        with pytest.raises(argparse.ArgumentTypeError, match="a race is SCORE@STEP=SURVIVORS"):
            Arm.read(text)


def test_recall_and_loss_by_hand() -> None:
    target, oracle = (
        np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]),
        np.array([[0.5, 0.75, 0.0], [0.0, 0.0, 1.0]]),
    )
    alive = np.array([[False, True, True], [False, True, True]])
    recall, change, nats = (figure["value"] for figure in outcome("race", alive, target, oracle, "contrast"))
    assert (recall, change, nats) == (0.5, 0.125, -0.5)


def test_the_record_has_every_race(tmp_path: Path) -> None:
    races = ["--race", "llr@1=2", "--race", "elbo:1@2=1"]
    small = [
        "--prompts",
        "2",
        "--candidates",
        "3",
        "--timed",
        "1",
        "--repeats",
        "1",
        "--target",
        "elbo",
        "--threads",
        "1",
    ]
    few = ["--set", "sampler.steps=4", "--set", "scorer.elbo.times=2", "--set", "select.k=1"]
    main([*races, *small, *few, "--out", str(tmp_path)])
    record = read_json(tmp_path / "racing.json")
    assert [entry["ours"] for entry in record["comparisons"]] == ["llr@1=2", "elbo:1@2=1"]
    values = {entry["name"]: entry["value"] for entry in record["figures"]}
    # Three candidates of four steps and a target of four rows: 12 each; raced, 3·2 + 2·(6 + 4) and 3·(4 + 2) + 8.
    assert values["llr@1=2: forwards, scores included"] == pytest.approx(36 / 26)
    assert values["elbo:1@2=1: forwards, scores included"] == pytest.approx(36 / 26)
    assert values["elbo:1@2=1: forwards of drawing and looks"] == pytest.approx(24 / 22)
    assert 0 <= values["llr@1=2: recall of the winner by elbo"] <= 1
