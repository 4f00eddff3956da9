"""`cas`: log p(z|c) − log p(z), each by the change of variables along its probability-flow ODE.

Condition-Alignment Score of Hong et al. (ICLR 2024), written once for every schedule. With x = z/α and s = σ/α the
probability-flow ODE is dx/ds = ε̂(αx, t), so the density of a picture x_0 = z_0 follows from where its path ends:

    log p(z_0|c) = log p_S(x_S) + ∫ σ tr(∂ε̂/∂z) d log s

The path is found by DDIM inversion with fixed-point recursion, the trace by Hutchinson's estimator with Rademacher
probes (a finite difference, or the exact directional derivative by ``torch.func.jvp``), the integral by a Newton–Cotes
rule on nodes even in the angle φ = arctan s, where the integrand is smooth at both ends. The part of the trace that
unit Gaussian data would have, d·sin²φ, is integrated in closed form; only the rest is left to the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mitune.denoiser import Condition, Denoiser
from mitune.errors import UserError
from mitune.information.catalogue import CASConfig
from mitune.information.given import Given
from mitune.information.noising import Noising
from mitune.noise import NoiseSchedule, exact_type
from mitune.sampling.seeds import candidate_seed

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class CAS:
    """Log densities of n pictures in nats, float64 [n] (float32 where the device has no float64).

    ``standard_error``: of ``total``, from the spread of the probes alone; NaN for one probe. The errors of the path and
    of the rule are not in it: they shrink with the steps.
    """

    conditional: Tensor
    unconditional: Tensor
    standard_error: Tensor

    @property
    def total(self) -> Tensor:
        """log p(z|c) − log p(z) [n]."""
        return self.conditional - self.unconditional


@dataclass(frozen=True, eq=False)
class Nodes:
    """Places of the path: times ``t``, their α and σ, and weights w with ∫ f d log s ≈ Σ_j w_j f_j; all [m] float64."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    weights: Tensor

    @property
    def s(self) -> Tensor:
        """Noise over signal σ/α [m], rising."""
        return self.sigma / self.alpha

    @property
    def gaussian(self) -> Tensor:
        """σ tr(∂ε̂/∂z) of one coordinate of unit Gaussian data: sin²φ = s²/(1 + s²) [m]."""
        square = self.s**2
        return square / (1 + square)


# -- the rule ----------------------------------------------------------------------------------------------------------


def quadrature(points: int, rule: str) -> Tensor:
    """Weights [points] float64 of a composite rule at unit distance: ∫_0^{points−1} f ≈ Σ_j w_j f(j).

    "simpson38" and "simpson13" are exact for cubics for any number of points ≥ 3: where the intervals do not divide by
    three (two), the last ones go to the other rule. "trapezoid" is exact for straight lines; two points always get it.
    """
    intervals = points - 1
    if rule == "trapezoid" or intervals == 1:
        panels = [1] * intervals
    elif rule == "simpson38":
        # 1, 2 or 0 intervals over: four (two panels), two, or none go to Simpson's 1/3 rule.
        pairs = {0: 0, 1: 2, 2: 1}[intervals % 3]
        panels = [3] * ((intervals - 2 * pairs) // 3) + [2] * pairs
    else:
        triples = intervals % 2
        panels = [2] * ((intervals - 3 * triples) // 2) + [3] * triples
    weights = torch.zeros(points, dtype=torch.float64)
    at = 0
    for panel in panels:
        weights[at : at + panel + 1] += torch.tensor(_PANEL[panel], dtype=torch.float64)
        at += panel
    return weights


_PANEL = {1: [1 / 2, 1 / 2], 2: [1 / 3, 4 / 3, 1 / 3], 3: [3 / 8, 9 / 8, 9 / 8, 3 / 8]}


def path_nodes(
    schedule: NoiseSchedule, steps: int, rule: str = CASConfig.rule, spacing: str = CASConfig.spacing
) -> Nodes:
    """Lay ``steps`` nodes from one end of the schedule to the other, even in φ = arctan s or in t.

    Times between the entries of a VP table are fractions, which its networks read as well as whole ones.
    """
    unit = quadrature(steps, rule)
    total = schedule.num_train_timesteps
    flow = schedule.kind == "flow"
    # Flow has no noise at all at t = 0 and no signal at T: log s is infinite there, its integrand is not.
    low, high = (1e-3 * total, (1 - 1e-3) * total) if flow else (0.0, float(total - 1))
    if spacing == "time":
        t = torch.linspace(low, high, steps, dtype=torch.float64)
        slope = schedule.dlog_snr(t) / (-2 * total)  # d log s / dt
        width = (high - low) / (steps - 1)
    else:
        ends = torch.tensor([low, high], dtype=torch.float64)
        first, last = torch.atan((-0.5 * schedule.log_snr(ends)).exp()).tolist()
        angle = torch.linspace(first, last, steps, dtype=torch.float64)
        t = _time_of(schedule, angle.tan().log(), low, high)
        slope = 2 / torch.sin(2 * angle)  # d log s / dφ
        width = (last - first) / (steps - 1)
    return Nodes(t, schedule.alpha(t), schedule.sigma(t), unit * width * slope)


def _time_of(schedule: NoiseSchedule, log_s: Tensor, low: float, high: float) -> Tensor:
    """Times at which log(σ/α) takes the values ``log_s``, by bisection: it rises in t for every schedule."""
    lower, upper = torch.full_like(log_s, low), torch.full_like(log_s, high)
    for _ in range(60):
        middle = (lower + upper) / 2
        below = -0.5 * schedule.log_snr(middle) < log_s
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    return (lower + upper) / 2


# -- the estimator -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def cas(
    denoiser: Denoiser,
    z0: Tensor,
    condition: Condition,
    seeds: Sequence[int],
    settings: CASConfig,
    batch_size: int = 64,
    *,
    epsilon: float = 1e-2,
    null: Condition | None = None,
    upcast: bool = True,
) -> CAS:
    """Estimate log p(z_0|c), log p(z_0) and their difference for latents ``z0`` [n, …], in nats (Hong et al., 2024).

    Args:
        condition, null: n rows each; ``null`` defaults to the null prompt.
        seeds: n; the probes of a picture depend on its own seed alone, and both branches share them.
        settings: ``steps``: nodes of the path, its two ends included; z_0 is put at the first as if free of noise.
            ``probes``: Rademacher vectors at each node. ``recursion``: times the implicit step is put into itself (Hong
            et al., recursive inversion); 0: plain DDIM, ε̂ at the near end. ``divergence``: "hutchinson" takes one-sided
            finite differences of ``epsilon`` standard deviations of the noise at each node; "jvp" takes the exact
            directional derivative, in twice the work. ``inversion``: "trapezoid" goes along the mean of ε̂ at both ends
            of the step (second order); "ddim" along ε̂ at its far end alone, the exact inverse of a DDIM step (first
            order, as published); the forwards are the same. ``end``: log density where the path ends, "denoised" by way
            of ε̂ there, or "normal": N(0, I) as published, which neglects what the prompt still says of z_T (nothing,
            where the schedule ends without signal).
        batch_size: most rows of a forward, over pictures, branches and probes alike.
        upcast: hold a float16 or bfloat16 network in float32 meanwhile. A finite difference divides the round-off of
            the network by ``epsilon``: at 16 bits that is nats per probe. Without it ``epsilon`` is raised to the root
            of the type's resolution and the difference is divided by the displacement that was left of it; "jvp" loses
            little at 16 bits.

    Forwards: 2n (steps · (probes + 1) + (steps − 1) · recursion), with "jvp" 2n (2 · steps · probes + …): a
    derivative counts as two rows, and brings ε̂ along.

    UserError for a setting that its key does not allow; ValueError where the lengths differ.
    """
    settings.check("scorer.cas.")
    if not epsilon > 0:
        raise UserError(f"cas: epsilon={epsilon} must be greater than 0")
    nodes = path_nodes(denoiser.schedule, settings.steps, settings.rule, settings.spacing)
    n = len(z0)
    null = denoiser.reference(condition) if null is None else null
    if not n == len(condition) == len(null) == len(seeds):
        raise ValueError(
            f"{n} latents need as many conditions, null rows and seeds: {len(condition)}, {len(null)}, {len(seeds)}"
        )
    device = denoiser.device
    exact = exact_type(device)
    z0 = z0.to(device=device, dtype=exact)
    found = []
    with ExitStack() as stack:
        if settings.divergence == "jvp":
            # The fused attention kernels have no forward derivative.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if upcast:
            stack.enter_context(in_float32(denoiser.network, device))
        trace = _by_jvp if settings.divergence == "jvp" else _by_difference(epsilon, denoiser.dtype)
        pictures = max(1, batch_size // 2)  # both branches of them fill a forward of the inversion
        for begin in range(0, n, pictures):
            part = slice(begin, begin + pictures)
            pair = _Branches(denoiser, Condition.cat([condition[part], null[part]]), batch_size)
            signs = _signs(seeds[part], settings.probes, z0.shape[1:])
            found.append(_log_densities(pair, z0[part], nodes, signs, trace, settings))
    if not found:
        empty = torch.empty(0, device=device, dtype=exact)
        return CAS(empty, empty, empty)
    return CAS(*(torch.cat(column) for column in zip(*found, strict=True)))


def measure(denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: CASConfig) -> Tensor:
    """Measure the score ``cas``; of ``noising`` it takes the seeds and the batch size."""
    return cas(denoiser, z0, given.condition, noising.seeds, settings, noising.batch_size).total


@dataclass(frozen=True, eq=False)
class _Branches:
    """Pictures under their prompt, then the same under none: 2m rows, at most ``batch_size`` of them a forward."""

    denoiser: Denoiser
    table: Condition
    batch_size: int

    def epsilon(self, z: Tensor, t: float) -> Tensor:
        """ε̂ [2m, …] at ``z`` [2m, …]."""
        parts = [slice(at, at + self.batch_size) for at in range(0, len(z), self.batch_size)]
        return torch.cat([self.denoiser.epsilon(z[part], t, self.table[part]) for part in parts])


_Trace = Callable[[_Branches, Tensor, float, float, Tensor], tuple[Tensor, Tensor]]
"""(branches, z [2m, …], t, σ, probes [m, probes, …]) ↦ ε̂ [2m, …] and σ vᵀ(∂ε̂/∂z)v [2m, probes]."""


def _by_difference(epsilon: float, dtype: torch.dtype) -> _Trace:
    """One-sided finite differences: σ Σ_i (ε̂(z + h v) − ε̂(z))_i / (h v)_i with h = ``epsilon`` σ."""
    resolution = torch.finfo(dtype).eps
    epsilon = max(epsilon, resolution**0.5)

    def rounded(z: Tensor) -> Tensor:
        # What the network will read: the displacement is measured there, not where it was meant to be.
        return z.to(dtype).to(z.dtype)

    def trace(pair: _Branches, z: Tensor, t: float, sigma: float, signs: Tensor) -> tuple[Tensor, Tensor]:
        z = rounded(z)
        eps = pair.epsilon(z, t)
        samples = []
        for rows, v in _spread(signs, len(z), pair.batch_size, z.device):
            here = z[rows]
            # A coordinate far from zero may be moved further than the others: E Σ_ij J_ij h_j v_j / (h_i v_i) = tr J.
            size = (4 * resolution * here.abs()).clamp(min=epsilon * sigma)
            there = rounded(torch.where(v, here + size, here - size))
            change = pair.denoiser.epsilon(there, t, pair.table[rows]) - eps[rows]
            samples.append(sigma * (change / (there - here)).flatten(1).sum(1))
        return eps, torch.cat(samples).reshape(len(z), -1)

    return trace


def _by_jvp(pair: _Branches, z: Tensor, t: float, sigma: float, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Exact directional derivatives by forward-mode differentiation; ε̂ comes along."""
    eps, samples = torch.empty_like(z), []
    for rows, v in _spread(signs, len(z), pair.batch_size, z.device):
        table = pair.table[rows]
        direction = v.to(z.dtype) * 2 - 1

        def network(at: Tensor, table: Condition = table) -> Tensor:
            return pair.denoiser.epsilon(at, t, table)

        value, slope = torch.func.jvp(network, (z[rows],), (direction,))[:2]
        pair.denoiser.forwards += len(rows)  # the derivative is a second pass through every layer
        eps[rows] = value
        samples.append(sigma * (slope * direction).flatten(1).sum(1))
    return eps, torch.cat(samples).reshape(len(z), -1)


def _spread(
    signs: Tensor, count: int, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every row of ``count`` = 2m with every probe: (rows [b], their probes [b, …]), at most ``batch_size`` a time."""
    pictures, probes = signs.shape[:2]
    for begin in range(0, count * probes, batch_size):
        index = torch.arange(begin, min(begin + batch_size, count * probes))
        rows = index // probes
        yield rows.to(device), signs[rows % pictures, index % probes].to(device)


@contextmanager
def in_float32(network: nn.Module | None, device: torch.device) -> Iterator[None]:
    """Hold a network's 16-bit tensors in float32, and CUDA's TF32 off, for the time of the block.

    Every 16-bit value is a float32 value, so the weights come back bit for bit. None: nothing to hold.
    """
    tensors = [] if network is None else [*network.parameters(), *network.buffers()]
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.dtype in _HALF]
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    tf32 = (matmul.allow_tf32, cudnn.allow_tf32) if device.type == "cuda" else None
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        if tf32 is not None:  # ten bits of mantissa, as float16 has
            matmul.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data
        if tf32 is not None:
            matmul.allow_tf32, cudnn.allow_tf32 = tf32


def _signs(seeds: Sequence[int], probes: int, shape: Sequence[int]) -> Iterator[Tensor]:
    """Rademacher probes of node after node: True for +1, [m, probes, *shape] on the CPU."""
    generators = [torch.Generator().manual_seed(candidate_seed(seed, "cas", 0)) for seed in seeds]
    while True:
        yield torch.stack(
            [torch.randint(0, 2, (probes, *shape), generator=g, dtype=torch.uint8).bool() for g in generators]
        )


def _log_densities(
    pair: _Branches, z0: Tensor, nodes: Nodes, signs: Iterator[Tensor], trace: _Trace, settings: CASConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(z_0|c), log p(z_0) and the standard error of their difference, each [m]."""
    m, d = len(z0), z0[0].numel()
    t, alpha, sigma, s = (values.tolist() for values in (nodes.t, nodes.alpha, nodes.sigma, nodes.s))
    weights, gaussian = nodes.weights.tolist(), nodes.gaussian.tolist()
    x = torch.cat([z0, z0])
    integral, variance = x.new_zeros(2 * m), x.new_zeros(m)
    for j in range(len(t)):
        eps, samples = trace(pair, alpha[j] * x, t[j], sigma[j], next(signs))
        integral += weights[j] * (samples.mean(1) - d * gaussian[j])
        gap = samples[:m] - samples[m:]
        variance += weights[j] ** 2 * (gap.var(1) / gap.shape[1] if gap.shape[1] > 1 else math.nan)
        if j + 1 < len(t):
            step = s[j + 1] - s[j]
            ahead = x + step * eps
            for _ in range(settings.recursion):
                eps_ahead = pair.epsilon(alpha[j + 1] * ahead, t[j + 1])
                ahead = x + step * (eps_ahead if settings.inversion == "ddim" else (eps + eps_ahead) / 2)
            x = ahead
    # Where the path ends, p_S is all but N(0, 1 + S²). Tweedie's ε̂_S = S (x_S − mean)/(1 + S²) still knows the mean
    # the prompt gives it, which at S = 15 (Stable Diffusion's last step) is a tenth of a nat and more.
    if settings.end == "denoised":
        square = eps.flatten(1).square().sum(1) * (1 + s[-1] ** -2)
    else:
        square = x.flatten(1).square().sum(1) / (1 + s[-1] ** 2)
    # The closed integral of the Gaussian part, d/2 log((1 + S²)/(1 + s_0²)), cancels the normaliser of N(0, 1 + S²).
    log_p = integral - 0.5 * square - 0.5 * d * math.log(2 * math.pi * (1 + s[0] ** 2))
    return log_p[:m], log_p[m:], variance.sqrt()
