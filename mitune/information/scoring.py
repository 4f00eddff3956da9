"""The scores of a set of candidates: what each needs and which pass it takes, as the catalogue says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.information.catalogue import Score
from mitune.information.given import Given
from mitune.information.in_passes import Contest, Passed, Unfinished, in_passes
from mitune.information.negatives import Pool
from mitune.information.noising import noising_of
from mitune.information.times import Profile
from mitune.referees.function import FunctionReward
from mitune.referees.weighted import load_reward
from mitune.scores import SCORES, Term, normalised, passes, scorers_of, sums, terms
from mitune.tasks import Task


class Scoring:
    """The scores that a set of candidates gets.

        judge = Scoring(["mi", "elbo"], config.scorer, denoiser)
        observers = judge.observers()                           # of the sampler's path: ``mi``
        columns = judge.on_latents(latents, tasks, seeds)       # {"elbo": [n]}

    Args:
        names: scores, of :data:`mitune.scores.SCORES` or weighted sums of them.
        settings: mapping ``scorer name -> parameters`` (section ``scorer`` of the configuration).
        denoiser: the model that judges (the one that draws).
        pool: prompts in which ``contrast`` finds its edits, or which it draws its other prompts from.
        seed: of the edits, and of times drawn at random.
        batch_size: rows of a forward when noise is put on pictures.
        given: other prompts for ``contrast`` (scorer.contrast.negatives=list).
        profile: for the scorers with weighting=profile or strategy=importance.
        functions: a user's own judges of pictures, which ``names`` may name.

    ``forwards``: network rows spent since it was made, by scorer; a pass that two scorers share counts for both, as
    each would need it alone. ``whole``: what those measured in passes would have taken in full. UserError for an
    unknown score, one of flows alone, and as ``load_reward``.
    """

    def __init__(
        self,
        names: Sequence[str],
        settings: Mapping[str, Any],
        denoiser: Denoiser,
        pool: Sequence[str] = (),
        seed: int = 0,
        batch_size: int = 96,
        given: Sequence[str] = (),
        profile: Profile | None = None,
        functions: Sequence[FunctionReward] = (),
    ) -> None:
        self._combined = settings.get("combined", "")
        self.names = tuple(names)
        self._functions = {judge.name: judge for judge in functions}
        self.scorers = tuple(scorers_of(names, self._combined, self._functions))
        self._rows: dict[str, Score] = {
            name: self._functions[name].row if name in self._functions else SCORES[name]
            for name in self.scorers
        }
        self.settings, self.denoiser = settings, denoiser
        self.forwards: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        if denoiser.schedule.kind != "flow":
            for name in self.scorers:
                if self._rows[name].flow_only:
                    raise UserError(
                        f"{name} is defined on rectified flows, and {denoiser.identity} is a diffusion model: ask for"
                        " mi"
                    )
        self._pool, self._batch_size = Pool(pool, given, seed), batch_size
        self._own = {name: self._rows[name].own(settings) for name in self.scorers}
        self._code = {name: self._rows[name].load() for name in self.scorers}  # before anything is drawn
        self._latent = [name for name in self.scorers if self._rows[name].where == "latent"]
        self._passes = passes(self._own)
        self._noisings = {
            name: noising_of(name, self._own[name], denoiser.schedule, profile, seed) for name in self._passes
        }
        self.observers()  # what one of the path refuses of this model is refused now
        pictures = [name for name in self.scorers if self._rows[name].where == "picture"]
        # Their weights are read when the first picture is judged, and once.
        self._judges: dict[str, Any] = {
            name: self._functions.get(name) or load_reward(name, settings, denoiser.device)
            for name in sorted(pictures, key=lambda name: self._rows[name].external)
        }

    @property
    def said(self) -> list[Any]:
        """Say what the scores are measured by: their names, their keys, and the times of those that have any."""
        times = {name: [own.t.tolist(), own.weights.tolist()] for name, own in self._noisings.items()}
        own = {name: repr(settings) for name, settings in self._own.items()}
        return [list(self.names), self._combined, own, times]

    def observers(self, tasks: Sequence[Task] = ()) -> list[Any]:
        """Make fresh observers of one batch's path, of candidates for these tasks."""
        model, found = self.denoiser, []
        for name in self.scorers:
            if self._rows[name].where == "path":
                asked = (model, tasks) if self._rows[name].reads_prompts else (model.schedule,)
                found.append(self._code[name](*asked, self._own[name]))
        return found

    def on_latents(
        self,
        latents: Tensor,
        tasks: Sequence[Task | str],
        seeds: Sequence[int],
        but: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Score final latents [n, …] for their own tasks, by noise drawn from their own seeds: each [n].

        ``but``: those that :meth:`race` measures.
        """
        given = Given(self.denoiser, tasks, self._pool, self._batch_size)
        found: dict[str, Tensor] = {}
        for name, columns in self._passes.items():
            if name in but:
                continue
            before = self.denoiser.forwards
            noising = replace(self._noisings[name], seeds=list(seeds), batch_size=self._batch_size)
            values = self._code[name](self.denoiser, latents, given, noising, self._own[name])
            every = values if isinstance(values, Mapping) else {name: values}
            found |= {column: every[column] for column in columns}
            self.forwards.update(dict.fromkeys(columns, self.denoiser.forwards - before))
        return {name: found[name] for name in self._latent if name in found}

    def terms(self, score: str) -> tuple[Term, ...]:
        """The parts of a score."""
        return terms(score, self._combined, self._functions)

    def racing(self, contest: Contest) -> list[str]:
        """The scores that a contest goes by and that can be measured in passes: those whose pass is theirs alone."""
        wanted = {part.name for part in contest.parts}
        return [
            name
            for name, columns in self._passes.items()
            if name in wanted and columns == [name] and self._rows[name].opens
        ]

    def opened(
        self, latents: Tensor, tasks: Sequence[Task], seeds: Sequence[int], contest: Contest
    ) -> dict[str, Unfinished]:
        """Begin what :meth:`racing` names; arguments as of :meth:`race`."""
        given = Given(self.denoiser, tasks, self._pool, self._batch_size)
        found = {}
        for name in self.racing(contest):
            noising = replace(self._noisings[name], seeds=list(seeds), batch_size=self._batch_size)
            begin = self._rows[name].load_from("opens")
            found[name] = begin(self.denoiser, latents, given, noising, self._own[name])
        return found

    def race(
        self,
        latents: Tensor,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        known: Mapping[str, Sequence[float]],
        contest: Contest,
    ) -> Passed:
        """Measure in passes what :meth:`racing` names.

        Args:
            latents, tasks, seeds: as of :meth:`on_latents`, of all candidates of their prompts.
            known, contest: as of :func:`mitune.information.in_passes.in_passes`.
        """
        opened = self.opened(latents, tasks, seeds, contest)
        number = {key: place for place, key in enumerate(dict.fromkeys(task.key for task in tasks))}
        found = in_passes(opened, known, [number[task.key] for task in tasks], contest)
        self.forwards.update(found.forwards)
        self.whole.update(found.whole)
        return found

    def on_pictures(self, pictures: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Score pictures [n, 3, H, W] in [0, 1] for their own prompts: each [n]."""
        found: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, judge in self._judges.items():
                if self._rows[name].columns:
                    found |= judge.columns(pictures, list(texts))
                else:
                    found[name] = judge.score(pictures, list(texts))
        return found

    @property
    def judges(self) -> dict[str, str]:
        """The identities of the judges from outside, by scorer."""
        return {name: judge.identity for name, judge in self._judges.items() if self._rows[name].external}

    def on_table(
        self, table: Mapping[str, Any], groups: Sequence[Any] | None, more: Sequence[str] = ()
    ) -> dict[str, list[float]]:
        """Add up the sums, and those of ``more``, from the columns they are made of; ``groups``: the prompt of each row
        (``scores.weigh``)."""
        wanted = [*self.names, *more]
        return {
            name: values.tolist()
            for name, values in sums(table, wanted, self._combined, groups, self._functions).items()
        }

    @property
    def needs_pictures(self) -> bool:
        """True where a score looks at decoded pictures."""
        return bool(self._judges)

    def edits(self, text: str) -> list[str]:
        """Find the other prompts that ``contrast`` tells a prompt from. Raises UserError when there are none."""
        own = self._own["contrast"]
        return self._pool.others(text, own.negatives, own.edits, own.kinds)


def check_oracle(names: Sequence[str], texts: Sequence[str], key: str, combined: str = "") -> None:
    """Raise UserError if the oracle is to judge a prompt that is none of the embedded world's."""
    if "oracle" not in scorers_of(names, combined):
        return
    from mitune.worlds.shapes import parse_prompt

    for text in texts:
        try:
            parse_prompt(text)
        except ValueError as error:
            others = ",".join(name for name in names if "oracle" not in scorers_of([name], combined))
            way = f"say {key}=[{others}]" if others else f"name another judge by {key}="
            raise UserError(
                f"{key}: the oracle judges prompts of the embedded world only, not {text!r}; {way}"
            ) from error


def check_judges(names: Sequence[str], texts: Sequence[str], key: str, settings: Mapping[str, Any]) -> None:
    """Check that those who judge can: the oracle and what looks for phrases these prompts, referees at all. No weights
    are read.

    ``settings``: section ``scorer``. Raises UserError.
    """
    check_oracle(names, texts, key, settings["combined"])
    for name in scorers_of(names, settings["combined"]):
        if SCORES[name].checks:
            SCORES[name].load_from("checks")(texts, SCORES[name].own(settings), key)
        if SCORES[name].where == "picture":
            load_reward(name, OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings)  # type: ignore[arg-type]


def check_no_path(names: Sequence[str], key: str, combined: str = "", there: Sequence[str] = ()) -> None:
    """Raise UserError if a score of the sampler's path is asked of finished pictures; ``there``: columns they have."""
    for name in scorers_of(names, combined):
        if SCORES[name].where == "path" and name not in there:
            raise UserError(
                f"{key}: {name} is measured on the sampler's own path, and a finished picture has none; use"
                f" {SCORES[name].on_pictures}"
            )


def check_normalised(
    names: Sequence[str], texts: Sequence[str], key: str, combined: str = "", own: Sequence[str] = ()
) -> None:
    """Raise UserError for a score that compares the pictures of a caption, where each caption has one.

    Args:
        names: scores, asked for by ``key``.
        texts: the captions, one a picture.
        key: names them.
        combined, own: as of :func:`mitune.scores.terms`.
    """
    if len(set(texts)) < len(texts):
        return
    for name in names:
        if normalised(name, combined, own):
            raise UserError(
                f"{key}: {name} is standardised among the pictures of each caption, but every caption here"
                " has one picture; give a sum without z(), such as contrast+0.5*elbo"
            )
