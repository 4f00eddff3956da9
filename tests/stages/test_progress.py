"""What a command says of how far it is: lines in a log, bars on a terminal, numbers that nobody waits for."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults.server import ENVIRONMENT
from mitune.pace import in_time
from mitune.stages import progress
from tests.cli import main

WORDS = [
    *("experiment=shapes", "prompts.limit=3", "generate.candidates=2", "generate.rows_per_unit=2", "sampler.steps=2"),
    *("scorers=[mi,llr]", "select=mi", "generate.guidance=null", "select.k=1", "model.device=cpu"),
]  # fmt: skip
LINE = re.compile(r"mitune \d\d:\d\d:\d\d (.*)")


def told(text: str) -> list[str]:
    """What the lines of progress say, without their clocks."""
    return [found[1] for line in text.splitlines() if (found := LINE.fullmatch(line))]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every hundredth of a second."""
    monkeypatch.setenv("MITUNE_LOG_EVERY", "0.01")


@pytest.mark.usefixtures("often")
def test_a_log_says_what_begins_and_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *WORDS, f"run={tmp_path}"]) == 0
    shown = capsys.readouterr()
    first, *lines = told(shown.err)
    assert first == (
        f"generate in {tmp_path}: model shapes on cpu in float32, 1 process; 2 pictures of each prompt, 2 steps of ddim"
    )
    drawn = [line for line in lines if line.startswith("round 1: generate ")]
    assert re.fullmatch(r"round 1: generate 0/6 candidates, \d+ s so far", drawn[0])
    assert any(
        re.fullmatch(r"round 1: generate [24]/6 candidates, .*(/s|each), \d+ s left; mi \S+, llr \S+", line)
        for line in drawn
    )
    assert not told(shown.out)
    counts = [int(re.search(r"(\d)/6 candidates", line)[1]) for line in drawn]  # type: ignore[index]
    assert counts == sorted(counts)
    assert {*counts} <= {0, 2, 4, 6}


@pytest.mark.usefixtures("often")
def test_a_run_says_which_of_its_stages_is_at_work_and_training_its_loss(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *WORDS,
        f"model.path={tiny_pipeline_folder}",
        "train.steps=6",
        "train.batch_size=2",
        "train.log_every=1",
    ]
    words += [
        "evaluate.prompts.limit=1",
        "evaluate.candidates=1",
        "evaluate.scorers=[mi]",
        "adapter.targets=[]",
    ]
    words += ["adapter.rank=2", "evaluate.examples=1", f"run={tmp_path / 'run'}"]
    assert main(["run", *words]) == 0
    lines = told(capsys.readouterr().err)
    assert lines[1].startswith(
        "plan: 1 round: 3 prompts x 2 candidates, 6 training steps of 2 pictures, 1 held-out"
    )
    for part in ("stage 1 of 4, round 1: generate ", "stage 3 of 4, round 1: train ", "stage 4 of 4, "):
        assert any(line.startswith(part) for line in lines), part
    assert any(re.search(r"train [1-6]/6 steps, .*; loss \d", line) for line in lines)


def test_nothing_is_said_where_nothing_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MITUNE_LOG_EVERY", "0")
    assert main(["generate", *WORDS, f"run={tmp_path}"]) == 0
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar_of_the_stages_and_one_of_the_stage_at_work(tmp_path: Path) -> None:
    """Standard error is a terminal, standard output a file: bars on the one, what stays in the other."""
    code = """
import time
from mitune.stages.progress import overall, progress, say, warn
with overall("run", 2) as finished:
    with progress("round 1: draw [bold]", 4) as bar:
        bar(2, {"mi": [1.0, 2.0]})
        time.sleep(0.4)  # it is drawn ten times a second
        say("a line that stays")
        warn("a warning")
        bar(2, {"mi": [6.0, None]})
    finished()
"""
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("w") as out:
        done = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=out,
            stderr=theirs,
            env=os.environ | ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "160"},
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(ours)
    assert done.wait() == 0
    text = shown.decode()
    assert (tmp_path / "out").read_text() == "a line that stays\n"
    assert "a line that stays" not in text
    assert "mitune: warning: a warning" in text
    assert "round 1: draw [bold]" in text
    assert "1/2" in text
    assert "mi 1.5" in text
    assert not told(text)


def test_the_time_left_goes_by_what_this_command_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = progress.Bar("draw", 100, done=40)
    bar(10, here=False)  # found on disk
    assert bar.rate == 0
    now = 110.0
    bar(20)
    assert (bar.done, bar.rate, bar.left) == (70, 2.0, 15.0)
    now = 113.0  # a batch is under way: the rate is that of what is finished, and time passes
    assert (bar.rate, bar.left) == (2.0, 12.0)
    assert bar.line() == "draw 70/100 candidates, 2.0/s, 12 s left"


def test_means_leave_out_who_was_dropped() -> None:
    bar = progress.Bar("draw", 4)
    bar(2, {"mi": [1.0, None], "llr": [None, None]})
    bar(2, {"mi": [float("nan"), 4.0]})
    assert bar.figures == {"mi": 2.5}


def test_what_a_title_holds_commands_no_terminal(capsys: pytest.CaptureFixture[str], often: None) -> None:
    progress.note("model \x1b[31mred\nand more")
    (line,) = capsys.readouterr().err.splitlines()
    assert LINE.fullmatch(line)
    assert "\\x1b[31mred and more" in line


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99, "99 s"), (100, "1.7 min"), (7300, "2.0 h"), (400_000, "4.6 days")],
)
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert in_time(seconds) == said
