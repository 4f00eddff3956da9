"""What the select stage leaves out and what it weighs, through the command: threshold and difficulty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np

from mitune.data.store import CandidateStore
from mitune.files import read_json
from tests.cli import main

Arguments = Callable[..., list[str]]


def test_only_what_reaches_the_threshold_is_trained_on_and_hard_prompts_more(
    arguments: Arguments, refused: Callable[[list[str]], str], tmp_path: Path
) -> None:
    both = ["select.k=2", "generate.keep=3"]  # all are kept: what selects may still change
    assert main(arguments("generate", *both)) == 0
    table = CandidateStore(tmp_path / "run" / "round-1" / "candidates").table()
    best = table.groupby("prompt_id")["mi"].max().sort_values()
    threshold = float(best.iloc[:2].mean())  # one prompt of the four has nothing above it
    assert "no candidate reaches it" in refused(
        arguments("select", *both, f"select.threshold={best.iloc[-1] + 1}")
    )
    assert main(arguments("run", *both, f"select.threshold={threshold}", "select.difficulty=1")) == 0
    chosen = datasets.load_from_disk(str(tmp_path / "run" / "round-1" / "dataset"))
    rows = chosen.remove_columns(["image", "latent"]).to_pandas()
    top = table.sort_values("mi", ascending=False).groupby("prompt_id").head(2)
    top = top[top["mi"] >= threshold]
    found = set(zip(rows["prompt_id"], rows["candidate"], strict=True))
    assert found == set(zip(top["prompt_id"], top["candidate"], strict=True))
    assert rows["prompt_id"].nunique() == 3
    np.testing.assert_allclose(rows["weight"].mean(), 1)
    ease = rows["prompt_id"].map(table.groupby("prompt_id")["mi"].mean())
    order = np.argsort(ease.to_numpy())
    assert (np.diff(rows["weight"].to_numpy()[order]) <= 1e-12).all()
    assert rows["weight"].nunique() == 3
    figures = read_json(tmp_path / "run" / "summary.json")["rounds"][0]
    assert figures["select"]["kept"] == len(rows)
