"""A run folder is the configuration of the commands that follow: what words change of it, and what they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mitune.config import compose, flatten, groups
from mitune.config.composition import kept
from mitune.errors import UserError
from mitune.runs import RunFolder

OWN = ["model.path=/m", "prompts.source=p.txt", "evaluate.prompts.source=h.txt"]


def saved(folder: Path, words: Sequence[str]) -> dict[str, object]:
    """Keep what the words ask for as a run's configuration; gives it."""
    config = compose([*words, f"run={folder}"])
    RunFolder(folder).remember(config)
    (folder / "agree" / "candidates").mkdir(parents=True, exist_ok=True)
    (folder / "agree" / "candidates" / "plan.json").write_text("{}")  # a command has begun
    return flatten(config)


MORE = [
    ["sampler=das", "reward=clip", "rounds=3", "train.lr=0.5"],
    ["model=sdxl", "select=elbo", "scorers=[elbo]", "sampler.guidance=2", "tracker=[wandb,tensorboard]"],
    [
        "prompts.source=own.txt",
        "evaluate.prompts.source=held.tsv",
        "sampler=dpmpp_2m",
        "adapter=lora",
        "scorers=[mi]",
        "select=mi",
    ],
]


@pytest.mark.parametrize(
    "words",
    [
        *([f"experiment={preset}"] for preset in groups()["experiment"]),
        *(["experiment=shapes", *more] for more in MORE),
        ["experiment=mitune", *MORE[0]],
        MORE[2],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_the_same_words_give_the_same_again(words: list[str], tmp_path: Path) -> None:
    words = [*words, f"run={tmp_path}"]
    first = saved(tmp_path, words)
    assert flatten(compose(words)) == first
    assert flatten(compose([f"run={tmp_path}"])) == first


def test_a_folder_in_which_nothing_has_begun_is_no_run(tmp_path: Path) -> None:
    RunFolder(tmp_path).remember(compose([*OWN, "seed=7"]))  # as a refused command leaves it
    assert (compose([f"run={tmp_path}"]).seed, compose([f"run={tmp_path}"]).model.path) == (0, None)


def test_words_change_what_the_run_says_and_leave_the_rest(tmp_path: Path) -> None:
    before = saved(tmp_path, ["experiment=shapes", "prompts.limit=7", "train.lr=0.25", "sampler.steps=5"])
    now = flatten(compose([f"run={tmp_path}", "train.lr=0.5", "rounds=2"]))
    assert {name: value for name, value in now.items() if before[name] != value} == {
        "train.lr": 0.5,
        "rounds": 2,
    }


def test_an_option_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    before = saved(tmp_path, ["experiment=shapes", "sampler=das", "reward=clip", "model=sdxl"])
    assert (before["search.by"], before["sampler.guidance"]) == ("das", 1.5)
    now = flatten(compose([f"run={tmp_path}", "sampler=ddpm", "reward=null", "model=shapes"]))
    assert (now["search.by"], now["sampler.name"], now["model.path"]) == (None, "ddpm", "shapes")
    assert (now["sampler.steps"], now["sampler.guidance"]) == (9, 1.5)  # the preset's, not an option's


def test_the_runs_preset_sets_all_that_it_mentions_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, ["experiment=shapes", "prompts.limit=7", "model.path=/mine", "train.log_every=3"])
    words = [f"run={tmp_path}", "experiment=shapes"]
    now = flatten(compose(words))
    assert (now["prompts.limit"], now["model.path"], now["train.log_every"]) == (120, "shapes", 3)
    assert kept(words, now) == {"train.log_every": 3}  # and it is said
    assert kept([*words, "train.log_every=3"], now) == kept([f"run={tmp_path}"], now) == {}


def test_another_preset_is_meant_whole_but_for_what_it_leaves_open(tmp_path: Path) -> None:
    saved(tmp_path, [*OWN, "experiment=mitune", "train.log_every=3", "seed=5"])
    now = flatten(compose([f"run={tmp_path}", "experiment=paper"]))
    alone = flatten(compose([f"run={tmp_path / 'other'}", "experiment=paper", *OWN]))
    assert now == alone | {"run": str(tmp_path)}
    (tmp_path / "round-1" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"seed \(5 there, 0 now\), .* and \d+ more"):
        RunFolder(tmp_path).remember(compose([f"run={tmp_path}", "experiment=paper"]))


def test_a_job_of_a_sweep_is_what_its_words_say(tmp_path: Path) -> None:
    share = f"sweep.share={tmp_path}"
    saved(tmp_path, ["experiment=shapes", "seed=3", share])
    assert compose([f"run={tmp_path}", "experiment=shapes", share]).seed == 0
    assert compose([f"run={tmp_path}"]).seed == 3


def test_export_without_words_goes_by_the_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = compose(OWN).run
    with pytest.raises(UserError, match="holds no run"):
        compose([], "export")
    saved(Path(folder), [*OWN, "generate.candidates=9", "select.k=3"])
    assert (compose([], "export").model.path, compose([], "export").select.k) == ("/m", 3)


def test_what_is_of_one_command_is_not_of_the_run(tmp_path: Path) -> None:
    saved(
        tmp_path,
        [*OWN, "round=2", "sample.prompt=a cat", "launch=cpu_2", "export.private=true", "agree.prompts=9"],
    )
    now = compose([f"run={tmp_path}"])
    assert (now.round, now.sample.prompt, now.launch, now.export.private, now.agree.prompts) == (
        1,
        None,
        None,
        False,
        9,
    )


def test_a_folder_that_nobody_named_is_not_taken_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path(compose().run), OWN)
    assert compose().model.path is None
    assert compose([f"run={compose().run}"]).model.path == "/m"


@pytest.mark.parametrize(
    ("stage", "words", "named"),
    [
        ("run", [], ["model.path=", "prompts.source=", "evaluate.prompts.source="]),
        ("run", OWN[1:], ["model.path="]),
        ("run", ["model=sdxl"], ["prompts.source=", "evaluate.prompts.source="]),
        ("generate", OWN[:1], ["prompts.source="]),
        ("evaluate", OWN[:2], ["evaluate.prompts.source="]),
        ("sample", OWN[1:], ["model.path="]),
        ("sample", OWN[:1], ["prompts.source="]),
        ("score", ["score.source=x"], ["model.path="]),
        ("agree", [], ["model.path=", "prompts.source="]),
        ("calibrate", OWN[1:], ["model.path="]),
    ],
)
def test_no_stage_has_a_model_or_prompts_of_its_own(stage: str, words: list[str], named: list[str]) -> None:
    with pytest.raises(UserError, match=f"^{stage} needs .*mitune demo") as caught:
        compose(words, stage)
    asked = str(caught.value).partition(", or run=")[0]
    assert [word for word in asked.split() if word.endswith("=")] == named


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("sample", [*OWN[:1], "sample.prompt=a cat"]),
        ("agree", ["agree.source=t.parquet"]),
        ("train", OWN[:1]),
        ("run", OWN),
    ],
)
def test_what_is_not_needed_is_not_asked_for(stage: str, words: list[str]) -> None:
    compose(words, stage)


def test_the_oracle_is_left_out_of_a_presets_lists_where_it_cannot_judge() -> None:
    own = compose(["experiment=shapes", "prompts.source=own.txt"])
    assert "oracle" not in [*own.scorers, *own.agree.scorers]
    assert "oracle" in own.evaluate.scorers  # the held-out prompts are still the world's
    assert "oracle" not in compose(["experiment=shapes", "evaluate.prompts.source=own.txt"]).evaluate.scorers
    asked = compose(["experiment=shapes", "prompts.source=own.txt", "scorers=[oracle]", "select.by=oracle"])
    assert asked.scorers == ["oracle"]  # by name: refused when the prompts are read
    for stage in ("run", "agree", "sample"):
        plain = compose(OWN, stage)
        assert "oracle" not in [
            *plain.scorers,
            *plain.agree.scorers,
            *plain.evaluate.scorers,
            *plain.sample.scorers,
        ]
