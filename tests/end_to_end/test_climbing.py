"""``sampler=inversion`` as a user runs it: pictures, candidates for training, a kill, mistakes in one line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import load_from_disk

from mitune.data.store import CandidateStore
from mitune.files import read_json
from mitune.leaving import TEMPORARY
from mitune.referees.weighted import load_reward
from mitune.search import referee
from mitune.stages.candidates import decode_rows
from mitune.stages.inputs import load_model, opening
from mitune.stages.planning import plan
from tests.cli import compose, main
from tests.referees.conftest import build_clip
from tests.referees.small_blips import build_blip2

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
FEW = (
    *(
        "search.rcp.steps=3",
        "search.rcp.referee_steps=2",
        "search.rcp.warmup=1",
        "search.rcp.restart.start=2",
    ),
    *("search.rcp.views.number=2", "search.rcp.views.size=16", "search.rcp.distill.guidance=4"),
)


@pytest.fixture(scope="module")
def climbing(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    clip = build_clip(tmp_path_factory.mktemp("judge") / "clip")
    return (
        *("sampler=inversion", "reward=clip", f"scorer.clip.path={clip}", "scorer.clip.form=cosine"),
        *("scorers=[contrast]", "sample.scorers=[reward]", *FEW),
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    """What ``metadata.jsonl`` says."""
    return [json.loads(line) for line in (folder / "pictures" / "metadata.jsonl").read_text().splitlines()]


def test_pictures_climb_and_their_cost_is_counted(
    arguments: Arguments, climbing: tuple[str, ...], tmp_path: Path
) -> None:
    words = arguments("sample", *climbing, "sample.pictures=2")
    assert main([*words, "generate.batch_size=8"]) == 0
    folder = tmp_path / "run" / "samples" / "001"
    made = read_json(folder / "sample.json")
    # 8 pictures, 3 steps of two branches; 2 steps in which two views of each are judged; and each at its end.
    assert made["forwards"] == 8 * 3 * 2
    spent = {"judged": 8 * 2 * 2, "looked": 8, "decoded": 8 * 2, "silent": 0}
    assert made["search"] == {"reward_by": "clip", **spent}
    found = pd.DataFrame(rows(folder))
    assert "reward" in found
    assert "das" not in found
    # Whatever the batch, the pictures are the same.
    assert main([*words, "generate.batch_size=3", f"sample.out={tmp_path / 'other'}"]) == 0
    other = pd.DataFrame(rows(tmp_path / "other"))
    assert other["seed"].tolist() == found["seed"].tolist()
    np.testing.assert_allclose(other["reward"], found["reward"], atol=1e-5)
    assert read_json(tmp_path / "other" / "sample.json")["search"] == made["search"]


def test_the_best_of_several_are_those_that_the_judge_likes(
    arguments: Arguments, climbing: tuple[str, ...], tmp_path: Path
) -> None:
    assert main(arguments("sample", *climbing, "sample.of=3", "sample.pictures=1")) == 0
    store = CandidateStore(tmp_path / "run" / "samples" / "001" / "candidates")
    best = store.table().groupby("prompt_id", sort=False)["reward"].max()
    np.testing.assert_allclose([row["reward"] for row in rows(tmp_path / "run" / "samples" / "001")], best)


@pytest.mark.parametrize(("start", "stage"), [("noise", "generate"), ("sample", "run")])
def test_candidates_that_climbed_are_selected_and_trained_on(
    arguments: Arguments, climbing: tuple[str, ...], start: str, stage: str, tmp_path: Path
) -> None:
    words = arguments(
        stage, *climbing, f"search.rcp.start={start}", "search.rcp.start_guidance=3", "select=contrast",
        "select.by=reward", "scorer.contrast.edits=1", "scorer.contrast.times=1",
    )  # fmt: skip
    assert main(words) == 0
    run = tmp_path / "run"
    figures = read_json(run / "round-1" / "done" / "generate.json")
    config = compose(words[1:])
    planned = plan(config, exact=True).of("generate")
    assert (figures["forwards"], figures["candidates"]) == (planned.total, planned.pictures)
    assert not planned.at_most
    store = CandidateStore(run / "round-1" / "candidates")
    table = store.table()
    assert figures["search"]["reward"] == pytest.approx(table["reward"].mean())
    assert figures["search"]["judged"] == len(table) * 2 * 2
    # The reward is that of the finished picture.
    model = load_model(config)
    kept = table[table["kept"]][:4]
    pictures = torch.stack(decode_rows(store, kept, model))
    settings: Any = {"clip": {**config.scorer.clip}}
    judged = load_reward("clip", settings).score(pictures, list(kept["prompt"]))
    np.testing.assert_allclose(kept["reward"], judged, atol=1e-4)
    assert "clip" in read_json(store.folder / "model.json")["judges"]["reward"]
    if stage == "run":
        chosen = load_from_disk(str(run / "round-1" / "dataset"))
        np.testing.assert_allclose(
            sorted(chosen["score"]), sorted(table.groupby("prompt_id")["reward"].max())
        )


def test_a_killed_command_ends_as_the_uninterrupted_one(
    arguments: Arguments, climbing: tuple[str, ...], run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(arguments("sample", *climbing, f"sample.out={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    killed = run_command(arguments("sample", *climbing), kill=["unit-000001.parquet", 1])
    assert killed.code == -signal.SIGKILL
    assert run_command(arguments("sample", *climbing)).code == 0
    mine, other = tmp_path / "run" / "samples" / "001", tmp_path / "whole"
    assert rows(mine) == rows(other)
    for path in (other / "pictures").glob("*.png"):
        assert path.read_bytes() == (mine / "pictures" / path.name).read_bytes()
    assert read_json(mine / "sample.json")["search"] == read_json(other / "sample.json")["search"]


def test_told_to_leave_it_loses_the_batch_in_hand_at_most(
    arguments: Arguments, climbing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = arguments(
        "sample", *climbing, "generate.batch_size=2", "generate.rows_per_unit=6", "sample.pictures=3"
    )
    assert main([*words, f"sample.out={tmp_path / 'whole'}"]) == 0
    from mitune.stages import climbing as stage

    drawn: list[int] = []

    def counting(denoiser: Any, prompts: list[str], *rest: Any) -> Any:
        if len(drawn) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        drawn.append(len(prompts))
        return referee.climb(denoiser, prompts, *rest)

    monkeypatch.setattr(stage, "climb", counting)
    assert main(words) == TEMPORARY
    monkeypatch.undo()
    assert main(words) == 0
    mine, other = tmp_path / "run" / "samples" / "001", tmp_path / "whole"
    assert rows(mine) == rows(other)
    assert read_json(mine / "sample.json")["search"] == read_json(other / "sample.json")["search"]


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["sampler=inversion"], ["search.by=rcp", "reward=clip"]),
        (["sampler=inversion", "reward=jpeg"], ["search.by=rcp", "'jpeg' has none", "sampler=das"]),
        (["sampler=inversion", "reward=clip+0.1*jpeg", "CLIP"], ["'clip+0.1*jpeg' has none"]),
        (["sampler=inversion", "reward=llr"], ["search.by=rcp", "llr is measured on the sampler's path"]),
        (["sampler=inversion", "reward=clipp"], ["search.reward", "did you mean 'clip'"]),
        (["CLIP", "sample.scorers=[mi,contrast]"], ["sample.scorers: mi", "sample.scorers=[contrast]"]),
        (["CLIP", "sample.by=das", "sample.of=4"], ["sample.by", "no weights"]),
        (["CLIP", "search.rcp.warmup=3"], ["search.rcp.warmup=3 is not below search.rcp.steps=3"]),
        (["CLIP", "search.rcp.referee_weight=0"], ["no say"]),
        (["CLIP", "search.rcp.views.erase=[0.4,0.1]"], ["search.rcp.views.erase=[0.4,0.1]", "exchange them"]),
        (["CLIP", "search.rcp.distill.times=[0.9]"], ["search.rcp.distill.times", "two numbers"]),
        (["CLIP", "search.rcp.start=nois"], ["search.rcp.start=nois", "did you mean 'noise'"]),
        (["CLIP", "sampler.balance=elbo"], ["search.by=rcp with sampler.balance=elbo"]),
    ],
)
def test_mistakes_are_one_line(
    arguments: Arguments, climbing: tuple[str, ...], refused: Refused, words: list[str], hints: list[str]
) -> None:
    own = [one for word in words for one in (climbing if word == "CLIP" else [word])]
    plain = ["scorers=[contrast]", "sample.scorers=[contrast]"] if "CLIP" not in words else []
    if words[-1] == "CLIP":  # the judge is there, and the reward is the words'
        own = [*words[:-1], *(one for one in climbing if not one.startswith(("reward=", "sampler=")))]
    line = refused(arguments("sample", *plain, *own))
    for hint in hints:
        assert hint in line


def test_candidates_have_no_scores_of_a_path(
    arguments: Arguments, climbing: tuple[str, ...], refused: Refused
) -> None:
    line = refused(arguments("generate", *climbing, "scorers=[mi,contrast]"))
    assert (
        "scorers: mi is measured on the sampler's path, which search.by=rcp leaves; say scorers=[contrast]"
        in line
    )


@pytest.mark.parametrize("stage", ["generate", "sample"])
def test_its_steps_are_those_of_the_climb(
    arguments: Arguments, climbing: tuple[str, ...], stage: str, tmp_path: Path
) -> None:
    config = compose([*arguments(stage, *climbing)[1:], "select.by=reward"])
    assert opening(stage, config, tmp_path, 1).endswith("pictures of each prompt, 3 steps up clip")


def test_blip_2_and_sums_of_judges_are_climbed(
    arguments: Arguments, climbing: tuple[str, ...], tmp_path: Path
) -> None:
    for judge in ("blip2_itm", "clip+0.5*blip2_itm"):
        out = tmp_path / judge
        words = [one for one in climbing if not one.startswith("reward=")]
        own = (
            f"reward={judge}",
            f"scorer.blip2_itm.path={build_blip2(tmp_path / 'blip')}",
            f"sample.out={out}",
        )
        assert main(arguments("sample", *words, *own, "sample.prompt=a red circle", "sample.pictures=2")) == 0
        assert all(np.isfinite(row["reward"]) for row in rows(out))
        assert "blip" in read_json(out / "candidates" / "model.json")["judges"]["reward"]


def test_a_flow_climbs_too(tmp_path: Path) -> None:
    words = (
        *("experiment=shapes_flow", "sampler=inversion", "reward=clip", "scorer.clip.path=shapes"),
        *(
            "scorer.clip.form=cosine",
            "scorers=[contrast,elbo]",
            "sample.prompt=a red circle",
            "sample.pictures=2",
        ),
    )
    assert main(["sample", *words, *FEW, f"sample.out={tmp_path / 'out'}"]) == 0
    made = read_json(tmp_path / "out" / "sample.json")
    assert (made["forwards"], made["search"]["silent"]) == (2 * 3 * 2, 0)
