"""A diffusers scheduler configuration, as a model brings it: whether it can be followed, what it says of steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from mitune.errors import UserError, short
from mitune.reading import is_number, is_whole

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may predict where there is a beta schedule."""
_LONGEST = 1_000_000
_SAYS_NOISE = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "shift",
    "flow_shift",
)  # fmt: skip
_FLOW_NUMBERS = (
    "shift", "flow_shift", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len",
)  # fmt: skip
# What changes a schedule, or the times that a network is told, in ways that are not followed here: key -> values that
# change nothing. (What only a sampler does with its steps, such as the sigmas of Karras et al., is ours to choose.)
_NOT_IN_VP: dict[str, tuple[Any, ...]] = {
    "snr_shift_scale": (1.0, None),
    "timestep_type": ("discrete", None),
    "use_flow_sigmas": (False, None),
    "thresholding": (False, None),
}
_NOT_IN_FLOW: dict[str, tuple[Any, ...]] = {
    "invert_sigmas": (False, None),
    "shift_terminal": (None,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "final_sigmas_type": ("zero", None),
}
_IN_SIGMA = ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def is_flow(config: Mapping[str, Any]) -> bool:
    """Tell whether a diffusers scheduler configuration is that of a rectified flow."""
    # A scheduler in memory does not say its class.
    unnamed = "shift" in config and "beta_schedule" not in config
    named = "Flow" in str(config.get("_class_name", ""))
    return named or config.get("prediction_type") == "flow_prediction" or unnamed


def check_scheduler(config: Mapping[str, Any], whole: bool = True) -> None:
    """Raise UserError for a scheduler configuration that is damaged, or says what cannot be followed here.
    ``whole``: what it does not say is not there, rather than left to its class.
    """
    if "sigma_data" in config:
        raise UserError(
            "the model's scheduler is of the EDM kind (sigma_data), whose network scales its input itself; models"
            " of this kind are not known here: use one with a beta schedule or a rectified flow"
        )
    steps = config.get("num_train_timesteps", 1000)
    if not is_whole(steps) or not 1 < steps <= _LONGEST:
        _refuse(config, "num_train_timesteps", f"a whole number up to {_LONGEST}")
    refused = _NOT_IN_FLOW if is_flow(config) else _NOT_IN_VP
    for key, harmless in refused.items():
        if key in config and config[key] not in harmless:
            _refuse(config, key, f"{harmless[0]}: nothing else can be followed here")
    if is_flow(config):
        for key in _FLOW_NUMBERS:
            if not _is_between(config.get(key, 1.0), 0):
                _refuse(config, key, "a number above 0")
    else:
        _check_betas(config, whole)


def check_scheduler_class(config: Mapping[str, Any], name: str, knows: Collection[str], file: object) -> None:
    """Raise UserError for a configuration in ``file`` that says nothing of the noise, so that its class would take what
    is usual, or that is of another kind than the class ``name`` that reads it, which ``knows`` these settings.
    """
    if not any(key in config for key in _SAYS_NOISE):
        raise UserError(
            f"{file} says nothing of the noise (neither num_train_timesteps nor betas nor shift); fetch the model again"
        )
    betas = [key for key in ("beta_start", "beta_end", "beta_schedule", "trained_betas") if key in config]
    own = str(config.get("_class_name", ""))
    as_flow = config.get("prediction_type") == "flow_prediction" or bool(config.get("use_flow_sigmas"))
    if "beta_schedule" in knows:
        wrong = is_flow(config) and not as_flow
    else:
        wrong = "Flow" in name and (bool(betas) or (own != "" and not is_flow(config)))
    if wrong:
        kinds = ("a rectified flow", "a beta schedule")
        said, read = kinds if "beta_schedule" in knows else kinds[::-1]
        raise UserError(
            f"{file} is of {said}{f' ({own})' if own else ''}, and model_index.json says that a {name} reads it, which"
            f" is of {read}; mend whichever is wrong, or fetch the model again"
        )


def _check_betas(config: Mapping[str, Any], whole: bool) -> None:
    if whole and "beta_schedule" not in config and config.get("trained_betas") is None:
        raise UserError(
            f"the model's scheduler ({config.get('_class_name', 'of no name')}) has no beta schedule, and is no"
            " rectified flow; models of other kinds are not known here"
        )
    trained = config.get("trained_betas")
    if trained is not None:
        try:
            fine = len(trained) > 1 and all(_is_between(beta, 0, 1 + 1e-9) for beta in trained)
        except TypeError:
            fine = False
        if not fine:
            _refuse(config, "trained_betas", "a list of numbers between 0 and 1")
    for key in ("beta_start", "beta_end"):
        if not _is_between(config.get(key, 0.01), 0, 1):
            _refuse(config, key, "a number between 0 and 1")
    if not isinstance(config.get("rescale_betas_zero_snr", False), (bool, type(None))):
        _refuse(config, "rescale_betas_zero_snr", "true or false")
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        _refuse(config, "prediction_type", f"one of {', '.join(PREDICTIONS)}")


def _is_between(value: Any, above: float, below: float = math.inf) -> bool:
    return is_number(value) and above < value < below


def _refuse(config: Mapping[str, Any], key: str, wanted: str) -> None:
    raise UserError(
        f"the model's scheduler says {key}={short(str(config.get(key)))}, and that must be {wanted}; mend its"
        " scheduler_config.json, or use another model"
    )


def sampler_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``spacing``, ``steps_offset`` and ``set_alpha_to_one`` of a sampler, as the scheduler has them.
    A flow lays out its steps by its own shift.

    Of a diffusion also what the scheduler says to those samplers that step in σ: "sigmas", the spacing that it has
    there in place of that of times (None: none; "karras", or what is not known here), and "ends_at_first": the last
    step of a multistep sampler ends at the first timestep, not at clean data.
    """
    if is_flow(config):
        return {"spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": False}
    offset = config.get("steps_offset", 0)
    if not is_whole(offset) or offset < 0:
        _refuse(config, "steps_offset", "a whole number from 0 on")
    return {
        "spacing": str(config.get("timestep_spacing", "leading")),
        "steps_offset": offset,
        "set_alpha_to_one": bool(config.get("set_alpha_to_one", False)),
        "sigmas": _sigmas(config),
        "ends_at_first": config.get("final_sigmas_type") == "sigma_min",
    }


def _sigmas(config: Mapping[str, Any]) -> str | None:
    """The spacing that a scheduler has in σ."""
    unknown = [key for key in _IN_SIGMA if config.get(key)]
    if is_number(config.get("lambda_min_clipped")):  # not −∞
        unknown.append("lambda_min_clipped")
    return next(iter(unknown), "karras" if config.get("use_karras_sigmas") else None)
