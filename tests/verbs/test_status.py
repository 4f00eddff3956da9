"""``mitune status``: what is done, at work and next; it never writes, and holds nobody up."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mitune import cli
from mitune.stages.catalogue import ROUND

Shown = Callable[[list[str]], str]
Refused = Callable[[list[str]], str]
Held = Callable[[Path], AbstractContextManager[None]]


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its time and size."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_finished_run_is_told_stage_by_stage_with_what_comes_next(run: Path, shown: Shown) -> None:
    before = contents(run)
    text = shown(["status", str(run)])
    for number in (1, 2):
        for stage in ROUND:
            assert f"round {number}: {stage}: " in text
    assert "generated 12 candidates of 4 prompts" in text
    assert "evaluated 4 held-out pictures: mi " in text
    assert "at work: no" in text
    assert f"next: mitune export run={run}" in text
    assert shown(["status", f"run={run}"]) == text
    assert contents(run) == before


def test_a_stage_under_way_says_how_far_it_is(run: Path, shown: Shown) -> None:
    for stage in ("train", "evaluate"):
        (run / f"round-2/done/{stage}.json").unlink()
    (run / "round-2/checkpoints/step-000004").rename(run / "round-2/checkpoints/step-000002")
    rows = (run / "round-2/metrics.jsonl").read_text().splitlines(keepends=True)
    torn = '{"time": 1.0, "stage": "train", "st'
    (run / "round-2/metrics.jsonl").write_text(rows[0] + torn)
    text = shown(["status", str(run)])
    first = json.loads(rows[0])
    assert (
        f"round 2: train: begun, step {first['step']} of 4, loss {first['loss']:.4f}, saved at step 3" in text
    )
    assert f"next: mitune run run={run}" in text
    (run / "round-2/done/select.json").unlink()
    (run / "round-2/done/generate.json").unlink()
    (run / "round-2/candidates/unit-000003.parquet").unlink()
    text = shown(["status", str(run)])
    assert "round 2: generate: begun, candidates: 3 of 4 units (12 pictures in all)" in text


def test_a_stage_at_work_tells_how_long_it_will_take(run: Path, shown: Shown, held: Held) -> None:
    """By the pace of the last rows, or units."""
    for stage in ROUND[1:]:
        (run / f"round-2/done/{stage}.json").unlink(missing_ok=True)
    for number, path in enumerate(sorted((run / "round-2/candidates").glob("unit-*.parquet"))):
        os.utime(path, (1000 + 60 * number, 1000 + 60 * number))
    (run / "round-2/candidates/unit-000003.parquet").unlink()
    rows = [{"time": 1000.0 + 90 * step, "stage": "train", "step": step, "loss": 0.5} for step in (1, 2)]
    (run / "round-2/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "round-2/done/generate.json").rename(run / "generate.json")
    with held(run):
        assert "3 of 4 units (12 pictures in all), about 60 s left" in shown(["status", str(run)])
        (run / "generate.json").rename(run / "round-2/done/generate.json")
        (run / "round-2/done/select.json").write_text("{}")
        assert "step 2 of 4, loss 0.5000, saved at step 4, about 3 min left" in shown(["status", str(run)])


def test_another_process_at_work_is_seen_and_not_held_up(run: Path, shown: Shown, held: Held) -> None:
    (run / "round-2/done/evaluate.json").unlink()
    with held(run):
        before = contents(run)
        text = shown(["status", str(run)])
        assert "at work: yes" in text
        assert "round 2: evaluate: at work" in text
        assert "next: wait" in text
        assert contents(run) == before
        assert "at work, after train of round 2" in shown(["ls", str(run.parent)])
    assert "at work: no" in shown(["status", str(run)])


def test_a_run_told_to_leave_says_so(run: Path, shown: Shown) -> None:
    (run / ".requeue").touch()
    assert "told to leave" in shown(["status", str(run)])
    assert (run / ".requeue").exists()


def test_an_old_run_folder_is_told(old: Path, shown: Shown) -> None:
    text = shown(["status", str(old)])
    assert "generated 12 candidates of 4 prompts" in text
    assert f"next: mitune export run={old}" in text


def test_what_is_damaged_is_said_and_the_rest_told(run: Path, shown: Shown) -> None:
    (run / "config.yaml").write_text("model: [\x1b")
    (run / "round-1/done/select.json").write_text("{")
    (run / "round-1/done/train.json").write_text('{"steps": "\\u001b[31m"}')
    (run / "round-2/candidates/plan.json").write_text("[]")
    text = shown(["status", str(run)])
    assert "the configuration cannot be read" in text
    assert "round 1: select: done (its mark is damaged" in text
    assert "round 1: train: done (its mark is damaged" in text
    assert "round 1: evaluate: evaluated 4" in text
    assert "\x1b" not in text


def test_a_folder_of_pictures_drawn_alone_is_told(run: Path, shown: Shown) -> None:
    for path in run.glob("round-*"):
        shutil.move(path / "candidates", run / "samples" / path.name / "candidates")
        shutil.rmtree(path)
    assert "samples/round-2/candidates: 4 of 4 units (12 pictures in all)" in shown(["status", str(run)])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["status"], "give the folder of one run"),
        (["status", "a", "b"], "give the folder of one run"),
        (["status", "no/such"], "there is no folder no/such"),
        (["status", "."], "holds no run"),
        (["status", "runs"], "mitune ls runs lists the runs in it"),
        (["report", "\0"], "NUL"),
    ],
)
def test_what_is_no_run_is_refused_in_a_line(
    words: list[str], line: str, run: Path, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "runs" / "another")
    assert line in refused(words)


@pytest.mark.slow
def test_status_and_ls_take_no_torch(run: Path) -> None:
    code = "import sys; from mitune.cli import main; assert main(sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    start = [sys.executable, "-c", code]
    for words in (["status", str(run)], ["ls", str(run.parent)], ["--help"], ["clean", "--help"]):
        done = subprocess.run([*start, *words], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_command_that_is_next_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], shown: Shown
) -> None:
    (run / "round-2/done/evaluate.json").unlink()
    for ends in ("round 2: evaluated", "exported round 2"):
        line = shown(["status", str(run)]).splitlines()[-1]
        command = shlex.split(line.removeprefix("next: ").partition("    (")[0])
        assert command[0] == "mitune"
        assert cli.main(command[1:]) == 0
        assert ends in capsys.readouterr().out
