"""Real pictures in the training set: how many, which, and that they are trained on."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mitune.files import read_json
from mitune.scores import Term
from mitune.stages.catalogue import ROUND
from mitune.stages.real import stand_in
from tests.cli import main
from tests.hub.test_card import read

Arguments = Callable[..., list[str]]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Six real pictures, one of them of another size."""
    folder = tmp_path / "real"
    folder.mkdir()
    rng = np.random.default_rng(1)
    lines = []
    for number in range(6):
        size = 24 if number == 5 else 16
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(
            json.dumps({"file_name": f"{number}.png", "text": f"a red dog and {number} blue circle"})
        )
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_half_of_the_set_is_real_and_chosen_by_the_same_score(
    arguments: Arguments, real: Path, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    mixed = [f"select.real={real}", "select.real_fraction=0.5", "scorer.mi_image.times=2"]
    command = arguments("run", "select.k=2", *mixed)
    for place in (["real/unit-000001.parquet", 1], [".partial-dataset-", 1], ["done/select.json", 1]):
        killed = run_command(command, kill=place)
        assert killed.code == -signal.SIGKILL, killed.err
    done = run_command(command)
    assert done.code == 0, done.err
    folder = tmp_path / "run" / "round-1"
    summary = read_json(tmp_path / "run" / "summary.json")
    stages = summary["rounds"][0]
    figures = stages["select"]
    assert figures["kept"] == 4
    assert figures["real"]["pictures"] == 4
    assert figures["real"]["looked_at"] == 6
    assert figures["forwards"] == figures["real"]["forwards"] == 6 * 4
    assert summary["forwards"] == sum(stages[name]["forwards"] for name in ROUND)
    assert "4 and 4 real of 6" in (tmp_path / "run" / "report.html").read_text()
    assert "and 4 real pictures of 6" in done.out
    chosen = datasets.load_from_disk(str(folder / "dataset"))
    rows = chosen.remove_columns(["image", "latent"]).to_pandas()
    assert rows["category"].eq("real").sum() == 4
    assert rows["model"].str.startswith("real: ").sum() == 4
    assert rows["real"].tolist() == (rows["category"] == "real").tolist()
    assert len(chosen) == 8
    # The best four by the picture's form of mi, which stands for the sampler's own.
    scored = pd.concat([pd.read_parquet(path) for path in sorted((folder / "real").glob("*.parquet"))])
    best = scored.sort_values("mi_image", ascending=False).head(4)
    assert rows.loc[rows["category"] == "real", "text"].tolist() == best["text"].tolist()
    assert rows.loc[rows["category"] == "real", "score"].tolist() == best["mi_image"].tolist()
    assert figures["real"]["score"] == pytest.approx(best["mi_image"].mean())
    latents = np.array(chosen["latent"])
    assert latents.shape == (8, 4, 8, 8)
    assert np.isfinite(latents).all()
    assert json.loads(rows["scores"].iloc[-1]).keys() == {"mi_image"}
    assert np.array(chosen[7]["image"]).shape == (16, 16, 3)
    again = run_command(arguments("run", "select.k=2", *mixed[:1], "select.real_fraction=0.25", *mixed[2:]))
    assert again.code == 2
    assert "select.real_fraction (0.5 there, 0.25 now)" in again.err


def test_two_processes_make_the_same_set(
    arguments: Arguments,
    real: Path,
    run_command: Callable[..., Any],
    run_ranks: Callable[..., Any],
    tmp_path: Path,
) -> None:
    mixed = ["select.k=2", f"select.real={real}", "select.real_fraction=0.5", "scorer.mi_image.times=2"]
    assert run_command(arguments("generate", *mixed)).code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "two")
    assert run_command(arguments("select", *mixed, "generate.batch_size=2")).code == 0
    killed = run_ranks(
        2,
        arguments("select", *mixed, "generate.batch_size=2", f"run={tmp_path / 'two'}"),
        [".partial-dataset-", 1],
    )
    assert killed[0].code == -signal.SIGKILL
    done = run_ranks(2, arguments("select", *mixed, "generate.batch_size=2", f"run={tmp_path / 'two'}"))
    assert [one.code for one in done] == [0, 0], done
    one, two = (tmp_path / run / "round-1" / "dataset" for run in ("run", "two"))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert not list(two.parent.glob(".partial-*"))


def test_real_pictures_alone_and_by_chance(arguments: Arguments, real: Path, tmp_path: Path) -> None:
    command = [f"select.real={real}", "select.real_fraction=1", "select=random", "generate.keep=3"]
    for stage in ("generate", "select", "train"):
        assert main(arguments(stage, *command)) == 0
    chosen = datasets.load_from_disk(str(tmp_path / "run" / "round-1" / "dataset"))
    assert set(chosen["category"]) == {"real"}
    assert len(set(chosen["text"])) == 4
    figures = read_json(tmp_path / "run" / "round-1" / "done" / "select.json")
    assert figures["kept"] == 0
    assert "forwards" not in figures["real"]


def test_where_all_are_real_candidates_need_no_score(
    arguments: Arguments, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scorers=[llr]", "select.by=elbo", "scorer.elbo.times=2", f"select.real={real}"]
    assert main(arguments("run", *words, "select.real_fraction=0.5")) == 2
    assert "select.by=elbo: the candidates do not get this score" in capsys.readouterr().err
    assert main(arguments("run", *words, "select.real_fraction=1")) == 0
    rows = datasets.load_from_disk(str(tmp_path / "run/round-1/dataset")).remove_columns(["image", "latent"])
    scored = pd.concat([pd.read_parquet(path) for path in (tmp_path / "run/round-1/real").glob("*.parquet")])
    assert sorted(rows["score"]) == sorted(scored["elbo"].nlargest(len(rows)))
    assert all(rows["real"])
    card = _card(tmp_path, "real-alone")
    assert f"{len(rows)} real pictures with their captions" in card
    assert "own pictures" not in card
    # Nothing was chosen among the candidates, so the report shows no best and worst of them.
    assert not (tmp_path / "run/round-1/candidates_examples.json").exists()
    assert "</html>" in (tmp_path / "run/report.html").read_text()


def _card(folder: Path, name: str) -> str:
    """The model card of the run's last round, as a reader sees it."""
    assert main(["export", f"run={folder / 'run'}", f"export.out={folder / name}"]) == 0
    return read((folder / name / "README.md").read_text())


def test_runs_of_a_sweep_share_the_scores(arguments: Arguments, real: Path, tmp_path: Path) -> None:
    words = [f"select.real={real}", "scorer.mi_image.times=2", f"sweep.share={tmp_path / 'share'}"]
    digests = set()
    for run, own in (("one", "train.lr=1e-3"), ("two", "train.lr=2e-3"), ("three", "select.by=random")):
        for stage in ("generate", "select"):
            assert main(arguments(stage, *words, own, f"run={tmp_path / run}")) == 0
        (scores,) = (tmp_path / "share").glob("real-*")
        digests.add(tuple((path.name, path.stat().st_mtime_ns) for path in sorted(scores.glob("*.parquet"))))
        folder = tmp_path / run / "round-1"
        assert (folder / "real").is_symlink() == (run != "three")  # by lot nothing is scored
        assert len(datasets.load_from_disk(str(folder / "dataset"))) == 4
    assert len(digests) == 1  # scored once


def test_beside_winners_and_losers_real_pictures_are_neither(
    arguments: Arguments, real: Path, tmp_path: Path
) -> None:
    words = ["select.k=2", "select.losers=1", "train.objective=nft", "train.soft_labels=1"]
    mixed = [f"select.real={real}", "select.real_fraction=0.34", "scorer.mi_image.times=2"]
    assert main(arguments("run", *words, *mixed)) == 0
    folder = tmp_path / "run" / "round-1"
    rows = datasets.load_from_disk(str(folder / "dataset")).remove_columns(["image", "latent"]).to_pandas()
    assert len(rows) == 12  # as many as without them
    assert rows["real"].sum() == 4  # a third of all that is trained on, losers too
    assert rows.loc[rows["real"], "preferred"].all()
    own = rows[~rows["real"]]
    assert read_json(folder / "done" / "select.json")["kept"] == own["preferred"].sum()
    assert 0 < own["preferred"].sum() < len(own)
    assert (folder / "adapter").is_dir()


def test_what_is_refused(
    arguments: Arguments, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("generate", "generate.keep=3")) == 0
    candidates = tmp_path / "run" / "round-1" / "candidates"
    for overrides, hint in (
        ([f"select.real={tmp_path / 'rael'}"], "did you mean 'real'"),
        ([f"select.real={real}", "select.real_fraction=1", "select.k=2"], "has 6 pictures, 8 are needed"),
        ([f"select.real={candidates}"], "candidates of a model, not real pictures"),
        (
            [f"select.real={real}", "select.real_fraction=1", "select.threshold=0.5"],
            "no candidate is trained on",
        ),
        ([f"select.real={real}", "select.real_fraction=1.5"], "select.real_fraction=1.5: must be at most 1"),
    ):
        capsys.readouterr()
        assert main(arguments("select", "generate.keep=3", *overrides)) == 2
        shown = capsys.readouterr().err
        assert hint in shown
        assert shown.count("\n") == 1
    # What the objective wants is asked of the stages that train.
    preferences = [f"select.real={real}", "train=dpo", "select.losers=1"]
    for stage in ("train", "run"):
        assert main(arguments(stage, "generate.keep=3", *preferences)) == 2
        assert "train.objective=dpo" in capsys.readouterr().err
    (real / "0.png").write_bytes(b"no picture")
    capsys.readouterr()
    assert main(arguments("select", "generate.keep=3", f"select.real={real}")) == 2
    shown = capsys.readouterr().err
    assert "0.png" in shown
    assert "score.skip=true" in shown
    assert main(arguments("select", "generate.keep=3", f"select.real={real}", "score.skip=true")) == 0
    assert "1 pictures that do not decode are left out" in capsys.readouterr().err


def test_scores_of_the_path_have_their_pictures_form() -> None:
    assert stand_in("mi") == (Term(1.0, "mi_image"),)
    assert stand_in("combined", "z(llr)-0.5*mi_continuous+elbo") == (
        Term(1.0, "llr_image", True),
        Term(-0.5, "mi_image"),
        Term(1.0, "elbo"),
    )
