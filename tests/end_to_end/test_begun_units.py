"""Told to leave in the middle of a unit: its finished batches are kept, and the end is that of a whole run."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from mitune.command import INTERRUPTED
from mitune.data.store import CandidateStore, plan_units
from mitune.errors import UserError
from mitune.files import user_errors
from mitune.leaving import TEMPORARY
from mitune.stages import begun, candidates
from mitune.tasks import Task
from tests.cli import main
from tests.end_to_end.test_resume import contents

Arguments = Callable[..., list[str]]
# Four prompts of three candidates, in units of six and batches of two.
UNITS = ("generate.rows_per_unit=6", "generate.batch_size=2")
BATCHES = 6


class Drawn(list[int]):
    """The sizes of the batches that were drawn, and when drawing is struck."""

    strikes: tuple[int, Any] | None = None

    def struck(self, number: int, death: Any = signal.SIGTERM) -> None:
        """From now on none is drawn yet; while the ``number``-th is, comes the signal, or the error."""
        self.clear()
        self.strikes = number, death


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is drawn from now on."""
    sizes, real = Drawn(), candidates.sample_population

    def counting(denoiser: Any, condition: Any, seeds: list[int], *rest: Any) -> Any:
        if sizes.strikes is not None and len(sizes) == sizes.strikes[0] - 1:
            death, sizes.strikes = sizes.strikes[1], None
            if isinstance(death, BaseException):
                raise death
            os.kill(os.getpid(), death)
        found = real(denoiser, condition, seeds, *rest)
        sizes.append(len(seeds))
        return found

    monkeypatch.setattr(candidates, "sample_population", counting)
    return sizes


def saved(path: Path) -> int:
    """How many candidates such a file holds."""
    with safetensors.safe_open(path, framework="pt") as file:
        return len(file.get_tensor("seeds"))


def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "round-1" / "candidates"


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What an uninterrupted command leaves: made once, by the first test."""
    return {}


@pytest.mark.parametrize(("batch", "kept"), [(1, 0), (3, 4), (5, 2)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, TEMPORARY), (signal.SIGINT, INTERRUPTED)])
def test_at_most_the_batch_in_hand_is_drawn_again(
    batch: int,
    kept: int,
    number: int,
    code: int,
    arguments: Arguments,
    drawn: Drawn,
    whole: dict[str, Any],
    tmp_path: Path,
) -> None:
    command = arguments("generate", *UNITS)
    if not whole:
        assert main([*command, f"run={tmp_path / 'whole'}"]) == 0
        whole.update(contents(tmp_path / "whole"))
        assert drawn == [2] * BATCHES
    drawn.struck(batch, number)
    assert main(command) == code
    assert len(drawn) == batch - 1
    assert [saved(path) for path in folder(tmp_path).glob("begun-*")] == ([kept] if kept else [])
    drawn.clear()
    assert main(command) == 0
    assert len(drawn) == BATCHES - (batch - 1)
    assert contents(tmp_path / "run") == whole
    assert not list(folder(tmp_path).glob("begun-*"))


def test_a_process_that_is_killed_keeps_what_was_saved(
    arguments: Arguments, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every so often the finished batches are saved; here after each."""
    monkeypatch.setattr(begun, "EVERY", -1.0)
    drawn.struck(3, RuntimeError("as dead"))
    with pytest.raises(RuntimeError, match="as dead"):
        main(arguments("generate", *UNITS))
    (file,) = folder(tmp_path).glob("begun-*")
    assert saved(file) == 4
    drawn.clear()
    assert main(arguments("generate", *UNITS)) == 0
    assert drawn == [2] * (BATCHES - 2)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _changed(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        note, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["latents"][0] += 1
    safetensors.torch.save_file(tensors, path, note)


def _of_other_seeds(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        note, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["seeds"] += 1
    said = json.loads(note["note"])
    said["sha256"] = begun._digests(tensors)
    safetensors.torch.save_file(tensors, path, {"note": json.dumps(begun.seal(said))})


def _of_other_settings(path: Path) -> None:
    with safetensors.safe_open(path, framework="pt") as file:
        note, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    said = json.loads(note["note"]) | {"how": "another"}
    safetensors.torch.save_file(tensors, path, {"note": json.dumps(begun.seal(said))})


def _empty(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)


@pytest.mark.parametrize("harm", [_cut, _changed, _of_other_seeds, _of_other_settings, _empty])
def test_batches_that_are_not_as_they_were_are_drawn_again(
    harm: Callable[[Path], None],
    arguments: Arguments,
    drawn: Drawn,
    tmp_path: Path,
) -> None:
    drawn.struck(3)
    assert main(arguments("generate", *UNITS)) == TEMPORARY
    (path,) = folder(tmp_path).glob("begun-*")
    harm(path)
    drawn.clear()
    assert main(arguments("generate", *UNITS)) == 0
    assert drawn == [2] * BATCHES
    assert not list(folder(tmp_path).glob("begun-*"))


def test_a_finished_unit_has_no_begun_one_beside_it(
    arguments: Arguments, drawn: Drawn, tmp_path: Path
) -> None:
    """A kill between a unit's commit and the removal of its batches."""
    drawn.struck(3)
    assert main(arguments("generate", *UNITS)) == TEMPORARY
    (path,) = folder(tmp_path).glob("begun-*")
    left = path.read_bytes()
    assert main(arguments("generate", *UNITS)) == 0
    path.write_bytes(left)
    (tmp_path / "run" / "round-1" / "done" / "generate.json").unlink()
    assert main(arguments("generate", *UNITS)) == 0
    assert not path.exists()


def test_a_pipe_of_that_name_is_not_waited_for(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = folder(tmp_path) / "begun-000000.safetensors"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    store, unit = CandidateStore(path.parent), plan_units([Task.of("a")], 1, 1)[0]
    monkeypatch.setattr(begun.safetensors, "safe_open", lambda *_, **__: pytest.fail("a pipe was opened"))
    assert begun.BegunUnit(store, unit, "model", "how", None).resume([1]) == 0  # type: ignore[arg-type]


OUT_OF_MEMORY = torch.OutOfMemoryError("as out of memory")


@pytest.mark.parametrize(("error", "kept"), [(OUT_OF_MEMORY, 4), (UserError("as not to be drawn"), 0)])
def test_what_the_machine_refuses_costs_no_batch_of_an_earlier_command(
    error: Exception, kept: int, arguments: Arguments, drawn: Drawn, tmp_path: Path
) -> None:
    """What the configuration is refused for lets go of the folder: the corrected command may be another one."""
    drawn.struck(3)
    assert main(arguments("generate", *UNITS)) == TEMPORARY
    drawn.struck(1, error)
    assert main(arguments("generate", *UNITS)) == 2
    assert [saved(path) for path in folder(tmp_path).glob("begun-*")] == ([kept] if kept else [])
    assert (folder(tmp_path) / "plan.json").exists() == bool(kept)
    drawn.clear()
    assert main(arguments("generate", *UNITS)) == 0
    assert len(drawn) == BATCHES - kept // 2


def test_a_disk_that_is_full_does_not_keep_a_command_from_leaving(
    arguments: Arguments,
    drawn: Drawn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def full(path: Path, *_: Any) -> None:
        with user_errors(path):
            raise OSError(errno.ENOSPC, "", str(path))

    monkeypatch.setattr(begun, "write_tensors", full)
    drawn.struck(3)
    assert main(arguments("generate", *UNITS)) == TEMPORARY
    said = capsys.readouterr().err
    assert said.count("warning: cannot write") == 1
    assert "told to leave by SIGTERM" in said
    assert (tmp_path / "run" / ".requeue").exists()
    monkeypatch.undo()
    assert main(arguments("generate", *UNITS)) == 0
