"""Whatever is said on the command line: a configuration that can run, or one line and exit code 2.

Fresh seeds every time; what fails is printed by hypothesis with the words that did it. ``--everything`` tries ten
times as many.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mitune.cli import STAGES
from mitune.config import flatten, groups, read_saved
from mitune.config.keys import Key, keys
from mitune.errors import UserError, complain
from mitune.runs import RunFolder
from mitune.stages.inputs import candidate_sampler, sampler_of, selecting
from mitune.stages.racing import cuts_of
from mitune.stages.sample import sample_folder
from mitune.sweep.arguments import grid, read
from tests.cli import compose, main
from tests.times import TIMES

# What no key is meant for, or what another reader takes for something else than it says.
NASTY = (
    *("", " ", "null", "~", "none", "???", "nan", "inf", "-inf", ".inf", ".nan", "-.INF", "NaN", "Infinity"),
    *("0", "-0", "-1", "1", "2", "3", "7", "0.5", "-0.5", "1.5", "1e3", "1e30", "1e400", "-1e400", "5e-324"),
    *("010", "0x10", "0b11", "0o7", "1_000", "1:30", "12:30:45", "+5", "١", "１", "½", "1,5", "1.", ".5", "1e"),
    *("2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808", "9" * 5000),
    *("true", "false", "yes", "no", "on", "off", "True", "y", "2001-01-01", "2001-01-01 00:00:00", "!!str 1"),
    *("[]", "[[]]", "[1]", "[1,2]", "[[1,2],[3]]", "[,]", "[a", "a]", "[null]", "[~]", "[.inf]", "[nan,1]"),
    *("[1,", "[0.9,0.999]", "[0.9,1]", "[-1]", "[1e999]", "[true]", "[a,a]", "['a','b,c']", "[a b]", "[a: b]"),
    *("&a 1", "*a", "[&a 1,*a]", "!!python/object/apply:os.system [id]", "!!binary aGk=", "!x", "<<: 1"),
    *("{a: 1}", "{}", "- 1", "? a", "a: b", "a #b", "#", "'", '"', "''", "=", "a=b=c", "%s", "{0}", "$HOME", "`id`"),
    *("${name}", "${oc.env:HOME}", "${oc.decode:1}", "$\\{name}", "\\${name}", "${", "${}", "${nothing}"),
    *("a\nb", "a\r\nb", "a\tb", "a\0b", "\x1b[31mred", "a\u2028b", "\u202eabc", "\udcff", "\ud800", "\ufeff"),
    *("x" * 300, "x" * 20_000, "[" * 3000, "{" * 3000, "a/" * 3000, "e\u0301", "😀", "-x", "--help", "--1"),
    *("/", ".", "..", "~nobody-at-all/x", "/dev/null", "/dev/null/x", "/proc/self/mem", "a//b", "nul", "C:\\x"),
    *("mi", "llr", "elbo", "contrast", "oracle", "z(mi)", "z(mi)+z(elbo)", "1e999*mi", "9" * 400 + "*mi", "mi+"),
    *("-mi", "0*mi", "random", "combined", "das", "reward", "clip", "[mi,llr]", "[mi,mi]", "mi,contrast"),
    *("[oracle]", "[mi,1e400*elbo]"),
)  # fmt: skip
# What of a model the checks before it is loaded would ask: the layout of its sampler's steps.
MODEL: Any = SimpleNamespace(
    sampler_defaults={"spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
)
SIGNS = ("", "", "", "", "", "+", "++", "~", "-", " ", "@", "=", "\udcff")


def _likely(key: Key) -> st.SearchStrategy[str]:
    """Texts that the key may well take."""
    limits = key.limits
    if limits.choices:
        one = st.sampled_from(limits.choices)
    elif key.kind is bool:
        one = st.sampled_from(["true", "false"])
    elif key.kind is int:
        ends = [str(end) for end in (limits.low, limits.high) if end is not None]
        one = st.integers(-2, 1100).map(str) | st.sampled_from(ends or ["1"])
    elif key.kind is float:
        one = st.floats(-2, 3).map(repr) | st.floats().map(repr)
    else:
        one = st.text(max_size=12) | st.sampled_from(["a", "mi", "shapes"])
    if key.many:
        return st.lists(one, max_size=3).map(lambda items: f"[{','.join(items)}]")
    return one


def _values(name: str) -> st.SearchStrategy[str]:
    return st.one_of(
        _likely(keys()[name]), _likely(keys()[name]), st.sampled_from(NASTY), st.text(max_size=20)
    )


NAMES = list(keys())
ONE = st.sampled_from(NAMES).flatmap(lambda name: _values(name).map(lambda text: f"{name}={text}"))
OPTION = st.sampled_from(sorted(groups())).flatmap(
    lambda group: st.sampled_from(groups()[group]).map(lambda option: f"{group}={option}")
)
ODD = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=12),
    st.tuples(st.sampled_from(SIGNS), ONE).map("".join),
    st.tuples(st.sampled_from(sorted(groups())), st.sampled_from(NASTY)).map("=".join),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NASTY)).map("".join),
)
WORDS = st.lists(st.one_of(ONE, ONE, ONE, OPTION, ODD), min_size=1, max_size=4)


def said_in_one_line(error: UserError) -> None:
    """The message comes out as one line that a terminal does not obey."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        complain(str(error))
    line = told.getvalue()
    assert line.endswith("\n")
    assert line.rstrip("\n").isprintable() or not any(letter < " " for letter in line.rstrip("\n"))
    assert line.count("\n") == 1
    assert len(line) < 1500
    line.encode()


def written_is_read_back(values: dict[str, Any], words: list[str]) -> None:
    """Of the keys that ``words`` name: all of them would take long."""
    given = {word.partition("=")[0] for word in words} & values.keys()
    if given:
        path = Path(tempfile.gettempdir()) / f"mitune-fuzz-{os.getpid()}.yaml"
        nested = OmegaConf.create()
        for name in given:
            OmegaConf.update(nested, name, values[name])
        path.write_text(OmegaConf.to_yaml(nested), encoding="utf-8")
        assert read_saved(path) == {name: values[name] for name in given}


def check_before_anything_is_loaded(words: list[str]) -> bool:
    """Compose, and do what stages do before they open a model; whether the words are accepted."""
    try:
        config = compose(words)
        values = flatten(config)
        json.dumps(values, allow_nan=False).encode()
        written_is_read_back(values, words)
        RunFolder(config.run)
        sample_folder(config)
        selecting(config)
        sampler_of(config, MODEL)
        candidate_sampler(config, MODEL)
        cuts_of(config)
    except UserError as error:
        said_in_one_line(error)
        return False
    return True


def fuzz(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def test_every_key_takes_or_refuses_every_value() -> None:
    taken = []

    @fuzz(1500 * TIMES)
    @given(ONE)
    def run(word: str) -> None:
        taken.append(check_before_anything_is_loaded([word]))

    run()
    assert 0.1 < sum(taken) / len(taken) < 0.95  # both happen: the test sees something


def test_words_together_are_a_configuration_or_a_line() -> None:

    @fuzz(800 * TIMES)
    @given(WORDS)
    def run(words: list[str]) -> None:
        check_before_anything_is_loaded(words)

    run()


def test_a_sweep_of_anything_is_a_list_of_jobs_or_a_line() -> None:
    value = st.sampled_from(
        [*NASTY, "range(1,4)", "range(0,1e12)", "choice(1,2)", "interval(0,1)", "shuffle(a,b)"]
    )

    @fuzz(200 * TIMES)
    @given(st.sampled_from(NAMES), st.lists(value, min_size=1, max_size=3))
    def run(name: str, texts: list[str]) -> None:
        try:
            words = read([f"{name}={','.join(texts)}"])
            for job in (words.swept and grid(words.swept)) or []:
                assert job.keys() == {name}
        except UserError as error:
            said_in_one_line(error)

    run()


@settings(max_examples=150, deadline=None)
@given(st.lists(ODD, max_size=2))
def test_odd_words_for_a_stage_are_a_line(words: list[str]) -> None:
    words = [word for word in words if word.split("=")[0] not in STAGES]
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main(["run", "--cfg", *words] if len(words) < 2 else words)
    assert code in (0, 2)
    assert told.getvalue().count("\n") == (1 if told.getvalue() else 0)


TINY = (
    *("experiment=shapes_attention", "model.device=cpu", "prompts.limit=1", "evaluate.prompts.limit=1"),
    *("generate.candidates=2", "select.k=1", "sampler.steps=2", "scorers=[mi]", "select=mi", "generate.batch_size=4"),
    *("train.steps=1", "train.batch_size=1", "adapter.rank=1", "adapter.targets=[to_q]", "train.checkpoint_every=1"),
    *("sample.pictures=1", "sample.scorers=[mi]"),
)  # fmt: skip
# Which stage reads a key soonest.
READ_BY = {
    "sample": ("sample.", "seed", "search.", "model.", "sampler.eta", "sampler.guidance", "sampler.variance"),
    "generate": ("sampler.", "scorer.elbo", "scorer.mi", "scorer.cas", "scorer.llr", "generate.", "prompts."),
    "train": ("adapter.", "train."),
}
# Of what is only a matter of patience, the small values.
SLOW = {
    *("sampler.steps", "generate.candidates", "train.steps", "sample.of", "sample.pictures", "adapter.rank"),
    *("prompts.limit", "prompts.per_category", "train.batch_size", "scorer.cas.probes", "scorer.cas.steps"),
    *(
        "scorer.cas.recursion",
        "model.resolution",
        "scorer.elbo.times",
        "scorer.mi_image.times",
        "train.compile",
    ),
    *("scorer.llr_image.times", "scorer.llr_image.paths", "train.validation_prompts"),
}
# What writes elsewhere by its meaning, or takes minutes by it.
APART = {"sample.out", "model.device", "model.compile", "train.compile"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose candidates are drawn and selected."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    for stage in ("generate", "select"):
        assert main([stage, *TINY, f"run={folder}"]) == 0
    return folder


def _tries(seed: int) -> Iterator[tuple[str, str]]:
    """(stage, word): keys of all stages in turn, with a value that composition takes."""
    rng = random.Random(seed)
    stages = list(READ_BY)
    number = 0
    while True:
        stage = stages[number % len(stages)]
        names = [name for name in NAMES if name.startswith(READ_BY[stage]) and name not in APART]
        key = keys()[rng.choice(names)]
        text = rng.choice(NASTY) if rng.random() < 0.5 else _drawn_value(key, rng)
        try:
            value = compose([*TINY, word := f"{key.name}={text}"])
        except UserError:
            continue
        if key.name in SLOW and flatten(value)[key.name] not in (None, False, 1, 2, 3):
            continue
        number += 1
        yield stage, word


def _drawn_value(key: Key, rng: random.Random) -> str:
    limits = key.limits
    if limits.choices:
        one = rng.choice(limits.choices)
    elif key.kind is bool:
        one = rng.choice(("true", "false"))
    elif key.kind is str:
        one = rng.choice(NASTY)
    else:
        low = limits.low if limits.low is not None else limits.above if limits.above is not None else -5
        high = limits.high if limits.high is not None else limits.below if limits.below is not None else 5
        number = rng.choice((low, high, (low + high) / 2, low + 1, rng.uniform(low, high), rng.uniform(0, 3)))
        one = str(int(number)) if key.kind is int else repr(float(number))
    return f"[{one}]" if key.many else one


def _listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_is_accepted_runs_or_is_refused_in_a_line(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 50 * TIMES
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")
    place, temporary = tmp_path / "here", tmp_path / "tmp"
    place.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = _listing(tmp_path)
    codes = []
    for _, (stage, word) in zip(range(count), _tries(seed), strict=False):
        run = place / "run"
        if stage == "train":
            shutil.copytree(drawn, run, symlinks=True)
        print(ascii(f"{stage} {word[:200]}"))
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            codes.append(main([stage, *TINY, word, f"run={run}"]))
        lines = [line for line in told.getvalue().splitlines() if not line.startswith("mitune: warning:")]
        assert codes[-1] in (0, 2)
        assert len(lines) == (codes[-1] == 2), told.getvalue()
        shutil.rmtree(run, ignore_errors=True)
        assert _listing(tmp_path) == before
    assert codes.count(0) > count // 5
