from __future__ import annotations

import io

import pytest

from mitune.cli import STAGES
from mitune.errors import UserError, check_known, complain, first_line, nearest, printable


def test_nearest_names_the_closest_choice() -> None:
    assert nearest("contarst", ["mi", "contrast", "llr"]) == ", did you mean 'contrast'?"


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("xyzzy", ["mi", "contrast"]) == ""
    assert nearest("mi", []) == ""
    assert nearest("x" * 100_000, ["contrast"]) == ""


@pytest.mark.parametrize(
    "word", ["doctor", "status", "serve", "search", "help", "init", "resume", "start", "test"]
)
def test_nothing_unlike_is_offered(word: str) -> None:
    assert nearest(word, STAGES) == ""


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(
            ("generaet", "generate"),
            ("evalute", "evaluate"),
            ("smaple", "sample"),
            ("trian", "train"),
            ("rnu", "run"),
        ),
        *(
            ("scroe", "score"),
            ("expotr", "export"),
            ("gen", "generate"),
            ("eval", "evaluate"),
            ("Train", "train"),
        ),
        *(("calibration", "calibrate"), ("selct", "select"), ("aggree", "agree"), ("samples", "sample")),
    ],
)
def test_slips_of_the_finger_are_seen(word: str, meant: str) -> None:
    assert nearest(word, STAGES) == f", did you mean '{meant}'?"


def test_a_complaint_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    complain("\x1b[31mred\x07 \udcff \u202eabc \u2028 é 😀")
    assert capsys.readouterr().err == "mitune: \\x1b[31mred\\x07 \\udcff \\u202eabc é 😀\n"
    assert printable("a\nb") == "a\\nb"


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


def test_an_over_long_line_keeps_its_thing_and_its_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"search.reward={'[' * 5000}: nothing is steered by it; say sampler=das")
    line = capsys.readouterr().err
    assert len(line) < 1500
    assert line.startswith("mitune: search.reward=[[[")
    assert line.endswith("nothing is steered by it; say sampler=das\n")
    complain("a" * 1300)
    assert capsys.readouterr().err == f"mitune: {'a' * 1300}\n"
