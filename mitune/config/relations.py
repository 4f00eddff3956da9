"""What must fit together in a configuration: rules, each with the keys that it reads.

A rule is a function under :func:`relation`, which names its keys, and is called with their values in that order. A
command is held to the rules whose keys its stage reads, so that ``agree`` never hears of ``select.by``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mitune.config.keys import keys
from mitune.errors import UserError, nearest, short
from mitune.finetune.catalogue import OBJECTIVES
from mitune.pixels.settings import BALANCES, BalancingConfig
from mitune.sampling.catalogue import SAMPLERS, is_deterministic
from mitune.scores import (
    COLUMNS,
    COMBINED,
    INFORMATION,
    LOOKING,
    NEEDS_NOISE,
    PATH_SCORERS,
    RACERS,
    SCORERS,
    STEERED,
    columns,
    normalised,
    offered,
    scorers_of,
    terms,
)
from mitune.settings import check_interval, check_value
from mitune.stages.catalogue import STAGES, covers

Rule = Callable[..., None]
R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Relation:
    """Holds a rule: ``check`` raises UserError for values of ``keys``, in their order, that do not fit together.

    ``stage``: it is asked of this stage alone, since the defaults of its keys need not fit another's command.
    """

    check: Rule
    keys: tuple[str, ...]
    stage: str = ""

    def holds_for(self, stage: str | None) -> bool:
        """Tell whether a command of ``stage`` (None: of any) is held to it."""
        if self.stage or stage is None:
            return self.stage == (stage or "")
        return all(covers(STAGES[stage].reads, name) for name in self.keys)


RELATIONS: list[Relation] = []


def relation(names: str, stage: str = "") -> Callable[[R], R]:
    """Make a function that raises UserError a rule of the keys ``names``, parted by spaces; ``stage``: as
    :class:`Relation`."""

    def add(rule: R) -> R:
        RELATIONS.append(Relation(rule, tuple(names.split()), stage))
        return rule

    return add


def check(values: Mapping[str, Any], stage: str | None = None) -> None:
    """Refuse ``values`` ({full key: value}) that cannot work, alone or together in a command of ``stage`` (None: in
    any). Raises UserError."""
    for name, one in keys().items():
        check_value(one, values[name])
    for own in RELATIONS:
        if own.holds_for(stage):
            own.check(*(values[name] for name in own.keys))


# Of the keys that have no default, what one gives.
_GIVE = {
    "model.path": "a diffusers folder, Hub id or .safetensors file; or model=, a known one",
    "prompts.source": "a file with a prompt a line, a table, or a Hub dataset id",
    "benchmark.name": "which public benchmark",
    "benchmark.source": "its prompt files as they are; or benchmark.pictures=, pictures to judge",
    "evaluate.prompts.source": "such a file of held-out prompts",
    "edit.source": "the picture's prompt, and edit.target=, what it shall be; or edit.pairs=, a table of both",
}


def _needs(stage: str, groups: Sequence[Sequence[str]], run: str, *values: Any) -> None:
    """Of each group of keys, whose values follow each other, one is given."""
    left = list(values)
    missing = []
    for group in groups:
        own, left = left[: len(group)], left[len(group) :]
        if all(value is None for value in own):
            missing.append(group[0])
    if missing:
        wanted = " and ".join(f"{name}= ({_GIVE[name]})" for name in missing)
        raise UserError(
            f"{stage} needs {wanted}, or run=, the folder of a run ({short(run)} holds none); mitune demo shows all of"
            " it on the embedded world"
        )


for _stage in STAGES.values():
    _groups = [word.split("|") for word in _stage.asks.split()]
    if _groups:
        relation(f"run {_stage.asks.replace('|', ' ')}", stage=_stage.name)(
            functools.partial(_needs, _stage.name, _groups)
        )


_BALANCING = "sampler.balancing."
_NOISE = "sampler.name sampler.eta"  # what tells whether the sampler adds noise


def _beside(*ends: str) -> list[str]:
    """The sections that declare keys of all these names."""
    sections = dict.fromkeys(name.rpartition(".")[0] for name in keys())
    return [own for own in sections if all(f"{own}.{end}" in keys() for end in ends)]


for _section in _beside("t_min", "t_max"):
    if (
        keys()[f"{_section}.t_min"].default is not None
    ):  # else a method says it, which fills it in and looks itself
        relation(f"{_section}.t_min {_section}.t_max")(functools.partial(check_interval, f"{_section}."))


@relation("model.adapter model.adapter_weights")
def _weights(adapters: list[str], weights: list[float]) -> None:
    if weights and len(weights) != len(adapters):
        raise UserError(
            f"model.adapter_weights={weights}: {len(weights)} weights for {len(adapters)} adapters in model.adapter;"
            " give one for each"
        )


@relation("scorer.contrast.negatives scorer.contrast.given")
def _negatives(negatives: str, given: str | None) -> None:
    if negatives == "list" and given is None:
        raise UserError("scorer.contrast.negatives=list: say which prompts with scorer.contrast.given=")


def _profiled(key: str, needs: str, value: str, profile: str | None) -> None:
    """A profile is there where one is needed; what it says is read with the model."""
    if value == needs and profile is None:
        raise UserError(
            f"{key}={value} needs a measured profile: scorer.profile=FILE.json, which"
            " mitune score score.source=… score.profile=FILE.json writes"
        )


for _section in _beside("weighting", "strategy"):
    for _key, _value in ((f"{_section}.weighting", "profile"), (f"{_section}.strategy", "importance")):
        relation(f"{_key} scorer.profile")(functools.partial(_profiled, _key, _value))


@relation("score.profile")
def _profile_name(path: str | None) -> None:
    if path is not None and Path(path).suffix != ".json":
        raise UserError(f"score.profile={path}: the profile is a JSON file; give a name that ends in .json")


@relation("scorer.combined")
def _combined(combined: str) -> None:
    terms(COMBINED, combined)


SCORE_KEYS = (
    *("scorers", "evaluate.scorers", "score.scorers", "agree.scorers", "sample.scorers", "edit.scorers"),
    *("train.keep_best_by", "score.by", "agree.referee", "agree.ranked_by", "calibrate.target", "sample.by"),
)
# Where what a search says of its particles (``STEERED``) can be had.
_WITH_SEARCH = ("scorers", "sample.scorers", "sample.by")
_MEANS = ("evaluate.scorers", "train.keep_best_by")  # a mean over prompts counts


def _listed(value: list[str] | str | None) -> list[str]:
    return [*value] if isinstance(value, list) else [value] if value else []


def _known(name: str, value: list[str] | str | None, combined: str, search: str | None = None) -> None:
    """Every score named is one, and can be had where it is asked for."""
    for score in _listed(value):
        try:
            terms(score, combined)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        for steered in set(STEERED).intersection(columns([score], combined)):
            _check_steered(name, steered, search, name in _WITH_SEARCH)
        if name in _MEANS and normalised(score, combined):
            raise UserError(
                f"{name}: {score} is standardised within each prompt, so its mean is 0 for every model;"
                " give a sum without z(), such as contrast+0.5*elbo"
            )


def _check_steered(name: str, score: str, search: str | None, possible: bool = True) -> None:
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
    if search == "rcp" and score == "das":
        raise UserError(
            f"{name}: pictures that climb a judge have no weights (das); say reward, or another score"
        )


for _key in SCORE_KEYS:
    _more = " search.by" if _key in _WITH_SEARCH else ""
    relation(f"{_key} scorer.combined{_more}")(functools.partial(_known, _key))


def _needing_noise(scores: Sequence[str], combined: str) -> list[str]:
    """The scorers of ``scores`` that are read off the noise of the sampler's steps."""
    return [scorer for scorer in scorers_of(scores, combined) if scorer in NEEDS_NOISE]


def _no_noise(what: str, way_out: str) -> UserError:
    return UserError(
        f"{what} needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or {way_out}"
    )


def _has_noise(name: str, value: list[str] | str | None, combined: str, sampler: str, eta: float) -> None:
    """The ratio of path densities is there where the sampler adds noise."""
    given = _listed(value)
    if is_deterministic(sampler, eta) and (found := _needing_noise(given, combined)):
        others = ",".join(other for other in given if not _needing_noise([other], combined))
        way_out = f"[{others}]" if isinstance(value, list) else "null"
        what = found[0] if name == "scorers" else f"{name}: {found[0]}"
        raise _no_noise(what, f"leave it out: {name}={way_out}")


for _key in ("scorers", *_MEANS):
    relation(f"{_key} scorer.combined {_NOISE}")(functools.partial(_has_noise, _key))


def _wanted(by: str, combined: str) -> list[str]:
    """The columns that ``select.by`` goes by."""
    return [] if by == "random" else columns([by], combined)


@relation("select.by scorer.combined")
def _selects(by: str, combined: str) -> None:
    try:
        _wanted(by, combined)
    except UserError as error:
        known = [*SCORERS, *COLUMNS, COMBINED, "random"]
        if by.isidentifier():
            raise UserError(f"select.by={short(by)}: there is no such score{offered(by, known)}") from error
        raise UserError(f"select.by={by}: {error}") from error


@relation("select.by scorer.combined search.by select.real")
def _selects_steered(by: str, combined: str, search: str | None, real: str | None) -> None:
    for steered in set(STEERED).intersection(_wanted(by, combined)):
        _check_steered("select.by", steered, search)
        if real is not None:
            raise UserError(
                f"select.real: real pictures have no {steered}, which select.by={by} goes by; leave one out"
            )


@relation("select.by scorer.combined scorers select.real select.real_fraction")
def _selects_what_is_scored(
    by: str, combined: str, scorers: list[str], real: str | None, fraction: float
) -> None:
    if real is not None and fraction == 1:
        return  # real pictures get the scores that select.by names
    wanted, there = _wanted(by, combined), scorers_of(scorers, combined)
    if missing := [scorer for scorer in scorers_of(wanted) if scorer not in there]:
        what = "this score" if wanted == [by] else f"the score {missing[0]}"
        raise UserError(
            f"select.by={by}: the candidates do not get {what}; add it: scorers=[{','.join([*scorers, *missing])}]"
        )


@relation("select.real select.real_fraction select.threshold")
def _real_threshold(real: str | None, fraction: float, threshold: float | None) -> None:
    if real is not None and fraction == 1 and threshold is not None:
        raise UserError(
            "select.threshold: with select.real_fraction=1 no candidate is trained on, so none can reach it; leave"
            " one of them out"
        )


_LABELLED = " or ".join(OBJECTIVES.where(lambda row: row.labels))


@relation("select.real train.objective")
def _real_objective(real: str | None, objective: str) -> None:
    if real is not None and OBJECTIVES[objective].losers and not OBJECTIVES[objective].labels:
        raise UserError(
            f"select.real: train.objective={objective} compares candidates of one prompt; leave one of them out, or say"
            f" train.objective={_LABELLED}"
        )


@relation("select.losers select.threshold")
def _losers_threshold(losers: int, threshold: float | None) -> None:
    if losers and threshold is not None:
        raise UserError(
            "select.threshold: winners and losers are told apart by rank, not by a score that both may reach;"
            f" leave out the threshold or select.losers={losers}"
        )


@relation("select.k select.losers generate.candidates")
def _enough(k: int, losers: int, candidates: int) -> None:
    if k + losers > candidates:
        more = f" and select.losers={losers}" if losers else ""
        raise UserError(
            f"select.k={k}{more} but only generate.candidates={candidates} (M) a prompt; lower k or raise M"
        )


@relation("generate.keep select.k")
def _kept(keep: int | None, k: int) -> None:
    if keep is not None and keep < k:
        raise UserError(
            f"generate.keep={keep}: fewer than the select.k={k} winners a prompt; leave it out (null) or raise it"
        )


@relation("generate.passes select.losers select.fraction select.balance select.difficulty")
def _passes(passes: float | None, losers: int, fraction: float, balance: bool, difficulty: float) -> None:
    """Where a prompt is held against others by the scores of all of its candidates, these are needed."""
    if passes is None:
        return
    given = [f"select.difficulty={difficulty:g}"] if difficulty else []
    if not losers:
        given += [f"select.fraction={fraction:g}"] if fraction < 1 else []
        given += ["select.balance=true"] if balance else []
    if given:
        raise UserError(
            f"generate.passes={passes:g}: {given[0]} goes by the scores of all candidates of a prompt, and passes give"
            " them to those in the race alone; leave one of them out (generate.passes=null)"
        )


@relation("train.objective select.losers")
def _losers(objective: str, losers: int) -> None:
    if OBJECTIVES[objective].losers and losers < 1:
        raise UserError(f"train.objective={objective} compares winners with losers; add select.losers=1")


@relation("train.objective train.soft_labels")
def _labels(objective: str, soft: float | None) -> None:
    if soft is not None and not OBJECTIVES[objective].labels:
        raise UserError(
            f"train.soft_labels: train.objective={objective} has no labels; leave it out, or say"
            f" train.objective={_LABELLED}"
        )


@relation("train.objective train.fresh")
def _anchor(objective: str, fresh: bool) -> None:
    if OBJECTIVES[objective].anchor == "start" and fresh:
        raise UserError(
            f"train.objective={objective} is held to the adapter that drew the pictures, and train.fresh=true drops"
            " that one; leave it false"
        )


@relation("train.keep_best_by select.by scorer.combined")
def _judge(best: str | None, by: str, combined: str) -> None:
    judged = "oracle" in scorers_of(_wanted(by, combined))
    if best is not None and "oracle" in scorers_of([best], combined) and not judged:
        raise UserError(
            f"train.keep_best_by={best}: the oracle only judges; it may choose only in the control select=oracle"
        )


_RACE = ("by", "at", "survivors", "speedup", "times")


@relation(f"{' '.join(f'sampler.racing.{name}' for name in _RACE)} {_NOISE}")
def _racing(
    by: str | None,
    at: list[float],
    survivors: list[int],
    speedup: float | None,
    times: int | None,
    *noise: Any,
) -> None:
    """What the steps, candidates and forwards allow is told by ``stages.racing.cuts_of``, before a model is loaded."""
    if by is None:
        given = [name for name, own in zip(_RACE[2:], (survivors, speedup, times), strict=True) if own]
        if given:
            raise UserError(
                f"sampler.racing.{given[0]}: say which score drops candidates: sampler.racing.by=, one of"
                f" {', '.join(RACERS)}"
            )
        return
    _check_racer("sampler.racing.by", by, times, *noise)
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


@relation("sampler.guidance_interval sampler.racing.speedup")
def _guidance_interval(interval: list[float] | None, speedup: float | None) -> None:
    if interval is None:
        return
    if interval[0] >= interval[1]:
        raise UserError(
            f"sampler.guidance_interval={interval}: the first time is not below the second; give the lower one first"
        )
    if speedup is not None:
        raise UserError(
            "sampler.racing.speedup with sampler.guidance_interval: steps take different numbers of rows, and no cuts"
            " are reckoned for that; say how many go on with sampler.racing.survivors="
        )


@relation(" ".join(("sampler.balance", *(key for key in keys() if key.startswith(_BALANCING)))))
def _balancing(balance: str | None, *given: Any) -> None:
    BalancingConfig(*given).check_read(balance)


@relation("sampler.balance sampler.racing.by")
def _balanced_race(balance: str | None, race: str | None) -> None:
    if balance is not None and race is not None and BALANCES[balance].asks:
        raise UserError(
            f"sampler.racing.by={race} with sampler.balance={balance}: steps take different numbers of rows, and no"
            " race is reckoned for that; set one of them to null, or say sampler.balance=uniform"
        )


@relation("sampler.balance calibrate.by", stage="calibrate")
def _balanced_pilot(balance: str | None, by: list[str]) -> None:
    if balance is not None and BALANCES[balance].asks:
        raise UserError(
            f"calibrate.by={by} with sampler.balance={balance}: a race, which calibrate is a pilot of, goes together"
            " with sampler.balance=uniform alone; say that, or null"
        )


@relation("sampler.balance search.by")
def _balanced_search(balance: str | None, search: str | None) -> None:
    if balance is not None and search is not None:
        raise UserError(
            f"search.by={search} with sampler.balance={balance}: a search goes from the model's own predictions; set"
            " one of them to null"
        )


@relation("sampler.balance", stage="edit")
def _balanced_edit(balance: str | None) -> None:
    if balance is not None:
        raise UserError(
            f"sampler.balance={balance}: an edit draws both prompts with one another's attention, and phrases are not"
            " balanced there; say sampler.balance=null"
        )


@relation("search.by", stage="edit")
def _searched_edit(search: str | None) -> None:
    if search is not None:
        raise UserError(
            f"search.by={search}: an edit is one walk beside its source's, and no population is steered there; say"
            " search.by=null"
        )


@relation("sampler.balance model.compile")
def _balanced_compiled(balance: str | None, compiled: bool) -> None:
    if balance is not None and compiled and BALANCES[balance].gradient:
        raise UserError(
            f"sampler.balance={balance}: a compiled network shows no attention maps; say model.compile=false"
        )


@relation(
    "sampler.balance train.gradient_checkpointing train.compile train.pictures_every train.keep_best_by"
)
def _balanced_training(
    balance: str | None, checkpointing: bool, compiled: bool, pictures: int | None, best: str | None
) -> None:
    """What is drawn while an adapter is trained is drawn by the network as training has it."""
    drawn = (
        "train.pictures_every" if pictures is not None else "train.keep_best_by" if best is not None else None
    )
    hidden = _hidden(checkpointing, compiled)
    if balance is None or not BALANCES[balance].gradient or drawn is None or hidden is None:
        return
    raise UserError(
        f"sampler.balance={balance}: {drawn} draws by attention maps, which {hidden}=true does not show; say"
        f" {hidden}=false, or {drawn}=null"
    )


@relation("train.keep_best_by scorer.combined train.gradient_checkpointing train.compile")
def _looked_at_in_training(best: str | None, combined: str, checkpointing: bool, compiled: bool) -> None:
    looking = [name for name in scorers_of(_listed(best), combined) if name in LOOKING]
    if looking and (hidden := _hidden(checkpointing, compiled)):
        raise UserError(
            f"train.keep_best_by={best}: {looking[0]} looks at attention maps, which {hidden}=true does not show; say"
            f" {hidden}=false, or keep the best by another score"
        )


def _hidden(checkpointing: bool, compiled: bool) -> str | None:
    """The key that hides the attention of the network in training; None for neither."""
    return "train.gradient_checkpointing" if checkpointing else "train.compile" if compiled else None


def _has_density(name: str, value: list[str] | str | None, combined: str, balance: str | None) -> None:
    """The ratio of path densities is there where the sampler's steps are all that moves a picture."""
    if balance is None or not BALANCES[balance].gradient:
        return
    if found := _needing_noise(_listed(value), combined):
        raise UserError(
            f"{name}: {found[0]} is a ratio of path densities, and sampler.balance={balance} moves pictures beside"
            " their path; leave one of them out"
        )


for _key, _stage_name in (
    *((_name, "") for _name in ("scorers", *_MEANS)),
    *(("sample.scorers", "sample"), ("sample.by", "sample"), ("calibrate.target", "calibrate")),
):
    relation(f"{_key} scorer.combined sampler.balance", stage=_stage_name)(
        functools.partial(_has_density, _key)
    )


@relation("agree.source agree.scorers scorer.combined sampler.balance", stage="agree")
def _agree_density(source: str | None, *scored: Any) -> None:
    if source is None:
        _has_density("agree.scorers", *scored)


def _check_racer(key: str, by: str, times: int | None, sampler: str, eta: float) -> None:
    """Raise UserError, naming ``key``, unless candidates can be dropped by ``by``; ``times``: of a look."""
    if by not in RACERS:
        why = "judges finished pictures only" if by in SCORERS or by in COLUMNS else "is no running score"
        raise UserError(f"{key}: {short(by)} {why}{nearest(by, RACERS)}; choose among {', '.join(RACERS)}")
    if by in NEEDS_NOISE and is_deterministic(sampler, eta):
        raise _no_noise(f"{key}: {by}", "race by another score")
    if by not in PATH_SCORERS and times is None:
        section = key.rpartition(".")[0]
        raise UserError(
            f"{key}: {by} is not free, it costs forwards at every look; say so by {section}.times=2 (the times that a"
            f" look noises the predicted picture at), or race by {', '.join(PATH_SCORERS)}"
        )


@relation("search.by search.reward search.proposal")
def _search(by: str | None, reward: str | None, proposal: str) -> None:
    """What the prompts, the reward and its weights allow is told by ``stages.search``."""
    if by is None and reward is not None:
        raise UserError(f"search.reward={reward}: nothing is steered by it; say sampler=das (search.by=das)")
    if by == "rcp" and reward is None:
        raise UserError(
            "search.by=rcp: say which judge is climbed: reward=clip, another one with a gradient, or a sum of such"
            " (clip+0.5*blip_itm)"
        )
    if by is not None and reward is None:
        raise UserError(
            f"search.by={by}: say what the particles are drawn to: reward=clip, another judge or a sum of judges"
            f" (aesthetic+20*clip), or one of the model's own {', '.join(INFORMATION)}"
        )
    if by == "rcp" and reward in INFORMATION:
        raise UserError(
            f"search.by=rcp needs a reward with a gradient, and {reward} is measured on the sampler's path; take a"
            " differentiable judge such as clip, or steer by sampler=das"
        )
    if by is not None and proposal == "gradient" and reward in INFORMATION:
        raise UserError(
            f"search.proposal=gradient needs a differentiable reward, and '{reward}' is measured on the path; say"
            " search.proposal=bootstrap, or auto"
        )


@relation(f"search.by {_NOISE}")
def _search_noise(by: str | None, sampler: str, eta: float) -> None:
    if by == "das" and is_deterministic(sampler, eta):
        share = f" with sampler.eta={eta:g}" if SAMPLERS[sampler].noise == "eta" else ""
        raise UserError(
            f"search.by={by}: sampler.name={sampler}{share} has no noise to choose among; say sampler.name=ddim"
            " sampler.eta=1"
        )


def _off_the_path(name: str, value: list[str] | str | None, combined: str, search: str | None) -> None:
    """What climbs a judge leaves the sampler's path, and has no scores of it."""
    if search != "rcp":
        return
    given = _listed(value)
    found = [one for one in given if set(scorers_of([one], combined)).intersection(PATH_SCORERS)]
    if found:
        others = ",".join(one for one in given if one not in found)
        way_out = f"[{others}]" if isinstance(value, list) else "null"
        if name == "scorers" and not others:
            way_out = "[contrast]"
        raise UserError(
            f"{name}: {found[0]} is measured on the sampler's path, which search.by=rcp leaves; say {name}={way_out}"
        )


for _key, _stage_name in (("scorers", ""), ("sample.scorers", "sample"), ("sample.by", "sample")):
    relation(f"{_key} scorer.combined search.by", stage=_stage_name)(functools.partial(_off_the_path, _key))


@relation("search.rcp.distill.times search.rcp.views.erase search.rcp.warmup search.rcp.steps search.by")
def _climbs(times: list[float], erase: list[float], warmup: int, steps: int, by: str | None) -> None:
    if by != "rcp":
        return
    for name, (low, high) in (("distill.times", times), ("views.erase", erase)):
        if low > high:
            raise UserError(f"search.rcp.{name}=[{low},{high}]: the first is above the second; exchange them")
    if warmup >= steps:
        raise UserError(
            f"search.rcp.warmup={warmup} is not below search.rcp.steps={steps}: the referee would never have its full"
            " say; lower it"
        )


@relation("search.rcp.referee_weight search.rcp.referee_steps search.by")
def _referee_speaks(weight: float, steps: int | None, by: str | None) -> None:
    if by == "rcp" and (weight == 0 or steps == 0):
        raise UserError(
            "search.by=rcp with search.rcp.referee_weight=0 or referee_steps=0: the reward would have no say; raise it,"
            " or say search.by=null"
        )


@relation("search.by sampler.racing.by")
def _one_way(search: str | None, race: str | None) -> None:
    if search is not None and race is not None:
        raise UserError(
            "search.by and sampler.racing.by: a population is either raced or steered; set one to null"
        )


@relation("sampler.racing.by", stage="sample")
def _sample_whole(race: str | None) -> None:
    if race is not None:
        raise UserError(
            "sampler.racing: sample draws every picture to its end; leave it out (sampler.racing.by=null)"
        )


@relation("sample.of sample.pictures sample.by search.by", stage="sample")
def _sample_of(of: int | None, pictures: int, by: str | None, search: str | None) -> None:
    if of is not None and of < pictures:
        raise UserError(f"sample.pictures={pictures} but only sample.of={of} are drawn; raise sample.of")
    if of is not None and of > pictures and by is None and search is None:
        raise UserError(
            f"sample.of={of}: say which score picks {pictures} of them: sample.by=mi (or another)"
        )


@relation("edit.source edit.target edit.pairs edit.picture edit.picture_seed", stage="edit")
def _one_edit(
    source: str | None, target: str | None, pairs: str | None, picture: str | None, seed: int | None
) -> None:
    if pairs is None:
        if picture is not None and seed is not None:
            raise UserError(
                "edit.picture and edit.picture_seed: a picture is given or drawn; leave one of them out"
            )
        return
    alone = {"source": source, "target": target, "picture": picture, "picture_seed": seed}
    given = [name for name, value in alone.items() if value is not None]
    if given:
        raise UserError(
            f"edit.pairs and edit.{given[0]}: the table says it edit by edit; leave one of them out"
        )


@relation(f"edit.picture {_NOISE}", stage="edit")
def _edit_noise(picture: str | None, sampler: str, eta: float) -> None:
    if picture is not None and not is_deterministic(sampler, eta):
        raise UserError(
            "edit.picture: a picture is followed back to its noise by a sampler that adds none; say sampler=ddim"
            " sampler.eta=0"
        )


@relation(f"agree.source agree.scorers scorer.combined {_NOISE}", stage="agree")
def _agree_noise(source: str | None, *scored: Any) -> None:
    if source is None:
        _has_noise("agree.scorers", *scored)


@relation("agree.source agree.scorers agree.referee agree.ranked_by scorer.combined", stage="agree")
def _agree_others(
    source: str | None, names: list[str], referee: str | None, ranked_by: str | None, combined: str
) -> None:
    there = {*columns(names, combined), "exact"}
    for key, name in (("agree.referee", referee), ("agree.ranked_by", ranked_by)):
        if source is None and name is not None and not set(columns([name], combined)) <= there:
            raise UserError(
                f"{key}={name}: the candidates do not get this score; add it:"
                f" agree.scorers=[{','.join([*names, name])}]"
            )


@relation(f"calibrate.by calibrate.times {_NOISE}", stage="calibrate")
def _calibrate_racers(names: list[str], times: int | None, *noise: Any) -> None:
    for name in names:
        _check_racer("calibrate.by", name, times, *noise)


@relation(f"calibrate.target select.by scorer.combined {_NOISE}", stage="calibrate")
def _calibrate_target(target: str | None, by: str, combined: str, sampler: str, eta: float) -> None:
    target = target or by
    if target == "random":
        raise UserError(
            "calibrate: select.by=random chooses by lot; say which score: calibrate.target=contrast"
        )
    for steered in set(STEERED).intersection(columns([target], combined)):
        _check_steered("calibrate.target", steered, None, possible=False)
    if is_deterministic(sampler, eta) and (found := _needing_noise([target], combined)):
        raise _no_noise(f"calibrate.target={target}: {found[0]}", "give another score")


@relation("calibrate.k calibrate.candidates sampler.steps", stage="calibrate")
def _calibrate_numbers(k: int, candidates: int, sampler_steps: int) -> None:
    if k >= candidates:
        raise UserError(
            f"calibrate.k={k}: nobody could be dropped of calibrate.candidates={candidates}; lower k"
        )
    if sampler_steps < 2:
        raise UserError(f"calibrate: with sampler.steps={sampler_steps} there is no step to save; raise it")
