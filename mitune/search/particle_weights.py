"""The weights of P prompts × N particles: the whole of Sequential Monte Carlo, but for the model.

Targets γ_k(z) ∝ p(z) exp(λ_k U(z)/α) lead from the model's own distribution (λ = 0) to the tilted one (λ = 1).
Moved by m(z'|z) instead of p(z'|z), a particle takes on (Kim et al. 2025; Del Moral et al. 2006)

    log w += λ' U(z')/α − λ U(z)/α + log p(z'|z) − log m(z'|z)

and Ẑ, the product over resamplings of the mean weight since the last one, estimates Z = E_p exp(U/α): without bias as
long as λ does not depend on the particles. All is float64 on the CPU: a few numbers a particle and step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.errors import UserError, short
from mitune.search.catalogue import TEMPERINGS, SearchConfig
from mitune.search.resampling import ancestors, capped, effective_sample_size
from mitune.search.tempering import largest_temper, temper_table


class Weights:
    """Log-weights [P, N] and what follows from them. ``update`` after every move, then ``resample``.

    >>> weights = Weights(["a"], 2, [0], SearchConfig(tempering="constant", ess=1.0), steps=1)
    >>> weights.update(torch.tensor([[0.0, 50.0]], dtype=torch.float64), torch.zeros(1, 2))
    >>> weights.resample()
    tensor([1, 1])

    Args:
        prompts: P texts, for messages.
        particles: N.
        seeds: [P] of each prompt's resampling.
        settings: of the search.
        steps: S.

    ``log`` [P, N] is −∞ for the dead. ``log_evidence`` [P] is log Ẑ up to the last resampling. ``roots`` [P, N] is the
    first particle that each descends from. ``died`` [P] counts potentials that were NaN or infinite. ``tempers``,
    ``sizes`` (the ESS) and ``ancestry`` grow by one entry a step.
    """

    def __init__(
        self, prompts: Sequence[str], particles: int, seeds: Sequence[int], settings: SearchConfig, steps: int
    ) -> None:
        p, n = len(prompts), particles
        self._prompts = list(prompts)
        self._settings = settings
        self._adaptive = TEMPERINGS[settings.tempering].adaptive
        self._table = temper_table(settings.tempering, settings.gamma, steps)
        self._steps = steps
        self._tilt = torch.zeros(p, n, dtype=torch.float64)
        # One stream a prompt, so that what becomes of a prompt does not depend on those it shares a batch with.
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.temper = torch.zeros(p, dtype=torch.float64)
        self.log = torch.zeros(p, n, dtype=torch.float64)
        self.log_evidence = torch.zeros(p, dtype=torch.float64)
        self.roots = torch.arange(n).expand(p, n).clone()
        self.died = torch.zeros(p, dtype=torch.long)
        self.resampled = torch.zeros(p, dtype=torch.long)
        self.tempers: list[Tensor] = []
        self.sizes: list[Tensor] = []
        self.ancestry: list[Tensor] = []

    @property
    def next_temper(self) -> Tensor:
        """λ [P] that the next move may aim at: the coming one where it is known, else the present one."""
        if self._adaptive:
            return self.temper
        return self._table[len(self.tempers)].expand_as(self.temper)

    def update(self, potential: Tensor, correction: Tensor) -> None:
        """Take in U [P, N] of the particles and log p − log m [P, N] of the move that brought them there.

        A particle whose U/α is NaN or infinite dies. UserError, naming the prompt, once all of its particles are dead.
        """
        k = len(self.tempers)
        slope = potential / self._settings.alpha
        failed = ~slope.isfinite()
        self.died += (failed & (self.log > -math.inf)).sum(1)
        slope = slope.masked_fill(failed, 0.0)
        base = (self.log + correction - self._tilt).masked_fill(failed, -math.inf)
        dead = (base == -math.inf).all(1)
        if bool(dead.any()):
            prompt = self._prompts[int(dead.long().argmax())]
            raise UserError(
                f"search: at step {k} of {self._steps} the reward is NaN or infinite for all particles of the prompt"
                f" {short(prompt)!r}; try another reward, more particles or model.dtype=float32"
            )
        if k == self._steps:
            self.temper = torch.ones_like(self.temper)
        elif self._adaptive:
            limit = self._table[k].expand_as(self.temper)
            self.temper = largest_temper(base, slope, self.temper, limit, self._settings.ess)
        else:
            self.temper = self._table[k].expand_as(self.temper)
        self._tilt = self.temper.unsqueeze(1) * slope
        self.log = base + self._tilt
        self.tempers.append(self.temper)
        self.sizes.append(effective_sample_size(self.log))

    def resample(self) -> Tensor | None:
        """Rows [P·N] of the flattened population that go on, in their prompt's place; None if all do."""
        p, n = self.log.shape
        chosen = torch.arange(n).repeat(p, 1)
        short_of = self.sizes[-1] <= self._settings.ess * n
        if self._adaptive and self._settings.ess > 0:
            # Stopped by the ESS, adaptive tempering goes on only from even weights.
            short_of |= self.temper < self._table[len(self.tempers) - 1]
        due = short_of.nonzero().flatten()
        if len(due):
            log = self.log[due]
            total = log.logsumexp(1, keepdim=True)
            chances = log - total
            if self._settings.cap < 1:
                chances = capped(log, self.roots[due], self._settings.cap)
            uniforms = torch.stack(
                [torch.rand(n, generator=self._generators[row], dtype=torch.float64) for row in due.tolist()]
            )
            found = ancestors(chances, self._settings.resampling, uniforms)
            self.log_evidence[due] += total.squeeze(1) - math.log(n)
            self.log[due] = (log - total - chances).gather(1, found)
            self._tilt[due] = self._tilt[due].gather(1, found)
            self.roots[due] = self.roots[due].gather(1, found)
            self.resampled[due] += 1
            chosen[due] = found
        self.ancestry.append(chosen)
        return (chosen + n * torch.arange(p).unsqueeze(1)).flatten() if len(due) else None

    def evidence(self) -> Tensor:
        """log Ẑ [P] as of now."""
        return self.log_evidence + self.log.logsumexp(1) - math.log(self.log.shape[1])
