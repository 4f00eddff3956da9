from __future__ import annotations

from mitune.errors import UserError, nearest


def test_nearest_names_the_closest_choice() -> None:
    assert nearest("contarst", ["mi", "contrast", "llr"]) == ", did you mean 'contrast'?"


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("xyzzy", ["mi", "contrast"]) == ""
    assert nearest("mi", []) == ""


def test_nearest_takes_any_iterable_once() -> None:
    assert (
        nearest("tensorbord", (name for name in ("wandb", "tensorboard"))) == ", did you mean 'tensorboard'?"
    )


def test_user_error_is_no_builtin_error() -> None:
    # The command line catches UserError alone: a ValueError from a bug must stay visible as a traceback.
    assert UserError.__bases__ == (Exception,)
    assert str(UserError("what: where; way out")) == "what: where; way out"
