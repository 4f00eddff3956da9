"""BLIP judges where a score, a reward or a chooser is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mitune.files import read_json
from tests.cli import main
from tests.referees.small_blips import SIDE, build_blip

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def blips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("blips")
    vqa = build_blip(folder / "vqa", "BlipForQuestionAnswering")
    itm = build_blip(folder / "itm", "BlipForImageTextRetrieval")
    prompts = folder / "prompts.txt"
    prompts.write_text("a red circle above a blue square\na green cross\n")
    return [
        f"prompts.source={prompts}",
        f"scorer.blip_vqa.path={vqa}",
        f"scorer.blip_vqa.side={SIDE}",
        f"scorer.blip_itm.path={itm}",
    ]


def table(run: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(path) for path in sorted(run.rglob("candidates/*.parquet"))])


def test_they_select_candidates_of_the_embedded_world(
    arguments: Arguments, blips: list[str], tmp_path: Path
) -> None:
    words = ["scorers=[mi,blip_itm,blip_vqa]", "select.by=blip_itm"]
    assert main(arguments("generate", *words, *blips)) == 0
    found = table(tmp_path / "run")
    assert found["blip_itm"].nunique() > 1
    assert (found["blip_vqa"] - found["blip_vqa"].round(4)).abs().max() < 1e-6


@pytest.mark.parametrize("reward", ["blip_itm", "blip_vqa"])
def test_das_climbs_them(arguments: Arguments, blips: list[str], reward: str, tmp_path: Path) -> None:
    words = [
        "sampler=das",
        f"reward={reward}",
        f"scorers=[mi,{reward}]",
        f"select.by={reward}",
        "search.proposal=gradient",
    ]
    assert main(arguments("generate", *words, *blips)) == 0
    assert table(tmp_path / "run")[reward].notna().all()


def test_the_papers_study_of_agreement_is_one_command(
    arguments: Arguments, blips: list[str], tmp_path: Path
) -> None:
    """mi ranks; BLIP-VQA and HPS are compared with it, and with each other, on the first, the middle and the last."""
    words = [
        word
        for word in arguments("agree", *blips)
        if not word.startswith(("experiment=", "scorers=", "sampler"))
    ]
    small = ["sampler.steps=3", "agree.candidates=7", "agree.resamples=20", "scorer.hpsv2.path=shapes"]
    assert main([*words, "experiment=agreement", *small]) == 0
    figures = read_json(tmp_path / "run" / "agree" / "agreement.json")
    assert [*figures["scores"]] == ["mi", "blip_vqa", "hpsv2"]
    assert (figures["positions"], figures["ranked_by"], figures["referee"]) == ([1, 4, 7], "mi", "blip_vqa")
    scores = pd.read_parquet(tmp_path / "run" / "agree" / "scores.parquet")
    values = []
    for _, rows in scores.groupby("prompt_id"):
        three = rows.sort_values("mi", ascending=False).iloc[[0, 3, 6]]
        values.append(three["hpsv2"].corr(-pd.Series(range(3), three.index), method="kendall"))
    assert figures["tau_positions"]["mi"]["hpsv2"]["mean"] == pytest.approx(sum(values) / 2)
    assert (tmp_path / "run" / "agree" / "ranks.png").is_file()


def test_a_package_that_is_not_there_is_refused_before_anything_is_drawn(
    arguments: Arguments, refused: Callable[[list[str]], str]
) -> None:
    assert "needs the package librehps" in refused(arguments("generate", "scorers=[mi,librehps]"))
