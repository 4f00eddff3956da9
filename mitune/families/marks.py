"""What a checkpoint file's own header says its network predicts, and on which noise schedule it was trained.

As ComfyUI, SimpleTuner and others write them: empty tensors ``v_pred`` and ``ztsnr``; kohya's scripts and everybody who
follows ModelSpec: the header's text fields ``modelspec.prediction_type`` and ``ss_…``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mitune.errors import UserError, short
from mitune.families.headers import Header

_EDM = ("edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
_SPEC = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "sample": "sample",
    "x0": "sample",
}
_FLOW = ("flow", "flow_prediction", "rectified_flow", "rf", "flow_matching")
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "none", "")


def read_marks(file: Path, header: Header) -> dict[str, Any]:
    """Read the settings of a scheduler that a file's header tells: ``prediction_type``, ``rescale_betas_zero_snr``;
    those it says nothing of are left out.

    Raises UserError: marks that contradict each other, marks of a kind of model that is not known here.
    """
    tensors, texts = header.shapes, header.texts
    edm = [name for name in _EDM if name in tensors]
    if edm:
        raise UserError(
            f"{file} is marked as a model in the σ of Karras et al. ({edm[0]}; EDM), whose network scales its input"
            " itself; models of this kind are not known here: use one with a beta schedule or a rectified flow"
        )
    told = {name: value for name, value in _predictions(file, tensors, texts).items() if value is not None}
    if len(set(told.values())) > 1:
        said = " and ".join(f"{value} by its {name}" for name, value in told.items())
        raise UserError(
            f"{file} contradicts itself: it is marked {said}; mend its marks, or give a diffusers folder"
        )
    marks: dict[str, Any] = {}
    if told:
        marks["prediction_type"] = next(iter(told.values()))
    if "ztsnr" in tensors or _flag(file, texts, "ss_zero_terminal_snr"):
        marks["rescale_betas_zero_snr"] = True
    return marks


def _predictions(file: Path, tensors: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, str | None]:
    """Mark -> what it says is predicted (None: nothing)."""
    spec = texts.get("modelspec.prediction_type")
    word = "" if spec is None else spec.strip().lower()
    known = _SPEC.get(word, "flow" if word in _FLOW else None)
    if spec is not None and known is None and word not in _NO:
        raise UserError(
            f"{file}: its header says modelspec.prediction_type={short(spec)!r}, which is not known here (known:"
            f" {', '.join(_SPEC)}); give the model as a diffusers folder whose scheduler says what it predicts"
        )
    return {
        "v_pred": "v_prediction" if "v_pred" in tensors else None,
        "modelspec.prediction_type": known,
        "ss_v_parameterization": "v_prediction" if _flag(file, texts, "ss_v_parameterization") else None,
    }


def _flag(file: Path, texts: Mapping[str, str], name: str) -> bool:
    word = texts.get(name, "").strip().lower()
    if word not in (*_YES, *_NO):
        raise UserError(
            f"{file}: its header says {name}={short(word)!r}, which is neither True nor False; mend it"
        )
    return word in _YES


def apply_marks(pipeline: Any, marks: Mapping[str, Any], file: Path) -> None:
    """Set the scheduler of ``pipeline`` to what its file says. Raises UserError where it cannot be so."""
    if not marks:
        return
    import inspect

    from diffusers import DDIMScheduler

    from mitune.scheduler_config import is_flow

    config = dict(pipeline.scheduler.config)
    flow, predicts = is_flow(config), marks.get("prediction_type")
    if flow and predicts == "flow" and "rescale_betas_zero_snr" not in marks:
        return
    if flow or predicts == "flow":
        raise UserError(
            f"{file} is marked {', '.join(f'{key}={value}' for key, value in marks.items())}, and the configuration it"
            f" is built by is {'a rectified flow' if flow else 'no rectified flow'}; give another model.config"
        )
    made_by = type(pipeline.scheduler)
    if not set(marks) <= set(inspect.signature(made_by.__init__).parameters):
        made_by = DDIMScheduler
    pipeline.register_modules(scheduler=made_by.from_config(config, **marks))
