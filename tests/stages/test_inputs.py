from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from analytic import three_clouds
from omegaconf import DictConfig
from PIL import Image

from mitune.information.scoring import Scoring
from mitune.runs import RunFolder
from mitune.stages import evaluate, generate, inputs
from mitune.stages.inputs import check_prompts
from tests.cli import compose


@pytest.mark.parametrize(("held_out", "flattered"), [("a", True), ("b", False)])
def test_an_edit_of_another_picture_is_another_task(
    held_out: str, flattered: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scorers=[mi]", "select.by=mi", "evaluate.scorers=[mi]"]
    for name, section in (("a", "prompts"), (held_out, "evaluate.prompts")):
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
        table = tmp_path / f"{section}.csv"
        table.write_text(f"prompt,source\nmake it red,{name}.png\n", encoding="utf-8")
        words += [f"{section}.source={table}", f"{section}.picture_column=source"]
    check_prompts(compose(words))
    assert ("1 held-out prompts are trained on too" in capsys.readouterr().err) == flattered


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the next scores that are made are given to find edits in."""
    found: list[str] = []

    def noted(*given: Any, pool: list[str], **more: Any) -> Scoring:
        found.extend(pool)
        return Scoring(*given, pool=pool, **more)

    monkeypatch.setattr(inputs, "Scoring", noted)
    return found


@pytest.fixture(params=["[contrast]", "[contrast,mi]"], ids=["the same scores", "other scores"])
def two_sources(request: pytest.FixtureRequest, tmp_path: Path) -> DictConfig:
    """Training prompts a and held-out prompts b; held-out pictures get the candidates' scores, or others."""
    words = ["scorers=[contrast]", "select.by=contrast", f"evaluate.scorers={request.param}"]
    for name, section in (("a", "prompts"), ("b", "evaluate.prompts")):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n", encoding="utf-8")
        words.append(f"{section}.source={tmp_path / name}.txt")
    return compose([*words, f"run={tmp_path / 'run'}"])


def test_edits_of_held_out_prompts_are_found_among_them_too(
    two_sources: DictConfig, pool: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "draw", lambda *given, **more: None)
    evaluate._draw(two_sources, tmp_path, [], three_clouds(), "")
    assert pool == ["a", "b"]


def test_edits_of_training_prompts_are_never_held_out_prompts(
    two_sources: DictConfig, pool: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Exception):
        """As far as this goes."""

    def drawn(*given: Any, **more: Any) -> None:
        raise Drawn

    model = three_clouds()
    model.fused = contextlib.nullcontext
    monkeypatch.setattr(generate, "draw", drawn)
    monkeypatch.setattr(generate, "load_model", lambda *given: model)
    monkeypatch.setattr(generate, "check_tasks", lambda *given: None)
    with pytest.raises(Drawn):
        generate.generate(two_sources, RunFolder(str(tmp_path / "run")), 1)
    assert pool == ["a"]
