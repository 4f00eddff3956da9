"""Signals: they raise at once, or wait for a good moment, and leave no trace behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from mitune import cli, leaving
from mitune.errors import UserError
from mitune.leaving import TEMPORARY, Leave


@pytest.mark.parametrize("number", leaving.SIGNALS)
def test_a_signal_raises_where_the_process_is(number: int) -> None:
    before = signal.getsignal(number)
    with leaving.signals():
        assert not leaving.asked()
        with pytest.raises(Leave) as caught:
            os.kill(os.getpid(), number)
        assert caught.value.code == TEMPORARY == os.EX_TEMPFAIL
        assert signal.Signals(number).name in str(caught.value.line)
        assert leaving.asked()
        os.kill(os.getpid(), number)  # it is on its way out: no second one
        leaving.check()
    assert signal.getsignal(number) == before
    assert not leaving.asked()


def test_it_is_no_error_that_somebody_handles() -> None:
    def careless() -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)

    with leaving.signals(), pytest.raises(Leave):
        careless()


def test_it_waits_where_it_is_deferred() -> None:
    with leaving.signals():
        with leaving.deferred():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert leaving.asked()
            leaving.check()
        with pytest.raises(Leave):
            leaving.check()


def end(leave: Leave) -> None:
    """As another thread does it."""
    thread = threading.Thread(target=leaving.end, args=(leave,))
    thread.start()
    thread.join()
    for _ in range(1000):  # the interpreter notices between two of its steps
        pass


def test_an_end_does_not_wait() -> None:
    with leaving.signals(), leaving.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Leave) as caught:
            end(Leave(2, None))
        assert caught.value.code == 2


def test_it_interrupts_the_main_one() -> None:
    with leaving.signals(), pytest.raises(Leave, match="gone"):
        end(Leave(1, "gone"))


def test_a_new_command_has_not_been_asked() -> None:
    with leaving.signals(), pytest.raises(Leave):
        os.kill(os.getpid(), signal.SIGTERM)
    with leaving.signals():
        assert not leaving.asked()
        leaving.check()


def test_another_thread_than_the_main_one_listens_to_nothing() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with leaving.signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Leave(TEMPORARY, "told to leave"), 75, "mitune: told to leave\n"),
        (Leave(2), 2, ""),
        (UserError("two\nlines"), 2, "mitune: two lines\n"),
        (OSError(28, "No space left on device", "/there"), 2, "mitune: cannot use /there: the disk is full"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_main", fail)
    assert cli.main(["run"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert shown.count("\n") == (1 if said else 0)


def test_the_help_says_which_code_means_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert f"{TEMPORARY} told to leave by SIGTERM or SIGUSR1" in capsys.readouterr().out


def test_other_errors_of_the_system_are_not_hidden(monkeypatch: Any, tmp_path: Path) -> None:
    def fail(arguments: list[str]) -> int:
        raise FileNotFoundError(2, "No such file", str(tmp_path))

    monkeypatch.setattr(cli, "_main", fail)
    with pytest.raises(FileNotFoundError):
        cli.main(["run"])
