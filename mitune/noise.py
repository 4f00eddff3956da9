"""Noise schedules: how much signal (α) and noise (σ) a latent holds at time t, and what follows from it.

Forward process: ``z_t = α_t z_0 + σ_t ε``; log-SNR ``λ = log(α²/σ²)``, falling in t. Time is in the model's own units:
an index 0…T−1 for variance-preserving (VP) tables (fractions are interpolated linearly in λ), and ``t ∈ [0, T]`` with
``σ = t/T`` for rectified flow. All mathematics is float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mitune.errors import UserError, check_known
from mitune.sampling.catalogue import TABLE_SPACINGS
from mitune.scheduler_config import check_scheduler, is_flow

Time = int | float | Tensor
"""A time in the model's units: one number for the whole batch, or a tensor [n]."""

BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")

# Smallest ᾱ. At SNR 0 itself ε no longer determines z_0 (ẑ_0 = (z − σε̂)/α), so a zero-terminal-SNR table ends at
# α = 2⁻¹² instead: the bias of that (2.4e-4) equals the float32 round-off of ẑ_0 rebuilt from ε̂, so nothing is lost.
MIN_ALPHA_BAR = 2.0**-24
MIN_ALPHA = MIN_ALPHA_BAR**0.5


def exact_type(device: torch.device) -> torch.dtype:
    """Give float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Shape ``values`` [n] (or a scalar) to broadcast over ``like`` [n, …], in its dtype and on its device."""
    values = values.to(device=like.device, dtype=like.dtype)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The (α, σ) of a model: a VP table or rectified flow. Made by ``ddpm``, ``rectified_flow``, ``from_config``.

    >>> flow = NoiseSchedule.rectified_flow()
    >>> float(flow.alpha(250)), float(flow.sigma(250)), flow.timesteps(4).tolist()[0]
    (0.75, 0.25, 1000.0)

    ``alpha_bar`` is the VP table ᾱ [T] float64 (empty for flow). ``shift`` bends the flow's sampling grid only, whose
    last σ before the bend is ``grid_end`` (None: one over the number of steps).
    """

    kind: str
    num_train_timesteps: int
    alpha_bar: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    shift: float = 1.0
    grid_end: float | None = None
    zero_terminal_snr: bool = False
    _tables: dict[tuple[str, str], Tensor] = field(default_factory=dict, repr=False, init=False)

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def ddpm(
        cls,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        rescale_zero_terminal_snr: bool = False,
        trained_betas: Sequence[float] | None = None,
    ) -> NoiseSchedule:
        """Build the VP table of a DDPM; the defaults are Stable Diffusion's.

        Args:
            num_train_timesteps: entries of the table.
            beta_start, beta_end: β of the first and the last step.
            beta_schedule: how β goes from one to the other; UserError for an unknown name.
            rescale_zero_terminal_snr: end in noise alone (Lin et al. 2023).
            trained_betas: the table itself, in place of the four above.
        """
        if trained_betas is not None:
            betas = torch.as_tensor(trained_betas, dtype=torch.float64)
            num_train_timesteps = len(betas)
        else:
            betas = _betas(beta_schedule, num_train_timesteps, beta_start, beta_end)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        if rescale_zero_terminal_snr:  # Lin et al. 2023 (arXiv 2305.08891), Algorithm 1
            root = alpha_bar.sqrt()
            alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar = alpha_bar.clamp(min=MIN_ALPHA_BAR)
        return cls("vp", num_train_timesteps, alpha_bar, zero_terminal_snr=rescale_zero_terminal_snr)

    @classmethod
    def rectified_flow(
        cls, num_train_timesteps: int = 1000, shift: float = 1.0, dynamic: bool = False, even: bool = False
    ) -> NoiseSchedule:
        """Straight paths ``z_t = (1 − σ) z_0 + σ ε`` with ``σ = t/T``; ``shift`` > 1 puts more steps at high noise.

        Where the grid ends: at 1/steps (``even``, FLUX's), at 1/T before the bend (``dynamic``: the shift follows the
        size of the picture), or at 1/T bent twice (a fixed shift, as diffusers' scheduler has it).
        """
        end = 1 / num_train_timesteps
        end = end if dynamic else shift * end / (1 + (shift - 1) * end)
        return cls("flow", num_train_timesteps, shift=shift, grid_end=None if even else end)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], tokens: int | None = None, even: bool = False
    ) -> NoiseSchedule:
        """The schedule a diffusers scheduler configuration describes.

        ``tokens``: picture tokens of the transformer, on which a dynamic shift depends; ``even`` as in
        ``rectified_flow``. UserError for an unknown beta schedule, and for one in the σ of Karras et al. (EDM).
        """
        check_scheduler(config)
        steps = config.get("num_train_timesteps", 1000)
        if is_flow(config):
            dynamic = bool(config.get("use_dynamic_shifting", False))
            fixed = config.get("shift", config.get("flow_shift", 1.0))  # Euler's name, DPM-Solver's name
            shift = dynamic_shift(config, tokens or 0) if dynamic else float(fixed)
            return cls.rectified_flow(steps, shift, dynamic, even)
        return cls.ddpm(
            steps,
            float(config.get("beta_start", 0.0001)),
            float(config.get("beta_end", 0.02)),
            str(config.get("beta_schedule", "linear")),
            bool(config.get("rescale_betas_zero_snr", False)),
            config.get("trained_betas"),
        )

    # -- the curves --------------------------------------------------------------------------------------------------

    def alpha(self, t: Time) -> Tensor:
        """Signal scale α(t), same shape as ``t``, float64."""
        if self.kind == "flow":
            return 1 - self.sigma(t)
        return torch.sigmoid(self._lookup("log_snr", t)).sqrt()

    def sigma(self, t: Time) -> Tensor:
        """Noise scale σ(t), same shape as ``t``, float64."""
        if self.kind == "flow":
            return (self._time(t) / self.num_train_timesteps).clamp(0.0, 1 - MIN_ALPHA)
        return torch.sigmoid(-self._lookup("log_snr", t)).sqrt()

    def log_snr(self, t: Time) -> Tensor:
        """λ(t) = log(α²/σ²), falling in t. Flow: σ is held above 1e-6, where λ would be infinite."""
        if self.kind == "flow":
            sigma = self.sigma(t).clamp(min=1e-6)
            return 2 * (torch.log1p(-sigma) - sigma.log())
        return self._lookup("log_snr", t)

    def dlog_snr(self, t: Time) -> Tensor:
        """dλ/dτ with τ = t/T ∈ [0, 1]; negative. VP: central differences of the table."""
        if self.kind == "flow":
            sigma = self.sigma(t).clamp(min=1e-6)
            return -2 / (sigma * (1 - sigma))
        return self._lookup("dlog_snr", t)

    def kappa(self, t: Time) -> Tensor:
        """The paper's κ_t = β_t T / (2 α_t (1 − ᾱ_t)), α_t = 1 − β_t (Wang et al., eq. 2). Flow: continuous."""
        return self.kappa_continuous(t) if self.kind == "flow" else self._lookup("kappa", t)

    def kappa_continuous(self, t: Time) -> Tensor:
        """−½ dλ/dτ, the limit of ``kappa`` for ever finer tables; flow: 1/(σ(1 − σ)) (arXiv 2503.14358)."""
        return -0.5 * self.dlog_snr(t)

    def layout_weight(self, t: Time, power: float) -> Tensor:
        """min(SNR(t), 1)^−p, same shape as ``t``, float64: a factor on squared errors. SNR is held above 1e-3.

        Where things are is settled where SNR < 1, and an error of ε̂ is small there however wrong the picture that it
        stands for: ‖ẑ_0 − z_0‖² = ‖ε̂ − ε‖² / SNR. p = 0 is the plain loss, p = 1 counts errors of the picture (the x_0
        weighting of Salimans & Ho, 2202.00512, without its rise at high SNR).
        """
        return self.log_snr(t).exp().clamp(1e-3, 1.0).pow(-power)

    def final_alpha_bar(self, set_alpha_to_one: bool) -> float:
        """ᾱ where the last sampling step lands: clean data, or the table's first entry (as Stable Diffusion does)."""
        return 1.0 if set_alpha_to_one or self.kind == "flow" else float(self.alpha_bar[0])

    # -- moving between z_0, ε, z_t and a network's output ----------------------------------------------------------

    def add_noise(self, z0: Tensor, noise: Tensor, t: Time) -> Tensor:
        """z_t = α_t z_0 + σ_t ε for ``z0``, ``noise`` [n, …]."""
        alpha, sigma = self._scales(t, z0)
        return alpha * z0 + sigma * noise

    def target(self, prediction_type: str, z0: Tensor, noise: Tensor, t: Time) -> Tensor:
        """Compute what a network of this type should output for (z_0, ε, t). UserError for an unknown type."""
        check_prediction_type(prediction_type)
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "sample":
            return z0
        if prediction_type == "flow":
            return noise - z0
        alpha, sigma = self._scales(t, z0)
        return alpha * noise - sigma * z0

    def to_epsilon(self, output: Tensor, z: Tensor, t: Time, prediction_type: str) -> Tensor:
        """ε̂ [n, …] in the dtype of ``z`` from a network's raw output. UserError for an unknown type.

        epsilon: ε̂; v_prediction: α v̂ + σ z; sample: (z − α ẑ_0)/σ; flow: z + (1 − σ) v̂. At SNR 0 all but
        "epsilon" still carry z_0; an epsilon-predicting network cannot: its output there says nothing of the picture.
        """
        check_prediction_type(prediction_type)
        output = output.to(z.dtype)
        if prediction_type == "epsilon":
            return output
        alpha, sigma = self._scales(t, z)
        if prediction_type == "v_prediction":
            return alpha * output + sigma * z
        if prediction_type == "flow":
            return z + alpha * output
        return (z - alpha * output) / sigma

    def epsilon_weights(self, t: float, prediction_type: str) -> tuple[float, float]:
        """(p, q) with ε̂ = p z + q output at one time: ``to_epsilon`` as two numbers. UserError for an unknown type."""
        check_prediction_type(prediction_type)
        alpha, sigma = float(self.alpha(t)), float(self.sigma(t))
        return {
            "epsilon": (0.0, 1.0),
            "v_prediction": (sigma, alpha),
            "flow": (1.0, alpha),
            "sample": (1 / max(sigma, 1e-12), -alpha / max(sigma, 1e-12)),
        }[prediction_type]

    def clean_weights(self, t: float, prediction_type: str) -> tuple[float, float]:
        """(p, q) with ẑ_0 = p z + q output at one time: the picture the network sees in z_t. UserError for an unknown
        type. (Read off the output, not off ε̂: as α → 0, (z − σ ε̂)/α loses all its digits.)
        """
        check_prediction_type(prediction_type)
        alpha, sigma = float(self.alpha(t)), float(self.sigma(t))
        return {
            "epsilon": (1 / alpha, -sigma / alpha),
            "v_prediction": (alpha, -sigma),
            "flow": (1.0, -sigma),
            "sample": (0.0, 1.0),
        }[prediction_type]

    # -- grids -------------------------------------------------------------------------------------------------------

    def timesteps(
        self, steps: int, spacing: str = "leading", steps_offset: int = 0, spare: bool = False
    ) -> Tensor:
        """Times to visit, falling: LongTensor [steps] for VP as diffusers' DDIM/DDPM schedulers, float64 for flow.

        Spacings are those of Lin et al. 2023, table 2. Flow ignores ``spacing``: it runs evenly from σ = 1 to
        ``grid_end`` and bends by ``shift``, as diffusers' FlowMatchEuler scheduler. ``spare``: leading, linspace and a
        flow's grid are laid for one step more, whose time is left out, as diffusers' multistep schedulers lay them.
        UserError for an unknown spacing, more steps than the table has, or times beyond its end.
        """
        total = self.num_train_timesteps
        spare = spare and (self.kind == "flow" or spacing != "trailing")
        if not 1 <= steps <= total - spare:
            raise UserError(
                f"sampler.steps={steps} must lie in 1…{total - spare}: the model was trained on {total} steps"
            )
        if self.kind == "flow":
            # A step onto 1/T would be as long, in log-SNR, as many others: a solver that looks back goes far astray.
            if spare:
                return total * self._shifted(
                    torch.linspace(1.0, 1 / total, steps + 1, dtype=torch.float64)[:-1]
                )
            end = 1 / steps if self.grid_end is None else self.grid_end
            return total * self._shifted(torch.linspace(1.0, end, steps, dtype=torch.float64))
        if spare:
            return self.timesteps(steps + 1, spacing, steps_offset)[:-1]
        check_known("sampler.spacing", spacing, TABLE_SPACINGS)
        index = torch.arange(steps, dtype=torch.float64)
        if spacing == "leading":
            grid = torch.arange(steps - 1, -1, -1) * (total // steps) + steps_offset
        elif spacing == "trailing":
            grid = (total - index * (total / steps)).round().long() - 1
        else:  # linspace
            grid = (index * ((total - 1) / max(steps - 1, 1))).round().long().flip(0)
        if int(grid[0]) >= total:
            raise UserError(
                f"sampler.steps_offset={steps_offset} runs past the last timestep {total - 1}; use 0"
            )
        return grid

    def times_at(self, ratios: Sequence[float]) -> list[float]:
        """Give the times t at which σ/α has these values, between the table's entries by log(σ/α); VP only.

        ``alpha`` and ``sigma`` there are those of the ratio. What lies beyond an end of the table is held there.
        """
        ours = -0.5 * self._table("log_snr", torch.device("cpu"))
        found: list[float] = np.interp(np.log(ratios), ours.numpy(), np.arange(len(ours))).tolist()
        return found

    # -- inside ------------------------------------------------------------------------------------------------------

    def _shifted(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    @staticmethod
    def _time(t: Time) -> Tensor:
        if not isinstance(t, Tensor):
            return torch.tensor(t, dtype=torch.float64)
        return t.to(exact_type(t.device))

    def _scales(self, t: Time, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """(α, σ) to multiply ``like`` with: plain numbers for one time (no device traffic), else broadcast tensors."""
        if not isinstance(t, Tensor):
            return float(self.alpha(t)), float(self.sigma(t))
        return expand(self.alpha(t.to(like.device)), like), expand(self.sigma(t.to(like.device)), like)

    def _lookup(self, name: str, t: Time) -> Tensor:
        """Linear interpolation of a table at ``t`` (held at the ends), on the device of ``t`` and without a sync."""
        time = self._time(t)
        table = self._table(name, time.device)
        time = time.clamp(0, self.num_train_timesteps - 1)
        low = time.floor()
        index = low.long()
        first = table[index]
        return torch.lerp(first, table[(index + 1).clamp(max=self.num_train_timesteps - 1)], time - low)

    def _table(self, name: str, device: torch.device) -> Tensor:
        key = (name, str(device))
        if key not in self._tables:
            self._tables[key] = self._compute(name).to(device=device, dtype=exact_type(device))
        return self._tables[key]

    def _compute(self, name: str) -> Tensor:
        alpha_bar = self.alpha_bar
        if name == "kappa":
            alphas = alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
            return (1 - alphas) * self.num_train_timesteps / (2 * alphas * (1 - alpha_bar))
        log_snr = alpha_bar.log() - torch.log1p(-alpha_bar)
        if name == "log_snr":
            return log_snr
        return torch.gradient(log_snr, spacing=1 / self.num_train_timesteps)[0]


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """The shift of a flow scheduler that bends its grid by the size of the picture (Esser et al. 2024, section 5.3.2).

    μ is linear in the number of picture ``tokens``; σ → e^μ σ / (1 + (e^μ − 1) σ), so the shift is e^μ ("exponential")
    or μ itself ("linear"). Where a key is missing the defaults are those of diffusers' pipelines.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = base + (top - base) * (tokens - low) / (high - low)
    return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)


def _betas(name: str, steps: int, start: float, end: float) -> Tensor:
    """β [steps] of a schedule by its name, float64. UserError for an unknown one."""
    check_known("noise schedule: beta_schedule", name, BETA_SCHEDULES)
    if name == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    # squaredcos_cap_v2: Nichol & Dhariwal 2021, eq. 17
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


def check_prediction_type(prediction_type: str) -> None:
    """UserError unless ``prediction_type`` is one of ``PREDICTION_TYPES``."""
    check_known("prediction_type", prediction_type, PREDICTION_TYPES)
