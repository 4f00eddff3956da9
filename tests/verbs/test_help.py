"""The verbs in the help: one page for all, usage for each, slips told, completion for the shell."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mitune.completion import complete
from mitune.errors import UserError
from mitune.manual import PAGE, WIDTH
from mitune.scores import SCORES
from mitune.verbs.catalogue import VERBS
from tests.cli import compose, main

Shown = Callable[[list[str]], str]


def test_the_overview_is_a_page_that_names_every_verb_with_its_meaning(shown: Shown) -> None:
    text = shown(["--help"])
    lines = text.splitlines()
    assert len(lines) <= PAGE
    assert max(map(len, lines)) <= WIDTH
    for name, verb in VERBS.items():
        assert [line for line in lines if line.split()[:1] == [name] and verb.meaning in line], name
    assert shown(["help"]) == text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_how_it_is_called(name: str, shown: Shown) -> None:
    verb = VERBS[name]
    for words in ([name, "--help"], [name, "-h"], [name, "x", "--help"]):
        text = shown(words)
        assert f"mitune {name}: {verb.meaning}" in text
        assert f"usage: mitune {name} {verb.takes}".rstrip() in text
        assert all(option in text and said[:30] in text for option, said in verb.options.items())
        assert max(map(len, text.splitlines())) <= WIDTH
    assert f"usage: mitune {name}" in shown(["help", name])


def test_a_wrong_verb_or_option_is_told_the_nearest(refused: Callable[[list[str]], str]) -> None:
    assert "did you mean 'status'?" in refused(["stauts", "runs/x"])
    assert "did you mean 'init'?" in refused(["inti"])
    assert "there is no option --cfg" in refused(["ls", "--cfg"])


def test_the_demo_only_shows_its_configuration_where_it_is_asked_to(shown: Shown) -> None:
    assert "name: shapes\n" in shown(["demo", "--cfg", "select.k=2"])


def test_completion_knows_verbs_and_their_options_and_leaves_folders_to_the_shell() -> None:
    assert complete(["st"]) == ["status"]
    assert set(complete([""])) >= {*VERBS}
    assert complete(["clean", "--"]) == [*VERBS["clean"].options, "--help"]
    assert complete(["status", "ru"]) == []
    assert "train.steps=" in complete(["demo", "train.st"])
    assert complete(["help", "cle"]) == ["clean"]
    assert main(["complete", "ini"]) == 0


def test_all_scores_are_listed(shown: Shown) -> None:
    """An error names the model's own scores, and where the others are told."""
    with pytest.raises(
        UserError, match=r"choose among mi, .*, or a judge of pictures \(mitune help scores\)"
    ):
        compose(["scorers=[spatial_owlv1]"])
    text = shown(["help", "scores"])
    assert all(f"  {name} " in text for name in SCORES)
