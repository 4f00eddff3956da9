"""The run folder: its memory of the configuration, its marks, its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mitune.config import compose as compose_plainly
from mitune.config import flatten, read_saved
from mitune.errors import UserError
from mitune.runs import RunFolder
from tests.cli import compose


def begin(run: RunFolder, *signs: str) -> None:
    """Leave the traces of stages that have begun."""
    for sign in signs:
        path = run.round(1) / sign
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_the_configuration_is_written_resolved(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    config = compose([f"run={run.root}", "seed=7"])
    run.remember(config)
    assert OmegaConf.load(run.root / "config.yaml") == config
    run.remember(config)


def test_another_configuration_is_refused_naming_every_key(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.remember(compose(["sampler.guidance=2.0"]))
    before = (tmp_path / "config.yaml").read_text()
    begin(run, "candidates/plan.json")
    with pytest.raises(UserError) as caught:
        run.remember(compose(["seed=1", "sampler.guidance=3.5", "train.steps=7"]))
    message = str(caught.value)
    assert "seed (0 there, 1 now)" in message
    assert "sampler.guidance (2.0 there, 3.5 now)" in message
    assert "train.steps" not in message  # training has not begun
    assert (tmp_path / "config.yaml").read_text() == before


def test_a_stage_that_has_not_begun_may_be_configured_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.remember(compose())
    begin(run, "candidates/plan.json")
    run.remember(compose(["select=mi", "train.steps=7", "evaluate.candidates=2"]))
    assert OmegaConf.load(tmp_path / "config.yaml").train.steps == 7
    begin(run, "done/select.json", "checkpoints/step-000001/state.json")
    with pytest.raises(UserError, match=r"select\.by .*train\.steps"):
        run.remember(compose())


def test_what_selects_is_fixed_once_latents_were_dropped_by_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.remember(compose(["generate.keep=1", "select.k=1"]))
    begin(run, "candidates/plan.json")
    with pytest.raises(UserError, match=r"select\.by"):
        run.remember(compose(["generate.keep=1", "select.k=1", "select=mi"]))


def test_more_rounds_another_device_and_batch_are_taken_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.remember(compose())
    begin(run, "candidates/plan.json", "done/select.json", "checkpoints/x", "after/plan.json")
    run.remember(compose(["rounds=3", "model.device=cpu", "generate.batch_size=7", "tracker=tensorboard"]))
    assert OmegaConf.load(tmp_path / "config.yaml").rounds == 3


def test_a_key_of_a_later_version_counts_as_its_default(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    old = OmegaConf.create(OmegaConf.to_yaml(compose()))
    del old.sampler["variance"]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(old))
    begin(run, "candidates/plan.json")
    run.remember(compose())
    with pytest.raises(UserError, match=r"sampler\.variance"):
        run.remember(compose(["sampler.variance=large"]))


@pytest.mark.parametrize("text", ["a: [", "- 1\n"])
def test_a_damaged_memory_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        RunFolder(tmp_path).remember(compose())


def test_marks_are_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.mark(2, "train") is None
    run.write_mark(2, "train", {"loss": 0.5})
    assert run.mark(2, "train") == {"loss": 0.5}


def test_prepare_removes_what_was_left_half_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.prepare(1)
    left = [tmp_path / ".partial-x", run.round(1) / ".partial-y"]
    for path in left:
        path.write_text("half")
    with run.lock():
        run.prepare(1)
    assert not any(path.exists() for path in left)


def test_two_commands_do_not_share_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.lock():
        with pytest.raises(UserError, match="another mitune is at work"), RunFolder(tmp_path).lock():
            raise AssertionError("the lock was given twice")
        code = "import sys; from mitune.runs import RunFolder\nwith RunFolder(sys.argv[1]).lock(): pass"
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "UserError" in other.stderr
    with run.lock():
        assert (tmp_path / ".lock").exists()


HOSTILE = [
    *("run: ${oc.env:SECRET}", "run: ${oc.decode:1}", "name: ${run}", "seed: ${name}", "scorers: ['${oc.env:SECRET}']"),
    *("run: &a x\nname: *a", "seed: !!python/object/apply:os.getpid []", "name: !!binary aGk=", "seed: 010 x"),
    *("seed: .nan", "train:\n  lr: .inf", "seed: [1]", "train: 3", "seed:\n  a: 1", "nonsense: 1", "seed: 1\nseed: 2"),
    *("generate:\n  candidates: 2147483648", "a: [", "- 1", "", "text", "--- 1\n--- 2", "seed: ???", "1: 2", "null: 1"),
    *("a: " + "[" * 5000, "seed: " + "9" * 5000, 'name: "a\\0b"', 'name: "\\e[31m"', "seed: 2001-01-01", "rounds: 0"),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=[ascii(text[:30]) for text in HOSTILE])
def test_a_saved_configuration_is_data(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hf_secret")
    run = RunFolder(tmp_path)
    begin(run, "candidates/plan.json")
    (tmp_path / "config.yaml").write_text(text)
    config = compose()
    for read in (lambda: compose([f"run={tmp_path}"]), lambda: run.remember(config)):
        with pytest.raises(UserError, match=r"config\.yaml") as caught:
            read()
        assert "hf_secret" not in str(caught.value)
    assert (tmp_path / "config.yaml").read_text() == text


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"seed: 1\0", b"name: \xff"])
def test_a_saved_configuration_that_is_no_text(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(data)
    begin(RunFolder(tmp_path), "candidates/plan.json")
    with pytest.raises(UserError, match=r"config\.yaml"):
        compose([f"run={tmp_path}"])


def test_what_is_written_is_read_back_whatever_it_holds(tmp_path: Path) -> None:
    words = [
        *("name=yes", "run=1e5", "prompts.split=0x10", "sample.prompt=a: b #c", "select.difficulty=1e-5"),
        *("model.variant=null and", "scorer.clip.prefix=", "model.revision=2001-01-01", "train.lr=1e-10"),
    ]
    config = compose(words)
    RunFolder(tmp_path).remember(config)
    begin(RunFolder(tmp_path), "candidates/plan.json")
    assert read_saved(tmp_path / "config.yaml") == flatten(config)
    # But for what is of one command.
    own = {"run": str(tmp_path), "sample.prompt": None}
    assert flatten(compose_plainly([f"run={tmp_path}"])) == flatten(config) | own


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("file", "not a folder|a file is where"),
        ("file/below", "not a folder"),
        ("loop/x", "circle"),
        ("pipe", "file"),
        ("/proc/x", "cannot write /proc/x"),
    ],
)
def test_a_run_folder_that_cannot_be(place: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=hint), RunFolder(tmp_path / place).lock():
        raise AssertionError("there is no such folder")


def test_the_home_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such user"):
        RunFolder("~nobody-at-all/run")


@pytest.mark.parametrize(
    "name",
    ["round-1/x", "summary.json", "unit-1.json", "top/x", "scores.parquet", "agree/x", "report.html"],
)
def test_a_folder_of_somebody_else_is_not_written_to(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"{name.partition('/')[0]} is there.* not written by mitune"):
        RunFolder(tmp_path).remember(compose())
    assert not (tmp_path / "config.yaml").exists()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", [".lock", "config.yaml", ".requeue"])
def test_a_pipe_in_the_folder_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    run = RunFolder(tmp_path)
    if name == ".requeue":  # taken away, as an old one is
        with run.lock():
            run.remember(compose())
        return
    with pytest.raises(UserError, match="is a named pipe"), run.lock():
        run.remember(compose())


@pytest.mark.parametrize("key", ["  rank", "seed", "  variance"])
def test_a_key_that_was_taken_out_by_hand_is_missed(key: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    config = compose([f"run={tmp_path}", "adapter.rank=8", "seed=0"])
    run.remember(config)
    begin(run, "candidates/plan.json")
    path = tmp_path / "config.yaml"
    whole = path.read_text()
    (found,) = [own for own in whole.splitlines(keepends=True) if own.startswith(f"{key}:")]
    path.write_text(whole.replace(found, ""))
    total = len(flatten(config))
    said = rf"config\.yaml holds {total - 1} of the {total} keys .*such as .*{key.strip()}\)"
    for read in (
        lambda: compose([f"run={tmp_path}"]),
        lambda: run.remember(config),
        lambda: read_saved(path),
    ):
        with pytest.raises(UserError, match=said):
            read()
    path.write_text(whole.replace(found, "").partition("\n")[2])  # of a version that knew no such key
    assert len(read_saved(path)) == total - 1
    path.write_text("".join(whole.splitlines(keepends=True)[: whole.count("\n") // 2]))  # cut
    with pytest.raises(UserError, match="keys that were written"):
        run.remember(config)
