"""Model families: one file per kind of diffusers pipeline; each turns a folder into a ``Denoiser``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from mitune.errors import UserError, nearest
from mitune.families.settings import ModelConfig
from mitune.families.source import ModelSource, find_model
from mitune.versions import check_versions

if TYPE_CHECKING:
    from pathlib import Path

    from mitune.families.adapted import Adapted
    from mitune.families.latent import LatentDenoiser


@cache
def families() -> dict[str, type[LatentDenoiser]]:
    """Give what ``model_index.json`` may call the pipeline -> its family, of every file of this folder."""
    from mitune.families.latent import LatentDenoiser

    found: dict[str, type[LatentDenoiser]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, LatentDenoiser):
                found |= dict.fromkeys(value.pipelines, value)
    return found


def load_denoiser(
    model: Any,
    adapter: str | Path | Sequence[str | Path] | None = None,
    device: Any = None,
    dtype: Any = None,
) -> Adapted:
    """Load the denoiser of ``model``: a path or Hub id, a :class:`ModelConfig`, or a mapping with keys of it.
    ``adapter``, ``device`` and ``dtype`` override the model's own keys.

    The family is chosen by the pipeline class that ``model_index.json`` names, never by the model's name.
    Raises UserError: no such folder or repository, no pipeline, an unknown pipeline class, pickled weights,
    libraries of versions that are known to open it as another one.
    """
    check_versions()
    overrides = {"adapter": adapter, "device": device, "dtype": dtype}
    if adapter is not None:
        overrides["adapter_weights"] = []
    config = _config(model, {key: value for key, value in overrides.items() if value is not None})
    if config.path is None:
        raise UserError("model.path is not given: a diffusers folder, a Hub id or a .safetensors checkpoint")
    source = find_model(config.path, config.revision, config.config)
    return family_of(source).load(source, config)


def family_of(source: ModelSource) -> type[LatentDenoiser]:
    """Find the family of a model. Raises UserError for a pipeline of none."""
    return _family(source.pipeline, source.name)


def wrap_pipeline(pipeline: Any, config: ModelConfig | None = None) -> Adapted:
    """Make a loaded diffusers pipeline a denoiser, as :func:`mitune.families.loaded.wrap` does.

    The family is chosen by the pipeline's class. Raises UserError: an unknown class, one that cannot be asked as it is.
    """
    from mitune.families.loaded import wrap

    check_versions()
    kind = type(pipeline).__name__
    return wrap(pipeline, _family(kind, "the pipeline"), config or ModelConfig())


def _family(kind: str, name: str) -> type[LatentDenoiser]:
    """The family of a pipeline class; ``name``: of the model, for the error that there is none."""
    known = families()
    if kind not in known:
        raise UserError(
            f"{name} is a {kind}{nearest(kind, known)}; the pipelines known here are {', '.join(sorted(known))};"
            " another one is added by its file in mitune/families/, see latent.py there"
        )
    return known[kind]


def _config(model: Any, overrides: dict[str, Any]) -> ModelConfig:
    """Give the keys of a model, whatever kind of object holds them; what is null is as it is declared."""
    if isinstance(model, ModelConfig):
        return replace(model, **overrides)
    keys = dict(model) if isinstance(model, Mapping) else {"path": str(model)}
    if not keys.get("path"):
        raise UserError("model.path is empty: give a diffusers folder, a Hub id, or 'shapes'")
    given: dict[str, Any] = {key: value for key, value in keys.items() if value is not None}
    return ModelConfig(**given | overrides)
