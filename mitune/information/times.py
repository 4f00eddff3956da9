"""At which times a picture is noised, and what each of them counts: the t range, weighting and strategy of estimators.

All estimators are sums Σ_j w_j f(t_j) for an integral ∫ w(t) f(t) dt over [t_min, t_max]. The *weighting* says what w
is, the *strategy* where the t_j lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.information.catalogue import STRATEGIES, WEIGHTINGS
from mitune.noise import NoiseSchedule, Time

# The even part of importance sampling: no weight grows beyond 11 times the mean one of its profile.
_DEFENCE = 0.1
_THIRDS = {"small": 0, "middle": 1, "large": 2}


class TimeGrid(NamedTuple):
    """Times ``t`` [m], rising (int64 for VP, float64 for flow), and the share ``weights`` [m] of ∫ w dt of each."""

    t: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Profile:
    """A curve over time by its values ≥ 0 at rising times, linear between and level beyond them; JSON-friendly.

    Made by :func:`mitune.information.mi.measure_profile`. ValueError for fewer than two points or a fault in them.

    >>> Profile((0.0, 10.0), (1.0, 3.0))([5.0, 20.0]).tolist()
    [2.0, 3.0]
    """

    t: tuple[float, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        times, values = np.asarray(self.t), np.asarray(self.value)
        if len(times) != len(values) or len(times) < 2 or not (np.diff(times) > 0).all():
            raise ValueError("a profile needs at least two rising times, and a value for each")
        if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
            raise ValueError("the values of a profile must be finite, not negative and not all zero")

    def __call__(self, t: Sequence[float] | np.ndarray) -> np.ndarray:
        """The curve at times ``t``."""
        return np.asarray(np.interp(t, self.t, self.value))

    def cumulative(self, t: np.ndarray) -> np.ndarray:
        """Its exact integral from time 0 to each of ``t`` ≥ 0."""
        knots = np.unique(np.concatenate([[0.0], self.t, np.ravel(t)]))
        height = self(knots)
        area = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (height[1:] + height[:-1]) / 2)])
        return area[np.searchsorted(knots, t)]


class Weighting:
    """Says what a time counts: w(t) dt on [t_min, t_max] by its primitive.

    >>> weights = Weighting(NoiseSchedule.rectified_flow(), "uniform", 400, 1000)
    >>> round(float(weights.density(500)) * 600 / weights.total, 6)
    1.0

    * "continuous": −½ λ'(t) dt, the likelihood's own (Kingma et al., VDM, arXiv 2107.00630): results in nats
      where the range is all of the times.
    * "paper": κ_t = β_t T / (2 α_t (1 − ᾱ_t)) averaged over the times (Wang et al., ICLR 2025, eq. 2): as published,
      so without the length of the range, and by its value at each time rather than over its stretch.
    * "uniform": all times alike, as networks are trained; the whole weighs what "continuous" does.
    * "profile": w ∝ a measured ``profile``; the whole weighs what "continuous" does.

    Args:
        schedule: the model's, of T steps.
        name: one of these.
        t_min, t_max: the range (default: all of it).
        profile: of "profile".

    Raises UserError for an unknown name, a missing profile, or unless 0 ≤ t_min < t_max ≤ T.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        name: str = "continuous",
        t_min: float = 0,
        t_max: float | None = None,
        profile: Profile | None = None,
    ) -> None:
        check_known("weighting", name, WEIGHTINGS)
        total = schedule.num_train_timesteps
        t_max = total if t_max is None else t_max
        if not 0 <= t_min < t_max <= total:
            raise UserError(
                f"times: t_min={t_min} and t_max={t_max} must satisfy 0 ≤ t_min < t_max ≤ {total}"
            )
        if name == "profile" and profile is None:
            raise UserError(
                "weighting=profile needs a measured profile; measure one or choose another weighting"
            )
        self.schedule = schedule
        self.name = name
        self.t_min, self.t_max = float(t_min), float(t_max)
        self.profile = profile
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        self.total = float(-0.5 * schedule.log_snr(ends).diff())
        self._scale = self.total / (self.t_max - self.t_min)
        if name == "profile" and profile is not None:
            area = float(np.diff(profile.cumulative(ends.numpy()))[0])
            if area <= 0:
                raise UserError(f"weighting=profile: the profile is 0 from t_min={t_min} to t_max={t_max}")
            self._scale = self.total / area

    def primitive(self, t: Time) -> Tensor:
        """∫ w dt up to a constant, float64 on the CPU; of "paper" the plain time, see ``density``."""
        time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if self.name == "continuous":
            return -0.5 * self.schedule.log_snr(time)
        if self.name == "uniform":
            return self._scale * time
        if self.name == "profile" and self.profile is not None:
            return self._scale * torch.as_tensor(self.profile.cumulative(time.numpy()))
        return time

    def density(self, t: Time) -> Tensor:
        """w(t) per step of time, float64 on the CPU. VP: of the whole step that t lies in."""
        time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if self.name == "paper":
            return self.schedule.kappa(self.network_time(time)) / (self.t_max - self.t_min)
        if self.name == "uniform":
            return torch.full_like(time, self._scale)
        if self.name == "profile" and self.profile is not None:
            return self._scale * torch.as_tensor(self.profile(time.numpy()))
        if self.schedule.kind == "vp":
            return self.primitive(time.floor() + 1) - self.primitive(time.floor())
        return self.schedule.kappa_continuous(time) / self.schedule.num_train_timesteps

    def shares(self, edges: Tensor, t: Tensor) -> Tensor:
        """Weights [m] of times ``t`` [m] that stand for the stretches between ``edges`` [m + 1]."""
        if self.name == "paper":
            return self.density(t) * edges.diff()
        return self.primitive(edges).diff()

    def emphasis(self, t: Time) -> Tensor:
        """w(t) against the likelihood's −½ λ'(t): what a path multiplies its terms with. 1 for "continuous"."""
        time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if self.name == "continuous":
            return torch.ones_like(time)
        natural = self.schedule.kappa_continuous(time) / self.schedule.num_train_timesteps
        return self.density(time) / natural

    def network_time(self, t: Tensor) -> Tensor:
        """The time the network is asked at: whole steps for VP, which is what it was trained on."""
        if self.schedule.kind == "vp":
            return t.floor().clamp(max=self.schedule.num_train_timesteps - 1).long()
        return t


def time_grid(
    schedule: NoiseSchedule,
    times: int,
    t_min: float,
    t_max: float,
    weighting: str = "continuous",
    strategy: str = "even",
    profile: Profile | None = None,
    seed: int | None = None,
) -> TimeGrid:
    """Lay out ``times`` times in [t_min, t_max] with their weights; the same for all candidates to be compared.

    Strategies:

    * "even": midpoints of equal stretches, each weighted by its stretch.
    * "small", "middle", "large": the same in the lowest, middle or highest third of the range alone (Zhou et al.,
      arXiv 2506.09740, sampling strategies).
    * "stratified": a time drawn in each of the equal stretches, with density w, so that the estimate has no bias of
      the grid (and, but for the noise, least variance: the weight of a stretch is exact).
    * "random": drawn all over the range; unbiased, and the noisiest.
    * "importance": times lie as densely as ``profile``, a measured κ_t E‖ε̂_c − ε̂_∅‖², is high (plus a tenth of its
      mean, as it may be off), each weighted by w over that density. In equal shares of it: with a seed one time drawn
      in each (unbiased), without one their midpoints.

    VP times are rounded down to whole steps, so importance sampling may name a step twice.

    Args:
        schedule: the model's.
        times: how many.
        t_min, t_max, weighting, profile: as of ``Weighting``.
        strategy: one of these.
        seed: of what is drawn (None: 0).

    UserError for unknown names, a missing profile, a range outside 0…T or stretches less than one step wide.
    """
    check_known("times: strategy", strategy, STRATEGIES)
    if strategy in _THIRDS and 0 <= t_min < t_max:
        third = (t_max - t_min) / 3
        t_min += third * _THIRDS[strategy]
        t_max = t_max if strategy == "large" else t_min + third
    weight = Weighting(schedule, weighting, t_min, t_max, profile)
    if not 1 <= times <= t_max - t_min:
        raise UserError(
            f"times={times} must lie in 1…{int(t_max - t_min)}, the steps between t_min and t_max"
        )
    generator = torch.Generator().manual_seed(seed or 0)
    if strategy == "random":
        drawn = torch.rand(times, generator=generator, dtype=torch.float64).sort().values
        t = t_min + (t_max - t_min) * drawn
        return TimeGrid(weight.network_time(t), weight.density(t) * ((t_max - t_min) / times))

    if strategy == "importance":
        return _importance(weight, times, profile, generator if seed is not None else None)
    edges = torch.linspace(t_min, t_max, times + 1, dtype=torch.float64)
    t = (edges[1:] + edges[:-1]) / 2
    if strategy == "stratified":
        mass = weight.primitive(edges)
        mass = mass[:-1] + torch.rand(times, generator=generator, dtype=torch.float64) * mass.diff()
        t = _inverse(lambda at: weight.primitive(torch.as_tensor(at)).numpy(), edges, mass)
    return TimeGrid(weight.network_time(t), weight.shares(edges, t))


def _importance(
    weight: Weighting, times: int, profile: Profile | None, generator: torch.Generator | None
) -> TimeGrid:
    """Σ w(t_j) f(t_j) / (m q(t_j)) with t_j in the j-th of m equal shares of q ∝ profile + a tenth of its mean."""
    if profile is None:
        raise UserError("times: strategy=importance needs a measured profile; measure one or choose even")
    ends = torch.tensor([weight.t_min, weight.t_max], dtype=torch.float64)
    area = float(np.diff(profile.cumulative(ends.numpy()))[0])
    if area <= 0:
        raise UserError(
            f"times: strategy=importance: the profile is 0 from t_min={weight.t_min:g} to t_max={weight.t_max:g}"
        )
    floor = _DEFENCE * area / (weight.t_max - weight.t_min)

    def cumulative(at: np.ndarray) -> np.ndarray:
        return profile.cumulative(at) + floor * at

    first, last = cumulative(ends.numpy()).tolist()
    place = torch.full((times,), 0.5, dtype=torch.float64)
    if generator is not None:
        place = torch.rand(times, generator=generator, dtype=torch.float64)
    share = (last - first) / times
    t = _inverse(cumulative, ends, first + share * (torch.arange(times) + place))
    q = torch.as_tensor(profile(t.numpy())) + floor
    return TimeGrid(weight.network_time(t), weight.density(t) * share / q)


def _inverse(primitive: Callable[[np.ndarray], np.ndarray], edges: Tensor, mass: Tensor) -> Tensor:
    """Times at which a rising ``primitive`` reaches ``mass``, read off a fine grid between the outer ``edges``."""
    low, high = float(edges[0]), float(edges[-1])
    inner = np.arange(np.ceil(low), np.floor(high) + 1)  # VP curves bend at whole steps
    grid = np.unique(np.concatenate([np.linspace(low, high, 4001), inner, edges.numpy()]))
    return torch.as_tensor(np.interp(mass.numpy(), primitive(grid), grid))
