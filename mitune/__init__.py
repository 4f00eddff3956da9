"""MI-Tune: self-supervised alignment of text-to-image models by mutual information.

    import mitune

    model = mitune.load("shapes")
    candidates = model.draw(["a red circle"], candidates=8, scores=["contrast"])
    tuned = model.train(candidates.select(by="contrast"))

Every name is imported when it is first used: ``import mitune`` alone needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from mitune.api.asking import Score
    from mitune.api.candidates import Candidates, TrainingSet
    from mitune.api.evaluation import Evaluation
    from mitune.api.loading import load, read_prompts
    from mitune.api.model import Model
    from mitune.api.segmentation import Segmentation
    from mitune.errors import UserError
    from mitune.families.settings import ModelConfig
    from mitune.finetune.catalogue import AdapterConfig, TrainConfig
    from mitune.pixels.catalogue import HeatmapConfig
    from mitune.sampling.catalogue import SamplerConfig
    from mitune.scores import ScorerConfig
    from mitune.tasks import Task

__all__ = [
    "AdapterConfig",
    "Candidates",
    "Evaluation",
    "HeatmapConfig",
    "Model",
    "ModelConfig",
    "SamplerConfig",
    "Score",
    "ScorerConfig",
    "Segmentation",
    "Task",
    "TrainConfig",
    "TrainingSet",
    "UserError",
    "__version__",
    "load",
    "read_prompts",
]

_HOMES = {
    "mitune.api.asking": ("Score",),
    "mitune.api.candidates": ("Candidates", "TrainingSet"),
    "mitune.api.evaluation": ("Evaluation",),
    "mitune.api.loading": ("load", "read_prompts"),
    "mitune.api.model": ("Model",),
    "mitune.api.segmentation": ("Segmentation",),
    "mitune.errors": ("UserError",),
    "mitune.families.settings": ("ModelConfig",),
    "mitune.finetune.catalogue": ("AdapterConfig", "TrainConfig"),
    "mitune.pixels.catalogue": ("HeatmapConfig",),
    "mitune.sampling.catalogue": ("SamplerConfig",),
    "mitune.scores": ("ScorerConfig",),
    "mitune.tasks": ("Task",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(home), name)
            return value
    raise AttributeError(f"module 'mitune' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
