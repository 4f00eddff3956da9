"""``grounding``: is every phrase of the prompt somewhere in the picture, and apart from the others?

The attention maps of the phrases are read as places: A_i [H, W], divided by its sum, is the density q_i of where a
glance falls that looks for phrase i. What such a glance tells of its phrase, against a blind one (u, uniform) and one
that looks for another phrase, is

    g_i = KL(q_i ‖ (u + Σ_{j≠i} q_j) / N),        0 ≤ g_i ≤ log(N·H·W) nats for N phrases.

A phrase that is nowhere has a flat map, and one whose place belongs to another has that one's: both tell little. A
picture is as good as its worst phrase: the score is min_i g_i. It was found here, on candidates of the embedded world's
training prompts; Attend-and-Excite (Chefer et al., 2301.13826) goes by the highest value of a map alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.errors import UserError, short
from mitune.information.catalogue import GroundingConfig, GroundingImageConfig
from mitune.information.given import Given
from mitune.information.noising import Noising
from mitune.maps import Sums, words_of
from mitune.pixels.phrases import phrases_of
from mitune.sampling.loop import Step
from mitune.sampling.solver import StepCoefficients
from mitune.tasks import Task

_LEAST = 1e-12  # of a density that is divided by


def grounding(maps: Tensor, there: Tensor) -> Tensor:
    """Measure min_i KL(q_i ‖ (u + Σ_{j≠i} q_j) / N) [n] in nats, float64.

    Args:
        maps: [n, P, H, W], not negative, of any scale.
        there: [n, P] which of the P are phrases of that picture; it has one at least.
    """
    density = maps.flatten(2).double()
    density = density / density.sum(-1, keepdim=True).clamp_min(_LEAST) * there.unsqueeze(-1)
    count = there.sum(1).view(-1, 1, 1)
    other = (1 / density.shape[-1] + density.sum(1, keepdim=True) - density) / count
    told = torch.special.xlogy(density, density / other.clamp_min(_LEAST)).sum(-1)
    return told.masked_fill(~there, torch.inf).amin(1)


class Words:
    """The words of each of n tasks, as weights over the columns of the condition's text."""

    def __init__(self, denoiser: Denoiser, tasks: Sequence[Task], source: str) -> None:
        texts = [task.text for task in tasks]
        unique = list(dict.fromkeys(texts))
        spans = denoiser.token_spans(unique, [phrases_of(text, source) for text in unique])
        words = words_of(spans, denoiser.null(1).tensors["text"].shape[1])
        number = {text: place for place, text in enumerate(unique)}
        self.weights = words[[number[text] for text in texts]].to(denoiser.device)
        """[n, P, tokens]; rows of zeros behind the last phrase of a task."""

    @property
    def there(self) -> Tensor:
        """Tell which rows are phrases [n, P]."""
        return self.weights.any(-1)


class PathGrounding:
    """Measures it along the sampler's path, on the forwards that draw: the mean map of the steps at or below ``t_max``,
    and of the last.

    Only what the network is told of the prompt is looked at, and only in those steps.

    Args:
        denoiser: the model. UserError where it reads no text.
        tasks: of the n candidates.
        settings: its keys.

    UserError as :func:`mitune.pixels.phrases.phrases_of`.
    """

    name = "grounding"

    def __init__(self, denoiser: Denoiser, tasks: Sequence[Task], settings: GroundingConfig) -> None:
        self._denoiser, self._t_max = denoiser, settings.t_max
        self._words = Words(denoiser, tasks, settings.phrases) if tasks else None

    def start(self, n: int, device: torch.device) -> None:
        """Forget everything; ``n`` rows will follow."""
        if self._words is None or len(self._words.weights) != n:
            raise ValueError(f"grounding of {n} candidates needs as many tasks")
        self._weights, self._there = self._words.weights.to(device), self._words.there.to(device)
        self._total: Tensor | None = None
        self._looks: list[Sums] = []  # of the step that is taken, batch by batch

    def tap(self, at: StepCoefficients, rows: slice) -> Sums | None:
        """Look at the forward of some rows at this step, if it counts."""
        if at.t > self._t_max and at.t_prev > 0:  # the last one always does, however few there are
            return None
        model = self._denoiser
        sums = Sums(model.parts, model.map_grid, self._weights[rows], model.one_grid, own=False)
        self._looks.append(sums)
        return sums

    def observe(self, step: Step) -> None:
        """Add what was seen of the step."""
        self._add_looks()

    def _add_looks(self) -> None:
        if self._looks:
            seen = torch.cat([sums.result().cross.mean(1) for sums in self._looks])
            self._total = seen if self._total is None else self._total + seen
            self._looks.clear()

    def select(self, rows: Tensor) -> None:
        """Go on with ``rows`` of the population; a search resamples it when the step's forwards have been looked at."""
        self._add_looks()
        self._weights, self._there = self._weights[rows], self._there[rows]
        if self._total is not None:
            self._total = self._total[rows]

    def result(self) -> Tensor:
        """Measure the maps so far [n]; nothing, 0, where the steps that count are to come."""
        self._add_looks()
        if self._total is None:
            return torch.zeros(len(self._there), dtype=torch.float64, device=self._there.device)
        return grounding(self._total, self._there)


@torch.no_grad()
def measure(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: GroundingImageConfig
) -> Tensor:
    """Measure the score ``grounding_image``: on the mean map of noised versions of ``z0`` [n, …], a forward each."""
    words = Words(denoiser, given.tasks, settings.phrases)
    plan, condition = noising.plan(denoiser.schedule), given.condition
    z0 = z0.to(device=denoiser.device, dtype=torch.promote_types(torch.float32, z0.dtype))
    found = []
    for start in range(0, len(z0), noising.batch_size):
        rows = slice(start, start + noising.batch_size)
        noises = torch.stack([plan.draw(seed, z0, noising.path)[0] for seed in noising.seeds[rows]], 1)
        total: Tensor | float = 0.0
        for time, weight, noise in zip(noising.t, noising.weights.tolist(), noises, strict=True):
            z = denoiser.schedule.add_noise(z0[rows], noise, time)
            maps = denoiser.attention(z, time, condition[rows], words.weights[rows], own=False).cross.mean(1)
            total = total + weight * maps
        assert isinstance(total, Tensor)
        found.append(grounding(total, words.there[rows]))
    return torch.cat(found)


def check_phrases(texts: Sequence[str], settings: GroundingConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt that has no phrase, or whose phrases cannot be found."""
    for text in texts:
        if not phrases_of(text, settings.phrases):
            raise UserError(
                f"{key}: grounding looks for the things that a prompt names, and {short(text)!r} names none; leave the"
                " prompt out, or grounding"
            )
