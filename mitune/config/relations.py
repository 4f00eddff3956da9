"""What must fit together in a configuration: rules, each with the keys that it reads.

A rule is a function under :func:`relation`, which names its keys; it is given the values of these alone. A command is
held to the rules whose keys its stage reads, so that ``agree`` never hears of ``select.by``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.config.keys import keys
from mitune.errors import UserError, nearest, short
from mitune.finetune.catalogue import OBJECTIVES
from mitune.sampling.catalogue import is_deterministic
from mitune.scores import (
    COLUMNS,
    COMBINED,
    INFORMATION,
    NEEDS_NOISE,
    PATH_SCORERS,
    RACERS,
    SCORERS,
    STEERED,
    columns,
    normalised,
    scorers_of,
    terms,
)
from mitune.settings import check_value
from mitune.stages.catalogue import STAGES, covers

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Relation:
    """A rule: ``check`` raises UserError for values of ``keys`` that do not fit together.

    ``stage``: it is asked of this stage alone, since the defaults of its keys need not fit another's command.
    """

    check: Callable[[Values], None]
    keys: tuple[str, ...]
    stage: str = ""

    def holds_for(self, stage: str | None) -> bool:
        """Tell whether a command of ``stage`` (None: of any) is held to it."""
        if self.stage or stage is None:
            return self.stage == (stage or "")
        return all(covers(STAGES[stage].reads, name) for name in self.keys)


RELATIONS: list[Relation] = []


def relation(*names: str, stage: str = "") -> Callable[[Callable[[Values], None]], Callable[[Values], None]]:
    """Make a function that raises UserError a rule of the keys ``names``; ``stage``: as :class:`Relation`."""

    def add(rule: Callable[[Values], None]) -> Callable[[Values], None]:
        RELATIONS.append(Relation(rule, names, stage))
        return rule

    return add


def check(values: Values, stage: str | None = None) -> None:
    """Refuse ``values`` ({full key: value}) that cannot work, alone or together in a command of ``stage`` (None: in
    any). Raises UserError."""
    for name, one in keys().items():
        check_value(one, values[name])
    for own in RELATIONS:
        if own.holds_for(stage):
            own.check({name: values[name] for name in own.keys})


_NOISE = ("sampler.name", "sampler.eta")  # what tells whether the sampler adds noise


def _straight(values: Values) -> bool:
    return is_deterministic(*(values[name] for name in _NOISE))


def _beside(*ends: str) -> list[str]:
    """The sections that declare keys of all these names."""
    sections = dict.fromkeys(name.rpartition(".")[0] for name in keys())
    return [own for own in sections if all(f"{own}.{end}" in keys() for end in ends)]


def _interval(low: str, high: str, values: Values) -> None:
    if values[low] >= values[high]:
        raise UserError(f"{low}={values[low]} is not below {high}={values[high]}")


for _section in _beside("t_min", "t_max"):
    _ends = (f"{_section}.t_min", f"{_section}.t_max")
    relation(*_ends)(functools.partial(_interval, *_ends))


@relation("model.adapter", "model.adapter_weights")
def _weights(values: Values) -> None:
    adapters, weights = values["model.adapter"], values["model.adapter_weights"]
    if weights and len(weights) != len(adapters):
        raise UserError(
            f"model.adapter_weights={weights}: {len(weights)} weights for {len(adapters)} adapters in model.adapter;"
            " give one for each"
        )


@relation("scorer.contrast.negatives", "scorer.contrast.given")
def _negatives(values: Values) -> None:
    if values["scorer.contrast.negatives"] == "list" and values["scorer.contrast.given"] is None:
        raise UserError("scorer.contrast.negatives=list: say which prompts with scorer.contrast.given=")


def _profiled(key: str, wanted: str, values: Values) -> None:
    """A profile is there where one is needed; what it says is read with the model."""
    if values[key] == wanted and values["scorer.profile"] is None:
        raise UserError(
            f"{key}={wanted} needs a measured profile: scorer.profile=FILE.json, which"
            " mitune score score.source=… score.profile=FILE.json writes"
        )


for _section in _beside("weighting", "strategy"):
    for _end, _value in (("weighting", "profile"), ("strategy", "importance")):
        _key = f"{_section}.{_end}"
        relation(_key, "scorer.profile")(functools.partial(_profiled, _key, _value))


@relation("score.profile")
def _profile_name(values: Values) -> None:
    path = values["score.profile"]
    if path is not None and Path(path).suffix != ".json":
        raise UserError(f"score.profile={path}: the profile is a JSON file; give a name that ends in .json")


@relation("scorer.combined")
def _combined(values: Values) -> None:
    terms(COMBINED, values["scorer.combined"])


_SCORES = (
    *("scorers", "evaluate.scorers", "score.scorers", "agree.scorers", "sample.scorers"),
    *("train.keep_best_by", "score.by", "agree.referee", "calibrate.target", "sample.by"),
)
# Where what a search says of its particles (``STEERED``) can be had.
_STEERED_LISTS = ("scorers", "sample.scorers", "sample.by")
_MEANS = ("evaluate.scorers", "train.keep_best_by")  # a mean over prompts counts


def _listed(value: Any) -> list[str]:
    return [*value] if isinstance(value, list) else [value] if value else []


def _known(name: str, values: Values) -> None:
    """Every score named is one, and can be had where it is asked for."""
    combined = values["scorer.combined"]
    for score in _listed(values[name]):
        try:
            terms(score, combined)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        for steered in set(STEERED).intersection(columns([score], combined)):
            check_steered(name, steered, values.get("search.by"), name in _STEERED_LISTS)
        if name in _MEANS and normalised(score, combined):
            raise UserError(
                f"{name}: {score} is standardised within each prompt, so its mean is 0 for every model;"
                " give a sum without z(), such as contrast+0.5*elbo"
            )


for _key in _SCORES:
    _more = ("search.by",) if _key in _STEERED_LISTS else ()
    relation(_key, "scorer.combined", *_more)(functools.partial(_known, _key))


def _needing_noise(scores: Sequence[str], combined: str) -> list[str]:
    """The scorers of ``scores`` that are read off the noise of the sampler's steps."""
    return [scorer for scorer in scorers_of(scores, combined) if scorer in NEEDS_NOISE]


def _has_noise(name: str, values: Values) -> None:
    """The ratio of path densities is there where the sampler adds noise."""
    combined, given = values["scorer.combined"], _listed(values[name])
    if _straight(values) and (found := _needing_noise(given, combined)):
        others = ",".join(other for other in given if not _needing_noise([other], combined))
        way_out = f"[{others}]" if isinstance(values[name], list) else "null"
        what = found[0] if name == "scorers" else f"{name}: {found[0]}"
        raise _no_noise(what, f"leave it out: {name}={way_out}")


def _no_noise(what: str, way_out: str) -> UserError:
    return UserError(
        f"{what} needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or {way_out}"
    )


for _key in ("scorers", *_MEANS):
    relation(_key, "scorer.combined", *_NOISE)(functools.partial(_has_noise, _key))


@relation("select.by", "scorer.combined")
def _selects(values: Values) -> None:
    by, combined = values["select.by"], values["scorer.combined"]
    if by == "random":
        return
    try:
        columns([by], combined)
    except UserError as error:
        known = [*SCORERS, *COLUMNS, COMBINED, "random"]
        if by.isidentifier():
            raise UserError(
                f"select.by={short(by)}: there is no such score{nearest(by, known)};"
                f" choose among {', '.join(known)}"
            ) from error
        raise UserError(f"select.by={by}: {error}") from error


def _wanted(values: Values) -> list[str]:
    """The columns that ``select.by`` goes by."""
    by = values["select.by"]
    return [] if by == "random" else columns([by], values["scorer.combined"])


@relation("select.by", "scorer.combined", "search.by", "select.real")
def _selects_steered(values: Values) -> None:
    for steered in set(STEERED).intersection(_wanted(values)):
        check_steered("select.by", steered, values["search.by"])
        if values["select.real"] is not None:
            raise UserError(
                f"select.real: real pictures have no {steered}, which select.by={values['select.by']} goes by;"
                " leave one out"
            )


def _only_real(values: Values) -> bool:
    return values["select.real"] is not None and values["select.real_fraction"] == 1


@relation("select.by", "scorer.combined", "scorers", "select.real", "select.real_fraction")
def _selects_what_is_scored(values: Values) -> None:
    wanted, there = _wanted(values), scorers_of(values["scorers"], values["scorer.combined"])
    missing = [scorer for scorer in scorers_of(wanted) if scorer not in there]
    if missing and not _only_real(values):  # real pictures get the scores that select.by names
        what = "this score" if wanted == [values["select.by"]] else f"the score {missing[0]}"
        raise UserError(
            f"select.by={values['select.by']}: the candidates do not get {what}; add it:"
            f" scorers=[{','.join([*values['scorers'], *missing])}]"
        )


@relation("select.real", "select.real_fraction", "select.threshold")
def _real_threshold(values: Values) -> None:
    if _only_real(values) and values["select.threshold"] is not None:
        raise UserError(
            "select.threshold: with select.real_fraction=1 no candidate is trained on, so none can reach it; leave"
            " one of them out"
        )


_LABELLED = " or ".join(OBJECTIVES.where(lambda row: row.labels))


@relation("select.real", "train.objective")
def _real_objective(values: Values) -> None:
    name = values["train.objective"]
    if values["select.real"] is not None and OBJECTIVES[name].losers and not OBJECTIVES[name].labels:
        raise UserError(
            f"select.real: train.objective={name} compares candidates of one prompt; leave one of them out, or say"
            f" train.objective={_LABELLED}"
        )


@relation("select.losers", "select.threshold")
def _losers_threshold(values: Values) -> None:
    losers = values["select.losers"]
    if losers and values["select.threshold"] is not None:
        raise UserError(
            "select.threshold: winners and losers are told apart by rank, not by a score that both may reach;"
            f" leave out the threshold or select.losers={losers}"
        )


@relation("select.k", "select.losers", "generate.candidates")
def _enough(values: Values) -> None:
    k, losers, candidates = values["select.k"], values["select.losers"], values["generate.candidates"]
    if k + losers > candidates:
        more = f" and select.losers={losers}" if losers else ""
        raise UserError(
            f"select.k={k}{more} but only generate.candidates={candidates} (M) a prompt; lower k or raise M"
        )


@relation("generate.keep", "select.k")
def _kept(values: Values) -> None:
    keep, k = values["generate.keep"], values["select.k"]
    if keep is not None and keep < k:
        raise UserError(
            f"generate.keep={keep}: fewer than the select.k={k} winners a prompt; leave it out (null) or raise it"
        )


@relation("train.objective", "select.losers")
def _losers(values: Values) -> None:
    name = values["train.objective"]
    if OBJECTIVES[name].losers and values["select.losers"] < 1:
        raise UserError(f"train.objective={name} compares winners with losers; add select.losers=1")


@relation("train.objective", "train.soft_labels")
def _labels(values: Values) -> None:
    name = values["train.objective"]
    if values["train.soft_labels"] is not None and not OBJECTIVES[name].labels:
        raise UserError(
            f"train.soft_labels: train.objective={name} has no labels; leave it out, or say train.objective={_LABELLED}"
        )


@relation("train.objective", "train.fresh")
def _anchor(values: Values) -> None:
    name = values["train.objective"]
    if OBJECTIVES[name].anchor == "start" and values["train.fresh"]:
        raise UserError(
            f"train.objective={name} is held to the adapter that drew the pictures, and train.fresh=true drops"
            " that one; leave it false"
        )


@relation("train.keep_best_by", "select.by", "scorer.combined")
def _judge(values: Values) -> None:
    def by_oracle(score: str) -> bool:
        return score != "random" and "oracle" in scorers_of([score], values["scorer.combined"])

    best = values["train.keep_best_by"]
    if best is not None and by_oracle(best) and not by_oracle(values["select.by"]):
        raise UserError(
            f"train.keep_best_by={best}: the oracle only judges; it may choose only in the control select=oracle"
        )


_RACE = tuple(f"sampler.racing.{name}" for name in ("by", "at", "survivors", "speedup", "times"))


@relation(*_RACE, *_NOISE)
def _racing(values: Values) -> None:
    """What the steps, candidates and forwards allow is told by ``stages.racing.cuts_of``, before a model is loaded."""
    by, at, survivors, speedup, times = (values[name] for name in _RACE)
    if by is None:
        given = [name for name in ("survivors", "speedup", "times") if values[f"sampler.racing.{name}"]]
        if given:
            raise UserError(
                f"sampler.racing.{given[0]}: say which score drops candidates: sampler.racing.by=, one of"
                f" {', '.join(RACERS)}"
            )
        return
    check_racer("sampler.racing.by", by, times, _straight(values))
    if (speedup is None) == (not survivors):
        both = "give one of them, not both" if survivors else "say how many candidates go on"
        raise UserError(
            f"sampler.racing: {both}: sampler.racing.survivors=[4] (one number for each of sampler.racing.at), or"
            " sampler.racing.speedup=2"
        )
    if speedup is None and len(survivors) != len(at):
        raise UserError(
            f"sampler.racing.survivors={survivors}: give one number for each of sampler.racing.at={at}"
        )
    if not at:
        raise UserError("sampler.racing.at is empty: say when candidates are dropped, such as [0.4]")


def check_steered(name: str, score: str, search: str | None, possible: bool = True) -> None:
    """Raise UserError unless the key ``name`` can ask for ``score``, which only a search's particles have."""
    if not possible:
        raise UserError(
            f"{name}: {score} is a figure of the population that a picture was drawn in, and these have none; judge by"
            " the reward's own name, such as clip"
        )
    if search is None:
        raise UserError(
            f"{name}: only a search gives {score}; say sampler=das reward=clip (or another reward)"
        )


@relation("search.by", "search.reward", "search.proposal")
def _search(values: Values) -> None:
    """What the prompts, the reward and its weights allow is told by ``stages.search``."""
    by, reward = values["search.by"], values["search.reward"]
    if by is None:
        if reward is not None:
            raise UserError(
                f"search.reward={reward}: nothing is steered by it; say sampler=das (search.by=das)"
            )
        return
    if reward is None:
        raise UserError(
            "search.by=das: say what the particles are drawn to: reward=clip, another judge or a sum of judges"
            f" (aesthetic+20*clip), or one of the model's own {', '.join(INFORMATION)}"
        )
    if values["search.proposal"] == "gradient" and reward in INFORMATION:
        raise UserError(
            f"search.proposal=gradient needs a differentiable reward, and '{reward}' is measured on the path; say"
            " search.proposal=bootstrap, or auto"
        )


@relation("search.by", *_NOISE)
def _search_noise(values: Values) -> None:
    if values["search.by"] is not None and _straight(values):
        raise UserError(
            f"search.by=das: sampler.name={values['sampler.name']} with sampler.eta={values['sampler.eta']:g} has no"
            " noise to choose among; say sampler.name=ddim sampler.eta=1"
        )


@relation("search.by", "sampler.racing.by")
def _one_way(values: Values) -> None:
    if values["search.by"] is not None and values["sampler.racing.by"] is not None:
        raise UserError(
            "search.by and sampler.racing.by: a population is either raced or steered; set one to null"
        )


def check_racer(key: str, by: str, times: int | None, straight: bool) -> None:
    """Raise UserError, naming ``key``, unless candidates can be dropped by ``by``; ``times``: of a look;
    ``straight``: the sampler adds no noise."""
    if by not in RACERS:
        why = "judges finished pictures only" if by in SCORERS or by in COLUMNS else "is no running score"
        raise UserError(f"{key}: {short(by)} {why}{nearest(by, RACERS)}; choose among {', '.join(RACERS)}")
    if by in NEEDS_NOISE and straight:
        raise _no_noise(f"{key}: {by}", "race by another score")
    if by not in PATH_SCORERS and times is None:
        section = key.rpartition(".")[0]
        raise UserError(
            f"{key}: {by} is not free, it costs forwards at every look; say so by {section}.times=2 (the times that a"
            f" look noises the predicted picture at), or race by {', '.join(PATH_SCORERS)}"
        )


@relation("sampler.racing.by", stage="sample")
def _sample_whole(values: Values) -> None:
    if values["sampler.racing.by"] is not None:
        raise UserError(
            "sampler.racing: sample draws every picture to its end; leave it out (sampler.racing.by=null)"
        )


@relation("sample.of", "sample.pictures", "sample.by", "search.by", stage="sample")
def _sample_of(values: Values) -> None:
    pictures, of = values["sample.pictures"], values["sample.of"]
    if of is None:
        return
    if of < pictures:
        raise UserError(f"sample.pictures={pictures} but only sample.of={of} are drawn; raise sample.of")
    if of > pictures and values["sample.by"] is None and values["search.by"] is None:
        raise UserError(
            f"sample.of={of}: say which score picks {pictures} of them: sample.by=mi (or another)"
        )


@relation("agree.scorers", "agree.source", "scorer.combined", *_NOISE, stage="agree")
def _agree_noise(values: Values) -> None:
    if values["agree.source"] is None:
        _has_noise("agree.scorers", values)


@relation("agree.scorers", "agree.referee", "agree.source", "scorer.combined", stage="agree")
def _agree_referee(values: Values) -> None:
    names, referee, combined = values["agree.scorers"], values["agree.referee"], values["scorer.combined"]
    if values["agree.source"] is not None or referee is None:
        return
    if not set(columns([referee], combined)) <= {*columns(names, combined), "exact"}:
        raise UserError(
            f"agree.referee={referee}: the candidates do not get this score; add it:"
            f" agree.scorers=[{','.join([*names, referee])}]"
        )


@relation("calibrate.by", "calibrate.times", *_NOISE, stage="calibrate")
def _calibrate_racers(values: Values) -> None:
    for name in values["calibrate.by"]:
        check_racer("calibrate.by", name, values["calibrate.times"], _straight(values))


@relation("calibrate.target", "select.by", "scorer.combined", *_NOISE, stage="calibrate")
def _calibrate_target(values: Values) -> None:
    target = values["calibrate.target"] or values["select.by"]
    if target == "random":
        raise UserError(
            "calibrate: select.by=random chooses by lot; say which score: calibrate.target=contrast"
        )
    if _straight(values) and (found := _needing_noise([target], values["scorer.combined"])):
        raise _no_noise(f"calibrate.target={target}: {found[0]}", "give another score")


@relation("calibrate.k", "calibrate.candidates", "sampler.steps", stage="calibrate")
def _calibrate_numbers(values: Values) -> None:
    k, candidates, steps = (values[name] for name in ("calibrate.k", "calibrate.candidates", "sampler.steps"))
    if k >= candidates:
        raise UserError(
            f"calibrate.k={k}: nobody could be dropped of calibrate.candidates={candidates}; lower k"
        )
    if steps < 2:
        raise UserError(f"calibrate: with sampler.steps={steps} there is no step to save; raise it")
