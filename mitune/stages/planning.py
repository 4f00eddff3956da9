"""What a run is going to do, counted from its configuration and its prompts: pictures, network rows, steps.

The counts are those that ``summary.json`` has afterwards. Where a number depends on what is not known yet (how many
edits a prompt has, which real pictures decode), it is the most that it can be, and the plan says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from mitune.data.store import plan_units
from mitune.finetune.catalogue import OBJECTIVES
from mitune.information.negatives import Pool
from mitune.sampling.racing import Cut, rows_of
from mitune.scores import INFORMATION, SCORES, passes, scorers_of
from mitune.stages.balancing import balancing_rows, bounds_balancing
from mitune.stages.inputs import (
    given_negatives,
    held_out_prompts,
    prompt_pool,
    training_prompts,
    whole_pool,
)
from mitune.stages.racing import cuts_of, step_rows
from mitune.stages.real import count_real, most_looked_at, stand_in
from mitune.stages.train import validation_prompts
from mitune.tasks import Task

BRANCHES = 2  # of a model that is told a text alone


@dataclass(frozen=True)
class Work:
    """Counts what one stage of one round does.

    >>> Work(1, "generate", pictures=8, rows={"drawing": 320, "elbo": 128}).total
    448

    Attributes:
        round, stage: which one.
        pictures: that it draws, or looks at.
        rows: network rows by what they are spent on: "drawing", "balancing" phrases, "looks" of a race, "steering", a
            score, "training", "reference" (the model that a loss compares with), "validation".
        steps: of the optimizer.
        decoded: pictures that go through the decoder.
        latents: that it leaves on the disk.
        units: files of candidates that it leaves, of three parts each.
        at_most: some of the rows may not be needed.
    """

    round: int
    stage: str
    pictures: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    decoded: int = 0
    latents: int = 0
    units: int = 0
    at_most: bool = False

    @property
    def total(self) -> int:
        """Network rows in all."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Plan:
    """Counts what a run of several rounds does, stage by stage.

    Attributes:
        prompts, held_out: how many there are to train on and to evaluate on.
        works: of every round, in order.
        candidates, evaluated: a prompt's.
        batch: pictures of a training step.
    """

    prompts: int
    held_out: int
    candidates: int
    evaluated: int
    batch: int
    works: tuple[Work, ...]

    @property
    def rounds(self) -> int:
        """Count the rounds."""
        return max(work.round for work in self.works)

    @property
    def rows(self) -> int:
        """Count the network rows of all of it."""
        return sum(work.total for work in self.works)

    @property
    def at_most(self) -> bool:
        """Tell whether it may take fewer rows."""
        return any(work.at_most for work in self.works)

    def of(self, stage: str, number: int = 1) -> Work:
        """Give what a stage of a round does."""
        return next(work for work in self.works if (work.stage, work.round) == (stage, number))

    def line(self) -> str:
        """Say it in one line, for the start of a run."""
        rounds, steps = self.rounds, self.of("train").steps
        most = "at most " if self.at_most else ""
        return (
            f"plan: {rounds} {'round' if rounds == 1 else 'rounds, each'}:"
            f" {self.prompts:,} prompts x {self.candidates:,} candidates,"
            f" {steps:,} training steps of {self.batch:,} pictures,"
            f" {self.held_out:,} held-out prompts x {self.evaluated:,} pictures before and after;"
            f" {most}{self.rows:,} network rows in all (a row: one evaluation of the network for one picture)"
        )


def plan(
    config: DictConfig,
    branches: int = BRANCHES,
    exact: bool = False,
    prompts: tuple[Sequence[Task], Sequence[Task]] | None = None,
) -> Plan:
    """Count what ``mitune run`` does with this configuration, from its start; no model is opened.

    Args:
        config: the run's.
        branches: the model's (``Denoiser.branches``).
        exact: look for the edits of ``contrast`` of every prompt, so that its rows are counted and not bounded; that
            takes as long as the run will take for it.
        prompts: those to train on and those held out, where they are read already.

    Raises UserError as the run would: prompts that cannot be read, cuts that cannot be made, a prompt without an edit.
    """
    training, held_out = prompts or (training_prompts(config), held_out_prompts(config))
    count = _Counter(config, branches, exact)
    once = [_generate(count, training), _select(count, training), _train(count, training)]
    compared = _evaluate(count, held_out)
    works: list[Work] = []
    for number in range(1, config.rounds + 1):
        # The base model's pictures are drawn once, in the first round.
        last = _times(compared, 2 if number == 1 else 1)
        works += [dataclasses.replace(work, round=number) for work in [*once, last]]
    return Plan(
        len(training), len(held_out), config.generate.candidates, config.evaluate.candidates,
        config.train.batch_size, tuple(works),
    )  # fmt: skip


def _times(work: Work, times: int) -> Work:
    """Do the same so many times over."""
    counted = {name: times * getattr(work, name) for name in ("pictures", "decoded", "latents", "units")}
    rows = {name: times * count for name, count in work.rows.items()}
    return dataclasses.replace(work, rows=rows, **counted)


# -- the stages --------------------------------------------------------------------------------------------------------


def _generate(count: _Counter, prompts: Sequence[Task]) -> Work:
    config = count.config
    own, candidates = config.generate, config.generate.candidates
    cuts = cuts_of(config, count.branches)
    left = cuts[-1].survivors if cuts else candidates
    guidance = config.sampler.guidance if own.guidance is None else own.guidance
    others = count.others(lambda: prompt_pool(config.prompts))
    climbs = config.search.by == "rcp"
    drawn = (
        candidates * count.start(guidance)
        if climbs
        else count.drawing(config.scorers, guidance, candidates, cuts)
    )
    rows = {
        "drawing": len(prompts) * drawn,
        "balancing": candidates * balancing_rows(config, prompts),
        "looks": count.looks(cuts, prompts, others),
        "steering": len(prompts) * candidates * count.steering(),
        **{name: left * each for name, each in count.scores(config.scorers, prompts, others).items()},
    }
    losers = max(1, config.select.losers)  # one is kept for the report in any case
    return Work(
        1,
        "generate",
        pictures=len(prompts) * candidates,
        rows=_spent(rows),
        decoded=len(prompts) * left * count.sees_pictures(config.scorers),
        latents=len(prompts) * min((own.keep or config.select.k) + losers, left),
        units=len(plan_units(prompts, candidates, own.rows_per_unit)),
        # Of a search the dead get no scores, and steps without noise are not steered.
        at_most=count.bounds([*config.scorers, *([config.sampler.racing.by] if cuts else [])])
        or config.search.by == "das"
        # Who leaves the race for the best early is not measured in full.
        or own.passes is not None,
    )


def _select(count: _Counter, prompts: Sequence[Task]) -> Work:
    """The training set; where real pictures are mixed in and chosen by a score, the rows that it takes."""
    choice, looked, scored = count.config.select, 0, {}
    chosen = len(prompts) * (choice.k + choice.losers)
    if real := count_real(count.config, chosen):
        looked = most_looked_at(count.config, real) or real
        parts = [] if choice.by == "random" else stand_in(choice.by, count.config.scorer.combined)
        scored = count.scores([part.name for part in parts], [None] * looked)
    return Work(
        1, "select", pictures=looked, rows=_spent(scored), decoded=chosen, latents=chosen,
        at_most=choice.real is not None or choice.threshold is not None or choice.fraction < 1,
    )  # fmt: skip


def _train(count: _Counter, training: Sequence[Task]) -> Work:
    own = count.config.train
    objective = OBJECTIVES[own.objective]
    rows = {"training": own.steps * own.batch_size * objective.rows}
    if objective.anchor is not None:  # it is asked about the same rows, without a gradient
        rows["reference"] = rows["training"]
    if own.keep_best_by:
        prompts = validation_prompts(count.config, own.validation_prompts, training)
        each = len(prompts) * count.drawing([own.keep_best_by], count.config.sampler.guidance)
        each += balancing_rows(count.config, prompts)
        others = count.others(lambda: prompt_pool(count.config.prompts))
        each += sum(count.scores([own.keep_best_by], prompts, others).values())
        rows["validation"] = each * -(-own.steps // own.checkpoint_every)
    return Work(
        1, "train", pictures=own.steps * own.batch_size, rows=rows, steps=own.steps,
        at_most=bool(own.keep_best_by) and count.bounds([own.keep_best_by]),
    )  # fmt: skip


def _evaluate(count: _Counter, prompts: Sequence[Task]) -> Work:
    """The pictures of one model; the stage draws those of two."""
    config, own = count.config, count.config.evaluate
    guidance = config.sampler.guidance if own.guidance is None else own.guidance
    others = count.others(lambda: whole_pool(config))
    pictures = len(prompts) * own.candidates
    rows = {
        "drawing": pictures * count.drawing(own.scorers, guidance),
        "balancing": own.candidates * balancing_rows(config, prompts),
        **{name: own.candidates * each for name, each in count.scores(own.scorers, prompts, others).items()},
    }
    return Work(
        1,
        "evaluate",
        pictures=pictures,
        rows=_spent(rows),
        decoded=pictures * (1 + count.sees_pictures(own.scorers)),
        latents=pictures,
        units=len(plan_units(prompts, own.candidates, config.generate.rows_per_unit)),
        at_most=count.bounds(own.scorers),
    )


def _spent(rows: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in rows.items() if count}


# -- the rows ----------------------------------------------------------------------------------------------------------

Others = Callable[[str, Any], int]
"""(a prompt, the settings of a score) -> how many other prompts it is told from."""


@dataclass(frozen=True)
class _Counter:
    """Counts network rows, of a model with so many ``branches``; ``exact`` as of :func:`plan`."""

    config: DictConfig
    branches: int
    exact: bool

    def drawing(
        self, scorers: Sequence[str], guidance: float, candidates: int = 1, cuts: Sequence[Cut] = ()
    ) -> int:
        """Rows of drawing one prompt's candidates; all branches are asked where anything takes them (``loop.walk``)."""
        search = self.config.search
        observed = any(SCORES[name].where == "path" for name in self._scorers(scorers))
        steered = search.by is not None and search.reward in INFORMATION
        widened = bool(cuts) or observed or steered or guidance != 1 or self.branches > BRANCHES
        rows = step_rows(self.config, self.branches if widened else 1)
        return rows_of(cuts, candidates, self.config.sampler.steps, branches=rows)

    def start(self, guidance: float) -> int:
        """Rows of the picture that a candidate starts from on its way up a judge; none where it starts from noise."""
        own = self.config.search.rcp
        if own.start == "noise":
            return 0
        guidance = guidance if own.start_guidance is None else own.start_guidance
        branches = self.branches if guidance != 1 or self.branches > BRANCHES else 1
        return sum(step_rows(self.config, branches))

    def scores(
        self, names: Sequence[str], tasks: Sequence[Task | None], others: Others | None = None
    ) -> dict[str, int]:
        """Rows that scoring one candidate of every task takes, by the score whose pass it is."""
        own = {name: SCORES[name].own(self.config.scorer) for name in self._scorers(names)}
        return {name: _rows(name, own[name], tasks, others) for name in passes(own)}

    def looks(self, cuts: Sequence[Cut], tasks: Sequence[Task], others: Others | None) -> int:
        """Rows that the looks of a race take: at every candidate that comes to a cut."""
        racing = self.config.sampler.racing
        if not cuts or racing.times is None:
            return 0
        own = SCORES[racing.by].own(self.config.scorer, times=racing.times, edits=racing.edits)
        alive = [self.config.generate.candidates, *(cut.survivors for cut in cuts[:-1])]
        return sum(alive) * _rows(racing.by, own, tasks, others)

    def steering(self) -> int:
        """Rows that steering one candidate takes beside drawing it: the edits that its path is told from, or the
        distillation that goes with a judge."""
        search = self.config.search
        if search.by == "rcp":
            own = search.rcp
            if not any(own.distill.weight):
                return 0
            return int(own.steps * (self.branches if own.distill.guidance != 1 else 1))
        steered = search.by is not None and search.reward in INFORMATION and SCORES[search.reward].needs_pool
        return int(self.config.sampler.steps * search.edits) if steered else 0

    def others(self, texts: Callable[[], Sequence[str]]) -> Others | None:
        """Make what finds the edits of a prompt in the pool ``texts``; None where they are not looked for."""
        if not self.exact:
            return None
        found: list[Pool] = []

        def count(text: str, own: Any) -> int:
            if not found:
                found.append(
                    Pool(
                        list(dict.fromkeys(texts())),
                        given_negatives(self.config.scorer.contrast),
                        self.config.seed,
                    )
                )
            return len(found[0].others(text, own.negatives, own.edits, own.kinds))

        return count

    def bounds(self, names: Sequence[str]) -> bool:
        """Tell whether the rows of these scores are bounds only; so are all where guidance does not work
        everywhere, or goals of balancing may be reached early."""
        if self.config.sampler.guidance_interval is not None or bounds_balancing(self.config):
            return True
        return not self.exact and any(SCORES[name].needs_pool for name in self._scorers(names))

    def sees_pictures(self, names: Sequence[str]) -> bool:
        """Tell whether a score looks at decoded pictures."""
        return any(SCORES[name].where == "picture" for name in self._scorers(names))

    def _scorers(self, names: Sequence[str]) -> list[str]:
        return scorers_of(names, self.config.scorer.combined)


def _rows(name: str, own: Any, tasks: Sequence[Task | None], others: Others | None) -> int:
    """Rows of one score for one candidate of each task; at most, where its ``others`` are not looked for."""
    score = SCORES[name]
    if others is None or not score.needs_pool:
        return len(tasks) * score.rows(own)
    return sum(
        score.rows(dataclasses.replace(own, edits=others(task.text, own)))
        for task in tasks
        if task is not None
    )
