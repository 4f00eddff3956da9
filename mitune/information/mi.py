"""``mi``: mutual information of prompt and picture along the sampler's own path, free of charge; and its profile."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError, check_known
from mitune.information.catalogue import PATH_FORMS, MIConfig
from mitune.information.denoising import denoising_terms
from mitune.information.noising import Noising
from mitune.information.times import Profile, Weighting, time_grid
from mitune.noise import NoiseSchedule, exact_type
from mitune.sampling.loop import Step


class PathMI:
    """Observer of Σ_t w_t ‖ε̂_c − ε̂_∅‖² over the visited steps with t > t_min; float64 [n] ≥ 0.

    >>> mi = PathMI(denoiser.schedule)
    >>> latents = sample(denoiser, denoiser.encode_prompts(["a", "b"]), [1, 2], SamplerConfig("ddpm"), [mi])
    >>> mi.result() > 0
    tensor([True, True])

    "paper": w_t = κ_t / (number of those steps), κ_t = β_t T/(2 α_t (1 − ᾱ_t)) (Wang et al., ICLR 2025, eq. 2
    and Algorithm 2; the variance is unbounded as t → 0, hence ``t_min``). "continuous": ½ ∫ −λ' ‖·‖² dτ from ``t_min``
    on, each visited time standing for the stretch of λ nearer to it than to its neighbours; in nats where the range is
    all of the times and the path unguided and stochastic. "uniform" likewise, with the weights of
    :class:`mitune.information.times.Weighting`.

    ``form`` "orthogonal" sums w_t (ε̂_c − z_t/(α+σ))·(ε̂_c − ε̂_∅) instead, of either sign. On a rectified flow that is
    RFMI's (1−t)/t · v̂_c·(v̂_c − v̂_∅) (arXiv 2503.14358): its integral with the continuous weights, as the score
    ``rfmi`` has it, its mean over the visited steps with the paper's, as ``mi``. "guided" has the guided velocity in
    both places of v̂_c, as RFMI's published code: without guidance the same. The square form on a flow is eq. 2 carried
    over to it, which ranks differently. On a diffusion v̂ is the velocity ε̂ − ẑ_0 of the straight path through z_t: the
    orthogonal form has the same mean over pictures and prompts as the square one; "guided" is refused there, as a
    guided prediction is that of no density and nobody has published it for one.

    Args:
        schedule: of the model.
        weighting, t_min: as above.
        form: as above.
        name: of the score (default: as weighting and form say).

    A visited time outside of a guidance interval counts nothing: the sum, mean or integral is that over the interval.

    UserError as ``Weighting``, for an unknown form, and for a diffusion's guided one; ``result`` raises one where the
    path has left the range and no visited time lay in it.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        weighting: str = "paper",
        t_min: float = MIConfig.t_min,
        form: str = "square",
        name: str | None = None,
    ) -> None:
        check_known("form", form, PATH_FORMS)
        if form == "guided" and schedule.kind != "flow":
            raise UserError(
                "scorer.mi.form=guided is what RFMI's published code computes on rectified flows, and this model is a"
                " diffusion, for which there is none; say scorer.mi.form=orthogonal or square"
            )
        self.weighting = Weighting(schedule, weighting, t_min)
        self.form = form
        own = "mi" if weighting == "paper" else f"mi_{weighting}"
        self.name = name or ("rfmi" if form == "orthogonal" else own)

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        self._total = torch.zeros(n, device=device, dtype=exact_type(device))
        self._visited, self._reached = 0, math.inf
        self._edge = float(self.weighting.primitive(self.weighting.t_max))

    def observe(self, step: Step) -> None:
        """Add one step."""
        of, self._reached = self.weighting, step.t_prev
        if step.t <= of.t_min:
            return
        self._visited += step.guided
        if of.name == "paper":
            weight = float(of.schedule.kappa(step.t)) * self._signal_left(step.t)
        else:
            edge = float(of.primitive(of.t_min))
            if step.t_prev > of.t_min:
                edge = float(of.primitive(step.t) + of.primitive(step.t_prev)) / 2
            weight, self._edge = self._edge - edge, edge
        self._total.add_(self._product(step), alpha=weight)

    def _signal_left(self, t: float) -> float:
        """1, but for the very first step of a flow, whose α is held above 0: a product of velocities counts nothing at
        t = T, where it has (1−t)/t, and the square form as ever."""
        schedule = self.weighting.schedule
        if self.form == "square" or schedule.kind != "flow":
            return 1.0
        return (1 - t / schedule.num_train_timesteps) / float(schedule.alpha(t))

    def _product(self, step: Step) -> Tensor:
        """‖ε̂_c − ε̂_∅‖², or the product [n] of another form."""
        if self.form == "square":
            return step.squared_gap
        schedule = self.weighting.schedule
        scale = float(schedule.alpha(step.t)) + float(schedule.sigma(step.t))
        if self.form == "orthogonal":
            return ((step.eps_cond - step.z / scale).flatten(1) * step.delta).sum(1)
        return ((step.eps - step.z / scale) * (step.eps - step.eps_null)).flatten(1).sum(1)

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population."""
        self._total = self._total[rows]

    def result(self) -> Tensor:
        """MI over the steps taken so far [n]."""
        of = self.weighting
        if not self._visited and self._reached > of.t_min:
            return self._total.clone()  # nothing yet: the times that count are to come
        if not self._visited:
            raise UserError(
                f"mi: no visited time lies above t_min={of.t_min:g} and in sampler.guidance_interval, if that is given;"
                " lower t_min, or give a wider interval"
            )
        return self._total / self._visited if of.name == "paper" else self._total.clone()


def path_mi(schedule: NoiseSchedule, settings: MIConfig) -> PathMI:
    """Make the observer of the score ``mi``."""
    return PathMI(schedule, "paper", settings.t_min, settings.form or "square", "mi")


def path_mi_continuous(schedule: NoiseSchedule, settings: MIConfig) -> PathMI:
    """Make the observer of the score ``mi_continuous``."""
    return PathMI(schedule, "continuous", settings.t_min, settings.form or "square", "mi_continuous")


def path_rfmi(schedule: NoiseSchedule, settings: MIConfig) -> PathMI:
    """Make the observer of the score ``rfmi``."""
    return PathMI(schedule, "continuous", settings.t_min, form="orthogonal")


def measure_profile(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    seeds: Sequence[int],
    times: int = 20,
    t_min: float = 0,
    t_max: float | None = None,
    batch_size: int = 64,
) -> Profile:
    """Measure where the information is: the mean over pictures of −½ λ'(t) ‖ε̂_c − ε̂_∅‖² at ``times`` even times.

    For ``time_grid(strategy="importance")``, as the best density to draw times with is near it, and for
    ``weighting="profile"``. A few dozen pictures are enough. Cost: 2 · times forwards a picture.

    Args:
        denoiser: the model.
        z0, condition, seeds: latents [n, …], with a row and a seed of its noise for each.
        times: how many, between ``t_min`` and ``t_max`` (default: T).
        batch_size: rows of a forward at most.
    """
    schedule = denoiser.schedule
    t = time_grid(schedule, times, t_min, schedule.num_train_timesteps if t_max is None else t_max).t
    weights = schedule.kappa_continuous(t)
    conditions = [denoiser.reference(condition), condition]
    mi = denoising_terms(denoiser, z0, conditions, Noising(t, weights, seeds, batch_size), reference=0).mi
    assert mi is not None
    return Profile(tuple(t.tolist()), tuple(mi[:, :, 1].mean(0).tolist()))
