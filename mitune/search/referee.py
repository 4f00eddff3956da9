"""Referee Can Play: latents climb a judge of pictures, and the model's own score distillation keeps them pictures.

Liu et al., ICML 2024 (arXiv 2402.16305). A step of each latent z is two moves from gradients taken at one place:

    z ← z − lr · (w_ref · ‖g_d‖ · g_r/‖g_r‖ + s n)         g_r = −∇_z mean over the views of z's picture of the reward
    z ← z − g_d + s n'                                      g_d = w · (ε̂_guided(z_t, t) − ε),  z_t = α_t z + σ_t ε

so the referee's move is w_ref times that of distillation whatever unit it judges in. Then comes a running mean of z,
from which z starts again now and then; the last steps are distillation alone. Latents do not see one another: each has
its own random numbers, from its own seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.noise import expand
from mitune.referees.reward import Reward
from mitune.sampling.loop import noise_of
from mitune.sampling.seeds import NoiseStreams, candidate_seed
from mitune.search.catalogue import DistillConfig, RefereeConfig
from mitune.search.views import draw, size_of, views


@dataclass
class Effort:
    """Counts what was spent beside network rows.

    Attributes:
        judged: pictures or views that the referee scored and differentiated.
        looked: those that it scored alone.
        decoded: latents that were decoded and differentiated.
        silent: latents for which the referee had no gradient in any step.
        distilled: root mean square of distillation's move a cell, added over the ``moves``.
    """

    judged: int = 0
    looked: int = 0
    decoded: int = 0
    silent: int = 0
    distilled: float = 0.0
    moves: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Give what the notes of units say."""
        names = ("judged", "looked", "decoded", "silent")
        return {name: getattr(self, name) for name in names}

    def add(self, counts: Mapping[str, int]) -> None:
        """Count what was spent elsewhere, as ``counts`` says it."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)


def climb(
    denoiser: Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    reward: Reward,
    settings: RefereeConfig | None = None,
    start: Tensor | None = None,
    batch_size: int = 64,
    effort: Effort | None = None,
) -> Tensor:
    """Draw one latent [n, …] for each of the n ``prompts`` up the gradient of ``reward``.

    Args:
        denoiser: the model.
        prompts: n texts.
        seeds: [n]: all that is random in a latent follows from its own.
        reward: a differentiable judge.
        settings: as the configuration has them.
        start: latents [n, …] to start from (None: noise, the same that a sampler starts from).
        batch_size: views that the judge sees at once.
        effort: counts what is spent.

    UserError for a reward without gradient, or settings out of bounds. ValueError if numbers do not fit.
    """
    settings = settings or RefereeConfig()
    settings.check("search.rcp.")
    check_climbs(reward)
    if len(prompts) != len(seeds) or (start is not None and len(start) != len(seeds)):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds, or as many starts, do not fit")
    referee = _Referee(denoiser, prompts, seeds, reward, settings, batch_size, effort or Effort())
    distilled = _Distilled(denoiser, prompts, seeds, settings)
    langevin = _streams(denoiser, seeds, "langevin")
    z = noise_of(denoiser, seeds).next() if start is None else start.detach().clone()
    mean = z.clone()
    spoken = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for step in range(last_step(settings)):
        if begins_anew(settings, step):
            z = mean.clone()
        judged = heard(settings, step)
        noise = settings.noise if judged else settings.end_noise
        own = distilled.move(z, step)
        pull = referee.gradient(z) if judged else None
        if own is not None:
            referee.effort.distilled += float(own.square().mean().sqrt())
            referee.effort.moves += 1
        if pull is not None:
            climbed = balanced(pull, own, settings.referee_weight)
            spoken |= climbed.flatten(1).any(1)
            z = z - learning_rate(settings, step) * (climbed + noise * langevin.next())
        if own is not None:
            z = z - own + noise * langevin.next()
        mean = torch.lerp(z, mean, settings.restart.decay)
    if heard(settings, 0):
        referee.effort.silent += int((~spoken).sum())
    return z


def check_climbs(reward: Reward) -> None:
    """Raise UserError unless there is a gradient to climb."""
    if not reward.differentiable:
        raise UserError(
            f"search.by=rcp needs a reward with a gradient, and '{reward.name}' has none; take a differentiable one"
            " such as clip, or steer by sampler=das, which needs none"
        )


def last_step(settings: RefereeConfig) -> int:
    """Count the steps: those of the referee alone where there is no distillation to clean up after it."""
    if any(settings.distill.weight) or settings.referee_steps is None:
        return settings.steps
    return min(settings.steps, settings.referee_steps)


def heard(settings: RefereeConfig, step: int) -> bool:
    """Tell whether the referee has its say at a step."""
    most = settings.steps if settings.referee_steps is None else settings.referee_steps
    return step < most and settings.referee_weight > 0


def begins_anew(settings: RefereeConfig, step: int) -> bool:
    """Tell whether a step begins at the running mean."""
    own = settings.restart
    most = settings.steps if settings.referee_steps is None else settings.referee_steps
    return own.every is not None and own.start <= step <= most and (step - own.start) % own.every == 0


def learning_rate(settings: RefereeConfig, step: int) -> float:
    """Give the factor on the referee's move: a line up to ``lr``, then half a cosine down to ``min_lr``."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    return cosine(settings.lr, settings.min_lr, (step - settings.warmup) / (settings.steps - settings.warmup))


def distill_weight(settings: RefereeConfig, step: int) -> float:
    """Give w, the factor on ε̂ − ε."""
    first, last = settings.distill.weight
    return cosine(first, last, step / settings.steps)


def cosine(first: float, last: float, done: float) -> float:
    """Go from ``first`` to ``last`` by half a cosine; ``done``: the share of the way."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def balanced(pull: Tensor, own: Tensor | None, weight: float) -> Tensor:
    """Scale each row of ``pull`` [n, …] to ``weight`` times the length of its row in ``own`` (None: to a root mean
    square of ``weight``). A row that is 0, or not finite, becomes 0."""
    length = pull.flatten(1).double().norm(dim=1)
    target = length.new_full(length.shape, math.sqrt(pull[0].numel()))
    if own is not None:
        target = own.flatten(1).double().norm(dim=1)
    whole = length.isfinite() & (length > 0)
    scale = torch.where(whole, weight * target / torch.where(whole, length, torch.ones_like(length)), 0.0)
    kept = torch.where(expand(whole.to(pull.dtype), pull) > 0, pull, torch.zeros_like(pull))
    return expand(scale, pull) * kept


def random_times(denoiser: Denoiser, uniforms: Tensor, settings: DistillConfig) -> Tensor:
    """Place ``uniforms`` [n] in the interval of times, in the model's units: whole ones of a table, any of a flow."""
    total = denoiser.schedule.num_train_timesteps
    low, high = (share * total for share in settings.times)
    if denoiser.schedule.kind == "flow":
        return low + (high - low) * uniforms
    first, last = round(low), min(round(high), total - 1)
    return (first + uniforms * (last - first + 1)).floor().clamp(max=last)


def distillation(
    denoiser: Denoiser, z: Tensor, noise: Tensor, t: Tensor, given: Condition, guidance: float
) -> Tensor:
    """ε̂_guided(z_t, t) − ε [n, …]: what score distillation goes against (Poole et al. 2023, eq. 3).

    Args:
        denoiser: the model.
        z, noise: [n, …].
        t: [n].
        given: as ``Denoiser.outputs`` takes it.
        guidance: classifier-free scale.
    """
    with torch.no_grad():
        noisy = denoiser.schedule.add_noise(z, noise, t)
        output = denoiser.outputs(noisy, t, given, guidance)[-1]
        return denoiser.schedule.to_epsilon(output, noisy, t, denoiser.prediction_type) - noise


class _Distilled:
    """What the model says of latents at random times."""

    def __init__(
        self, denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int], settings: RefereeConfig
    ) -> None:
        self._denoiser, self._settings = denoiser, settings
        self._on = any(settings.distill.weight)
        if not self._on:
            return
        own = settings.distill
        condition = denoiser.encode_prompts([f"{own.prefix}{prompt}" for prompt in prompts])
        wide = denoiser.needs_branches(own.guidance)
        self._given = denoiser.widened(condition) if wide else condition
        self._times = [torch.Generator().manual_seed(candidate_seed(seed, "time", 0)) for seed in seeds]
        self._noise = _streams(denoiser, seeds, "distill")

    def move(self, z: Tensor, step: int) -> Tensor | None:
        """g_d [n, …] at a step; None where distillation is off."""
        if not self._on:
            return None
        own = self._settings.distill
        uniforms = torch.cat([torch.rand(1, generator=each, dtype=torch.float64) for each in self._times])
        t = random_times(self._denoiser, uniforms, own).to(z.device)
        found = distillation(self._denoiser, z, self._noise.next(), t, self._given, own.guidance)
        return distill_weight(self._settings, step) * found


class _Referee:
    """What a judge says of latents, seen as pictures from many sides."""

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        seeds: Sequence[int],
        reward: Reward,
        settings: RefereeConfig,
        batch_size: int,
        effort: Effort,
    ) -> None:
        self._denoiser, self._reward, self._views = denoiser, reward, settings.views
        self._prompts, self._batch_size, self.effort = list(prompts), batch_size, effort
        self._generators = [torch.Generator().manual_seed(candidate_seed(seed, "views", 0)) for seed in seeds]

    def gradient(self, z: Tensor) -> Tensor:
        """−∇_z of the mean reward of each latent's views [n, …].

        The graph of the views is held for a part of the pictures at a time, and that of the decoder for as many as it
        takes in one go.
        """
        size = max(1, min(self._denoiser.pictures_at_once, self._batch_size))
        parts = [slice(start, start + size) for start in range(0, len(z), size)]
        return torch.cat([self._part(z[part], part) for part in parts])

    def _part(self, z: Tensor, part: slice) -> Tensor:
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            pictures = self._denoiser.decode(z)
        self.effort.decoded += len(z)
        slopes = self._slopes(pictures.detach(), self._prompts[part], self._generators[part])
        (gradient,) = torch.autograd.grad(pictures, z, slopes)
        return gradient

    def _slopes(
        self, pictures: Tensor, prompts: Sequence[str], generators: Sequence[torch.Generator]
    ) -> Tensor:
        """−∂(mean reward)/∂picture [n, 3, H, W], a few pictures at a time."""
        size = max(1, self._batch_size // max(1, self._views.number))
        found = []
        for start in range(0, len(pictures), size):
            part = slice(start, start + size)
            found.append(self._of(pictures[part], prompts[part], generators[part]))
        return torch.cat(found)

    def _of(self, pictures: Tensor, prompts: Sequence[str], generators: Sequence[torch.Generator]) -> Tensor:
        pictures = pictures.requires_grad_()
        count = self._views.number
        if not count:
            return self._slope(pictures, prompts)
        height, width = pictures.shape[-2:]
        numbers = draw(generators, self._views, size_of(self._views, (height, width)))
        with torch.enable_grad():
            shown = views(pictures, numbers, self._views)
        texts = [prompt for prompt in prompts for _ in range(count)]
        hardest = self._views.hardest
        if hardest is not None and hardest < count:
            with torch.no_grad():
                parts = self._parts(len(shown))
                scores = torch.cat([self._reward.score(shown[part].detach(), texts[part]) for part in parts])
            self.effort.looked += len(shown)
            chosen = scores.view(-1, count).argsort(dim=1, stable=True)[:, :hardest]
            rows = (
                chosen.to(shown.device) + count * torch.arange(len(pictures), device=shown.device)[:, None]
            ).flatten()
            shown, texts = shown[rows], [texts[row] for row in rows.tolist()]
        slopes = [self._slope(shown[part].detach(), texts[part]) for part in self._parts(len(shown))]
        (slope,) = torch.autograd.grad(shown, pictures, torch.cat(slopes) * (len(pictures) / len(shown)))
        return slope

    def _parts(self, count: int) -> list[slice]:
        """Share out ``count`` views, as many at once as the judge may see."""
        return [slice(start, start + self._batch_size) for start in range(0, count, self._batch_size)]

    def _slope(self, shown: Tensor, texts: Sequence[str]) -> Tensor:
        """−∂(reward)/∂``shown`` [m, 3, h, w], of each its own."""
        shown = shown.requires_grad_()
        with torch.enable_grad():
            scores = self._reward.score(shown, list(texts))
        self.effort.judged += len(shown)
        if not scores.requires_grad:
            raise UserError(
                f"the reward '{self._reward.name}' says it is differentiable, but no gradient reaches its score; take"
                " another reward"
            )
        loss = -torch.where(scores.isfinite(), scores, torch.zeros_like(scores)).sum()
        (slope,) = torch.autograd.grad(loss, shown)
        return slope


def _streams(denoiser: Denoiser, seeds: Sequence[int], what: str) -> NoiseStreams:
    return noise_of(denoiser, [candidate_seed(seed, what, 0) for seed in seeds])
