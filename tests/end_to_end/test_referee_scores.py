"""Referees where a scorer is named: the same command as for any other score, their mistakes in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mitune.files import read_json
from mitune.referees.weighted import load_reward
from tests.cli import main
from tests.referees.conftest import build_clip, settings

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("judge") / "clip")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng()
    lines = ["file_name,text"]
    for number in range(5):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{'a red circle' if number % 2 else 'a blue square'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_score_gives_the_reward_s_own_numbers_and_says_who_judged(
    tiny_pipeline_folder: Path, pictures: Path, clip: Path, refused: Refused, tmp_path: Path
) -> None:
    judge = tmp_path / "judge"
    shutil.copytree(clip, judge)
    command = [
        *("score", f"score.source={pictures}", f"model.path={tiny_pipeline_folder}", "model.device=cpu"),
        *("score.scorers=[clip,jpeg,clip-0.1*jpeg]", "score.by=clip", "score.rows_per_unit=3"),
        *(f"scorer.clip.path={judge}", "scorer.clip.form=cosine", "score.top_fraction=0.4"),
    ]
    assert main(command) == 0
    rows = pd.read_parquet(tmp_path / "pictures-scores.parquet")
    shown = torch.stack(
        [
            torch.from_numpy(np.array(Image.open(pictures / name))).permute(2, 0, 1) / 255
            for name in rows["image"]
        ]
    )
    section = settings(path=str(judge), form="cosine")
    for name in ("clip", "jpeg"):
        expected = load_reward(name, section).score(shown, rows["text"].tolist())
        assert np.allclose(rows[name], expected.numpy(), atol=1e-5)
    assert np.allclose(rows["clip-0.1*jpeg"], rows["clip"] - 0.1 * rows["jpeg"])
    figures = read_json(tmp_path / "pictures-scores" / "score.json")
    assert figures["top"]["by"] == "clip"
    assert figures["forwards"] == 0  # a referee costs none of the model's
    assert read_json(tmp_path / "pictures-scores" / "model.json")["judges"].keys() == {"clip", "jpeg"}
    # Another judge under the same path: the folder holds the first one's scores.
    (tmp_path / "pictures-scores" / "unit-000001.parquet").unlink()
    shutil.rmtree(judge)
    build_clip(judge, seed=5)
    assert "scores 'clip' by judge@" in refused(command)


def test_a_referee_selects_and_picks_the_checkpoint(arguments: Arguments, clip: Path, tmp_path: Path) -> None:
    words = ["scorers=[mi,clip]", "select.by=clip", f"scorer.clip.path={clip}", "scorer.clip.form=cosine"]
    command = [*words, "train.keep_best_by=clip", "evaluate.scorers=[clip,mi]", "train.steps=2"]
    assert main(arguments("run", *command)) == 0
    table = pd.concat(
        [pd.read_parquet(path) for path in (tmp_path / "run/round-1/candidates").glob("*.parquet")]
    )
    assert table["clip"].nunique() > 1
    evaluation = read_json(tmp_path / "run/round-1/evaluation.json")
    assert evaluation["before"]["all"]["clip"] is not None
    judged = evaluation["judged_by"]
    assert (judged["clip"]["itself"], judged["clip"]["selected"]) == (False, True)
    assert (judged["mi"]["itself"], judged["mi"]["selected"]) == (True, False)
    made = read_json(tmp_path / "run/round-1/candidates/model.json")
    assert (judged["clip"]["judge"], judged["mi"]["judge"]) == (made["judges"]["clip"], made["model"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["scorers=[mi,clip]", "scorer.clip.path=nowhere at all"],
            "scorer.clip.path=nowhere at all is neither",
        ),
        (["scorers=[mi,aesthetic]"], "scorer.aesthetic.head=FILE"),
        (["scorers=[mi,aesthetic]", "scorer.aesthetic.head=a.pth"], "is a pickle|pickle can run"),
        (["scorers=[mi]", "scorer.clip.form=cosin"], "did you mean 'cosine'"),
        (["scorers=[mi]", "scorer.jpeg.quality=100"], "at most 95"),
        (["scorers=[mi,clp]"], "did you mean 'clip'"),
    ],
)
def test_a_judge_that_cannot_be_had_is_refused_before_the_model_is_opened(
    arguments: Arguments, refused: Refused, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    from mitune.stages import inputs

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr(inputs, "load_denoiser", never)
    assert re.search(says, refused(arguments("generate", *words)))


def test_the_embedded_world_s_own_clip_judges_its_pictures(tmp_path: Path) -> None:
    from tests.worlds.shapes.pairs import training_batch

    folder = tmp_path / "renders"
    folder.mkdir()
    shown, texts = training_batch(np.random.default_rng(), 24, wrong_share=0.0)
    lines = ["file_name,text"]
    for number, picture in enumerate(shown):
        Image.fromarray(picture).save(folder / f"{number}.png")
        # Every other picture with the caption of the one before it, which is seldom true of it.
        lines.append(f'{number}.png,"{texts[number - number % 2]}"')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    words = ["score.scorers=[clip,oracle]", "scorer.clip.path=shapes", "scorer.clip.form=cosine"]
    assert main(["score", f"score.source={folder}", "model.device=cpu", *words]) == 0
    rows = pd.read_parquet(tmp_path / "renders-scores.parquet").sort_values("row")
    own, other = rows["clip"].to_numpy()[0::2], rows["clip"].to_numpy()[1::2]
    assert (rows["oracle"][0::2] > 0.9).mean() > 0.8
    assert (own > other).mean() > 0.7
