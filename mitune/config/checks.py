"""What a configuration may say: the values of single keys, and what must fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mitune.config.keys import keys
from mitune.errors import UserError, nearest, short
from mitune.finetune.catalogue import OBJECTIVES
from mitune.scores import (
    COLUMNS,
    COMBINED,
    INFORMATION,
    PATH_SCORERS,
    RACERS,
    SCORERS,
    STEERED,
    TIMED,
    columns,
    normalised,
    scorers_of,
    terms,
)
from mitune.settings import check_value

INTERVALS = (
    *((f"scorer.{name}.t_min", f"scorer.{name}.t_max") for name in TIMED),
    ("train.t_min", "train.t_max"),
)


def check(values: dict[str, Any]) -> None:
    """Refuse ``values`` ({full key: value}) that cannot work, alone or together. Raises UserError."""
    for name, one in keys().items():
        check_value(one, values[name])
    for low, high in INTERVALS:
        if values[low] >= values[high]:
            raise UserError(f"{low}={values[low]} is not below {high}={values[high]}")
    adapters, weights = values["model.adapter"], values["model.adapter_weights"]
    if weights and len(weights) != len(adapters):
        raise UserError(
            f"model.adapter_weights={weights}: {len(weights)} weights for {len(adapters)} adapters in model.adapter;"
            " give one for each"
        )
    if values["scorer.contrast.negatives"] == "list" and values["scorer.contrast.given"] is None:
        raise UserError("scorer.contrast.negatives=list: say which prompts with scorer.contrast.given=")
    _check_profile(values)
    _check_scores(values)
    _check_selection(values)
    _check_racing(values)
    _check_search(values)


def _check_profile(values: dict[str, Any]) -> None:
    """A profile is there where one is needed; what it says is read with the model."""
    for name in TIMED:
        for last, value in (("weighting", "profile"), ("strategy", "importance")):
            if values[f"scorer.{name}.{last}"] == value and values["scorer.profile"] is None:
                raise UserError(
                    f"scorer.{name}.{last}={value} needs a measured profile: scorer.profile=FILE.json, which"
                    " mitune score score.source=… score.profile=FILE.json writes"
                )
    path = values["score.profile"]
    if path is not None and Path(path).suffix != ".json":
        raise UserError(f"score.profile={path}: the profile is a JSON file; give a name that ends in .json")


_SCORE_LISTS = ("scorers", "evaluate.scorers", "score.scorers", "agree.scorers", "sample.scorers")
# Where what a search says of its particles (``STEERED``) can be had.
_STEERED_LISTS = ("scorers", "sample.scorers", "sample.by")


def _check_scores(values: dict[str, Any]) -> None:
    """Every score named is one, and can be had where it is asked for."""
    combined = values["scorer.combined"]
    terms(COMBINED, combined)
    lists = {name: values[name] for name in _SCORE_LISTS}
    lists |= {
        name: [values[name]]
        for name in ("train.keep_best_by", "score.by", "agree.referee", "calibrate.target", "sample.by")
        if values[name]
    }
    for name, wanted in lists.items():
        for score in wanted:
            try:
                terms(score, combined)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
            for steered in set(STEERED).intersection(columns([score], combined)):
                check_steered(name, steered, values["search.by"], name in _STEERED_LISTS)
            if name in ("evaluate.scorers", "train.keep_best_by") and normalised(score, combined):
                raise UserError(
                    f"{name}: {score} is standardised within each prompt, so its mean is 0 for every model;"
                    " give a sum without z(), such as contrast+0.5*elbo"
                )
    straight = _straight(values)
    for name in ("scorers", "evaluate.scorers", "train.keep_best_by"):
        if straight and "llr" in scorers_of(lists.get(name, ()), combined):
            others = ",".join(other for other in lists[name] if "llr" not in columns([other], combined))
            way_out = "null" if name == "train.keep_best_by" else f"[{others}]"
            raise UserError(
                f"llr needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or leave it out:"
                f" {name}={way_out}"
            )


def _check_selection(values: dict[str, Any]) -> None:
    by, k, losers, candidates = (
        values["select.by"], values["select.k"], values["select.losers"], values["generate.candidates"],
    )  # fmt: skip
    combined = values["scorer.combined"]
    only_real = values["select.real"] is not None and values["select.real_fraction"] == 1
    if by != "random":
        try:
            wanted = columns([by], combined)
        except UserError as error:
            known = [*SCORERS, *COLUMNS, COMBINED, "random"]
            if by.isidentifier():
                raise UserError(
                    f"select.by={short(by)}: there is no such score{nearest(by, known)};"
                    f" choose among {', '.join(known)}"
                ) from error
            raise UserError(f"select.by={by}: {error}") from error
        for steered in set(STEERED).intersection(wanted):
            check_steered("select.by", steered, values["search.by"])
            if values["select.real"] is not None:
                raise UserError(
                    f"select.real: real pictures have no {steered}, which select.by={by} goes by; leave one out"
                )
        there = scorers_of(values["scorers"], combined)
        missing = [scorer for scorer in scorers_of(wanted) if scorer not in there]
        if missing and not only_real:  # real pictures get the scores that select.by names
            what = "this score" if wanted == [by] else f"the score {missing[0]}"
            raise UserError(
                f"select.by={by}: the candidates do not get {what}; add it:"
                f" scorers=[{','.join([*values['scorers'], *missing])}]"
            )
    if only_real and values["select.threshold"] is not None:
        raise UserError(
            "select.threshold: with select.real_fraction=1 no candidate is trained on, so none can reach it; leave"
            " one of them out"
        )
    name, objective = values["train.objective"], OBJECTIVES[values["train.objective"]]
    labelled = " or ".join(OBJECTIVES.where(lambda row: row.labels))
    if values["select.real"] is not None and objective.losers and not objective.labels:
        raise UserError(
            f"select.real: train.objective={name} compares candidates of one prompt; leave one of them out, or say"
            f" train.objective={labelled}"
        )
    if losers and values["select.threshold"] is not None:
        raise UserError(
            "select.threshold: winners and losers are told apart by rank, not by a score that both may reach;"
            f" leave out the threshold or select.losers={losers}"
        )
    if k + losers > candidates:
        more = f" and select.losers={losers}" if losers else ""
        raise UserError(
            f"select.k={k}{more} but only generate.candidates={candidates} (M) a prompt; lower k or raise M"
        )
    keep = values["generate.keep"]
    if keep is not None and keep < k:
        raise UserError(
            f"generate.keep={keep}: fewer than the select.k={k} winners a prompt; leave it out (null) or raise it"
        )
    if objective.losers and losers < 1:
        raise UserError(f"train.objective={name} compares winners with losers; add select.losers=1")
    if values["train.soft_labels"] is not None and not objective.labels:
        raise UserError(
            f"train.soft_labels: train.objective={name} has no labels; leave it out, or say train.objective={labelled}"
        )
    if objective.anchor == "start" and values["train.fresh"]:
        raise UserError(
            f"train.objective={name} is held to the adapter that drew the pictures, and train.fresh=true drops"
            " that one; leave it false"
        )
    best = values["train.keep_best_by"]
    if best is not None and _by_oracle(best, combined) and not _by_oracle(by, combined):
        raise UserError(
            f"train.keep_best_by={best}: the oracle only judges; it may choose only in the control select=oracle"
        )


def _by_oracle(score: str, combined: str) -> bool:
    return score != "random" and "oracle" in scorers_of([score], combined)


def _straight(values: dict[str, Any]) -> bool:
    """Whether the sampler adds no noise, so that a path has no density."""
    kind = values["sampler.name"]
    return kind == "euler" or (kind == "ddim" and values["sampler.eta"] == 0)


def _check_racing(values: dict[str, Any]) -> None:
    """What the steps, candidates and forwards allow is told by ``stages.racing.cuts_of``, before a model is loaded."""
    by, at, survivors, speedup = (
        values[f"sampler.racing.{name}"] for name in ("by", "at", "survivors", "speedup")
    )
    if by is None:
        given = [name for name in ("survivors", "speedup", "times") if values[f"sampler.racing.{name}"]]
        if given:
            raise UserError(
                f"sampler.racing.{given[0]}: say which score drops candidates: sampler.racing.by=, one of"
                f" {', '.join(RACERS)}"
            )
        return
    check_racer("sampler.racing.by", by, values["sampler.racing.times"], _straight(values))
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


SEARCHES = ("das",)


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


def _check_search(values: dict[str, Any]) -> None:
    """What the prompts, the reward and its weights allow is told by ``stages.search``."""
    by, reward = values["search.by"], values["search.reward"]
    if by is None:
        if reward is not None:
            raise UserError(
                f"search.reward={reward}: nothing is steered by it; say sampler=das (search.by=das)"
            )
        return
    if by not in SEARCHES:
        raise UserError(f"search.by={short(by)}: it is one of {', '.join(SEARCHES)}{nearest(by, SEARCHES)}")
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
    if _straight(values):
        raise UserError(
            f"search.by=das: sampler.name={values['sampler.name']} with sampler.eta={values['sampler.eta']:g} has no"
            " noise to choose among; say sampler.name=ddim sampler.eta=1"
        )
    if values["sampler.racing.by"] is not None:
        raise UserError(
            "search.by and sampler.racing.by: a population is either raced or steered; set one to null"
        )


def check_racer(key: str, by: str, times: int | None, straight: bool) -> None:
    """Raise UserError, naming ``key``, unless candidates can be dropped by ``by``; ``times``: of a look;
    ``straight``: the sampler adds no noise."""
    if by not in RACERS:
        why = "judges finished pictures only" if by in SCORERS or by in COLUMNS else "is no running score"
        raise UserError(f"{key}: {short(by)} {why}{nearest(by, RACERS)}; choose among {', '.join(RACERS)}")
    if by == "llr" and straight:
        raise UserError(
            f"{key}: llr needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or race by another"
            " score"
        )
    if by not in PATH_SCORERS and times is None:
        section = key.rpartition(".")[0]
        raise UserError(
            f"{key}: {by} is not free, it costs forwards at every look; say so by {section}.times=2 (the times that a"
            f" look noises the predicted picture at), or race by {', '.join(PATH_SCORERS)}"
        )
