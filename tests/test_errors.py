from __future__ import annotations

import io

import pytest

from mitune.errors import UserError, check_known, complain, first_line, nearest


def test_nearest_names_the_closest_choice() -> None:
    assert nearest("contarst", ["mi", "contrast", "llr"]) == ", did you mean 'contrast'?"


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("xyzzy", ["mi", "contrast"]) == ""
    assert nearest("mi", []) == ""


def test_nearest_takes_any_iterable_once() -> None:
    assert (
        nearest("tensorbord", (name for name in ("wandb", "tensorboard"))) == ", did you mean 'tensorboard'?"
    )


def test_what_is_not_known_is_named_with_its_place_and_what_there_is() -> None:
    known = {"mse": 1, "dpo": 2}
    check_known("train.objective", "dpo", known)
    with pytest.raises(UserError) as caught:
        check_known("train.objective", "dpoo", known)
    assert str(caught.value) == "train.objective='dpoo' is not known, did you mean 'dpo'? (known: mse, dpo)"
    with pytest.raises(UserError, match=r"train\.objective=False is not known"):  # a bare no, in YAML
        check_known("train.objective", False, known)  # type: ignore[arg-type]


def test_of_another_librarys_error_the_first_line_is_told() -> None:
    assert first_line(ValueError("\n  Error 404:\nthe page is gone")) == "Error 404:"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(OSError(" \n")) == "OSError"


def test_user_error_is_no_builtin_error() -> None:
    # The command line catches UserError alone: a ValueError from a bug must stay visible as a traceback.
    assert UserError.__bases__ == (Exception,)
    assert str(UserError("what: where; way out")) == "what: where; way out"


def test_a_complaint_is_one_line_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Shared(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr("sys.stderr", Shared())
    complain("two\n  lines")
    assert written == ["mitune: two lines\n"]
