"""Rules between keys: each sees the keys that it names alone, and a command is held to those whose keys it reads."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mitune.config import flatten
from mitune.config.keys import keys
from mitune.config.relations import RELATIONS
from mitune.errors import UserError
from mitune.sampling.catalogue import SAMPLERS, is_deterministic
from mitune.stages.catalogue import STAGES, covers
from tests.cli import compose, main

# What one rule, several homes, cost users: command -> what the one line says (None: it is no mistake).
ONE_RULE = [
    (
        "agree model=shapes_flow sampler=euler agree.scorers=[llr,oracle]",
        "agree.scorers: llr needs a stochastic",
    ),
    ("agree sampler=ddim sampler.eta=0 agree.scorers=[llr,oracle]", "agree.scorers: llr needs a stochastic"),
    (
        "agree model=shapes_flow sampler=euler scorers=[mi,contrast,elbo] agree.scorers=[llr,oracle]",
        "agree.scorers",
    ),
    ("run adapter.dropout=1", "adapter.dropout=1.0: must be below 1"),
    ("run train.betas=[5,5]", "train.betas=[5.0, 5.0]: must be below 1"),
    ("run sampler.eta=3", "sampler.eta=3.0: must be at most 1"),
    ("agree agree.positions=[0]", "agree.positions=[0]: must be at least 1"),
    ("run model.guidance_embedding=-4", "model.guidance_embedding=-4.0: must be at least 0"),
    ("run sampler.guidance=inf", "sampler.guidance=inf: must be at least 0 and finite"),
    ("run train.lr=inf", "train.lr=inf: must be at least 0 and finite"),
    ("agree sampler=euler agree.scorers=[oracle]", None),
    ("agree sampler=euler agree.scorers=[mi,oracle] scorers=[mi]", None),
]


@pytest.mark.parametrize(("line", "said"), ONE_RULE, ids=[line for line, _ in ONE_RULE])
def test_one_rule_answers_everywhere_at_once(
    line: str, said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*line.split(), "--cfg"])
    shown = capsys.readouterr()
    if said is None:
        assert (code, shown.err) == (0, "")
        return
    assert code == 2
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_a_rule_names_keys_and_some_stage_reads_them() -> None:
    for rule in RELATIONS:
        assert rule.keys
        assert set(rule.keys) <= keys().keys(), rule
        assert any(rule.holds_for(stage) for stage in STAGES), rule
        if rule.stage:
            assert all(covers(STAGES[rule.stage].reads, name) for name in rule.keys), rule


def test_every_rule_holds_for_run_or_says_whose_it_is() -> None:
    elsewhere = ("score.", "agree.", "sample.", "edit.", "calibrate.")
    for rule in RELATIONS:
        own = any(name.startswith(elsewhere) for name in rule.keys)
        assert rule.holds_for("run") or rule.stage or own, rule


def test_a_rule_takes_the_values_of_its_keys() -> None:
    values = flatten(compose())
    for rule in RELATIONS:
        inspect.signature(rule.check).bind(*rule.keys)
        if not rule.stage:
            rule.check(*(values[name] for name in rule.keys))


REFUSED: list[tuple[str, list[str], str, tuple[str, ...]]] = [
    # stage that is refused, words, what is said, stages that go on
    ("run", ["select.k=13"], "generate.candidates=10", ("agree", "calibrate", "sample", "evaluate", "score")),
    ("run", ["sampler.eta=0"], "leave it out: scorers=[", ("select", "score", "sample")),
    ("train", ["train.objective=dpo"], "select.losers", ("generate", "evaluate", "agree")),
    ("train", ["train.t_min=900", "train.t_max=900"], "is not below train.t_max=900", ("generate", "agree")),
    ("score", ["scorer.elbo.t_min=900", "scorer.elbo.t_max=100"], "scorer.elbo.t_max=100", ()),
    ("evaluate", ["evaluate.scorers=[mi,das]"], "evaluate.scorers: das is a figure", ("generate", "train")),
    ("sample", ["sample.of=2"], "raise sample.of", ("run", "agree")),
    ("sample", ["sample.of=8"], "say which score picks 4", ("run", "agree")),
    (
        "sample",
        ["sampler.racing.by=mi", "sampler.racing.survivors=[4]"],
        "to its end",
        ("generate", "run", "agree"),
    ),
    ("calibrate", ["calibrate.k=16"], "nobody could be dropped", ("run", "agree")),
    ("calibrate", ["select.by=random"], "chooses by lot", ("run", "agree")),
    ("calibrate", ["select.by=das"], "calibrate.target: das is a figure of the population", ("agree",)),
    ("calibrate", ["calibrate.target=mi+reward"], "calibrate.target: reward is a figure", ("run", "agree")),
    ("calibrate", ["sampler.steps=1"], "no step to save", ("run", "agree")),
    ("agree", ["agree.referee=clip"], "add it: agree.scorers=[", ("run",)),
    ("generate", ["generate.keep=2"], "fewer than the select.k=3", ("agree", "train")),
]


@pytest.mark.parametrize(("stage", "words", "said", "others"), REFUSED, ids=[str(own[:2]) for own in REFUSED])
def test_a_rule_holds_for_the_stages_that_read_its_keys(
    stage: str, words: list[str], said: str, others: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        compose(words, stage)
    assert said in str(caught.value)
    for other in others:
        compose(words, other)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "word", ["sampler.steps=0", "agree.positions=[0]", "train.betas=[5,5]", "train.stepz=3"]
)
def test_single_values_are_checked_whatever_the_stage(stage: str, word: str) -> None:
    with pytest.raises(UserError):
        compose([word], stage)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("stage", "words"), [
    ("agree", ["agree.scorers=[llr,mi]", "agree.referee=mi"]), ("calibrate", ["calibrate.by=[llr]"]),
    ("calibrate", ["calibrate.by=[mi]", "calibrate.target=llr"]), ("run", ["scorers=[llr,mi]", "select=mi"]),
    ("evaluate", ["evaluate.scorers=[llr]"]), ("train", ["train.keep_best_by=llr"]),
    ("generate", ["sampler.racing.by=llr", "sampler.racing.survivors=[4]", "scorers=[mi]", "select=mi"]),
    ("sample", ["search.by=das", "search.reward=clip"]),
])  # fmt: skip
def test_every_stage_asks_the_same_of_a_sampler(
    stage: str, words: list[str], sampler: str, eta: float
) -> None:
    given: list[Any] = [*words, f"sampler.name={sampler}", f"sampler.eta={eta}"]
    if not is_deterministic(sampler, eta):
        compose(given, stage)
        return
    with pytest.raises(
        UserError, match=r"llr needs a stochastic sampler|no noise to choose among"
    ) as refused:
        compose(given, stage)
    # Of eta only where that would help.
    assert "with sampler.eta" not in str(refused.value) or sampler == "ddim"


@pytest.mark.parametrize(
    ("stage", "words"),
    [("evaluate", ["evaluate.scorers=[mi]"]), ("train", ["train.keep_best_by=mi"]), ("train", [])],
)
def test_a_stage_that_draws_no_candidates_is_not_held_to_their_scores(stage: str, words: list[str]) -> None:
    given = ["scorers=[llr]", "select.by=llr", "sampler.name=dpmpp_2m", *words]
    assert compose(given, stage).sampler.name == "dpmpp_2m"
    with pytest.raises(UserError, match="llr needs a stochastic sampler"):
        compose(given, "run")
