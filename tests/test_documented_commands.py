"""What README.md and the quick start tell to type works, and works on the user's own model.

Here the commands run in this process, and those that draw for hours on a real model get small numbers at their end.
``make test-wheel`` types everything literally, in an environment that was made from the wheel.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from benchmarks.docs import PAGES as ALL_PAGES
from mitune import cli
from mitune.config import compose
from mitune.config.composition import asked
from mitune.stages.catalogue import STAGES, meant
from mitune.verbs.catalogue import VERBS
from tests.documented import MODEL, PAGES, ROOT, Typed, furnish, told, typed

SMALL = [
    "prompts.limit=2", "evaluate.prompts.limit=2", "evaluate.candidates=1", "sampler.steps=2", "generate.candidates=2",
    "select.k=1", "train.steps=1", "train.batch_size=2",
]  # fmt: skip


def small(words: list[str]) -> list[str]:
    """The words of a command, with small numbers where it trains."""
    verb, *given = words
    if verb not in ("run", "demo"):
        return words
    own = compose([*(["experiment=shapes"] if verb == "demo" else []), *given])
    return [*words, *SMALL, *(["select.losers=1"] if own.select.losers else [])]


def test_what_the_pages_say_works_on_the_users_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = [one for one in told() if act(one)]
    assert len(done) >= 14, capsys.readouterr()
    for config in tmp_path.glob("runs/*/config.yaml"):
        model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["path"]
        assert model == (MODEL if config.parent.name != "shapes" else "shapes")
    assert (tmp_path / "runs" / "small" / "summary.json").is_file()
    assert (tmp_path / "picture.png").is_file()


def act(one: Typed) -> bool:
    """Type it, and tell whether it was for MI-Tune or Python; fail where it does."""
    if one.kind == "python":
        exec(compile(one.text, one.page, "exec"), {})
        return True
    program, *words = one.words
    if program == "pip":
        return False
    assert program == "mitune", f"{one.page} says {one.text}: neither tried nor known"
    assert cli.main(small(words)) == 0, f"{one.page}: {one.text}"
    return True


@pytest.mark.parametrize("page", PAGES)
def test_it_is_installed_as_the_makefile_does(page: str) -> None:
    (torch,) = re.findall(r"torch==[\d.]+", (ROOT / "Makefile").read_text(encoding="utf-8"))
    lines = [one.text for one in typed(page) if one.words[0] == "pip"]
    assert lines == [f"pip install -c constraints.txt {what}" for what in (torch, ".")]


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_other_command_has_words_that_are_known(page: str) -> None:
    """Of the examples in the other pages: the stages and keys exist, and take the values that they are given."""
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    for line in "".join(text.replace("\\\n", " ") for kind, text in blocks if not kind).splitlines():
        found = re.match(r"(?:mitune|accelerate launch .* -m mitune|docker run .* mitune) (.*)", line)
        verb, *words = shlex.split(found[1]) if found else ["help"]
        assert verb in {*STAGES, *VERBS}, line
        verb, words = meant(verb, words)
        if verb in STAGES and "-m" not in words:
            asked([word for word in words if word != "…" and not word.startswith("-")])
