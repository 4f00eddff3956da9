"""The settings beside an adapter's tensors (diffusers' header, peft's ``adapter_config.json``, kohya's notes).

Each is obeyed here, without effect on an adapter that is trained already, or refused: what changes the numbers and is
not known must not be passed over. The names are those of ``peft.LoraConfig`` (0.21).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from mitune.errors import UserError, short
from mitune.reading import is_number, is_whole, parse_json, reading

OBEYED = {
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip
# Said of training or of where the adapter came from. fan_in_fan_out: peft itself sets it to false for the layers that
# are adapted here (linear layers and convolutions).
HARMLESS = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size",
    "fan_in_fan_out", "eva_config",
}  # fmt: skip
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # those that leave the base weights as they are
_WHY = {
    "bias": "the base model's biases were trained too",
    "lora_bias": "its layers have biases",
    "modules_to_save": "whole layers were trained",
    "layer_replication": "the base model's layers were doubled",
    "trainable_token_indices": "embeddings of single tokens were trained",
    "target_parameters": "parameters that are no layer's weight were trained",
    "init_lora_weights": "training changed the base model's weights too: convert it to a plain LoRA"
    " (peft: save_pretrained(path_initial_model_for_weight_conversion=...))",
    "loftq_config": "training changed the base model's weights too",
    "corda_config": "training changed the base model's weights too",
    "lora_ga_config": "training changed the base model's weights too",
}
_PLAIN_KOHYA = ("networks.lora", "networks.dylora", "lycoris.kohya")
_PLAIN_ALGORITHMS = ("lora", "locon")


def check(settings: Mapping[str, Any], what: object) -> None:
    """Raise UserError for a setting of one component that is neither obeyed nor without effect."""
    kind = settings.get("peft_type")
    if kind is not None and str(kind).upper().removeprefix("PEFTTYPE.") != "LORA":
        raise UserError(f"{what}: peft_type={short(str(kind), 40)} is not read; give a LORA (LoRA or DoRA)")
    for name, value in settings.items():
        if name in OBEYED or name in HARMLESS or value is None or value is False or value in ("", [], {}):
            continue
        if name == "bias" and value == "none":
            continue
        if name == "init_lora_weights" and any(value is known or value == known for known in _INITS):
            continue
        why = _WHY.get(name, "it may change what the adapter does, and is not known here")
        shown = short(json.dumps(value, default=str), 60)
        raise UserError(f"{what}: the setting {name}={shown} is not read ({why}); give an adapter without it")
    _check_types(settings, what)


def _check_types(settings: Mapping[str, Any], what: object) -> None:
    wrong = [name for name in ("r",) if name in settings and not _is_rank(settings[name])]
    wrong += [name for name in ("lora_alpha",) if name in settings and not _is_alpha(settings[name])]
    for name, test in (("rank_pattern", _is_rank), ("alpha_pattern", _is_alpha)):
        pattern = settings.get(name) or {}
        if not isinstance(pattern, dict) or not all(test(value) for value in pattern.values()):
            wrong.append(name)
    wrong += [
        name for name in ("use_rslora", "use_dora") if not isinstance(settings.get(name), (bool, type(None)))
    ]
    if wrong:
        shown = short(json.dumps(settings[wrong[0]], default=str), 60)
        raise UserError(f"{what}: the setting {wrong[0]}={shown} is not possible; mend it or fetch it again")


def _is_alpha(value: object) -> bool:
    return is_number(value) and abs(value) < 1e30


def _is_rank(value: object) -> bool:
    return is_whole(value) and 0 < value < 2**31


def alpha_of(settings: Mapping[str, Any], names: Iterable[str], rank: int, what: object) -> float:
    """Give the alpha of a layer of this rank that the file calls by ``names``; the rank where nothing is said.

    Raises UserError where the settings say another rank than the tensors have.
    """
    if not settings:
        return rank
    names = list(names)
    told = _matched(settings.get("rank_pattern") or {}, names, what)
    told = settings.get("r", rank) if told is None else told
    if told != rank:
        raise UserError(
            f"{what}: its settings say rank {told} for '{names[0]}', its tensors have rank {rank}; it is damaged,"
            " fetch it again"
        )
    alpha = _matched(settings.get("alpha_pattern") or {}, names, what)
    if alpha is None:
        alpha = settings.get("lora_alpha", 8)  # what peft takes where it is not said
    return alpha


def _matched(pattern: Mapping[str, Any], names: Iterable[str], what: object) -> Any:
    """The value for the first of ``names`` that one of the keys fits, as peft fits them; None if none does."""
    from peft.utils.other import get_pattern_key

    if not pattern:
        return None
    with reading(what):
        keys = [get_pattern_key(list(pattern), name) for name in names]
    return next((pattern[key] for key in keys if key in pattern), None)


def left_out(settings: Mapping[str, Any], layers: Iterable[tuple[str, ...]], what: object) -> list[str]:
    """List those of ``layers`` (the names each may go by) that the settings say the adapter does not go to."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    targets = settings.get("target_modules")
    if not targets or targets == "all-linear":
        targets = ".*"  # whatever has tensors
    chosen = {
        name: settings[name]
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern")
        if settings.get(name) not in (None, [], "")
    }
    with reading(what):
        if targets == ".*":
            chosen = {name: value for name, value in chosen.items() if name == "exclude_modules"}
        config = LoraConfig(target_modules=targets, **chosen)
        return [
            names[0]
            for names in layers
            if not any(check_target_module_exists(config, name) for name in names)
        ]


def scale(alpha: float | None, rank: int, rslora: bool) -> float:
    """Give what B A is multiplied with: alpha / r, alpha / √r with rslora, 1 where there is no alpha."""
    if alpha is None:
        return 1.0
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def check_kohya(metadata: Mapping[str, str], what: object) -> None:
    """Raise UserError where kohya's notes say that the tensors are no plain LoRA."""
    module = metadata.get("ss_network_module")
    if module is None or module == "None":
        return
    arguments = metadata.get("ss_network_args") or "{}"
    parsed = {} if arguments == "None" else parse_json(arguments, f"{what}: ss_network_args")
    algorithm = parsed.get("algo", "lora") if isinstance(parsed, dict) else "lora"
    plain = module.startswith(_PLAIN_KOHYA)
    if plain and (module.startswith("networks.") or str(algorithm).lower() in _PLAIN_ALGORITHMS):
        return
    told = f"ss_network_module={short(module, 60)}" + (f", algo={short(str(algorithm), 30)}" if plain else "")
    raise UserError(f"{what} is no LoRA ({told}); only LoRA and DoRA are read")
