"""The study of Referee Can Play runs, small, in all its arms, and goes on where it was left."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inversion
from mitune.files import read_json
from mitune.search.catalogue import RefereeConfig
from mitune.stages.inputs import settings_of
from tests.cli import compose


def test_all_arms_are_drawn_once_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"limit": 2, "pictures": 2, "steps": 3, "sampler-steps": 2, "most": 3, "batch": 4}
    words = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    words += ["--out", str(tmp_path), "--kept", str(tmp_path / "kept.json")]
    # Thirty views are many for a test.
    monkeypatch.setattr(inversion, "VIEWS", (0, 2))
    monkeypatch.setattr(inversion, "ARM", "referee and distillation, 2 views")
    assert inversion.main(words) == 0
    record = read_json(tmp_path / "inversion.json")
    found = {row["arm"]: row for row in record["arms"]}
    assert {"guidance 4", "distillation alone", "referee alone, 0 views", "referee alone, 2 views"} <= set(
        found
    )
    own = found["referee and distillation, 2 views"]
    # Two steps of three are the referee's; both start from the sample of two guided steps.
    assert (own["rows"], own["judged"], own["decoded"]) == (2 * 2 + 3 * 2, 2 * 2, 2)
    assert (found["referee alone, 2 views"]["rows"], found["distillation alone"]["judged"]) == (4, 0)
    assert found["guidance 4"]["oracle_over_guidance"]["mean"] == 0
    assert len(record["figures"]) == 3
    assert "| referee alone, 2 views |" in (tmp_path / "inversion.md").read_text()
    # Every arm is kept: the same command draws none.
    monkeypatch.setattr(inversion, "drawn", None)
    monkeypatch.setattr(inversion, "plain", None)
    assert inversion.main(words) == 0
    assert read_json(tmp_path / "inversion.json")["arms"] == record["arms"]


def test_the_best_is_taken_by_the_clip_among_the_first() -> None:
    drawn = {
        "took": {"candidates": 3, "seconds": 3.0},
        "clip": [1.0, 2, 3, 5, 4, 6],
        "oracle": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "exact": np.zeros(6).tolist(),
    }
    best = inversion.best_of(drawn, 2)
    assert best["oracle"] == [0.2, 0.4]
    assert best["took"]["seconds"] == 2


def test_the_preset_of_the_world_is_what_the_study_draws_with() -> None:
    words = ["sampler=inversion_shapes", "reward=clip", "scorers=[contrast,elbo]"]
    found = settings_of(RefereeConfig, compose(words).search.rcp)
    studied = inversion.setting(10, {"views.number": 10})
    assert found == dataclasses.replace(studied, start_guidance=inversion.GUIDANCE)
