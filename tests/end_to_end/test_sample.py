"""Pictures for people: ``sample`` plain, the best of many, steered; DAS as the drawer of ``generate``'s candidates."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import load_dataset, load_from_disk

from mitune.data.store import CandidateStore
from mitune.files import read_json
from mitune.referees.catalogue import JpegConfig
from mitune.referees.jpeg import JpegReward
from mitune.stages.candidates import decode_rows
from mitune.stages.inputs import load_model
from mitune.stages.sample import choose
from tests.cli import compose, main
from tests.referees.conftest import build_clip

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
JPEG = ("sampler=das", "reward=jpeg", "alpha=0.5")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clip(tmp_path_factory.mktemp("judge") / "clip")


def rows(folder: Path) -> list[dict[str, Any]]:
    """What ``metadata.jsonl`` says."""
    return [json.loads(line) for line in (folder / "pictures" / "metadata.jsonl").read_text().splitlines()]


def test_plain_pictures_are_a_dataset(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("sample", "sample.pictures=2")) == 0
    folder = tmp_path / "run" / "samples" / "001"
    found = rows(folder)
    assert [row["file_name"] for row in found] == [f"{number:06d}.png" for number in range(8)]
    assert [row["candidate"] for row in found] == [0, 1] * 4
    assert all(math.isfinite(row["mi"]) for row in found)
    data = load_dataset("imagefolder", data_dir=str(folder / "pictures"), split="train")
    assert data["text"] == [row["text"] for row in found]
    assert (folder / "sheet.png").read_bytes().startswith(b"\x89PNG")
    made = read_json(folder / "sample.json")
    assert (made["prompts"], made["drawn"], made["pictures"], made["by"]) == (4, 8, 8, None)
    assert made["forwards"] == 8 * 2 * 2
    assert made["judged_by"]["mi"]["judge"] == made["model"]
    shown = capsys.readouterr().out
    assert "drew 8 pictures of 4 prompts" in shown
    assert f"judged by mi: the model itself ({made['model']})" in shown
    # The same command finds its pictures made; another one wants a folder of its own.
    before = (folder / "candidates" / "unit-000000.parquet").stat().st_mtime_ns
    assert main(arguments("sample", "sample.pictures=2")) == 0
    assert (folder / "candidates" / "unit-000000.parquet").stat().st_mtime_ns == before


def test_sample_draws_what_generate_draws_and_the_best_of_them(arguments: Arguments, tmp_path: Path) -> None:
    assert main(arguments("generate")) == 0
    table = CandidateStore(tmp_path / "run" / "round-1" / "candidates").table()
    assert main(arguments("sample", "sample.pictures=1", "sample.of=3", "sample.by=llr")) == 0
    best = table.loc[table.groupby("prompt_id", sort=False)["llr"].idxmax()]
    found = pd.DataFrame(rows(tmp_path / "run" / "samples" / "001"))
    assert found["candidate"].tolist() == best["candidate"].tolist()
    assert found["seed"].tolist() == best["seed"].tolist()
    np.testing.assert_allclose(found["llr"], best["llr"], rtol=1e-4)


def test_one_prompt_and_the_adapter_of_a_round(
    arguments: Arguments, refused: Refused, tmp_path: Path
) -> None:
    own = ("sample.prompt=a red circle, [bright]", "sample.pictures=2")
    line = refused(arguments("sample", *own, "sample.round=1"))
    assert "mitune train" in line
    for stage in ("generate", "select", "train"):
        assert main(arguments(stage, "train.lr=0.05")) == 0
    assert main(arguments("sample", *own, "train.lr=0.05", "sample.round=0")) == 0
    tuned = (*own, "train.lr=0.05", "sample.round=1", f"sample.out={tmp_path / 'tuned'}")
    assert main(arguments("sample", *tuned)) == 0
    plain, after = rows(tmp_path / "run" / "samples" / "001"), rows(tmp_path / "tuned")
    assert {row["text"] for row in plain} == {"a red circle, [bright]"}
    assert [row["seed"] for row in plain] == [row["seed"] for row in after]
    assert all(one["mi"] != other["mi"] for one, other in zip(plain, after, strict=True))
    assert main(arguments("sample", *own, "train.lr=0.05")) == 0  # by what the run has trained last
    assert rows(tmp_path / "run" / "samples" / "002") == after


def test_a_black_box_reward_steers_and_its_weights_add_up(arguments: Arguments, tmp_path: Path) -> None:
    options = (*JPEG, "generate.candidates=4", "search.particles=2", "select.by=reward", "generate.keep=4")
    assert main(arguments("run", *options)) == 0
    run = tmp_path / "run"
    store = CandidateStore(run / "round-1" / "candidates")
    table = store.table()
    assert len(table) == 16
    # The reward is that of the finished picture, whatever it was on the way.
    model = load_model(compose(arguments("run", *options)[1:]))
    first = table[:4]
    pictures = torch.stack(decode_rows(store, first, model))
    judged = JpegReward(JpegConfig(), "cpu").score(pictures, list(first["prompt"]))
    np.testing.assert_allclose(first["reward"], judged, rtol=0.02)
    # Two populations a prompt: particles 0 and 1 descend from one of these, 2 and 3 of those.
    assert set(table[table["candidate"] < 2]["root"]) <= {0, 1}
    assert set(table[table["candidate"] >= 2]["root"]) <= {2, 3}
    figures = read_json(run / "summary.json")["rounds"][0]["generate"]["search"]
    evidence = [math.log(np.exp(own["das"]).sum() / 4) for _, own in table.groupby("prompt_id", sort=False)]
    assert figures["log_evidence"] == pytest.approx(np.mean(evidence))
    assert figures["died"] == 0
    chosen = load_from_disk(str(run / "round-1" / "dataset"))
    np.testing.assert_allclose(sorted(chosen["score"]), sorted(table.groupby("prompt_id")["reward"].max()))


@pytest.mark.parametrize("reward", ["llr", "mi", "contrast"])
def test_the_model_s_own_information_steers(arguments: Arguments, tmp_path: Path, reward: str) -> None:
    options = ("sampler=das", f"reward={reward}", "search.edits=2", "sample.of=4", "sample.pictures=2")
    assert main(arguments("sample", *options)) == 0
    made = read_json(tmp_path / "run" / "samples" / "001" / "sample.json")
    # Two branches a step; contrast takes two more for its edits.
    assert made["forwards"] == 4 * 4 * 2 * (4 if reward == "contrast" else 2)
    assert (made["pictures"], made["by"]) == (8, "weight")
    assert all(math.isfinite(row["das"]) for row in rows(tmp_path / "run" / "samples" / "001"))


def test_a_clip_pulls_by_its_gradient(arguments: Arguments, clip: Path, tmp_path: Path) -> None:
    judge = (
        f"scorer.clip.path={clip}",
        "scorer.clip.form=cosine",
        "sampler=das",
        "reward=clip",
        "alpha=0.001",
    )
    pull = ("search.ess=0", "search.tempering=constant", "sampler.steps=4", "sample.pictures=4")
    for proposal in ("gradient", "bootstrap"):
        out = f"sample.out={tmp_path / proposal}"
        assert main(arguments("sample", *judge, *pull, f"search.proposal={proposal}", out)) == 0
    # Nothing is resampled, so the gradient alone tells the two apart.
    pulled, free = (
        np.mean([row["reward"] for row in rows(tmp_path / proposal)])
        for proposal in ("gradient", "bootstrap")
    )
    assert pulled > free
    assert "clip" in read_json(tmp_path / "gradient" / "candidates" / "model.json")["judges"]["reward"]


def test_weights_decide_who_is_drawn() -> None:
    table = pd.DataFrame(
        {"prompt_id": ["p"] * 4000, "candidate": range(4000), "das": [math.log(3.0), 0.0] * 2000}
    )
    drawn = choose(table, "weight", 400, seed=int(np.random.default_rng().integers(2**31)))
    share = (drawn["das"] > 0).mean()  # 3/4 less what drawing without replacement takes away, about 0.02
    assert abs(share - 0.74) < 0.02 + 5 * math.sqrt(0.75 * 0.25 / 400)
    assert list(drawn.columns) == ["prompt_id", "candidate", "das"]
    assert choose(table, None, 3)["candidate"].tolist() == [0, 1, 2]


def test_particles_that_die_are_told_and_left_out(
    arguments: Arguments,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    plain = JpegReward.score
    calls = []

    def failing(self: JpegReward, pictures: Any, prompts: list[str]) -> Any:
        scores = plain(self, pictures, prompts).clone()
        calls.append(len(scores))
        if len(calls) == 3:  # two steps, then the finished picture
            scores[1] = math.nan
        return scores

    monkeypatch.setattr(JpegReward, "score", failing)
    options = (*JPEG, "search.ess=0", "sample.pictures=4", "sample.prompt=a red circle")
    assert main(arguments("sample", *options)) == 0
    assert [row["candidate"] for row in rows(tmp_path / "run" / "samples" / "001")] == [0, 2, 3]
    assert "1 of 4 particles of 'a red circle' died" in capsys.readouterr().err

    def useless(self: JpegReward, pictures: Any, prompts: list[str]) -> Any:
        return plain(self, pictures, prompts) * math.inf

    monkeypatch.setattr(JpegReward, "score", useless)
    line = refused(arguments("sample", *options, f"sample.out={tmp_path / 'other'}"))
    assert "NaN or infinite for all particles of the prompt 'a red circle'" in line


def test_a_killed_search_ends_as_the_uninterrupted_one(
    arguments: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(arguments("sample", *JPEG, f"sample.out={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    killed = run_command(arguments("sample", *JPEG), kill=["unit-000001.parquet", 1])
    assert killed.code == -signal.SIGKILL
    assert run_command(arguments("sample", *JPEG)).code == 0
    mine, other = tmp_path / "run" / "samples" / "001", tmp_path / "whole"
    assert rows(mine) == rows(other)
    for path in (other / "pictures").glob("*.png"):
        assert path.read_bytes() == (mine / "pictures" / path.name).read_bytes()


@pytest.mark.slow
def test_two_processes_draw_the_same(
    arguments: Arguments, run_by_two: Callable[[list[str]], Any], tmp_path: Path
) -> None:
    options = ("sampler=das", "reward=llr", "sample.of=4", "sample.pictures=2")
    assert main(arguments("sample", *options, f"sample.out={tmp_path / 'one'}")) == 0
    done = run_by_two(arguments("sample", *options))
    assert done.code == 0, done.err
    one, two = (
        pd.DataFrame(rows(folder)) for folder in (tmp_path / "one", tmp_path / "run" / "samples" / "001")
    )
    pd.testing.assert_frame_equal(one, two, rtol=1e-3)


@pytest.mark.parametrize(
    ("stage", "overrides", "hints"),
    [
        ("sample", ["sampler=das"], ["search.by=das", "reward=clip"]),
        ("sample", ["reward=jpeg"], ["search.reward=jpeg", "sampler=das"]),
        ("sample", ["sampler=das", "reward=jpg"], ["search.reward", "jpg", "did you mean 'jpeg'"]),
        ("sample", ["sampler=das", "reward=jpeg+blip"], ["blip"]),
        ("sample", ["sampler=das", "reward=z(jpeg)"], ["z(jpeg)"]),
        ("sample", ["sampler=das", "reward=oracle"], ["search.reward", "oracle judges prompts of the embedded"]),
        ("sample", [*JPEG[:2], "alpha=0"], ["search.alpha=0", "above 0"]),
        ("sample", [*JPEG[:2], "alpha=-1"], ["search.alpha=-1", "above 0"]),
        ("sample", [*JPEG, "search.particles=0"], ["search.particles=0", "at least 1"]),
        ("sample", [*JPEG, "search.particles=3", "sample.of=4"], ["search.particles=3", "4 candidates"]),
        ("sample", [*JPEG, "sampler.eta=0", "sample.scorers=[mi]", "scorers=[mi]"], ["no noise to choose among"]),
        ("sample", [*JPEG, "search.proposal=gradient"], ["search.proposal=gradient", "'jpeg' is not"]),
        ("sample", ["sampler=das", "reward=llr", "search.proposal=gradient"], ["search.proposal=gradient", "llr"]),
        ("sample", [*JPEG, "search.resampling=fair"], ["search.resampling=fair", "ssp"]),
        ("sample", [*JPEG, "search.tempering=hot"], ["search.tempering=hot", "adaptive"]),
        ("sample", ["sample.of=8"], ["sample.of=8", "sample.by=mi"]),
        ("sample", ["sample.of=2", "sample.pictures=4"], ["sample.pictures=4", "sample.of=2"]),
        ("sample", ["sample.by=das", "sample.of=8"], ["sample.by", "only a search gives das"]),
        ("sample", ["sample.by=blip", "sample.of=8"], ["sample.by", "blip"]),
        ("sample", ["sample.prompt= "], ["sample.prompt", "empty"]),
        ("sample", ["sampler.racing.by=llr", "sampler.racing.survivors=[1]"], ["sampler.racing", "its end"]),
        (
            "generate",
            [*JPEG, "sampler.racing.by=llr", "sampler.racing.survivors=[1]"],
            ["search.by and sampler.racing.by"],
        ),
        ("generate", ["select.by=das"], ["select.by", "only a search gives das"]),
        ("evaluate", [*JPEG, "evaluate.scorers=[das]"], ["evaluate.scorers: das", "clip"]),
        ("score", [*JPEG, "score.scorers=[reward]"], ["score.scorers: reward"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: Arguments, refused: Refused, stage: str, overrides: list[str], hints: list[str]
) -> None:
    line = refused(arguments(stage, *overrides))
    for hint in hints:
        assert hint in line


def test_the_oracle_steers_no_training(refused: Refused, tmp_path: Path) -> None:
    steered = ("sampler=das", "reward=oracle", f"run={tmp_path / 'run'}")
    line = refused(["generate", *steered])
    assert "select=oracle" in line
    assert not (tmp_path / "run" / "round-1" / "candidates").exists()
