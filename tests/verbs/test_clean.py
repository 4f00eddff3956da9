"""``mitune clean``: it lists, deletes on demand, and what is left reports, exports and goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from mitune.verbs.clean import DRAWN, YES
from tests.cli import main
from tests.end_to_end.conftest import Arguments

Shown = Callable[[list[str]], str]
Refused = Callable[[list[str]], str]


def files(folder: Path) -> dict[str, str]:
    """{file below a folder: digest}."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_without_a_word_it_only_lists(run: Path, shown: Shown) -> None:
    before = files(run)
    text = shown(["clean", str(run)])
    assert "round-1/checkpoints: 2 checkpoints of a finished training" in text
    assert "round-2/candidates: 4 files of latents (48 network evaluations" in text
    assert "nothing was deleted" in text
    shown(["clean", str(run), DRAWN])
    assert files(run) == before


def test_checkpoints_of_finished_trainings_go_and_all_else_stays(run: Path, shown: Shown) -> None:
    before = files(run)
    (run / "round-2/done/train.json").unlink()
    (run / ".requeue").touch()
    text = shown(["clean", str(run), YES])
    gone = before.keys() - files(run).keys()
    assert gone == {name for name in before if name.startswith("round-1/checkpoints/")} | {
        "round-2/done/train.json"
    }
    assert (run / "round-1/checkpoints").is_dir()  # a training has begun: its settings stay fixed
    assert (run / ".requeue").exists()
    assert "freed" in text


def test_a_cleaned_run_reports_exports_and_tells_its_status(
    run: Path, shown: Shown, made: tuple[Path, Arguments]
) -> None:
    before = files(run)
    shown(["clean", YES, DRAWN, f"run={run}"])
    left = files(run)
    gone = before.keys() - left.keys()
    assert {Path(name).suffix for name in gone if "checkpoints" not in name} == {".safetensors"}
    assert not [name for name in gone if "adapter/" in name and "checkpoints" not in name]
    assert all(before[name] == digest for name, digest in left.items())
    assert "nothing in" in shown(["clean", str(run)])
    assert "there was nothing to delete" in shown(["clean", str(run), YES, DRAWN])
    assert f"next: mitune export run={run}" in shown(["status", str(run)])
    shown(["report", str(run)])
    shown(["export", f"run={run}"])
    assert (run / "export" / "README.md").is_file()
    # What was drawn is drawn again, as it was, where a command asks for it; the changed setting is refused as before.
    words = made[1]("run", "rounds=2", "generate.keep=1000", "train.keep_checkpoints=2", f"run={run}")
    assert main([*words, "train.lr=0.5"]) == 2
    shown(words)
    again = files(run)
    assert all(again[name] == before[name] for name in gone if "checkpoints" not in name)


def test_it_refuses_while_another_command_is_at_work(
    run: Path, shown: Shown, refused: Refused, held: Callable[[Path], AbstractContextManager[None]]
) -> None:
    with held(run):
        before = files(run)
        assert "another mitune is at work" in refused(["clean", str(run), YES])
        assert "a command is at work there: nothing can be deleted now" in shown(["clean", str(run)])
        assert files(run) == before
    shown(["clean", str(run), YES])


def test_links_lead_out_of_the_run_and_are_left_alone(run: Path, shown: Shown, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for place in ("round-1/candidates", "round-2/checkpoints"):
        aside = shared / place.replace("/", "-")
        shutil.move(run / place, aside)
        (run / place).symlink_to(aside)
    step = next((run / "round-1/checkpoints").glob("step-*"))
    shutil.move(step, shared / "step")
    step.symlink_to(shared / "step")
    unit = next((run / "round-2/candidates").glob("unit-*.safetensors"))
    shutil.move(unit, shared / unit.name)
    unit.symlink_to(shared / unit.name)
    before = files(shared)
    text = shown(["clean", str(run)])
    assert "left alone: " in text
    shown(["clean", str(run), YES, DRAWN])
    assert files(shared) == before
    assert unit.is_symlink()
    assert step.is_symlink()


def test_a_users_own_files_stay(run: Path, shown: Shown) -> None:
    own = [
        run / "round-1/checkpoints/step-000004/notes.txt",
        run / "round-1/checkpoints/best.safetensors",
        run / "round-1/candidates/mine.safetensors",
        run / "round-1/candidates/unit-999999.safetensors",  # of no table
        run / "mine/plan.txt",
    ]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    shown(["clean", str(run), YES, DRAWN])
    assert all(path.read_text() == "mine" for path in own)
    assert (own[0].parent / "state.json").is_file()


def test_what_is_yet_needed_stays(run: Path, shown: Shown) -> None:
    """A training whose adapter is gone ends from its checkpoint; candidates not selected from, and pictures of an
    evaluation not done, are used yet."""
    (run / "round-1/adapter/pytorch_lora_weights.safetensors").write_bytes(b"harmed")
    (run / "round-2/done/select.json").unlink()
    (run / "round-2/done/evaluate.json").unlink()
    before = files(run)
    shown(["clean", str(run), YES, DRAWN])
    gone = before.keys() - files(run).keys()
    kept = ("round-1/checkpoints/", "round-2/candidates/", "round-2/after/", "baseline-")
    assert not [name for name in gone if name.startswith(kept)]
    assert [name for name in gone if name.startswith("round-1/candidates/")]


def test_half_written_files_of_a_killed_command_go(run: Path, shown: Shown) -> None:
    (run / "round-1/.partial-step-000004").mkdir()
    (run / "round-1/.partial-step-000004/state.json").write_text("{}")
    (run / ".partial-abc").write_text("half")
    begun = [run / f"round-1/candidates/begun-00000{number}.safetensors" for number in (3, 9)]
    for path in begun:
        path.write_text("some batches")
    text = shown(["clean", str(run), YES])
    assert "half-written" in text
    assert not list(run.rglob(".partial-*"))
    assert [path.exists() for path in begun] == [
        False,
        True,
    ]  # the second unit is not finished: it goes on from there


def test_an_old_run_is_cleaned_alike(old: Path, shown: Shown) -> None:
    shown(["clean", str(old), YES])
    assert not list(old.glob("round-*/checkpoints/*"))
    shown(["export", f"run={old}"])


def test_damaged_marks_keep_what_they_speak_of(run: Path, shown: Shown) -> None:
    (run / "round-1/done/train.json").write_text("{")
    shown(["clean", str(run), YES])
    assert list((run / "round-1/checkpoints").iterdir())
    assert not list((run / "round-2/checkpoints").iterdir())


def test_its_options_are_told_and_slips_refused(run: Path, refused: Refused, shown: Shown) -> None:
    assert "did you mean '--yes'?" in refused(["clean", str(run), "--yse"])
    assert "there is no option --yes" in refused(["status", str(run), YES])
    assert YES in shown(["clean", "--help"])
    assert os.path.isdir(run / "round-1/checkpoints")
