"""The exact denoiser of a Gaussian mixture: every estimator and sampler has a closed form on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.denoiser import Condition, Denoiser, Tap
from mitune.errors import UserError, nearest
from mitune.maps import Sums
from mitune.noise import NoiseSchedule, Time, check_prediction_type


class AnalyticDenoiser(Denoiser):
    """Exact denoiser of a Gaussian mixture whose class labels are the prompts; everything in closed form, float64.

    p(z|c) = Σ_k w_ck N(z; m_k, S_k) with diagonal S_k, and p(z) = Σ_c prior_c p(z|c). Noised to time t each component
    stays Gaussian, N(α m_k, α² S_k + σ²), so ε̂ = −σ ∇ log p_t is exact.

    >>> model = AnalyticDenoiser([[-1.0], [1.0]], [0.1, 0.1], {"a": [1, 0], "b": [0, 1]}, {"a": 1, "b": 1},
    ...                          NoiseSchedule.ddpm())
    >>> model.information(torch.tensor([[1.0]]), ["b"]).round(decimals=3)
    tensor([0.6930], dtype=torch.float64)

    Args:
        means: [K, d].
        covariances: [K] (isotropic) or [K, d] (diagonal).
        weights, prior: {label: [K]} and {label: p}; they are normalised.
        schedule, prediction_type: as of every ``Denoiser``.

    ValueError where the shapes or labels do not agree.
    """

    def __init__(
        self,
        means: Any,
        covariances: Any,
        weights: Mapping[str, Any],
        prior: Mapping[str, float],
        schedule: NoiseSchedule,
        prediction_type: str = "epsilon",
    ) -> None:
        check_prediction_type(prediction_type)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        variances = torch.as_tensor(covariances, dtype=torch.float64)
        self.variances = (variances[:, None] if variances.ndim == 1 else variances).expand_as(self.means)
        if set(weights) != set(prior):
            raise ValueError("weights and prior must name the same labels")
        self.labels = list(weights)
        table = torch.stack([torch.as_tensor(weights[label], dtype=torch.float64) for label in self.labels])
        if table.shape[1] != len(self.means):
            raise ValueError(f"each label needs {len(self.means)} component weights, got {table.shape[1]}")
        self._weights = table / table.sum(dim=1, keepdim=True)
        shares = torch.tensor([prior[label] for label in self.labels], dtype=torch.float64)
        self.prior = shares / shares.sum()
        self._null_weights = self.prior @ self._weights

        self.schedule = schedule
        self.prediction_type = prediction_type
        self.latent_shape = (self.means.shape[1],)
        self.picture_size = (1, self.means.shape[1])
        self.network = None
        self.device = torch.device("cpu")
        self.dtype = torch.float64
        self.forwards = 0
        digest = hashlib.sha256()
        for part in (self.means, self.variances, self._weights, self.prior):
            digest.update(part.contiguous().numpy().tobytes())
        self.identity = f"analytic@{digest.hexdigest()[:12]}"
        self._picture_range = float(self.means.abs().max() + 4 * self.variances.max().sqrt())

    # -- the Denoiser interface --------------------------------------------------------------------------------------

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Component log-weights [n, K] of each label. UserError for a label the mixture does not have."""
        rows = []
        for prompt in prompts:
            if prompt not in self.labels:
                raise UserError(f"analytic model: no label {prompt!r}{nearest(prompt, self.labels)}")
            rows.append(self._weights[self.labels.index(prompt)])
        return Condition({"log_weights": torch.stack(rows).log()})

    def null(self, n: int) -> Condition:
        """The marginal mixture, ``n`` times."""
        return Condition({"log_weights": self._null_weights.log().expand(n, -1)})

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | Sums | None = None) -> Tensor:
        """Give the exact output [n, d] of this prediction type, in the dtype of ``z``. UserError for a ``tap``."""
        if tap is not None:
            raise UserError("the analytic model has no attention to look at; use a network")
        self.forwards += len(z)
        z64 = z.to(torch.float64)
        alpha, sigma = self.schedule._scales(t, z64)
        offset, variance = self._noised(z64, alpha, sigma)
        log_joint = condition.tensors["log_weights"] - 0.5 * (offset**2 / variance + variance.log()).sum(-1)
        share = log_joint.softmax(-1)
        eps = sigma * (share.unsqueeze(-1) * offset / variance).sum(-2)
        z0 = (z64 - sigma * eps) / alpha
        return self.schedule.target(self.prediction_type, z0, eps, t).to(z.dtype)

    def encode_image(self, pictures: Tensor) -> Tensor:
        """Latents [n, d] of the grey strips ``decode`` draws."""
        return (2 * pictures.to(torch.float64).mean(dim=1).flatten(1) - 1) * self._picture_range

    def decode(self, z: Tensor) -> Tensor:
        """Each latent as a grey strip [n, 3, 1, d]: 0.5 is zero; 0 and 1 lie four deviations beyond all means."""
        grey = (0.5 + z / (2 * self._picture_range)).clamp(0, 1)
        return grey[:, None, None, :].expand(-1, 3, -1, -1).float()

    # -- closed forms ------------------------------------------------------------------------------------------------

    def log_prob(self, z0: Tensor, labels: Sequence[str] | None) -> Tensor:
        """log p(z_0|c) [n] in nats; ``labels`` None gives log p(z_0)."""
        return self._log_density(z0, 1.0, 0.0, labels)

    def log_prob_t(self, z: Tensor, t: Time, labels: Sequence[str] | None) -> Tensor:
        """log p_t(z|c) [n] in nats of latents noised to time ``t``; ``labels`` None: log p_t(z). Differentiable."""
        alpha, sigma = self.schedule._scales(t, z.to(torch.float64))
        return self._log_density(z, alpha, sigma, labels)

    def information(self, z0: Tensor, labels: Sequence[str]) -> Tensor:
        """Exact i(z_0; c) = log p(z_0|c) − log p(z_0) [n] in nats."""
        return self.log_prob(z0, labels) - self.log_prob(z0, None)

    def sample(self, labels: Sequence[str], generator: torch.Generator | None = None) -> Tensor:
        """Exact draws z_0 ~ p(z|c) [n, d], one per label."""
        weights = self.encode_prompts(list(labels)).tensors["log_weights"].exp()
        component = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        noise = torch.randn(len(labels), *self.latent_shape, generator=generator, dtype=torch.float64)
        return self.means[component] + self.variances[component].sqrt() * noise

    def _log_density(
        self, z: Tensor, alpha: Tensor | float, sigma: Tensor | float, labels: Sequence[str] | None
    ) -> Tensor:
        condition = self.null(len(z)) if labels is None else self.encode_prompts(list(labels))
        offset, variance = self._noised(z.to(torch.float64), alpha, sigma)
        log_normal = -0.5 * (offset**2 / variance + (2 * torch.pi * variance).log()).sum(-1)
        return torch.logsumexp(condition.tensors["log_weights"] + log_normal, dim=-1)

    def _noised(self, z: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """z − α m_k and α² S_k + σ², both [n, K, d] (or broadcastable), for α, σ numbers or [n, 1]."""
        if isinstance(alpha, Tensor) and isinstance(sigma, Tensor) and alpha.ndim:
            alpha, sigma = alpha.unsqueeze(-1), sigma.unsqueeze(-1)
        return z.unsqueeze(-2) - alpha * self.means, alpha**2 * self.variances + sigma**2
