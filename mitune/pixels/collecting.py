"""What heatmaps are made of, from forwards on noisy versions of pictures: attention, gaps and losses of each phrase.

A forward serves all that wants it: that of the whole prompt gives attention, half of each gap and half of each loss;
and what is left of "a circle and a square" without the circle *is* the other phrase: its errors are measured once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError, short
from mitune.information.given import encode
from mitune.information.times import time_grid
from mitune.maps import AttentionMaps, words_of
from mitune.noise import NoiseSchedule, exact_type
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.information import shared, squared
from mitune.pixels.phrases import Asked, Phrase, without
from mitune.sampling.seeds import candidate_noise, candidate_seed
from mitune.tasks import tasks_of

Text = str | None
"""What is told; None: nothing at all."""


class Look(NamedTuple):
    """A text whose attention is looked at, the phrases in it, and their numbers among those that are asked for."""

    text: str
    phrases: tuple[Phrase, ...]
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Says what is told about one picture, and what for.

    Attributes:
        looks: the forwards whose attention is looked at.
        gaps: two texts a phrase, between which its gap lies; none: no gaps are wanted.
        losses: two texts a phrase: its loss is the error of the first less that of the second (None: less nothing).
    """

    looks: tuple[Look, ...]
    gaps: tuple[tuple[Text, Text], ...]
    losses: tuple[tuple[str, Text] | tuple[str], ...]

    @property
    def texts(self) -> tuple[Text, ...]:
        """All that gaps and losses compare."""
        return tuple(dict.fromkeys(text for pair in (*self.gaps, *self.losses) for text in pair))


@dataclass(frozen=True, eq=False)
class Found:
    """Holds what was measured of one picture.

    Attributes:
        looks: the numbers of the phrases that were looked at together, and their maps, the mean over the times, each
            of one row.
        gaps: [P, H, W], the mean over the times; None where none were wanted.
        losses: [times, P], ‖ε̂ − ε‖² over the latent, float64; None likewise.
        forwards: network rows that it took.
    """

    looks: tuple[tuple[tuple[int, ...], AttentionMaps], ...]
    gaps: Tensor | None
    losses: Tensor | None
    forwards: int


def plan_of(asked: Asked, settings: HeatmapConfig) -> Plan:
    """Plan what is told about a picture. UserError for a prompt without a phrase."""
    prompt, phrases = asked.prompt, asked.phrases
    if not phrases:
        raise UserError(f"no phrase is asked for in the prompt {short(prompt)!r}; give one that stands there")
    looks: tuple[Look, ...] = ()
    if settings.gap in ("none", "product"):
        looks = (Look(prompt, phrases, tuple(range(len(phrases)))),)
        if settings.caption == "phrase":
            looks = tuple(Look(one.text, (_alone(one),), (i,)) for i, one in enumerate(phrases))
    gaps: list[tuple[Text, Text]] = []
    if settings.gap == "mi":
        gaps = [(phrase.text, None) for phrase in phrases]
    elif settings.gap != "none":
        gaps = [(prompt, _rest(asked, phrase)) for phrase in phrases]
    losses: list[tuple[str, Text] | tuple[str]] = []
    if settings.calibration not in ("none", "constant"):
        drop = settings.losses == "drop"
        losses = [(prompt, _rest(asked, one)) if drop else (one.text,) for one in phrases]
    return Plan(looks, tuple(gaps), tuple(losses))


def _alone(phrase: Phrase) -> Phrase:
    """A phrase as its own prompt."""
    low, high = phrase.noun
    return replace(phrase, start=0, stop=len(phrase.text), noun=(low - phrase.start, high - phrase.start))


def _rest(asked: Asked, phrase: Phrase) -> Text:
    """The prompt without a phrase; nothing at all where it names no more."""
    try:
        return without(asked.prompt, phrase)
    except UserError:
        return None


def times_of(
    schedule: NoiseSchedule, settings: HeatmapConfig, plans: Sequence[Plan]
) -> tuple[Tensor, Tensor]:
    """Times at which attention is looked at, and those of gaps and losses; empty where nothing asks for them."""
    s = settings
    looked = compared = torch.empty(0)
    if any(plan.looks for plan in plans):
        looked = time_grid(schedule, int(s.times or 1), float(s.t_min or 0), float(s.t_max or 0), "uniform").t
    if any(plan.texts for plan in plans):
        compared = time_grid(schedule, int(s.loss_times or 1), 0, schedule.num_train_timesteps, "uniform").t
    return looked, compared


class _Job(NamedTuple):
    """A picture at a time: whether it is looked at, and whether texts are compared."""

    picture: int
    time: float
    looks: bool
    compares: bool


class _Row(NamedTuple):
    job: _Job
    text: Text
    look: int | None = None  # its number among all looks of the group


class Collector:
    """Measures a few pictures at a time.

    Args:
        denoiser: of the network.
        settings: without nulls.
        batch_size: rows of a forward.
    """

    def __init__(self, denoiser: Denoiser, settings: HeatmapConfig, batch_size: int) -> None:
        self._denoiser, self._settings, self._batch_size = denoiser, settings, batch_size

    @torch.no_grad()
    def collect(self, z0: Tensor, asked: Sequence[Asked], seeds: Sequence[int]) -> list[Found]:
        """Measure all pictures ``z0`` [n, …]; what is found of one does not depend on the others."""
        plans = [plan_of(one, self._settings) for one in asked]
        times = times_of(self._denoiser.schedule, self._settings, plans)
        z0 = z0.to(self._denoiser.device, torch.promote_types(torch.float32, z0.dtype))
        found: list[Found] = []
        for at in range(0, len(z0), self._batch_size):
            part = slice(at, at + self._batch_size)
            found += _Group(self._denoiser, self._settings, z0[part], plans[part], seeds[part]).measure(
                *times, self._batch_size
            )
        return found


class _Group:
    """The pictures whose sums are held at once."""

    def __init__(
        self,
        denoiser: Denoiser,
        settings: HeatmapConfig,
        z0: Tensor,
        plans: Sequence[Plan],
        seeds: Sequence[int],
    ) -> None:
        self._denoiser, self._settings = denoiser, settings
        self._z0, self._plans, self._seeds = z0, plans, seeds
        self._looks = [(i, look) for i, plan in enumerate(plans) for look in plan.looks]
        self._gaps = [(i, pair) for i, plan in enumerate(plans) for pair in plan.gaps]
        self._errors: list[dict[tuple[Text, float], float]] = [{} for _ in plans]
        self._rows = [0] * len(plans)
        self._maps: AttentionMaps | None = None
        self._gap: Tensor | None = None

    def measure(self, looked: Tensor, compared: Tensor, batch_size: int) -> list[Found]:
        self._encode(batch_size)
        for rows in self._batches(self._jobs(looked, compared), batch_size):
            self._forward(rows, batch_size)
        return [self._found(i, looked.tolist(), compared.tolist()) for i in range(len(self._plans))]

    # -- what is told ------------------------------------------------------------------------------------------------

    def _encode(self, batch_size: int) -> None:
        texts = dict.fromkeys(text for plan in self._plans for text in plan.texts if text is not None)
        texts |= dict.fromkeys(look.text for _, look in self._looks)
        self._number: dict[Text, int] = {text: i for i, text in enumerate(texts)}
        told = encode(self._denoiser, tasks_of([*texts]), batch_size)
        self._number[None] = len(texts)
        self._told = Condition.cat([told, self._denoiser.reference(told[:1])])
        if self._looks:
            columns = self._denoiser.token_spans(
                [look.text for _, look in self._looks],
                [look.phrases for _, look in self._looks],
                str(self._settings.columns),
            )
            self._words = words_of(columns, self._told.tensors["text"].shape[1])

    def _jobs(self, looked: Tensor, compared: Tensor) -> list[_Job]:
        """Those that are looked at first: their forwards are of another kind."""
        look, compare = set(looked.tolist()), set(compared.tolist())
        jobs = [
            _Job(i, time, time in look and bool(plan.looks), time in compare and bool(plan.texts))
            for i, plan in enumerate(self._plans)
            for time in sorted(look | compare)
        ]
        return sorted((job for job in jobs if job.looks or job.compares), key=lambda job: not job.looks)

    def _batches(self, jobs: Sequence[_Job], batch_size: int) -> Iterator[list[_Row]]:
        """The rows of as many jobs as fit into one forward, at least of one."""
        first: dict[int, int] = {}
        for number, (i, _) in enumerate(self._looks):
            first.setdefault(i, number)
        rows: list[_Row] = []
        for job in jobs:
            plan = self._plans[job.picture]
            own = [_Row(job, look.text, first[job.picture] + i) for i, look in enumerate(plan.looks)]
            own = own if job.looks else []
            seen = {row.text for row in own}
            if job.compares:
                own += [_Row(job, text) for text in plan.texts if text not in seen]
            if rows and len(rows) + len(own) > batch_size:
                yield rows
                rows = []
            rows += own
        if rows:
            yield rows

    # -- forwards ----------------------------------------------------------------------------------------------------

    def _forward(self, rows: list[_Row], batch_size: int) -> None:
        rows = sorted(rows, key=lambda row: row.look is None)
        device, schedule = self._z0.device, self._denoiser.schedule
        noise = {row.job: self._noise(row.job) for row in rows}
        eps = torch.stack([noise[row.job] for row in rows]).to(self._z0)
        pictures = torch.tensor([row.job.picture for row in rows], device=device)
        t = torch.tensor([row.job.time for row in rows], device=device)
        z = schedule.add_noise(self._z0[pictures], eps, t)
        told = self._told[[self._number[row.text] for row in rows]]
        looks = sum(row.look is not None for row in rows)
        found = []
        for looking, start, stop in ((True, 0, looks), (False, looks, len(rows))):
            for at in range(start, stop, batch_size):
                part = slice(at, min(at + batch_size, stop))
                if looking:
                    output = self._look(z[part], t[part], told[part], rows[part])
                    kind = self._denoiser.prediction_type
                    found.append(schedule.to_epsilon(output, z[part], t[part], kind))
                else:
                    found.append(self._denoiser.epsilon(z[part], t[part], told[part]))
        for row in rows:
            self._rows[row.job.picture] += 1
        self._compare(rows, torch.cat(found), eps)

    def _noise(self, job: _Job) -> Tensor:
        """The noise of a picture at a time: its own, whatever else is measured."""
        seed = candidate_seed(self._seeds[job.picture], "pixels", round(1000 * job.time))
        return candidate_noise(seed, self._z0.shape[1:], 0)[0]

    def _look(self, z: Tensor, t: Tensor, told: Condition, rows: Sequence[_Row]) -> Tensor:
        """The network's output, and its maps added to the sums of their looks."""
        numbers = torch.tensor([row.look for row in rows])
        refines = self._settings.refine != "none"
        output, maps = self._denoiser.look(z, t, told, self._words[numbers], refines)
        if self._maps is None:
            cross, own, late = (
                None if part is None else part.new_zeros(len(self._looks), *part.shape[1:])
                for part in maps[:3]
            )
            assert cross is not None
            self._maps = maps._replace(cross=cross, own=own, late=late)
        for total, part in zip(self._maps[:3], maps[:3], strict=True):
            if total is not None and part is not None:
                total.index_add_(0, numbers.to(part.device), part)
        return output

    def _compare(self, rows: Sequence[_Row], eps_hat: Tensor, eps: Tensor) -> None:
        """Add errors and gaps of the jobs that compare texts."""
        place = {(row.job, row.text): i for i, row in enumerate(rows) if row.job.compares}
        if not place:
            return
        errors = squared(eps_hat - eps)
        sums = errors.flatten(1).sum(1, dtype=exact_type(errors.device)).tolist()
        for (job, text), i in place.items():
            self._errors[job.picture][text, job.time] = sums[i]
        jobs = dict.fromkeys(job for job, _ in place)
        wanted = [
            (number, place[job, one], place[job, other])
            for job in jobs
            for number, (i, (one, other)) in enumerate(self._gaps)
            if i == job.picture
        ]
        if not wanted:
            return
        numbers, first, second = torch.tensor(wanted, device=eps.device).T
        if self._settings.gap == "elbo":
            gap = errors[second] - errors[first]
        else:
            gap = shared(squared(eps_hat[first] - eps_hat[second]).sqrt())
        if self._gap is None:
            self._gap = gap.new_zeros(len(self._gaps), *gap.shape[1:])
        self._gap.index_add_(0, numbers, gap)

    # -- what was found ----------------------------------------------------------------------------------------------

    def _found(self, i: int, looked: list[float], compared: list[float]) -> Found:
        plan, errors = self._plans[i], self._errors[i]
        looks = []
        for number, (picture, look) in enumerate(self._looks):
            if picture == i and self._maps is not None:
                cross, own, late = (
                    None if total is None else total[number : number + 1] / len(looked)
                    for total in self._maps[:3]
                )
                assert cross is not None
                cross = cross[:, :, : len(look.phrases)]
                looks.append((look.numbers, self._maps._replace(cross=cross, own=own, late=late)))
        gaps = losses = None
        if plan.gaps and self._gap is not None:
            own_gaps = [number for number, (picture, _) in enumerate(self._gaps) if picture == i]
            gaps = self._gap[own_gaps] / len(compared)
        if plan.losses:
            losses = torch.tensor(
                [
                    [
                        errors[pair[0], t] - (errors[pair[1], t] if len(pair) > 1 else 0.0)
                        for pair in plan.losses
                    ]
                    for t in compared
                ],
                dtype=torch.float64,
            )
        return Found(tuple(looks), gaps, losses, self._rows[i])
