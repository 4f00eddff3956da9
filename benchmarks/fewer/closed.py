"""``llr`` on the sampler's path against log p(z|c) − log p(z) of mixtures whose densities are known, at few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.estimators import SCHEDULES, labels_of, mixture, quality
from mitune.information.llr import PathLLR
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Observer, sample

CASES = ((2, 0.5), (64, 0.7))  # dimensions and strength, those of benchmarks.estimators
WAYS = (
    ("ddpm", 50),
    ("ddpm", 20),
    ("ddpm", 10),
    ("dpmpp_2m_sde", 20),
    ("dpmpp_2m_sde", 10),
    ("dpmpp_2m_sde", 8),
)


def study(
    schedules: Sequence[str], guidances: Sequence[float], pictures: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Rows (schedule, guidance, sampler, steps, kernel) with r, slope and rmse, the means over the mixtures."""
    rows = []
    labels = labels_of(pictures)
    for schedule in schedules:
        for guidance in guidances:
            for name, steps in WAYS:
                say(f"llr: {schedule}, guidance {guidance:g}, {name}, {steps} steps")
                kinds: dict[str, list[dict[str, float]]] = {}
                for dimensions, strength in CASES:
                    denoiser = mixture(dimensions, strength, SCHEDULES[schedule])
                    observers = {
                        "wide": PathLLR(),
                        "narrow": PathLLR("path"),
                        "with tail": PathLLR(tail=True),
                    }
                    for kind, observer in observers.items():
                        observer.name = kind
                    sampler = SamplerConfig(name, steps, guidance=guidance, spacing="trailing")
                    given = denoiser.encode_prompts(labels)
                    watching: list[Observer] = list(observers.values())
                    z = sample(denoiser, given, range(pictures), sampler, watching)
                    exact = denoiser.information(z, labels)
                    for kind, observer in observers.items():
                        kinds.setdefault(kind, []).append(quality(observer.result(), exact))
                where = {"schedule": schedule, "guidance": guidance, "sampler": name, "steps": steps}
                for kind, found in kinds.items():
                    mean = {
                        key: sum(one[key] for one in found) / len(found) for key in ("r", "slope", "rmse")
                    }
                    rows.append(where | {"kernel": kind} | mean | {"r_least": min(one["r"] for one in found)})
    return rows
