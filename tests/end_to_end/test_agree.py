"""``mitune agree`` as a user runs it: figures, table and plot; sums; a table of one's own; a kill; mistakes."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from mitune.files import read_json
from tests.cli import main
from tests.families.tiny import make_guidance_distilled, make_overflow

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
SMALL = (
    "agree.scorers=[mi,llr,elbo,contrast,z(contrast)+z(elbo)]", "agree.referee=elbo", "agree.candidates=3",
    "agree.resamples=50", "scorer.elbo.times=2", "scorer.contrast.times=1", "scorer.contrast.edits=2",
)  # fmt: skip


@pytest.fixture
def agree(arguments: Arguments) -> Arguments:
    """``agree(*overrides)``: the command on the four prompts of the tiny pipeline."""
    return lambda *overrides: arguments("agree", *SMALL, *overrides)


def test_it_leaves_figures_table_and_plot(
    agree: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(agree()) == 0
    folder = tmp_path / "run" / "agree"
    figures = read_json(folder / "agreement.json")
    assert (figures["prompts"], figures["candidates"], figures["referee"]) == (4, 3, "elbo")
    names = ["mi", "llr", "elbo", "contrast", "z(contrast)+z(elbo)"]
    assert list(figures["scores"]) == names
    spent = {name: figures["scores"][name]["forwards"] for name in names}
    assert (spent["mi"], spent["llr"], spent["elbo"]) == (0, 0, 4)
    assert spent["contrast"] == 3  # two edits and the prompt itself, at one time
    assert spent["z(contrast)+z(elbo)"] == 7
    # Four prompts, three candidates: two steps of two branches, and the scores.
    assert figures["forwards"] == 12 * (4 + 7)
    table = pd.read_parquet(folder / "scores.parquet")
    assert set(names) <= set(table.columns)
    winners = table.loc[table.groupby("prompt_id")["mi"].idxmax()]
    assert figures["scores"]["mi"]["winner"] == pytest.approx(winners["elbo"].mean())
    shown = capsys.readouterr().out
    assert "| `contrast` | 3 |" in shown
    assert set(figures["judged_by"]) == set(names)
    assert figures["judged_by"]["elbo"]["judge"] == figures["model"]
    assert f"judged by {', '.join(names)}: the model itself ({figures['model']})" in shown.replace("\n", " ")
    assert "4 prompts: the interval is wide" in shown
    assert (folder / "agreement.md").read_text().strip() in shown
    assert (folder / "agreement.png").read_bytes().startswith(b"\x89PNG")
    # Another referee of the same pictures costs nothing.
    before = {path: path.stat().st_mtime_ns for path in (folder / "candidates").iterdir()}
    assert main(agree("agree.referee=mi", "agree.fractions=[0.5,1]")) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "candidates").iterdir()} == before
    again = read_json(folder / "agreement.json")
    assert again["referee"] == "mi"
    assert len(again["curves"]["llr"]) == 2
    assert again["tau"]["mi"]["elbo"] == figures["tau"]["mi"]["elbo"]


def test_pictures_at_the_ranks_are_shown_and_compared(agree: Arguments, tmp_path: Path) -> None:
    """The paper's study: first, middle and last by one score, and every other score on these."""
    asked = agree("agree.ranked_by=llr", "agree.positions=[1,3]", "agree.examples=2")
    assert main(asked) == 0
    folder = tmp_path / "run" / "agree"
    table, figures = pd.read_parquet(folder / "scores.parquet"), read_json(folder / "agreement.json")
    values = []
    for _, rows in table.groupby("prompt_id"):
        ends = rows.sort_values("llr", ascending=False).iloc[[0, 2]]
        values.append(1.0 if ends["elbo"].is_monotonic_decreasing else -1.0)
    assert figures["tau_positions"]["elbo"]["llr"]["mean"] == pytest.approx(sum(values) / 4)
    assert figures["ranked_by"] == "llr"
    with Image.open(folder / "ranks.png") as sheet:
        wide, high = sheet.size
    assert main([*asked, "agree.examples=1"]) == 0  # nothing is drawn anew
    with Image.open(folder / "ranks.png") as sheet:
        assert sheet.size[0] == wide
        assert sheet.size[1] < high


def test_ranks_by_a_score_that_is_not_there_are_refused(agree: Arguments, refused: Refused) -> None:
    line = refused(agree("agree.ranked_by=cas"))
    assert "agree.ranked_by=cas: the candidates do not get this score; add it: agree.scorers=[" in line


def test_scores_of_the_same_pictures_can_be_compared_again(agree: Arguments, tmp_path: Path) -> None:
    """The candidates of the study go through ``mitune score``; its table goes through ``mitune agree``."""
    assert main(agree()) == 0
    candidates = tmp_path / "run" / "agree" / "candidates"
    model = next(word for word in agree() if word.startswith("model.path="))
    scores = [
        "score.scorers=[mi_image,cas]",
        "scorer.cas.steps=4",
        "scorer.cas.probes=1",
        "scorer.mi_image.times=1",
    ]
    assert main(["score", f"score.source={candidates}", model, "model.device=cpu", *scores]) == 0
    source = candidates.parent / "candidates-scores.parquet"
    other = [
        f"run={tmp_path / 'other'}",
        f"agree.source={source}",
        "agree.scorers=[mi,cas,elbo,mi_image-elbo]",
    ]
    assert main(agree(*other)) == 0
    one, two = (read_json(tmp_path / name / "agree" / "agreement.json") for name in ("run", "other"))
    assert two["tau"]["mi"]["elbo"] == one["tau"]["mi"]["elbo"]
    assert two["scores"]["cas"]["forwards"] is None
    assert two["tau"]["cas"]["mi_image-elbo"]["prompts"] == 4
    assert main(agree(*other[:1], f"agree.source={candidates}", "agree.scorers=[mi,llr]")) == 0


def test_a_killed_study_ends_as_the_uninterrupted_one(
    agree: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(agree(f"run={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    for place in (["agree/candidates/unit-000002.parquet", 1], ["agreement.png", 1]):
        killed = run_command(agree(), kill=place)
        assert killed.code == -signal.SIGKILL, killed.err
    assert run_command(agree()).code == 0
    for name in ("scores.parquet", "agreement.png", "agreement.md"):
        one, other = (tmp_path / run / "agree" / name for run in ("whole", "run"))
        assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), name
    one, other = (read_json(tmp_path / run / "agree" / "agreement.json") for run in ("whole", "run"))
    assert one | {"seconds": 0} == other | {"seconds": 0}
    assert not list((tmp_path / "run").rglob(".partial-*"))


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (["agree.referee=cas"], ["agree.referee=cas", "agree.scorers=["]),
        (
            ["agree.scorers=[mi,oracle]", "agree.referee=oracle"],
            ["agree.scorers: the oracle judges prompts of the embedded world only"],
        ),
        (["agree.scorers=[mi,blip]"], ["agree.scorers", "no score 'blip'"]),
        (["agree.candidates=1"], ["agree.candidates=1", "at least 2"]),
        (["agree.fractions=[0,1]"], ["agree.fractions"]),
        (["sampler.eta=0", "scorers=[mi]"], ["agree.scorers: llr needs a stochastic sampler"]),
        (["agree.source=nothing.parquet"], ["nothing.parquet"]),
        (["agree.source=."], ["agree.source=.", "no candidates"]),
    ],
)
def test_what_is_refused(overrides: list[str], hints: list[str], agree: Arguments, refused: Refused) -> None:
    line = refused(agree(*overrides))
    for hint in hints:
        assert hint in line


def test_tables_that_do_not_say_enough(agree: Arguments, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"mi": [1.0, 2.0]}).to_parquet(path)
    assert "no column prompt_id or text" in refused(agree(f"agree.source={path}"))
    pd.DataFrame({"text": list("aabb"), "mi": [1.0, 2.0, 3.0, 4.0], "elbo": [1.0, 2.0, 3.0, 5.0]}).to_parquet(
        path
    )
    assert "needs the score 'contrast'" in refused(agree(f"agree.source={path}"))
    assert "no score 'llr'" in refused(agree(f"agree.source={path}", "agree.scorers=[mi,llr]"))
    assert main(agree(f"agree.source={path}", "agree.scorers=[mi]")) == 0
    pd.DataFrame({"text": list("ab"), "mi": [1.0, 2.0], "elbo": [1.0, 2.0]}).to_parquet(path)
    assert "at least two such prompts" in refused(agree(f"agree.source={path}", "agree.scorers=[mi]"))


def test_one_prompt_is_too_few(agree: Arguments, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "prompts.txt").write_text("a red dog\n")
    assert "at least two are needed" in refused(agree())


def test_a_model_that_cannot_judge(
    agree: Arguments, tiny_pipeline_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    model = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    distilled = Path(shutil.copytree(model, tmp_path / "distilled"))
    make_guidance_distilled(distilled)
    assert "no null prompt" in refused(agree(f"model.path={distilled}"))
    make_overflow(model)
    assert "is nan for candidate 0 of prompt" in refused(agree(f"model.path={model}"))
    assert not list((tmp_path / "run").rglob("unit-*.parquet"))
