"""What is in an adapter file, of whichever tool: each layer's tensors under the file's own name of the layer, and the
settings. All that it holds is taken or refused.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, listed, short
from mitune.families import adapter_settings
from mitune.families.adapter_place import FORMS, PEFT_FILE, PEFT_SETTINGS
from mitune.families.headers import header_of
from mitune.reading import is_file, parse_json, read_bytes, reading

A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_HEADER = "lora_adapter_metadata"  # the key of diffusers' own header
_PEFT = "base_model.model."
Key = tuple[str, str, bool]
NETWORK = "the network"  # of a file that calls it neither unet nor transformer
ANY = "any"  # of a file that names no component
_KINDS = {
    "A": (A, ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight", "_lora.down.weight"),
    "B": (B, ".lora_B.default.weight", ".lora_up.weight", ".lora.up.weight", "_lora.up.weight"),
    "magnitude": (MAGNITUDE, f"{MAGNITUDE}.weight", f"{MAGNITUDE}.default.weight"),
    "dora": (".dora_scale",),
    "alpha": (".alpha", "_lora.alpha", ".lora.alpha", ".lora_linear_layer.alpha"),
}
_XLABS = {"A": ".down.weight", "B": ".up.weight"}
_SUFFIXES = sorted(
    [
        (".lora_linear_layer.down.weight", "A"),
        (".lora_linear_layer.up.weight", "B"),
        *((suffix, kind) for kind, suffixes in _KINDS.items() for suffix in suffixes),
    ],
    key=lambda pair: -len(pair[0]),
)
_HEADS = (
    ("lora_unet_", NETWORK, True),
    ("lora_transformer_", "transformer", True),
    ("lycoris_", NETWORK, True),
    ("lora_te_", "text_encoder", True),
    ("lora_te1_", "text_encoder", True),
    ("lora_te2_", "text_encoder_2", True),
    ("lora_te3_", "text_encoder_3", True),
    ("unet.", "unet", False),
    ("transformer.", "transformer", False),
    ("text_encoder.", "text_encoder", False),
    ("text_encoder_2.", "text_encoder_2", False),
    ("text_encoder_3.", "text_encoder_3", False),
    ("model.diffusion_model.", NETWORK, False),
    ("diffusion_model.", NETWORK, False),
    ("text_encoders.clip_l.transformer.", "text_encoder", False),
    ("text_encoders.clip_g.transformer.", "text_encoder_2", False),
)
# In diffusers' header.
_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_OTHER_FORMS = (
    ("hada_w", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("oft_", "an OFT"),
    ("boft_", "a BOFT"),
    ("lora_mid", "a LoCon with a core tensor (Tucker)"),
    (".diff", "whole differences of weights"),
    (".set_weight", "whole weights"),
    ("w_norm", "changed norms"),
    ("b_norm", "changed norms"),
    (".reshape_weight", "reshaped weights"),
    ("bundle_emb", "a textual inversion"),
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
    ("on_input", "an IA3"),
    (".a1.weight", "a GLoRA"),
    ("lora_controlnet", "a Control-LoRA"),
    ("lora_embedding_", "an embedding's LoRA"),
    (".bias", "biases"),
    ("modules_to_save", "whole layers that were trained"),
)


@dataclass(frozen=True)
class AdapterContents:
    """A file holds (component, layer as it is called, whether in underscores) -> kind -> tensor."""

    path: Path
    digest: str
    layers: dict[Key, dict[str, Tensor]]
    settings: dict[str, dict[str, Any]]


def open_file(file: Path) -> AdapterContents:
    """Read an adapter file, and peft's settings beside it.

    Raises UserError: damaged, no LoRA or DoRA, settings that are not known.
    """
    from safetensors.torch import load

    data = read_bytes(file)
    digest = hashlib.sha256(data)
    with reading(file, "it is damaged or no safetensors file, train or fetch it again"):
        flat = dict(sorted(load(data).items()))  # the library's order differs from call to call
        # Of the bytes at hand: by the next look, the file may be another one.
        metadata = header_of(data)[0].get("__metadata__") or {}
    settings = _header(metadata, file)
    adapter_settings.check_kohya(metadata, file)
    beside = file.parent / PEFT_SETTINGS
    if file.name == PEFT_FILE and is_file(beside):
        text = read_bytes(beside)
        settings[ANY] = _table(parse_json(text, beside), beside)
        adapter_settings.check(settings[ANY], beside)
        digest.update(text)
    elif any(name.startswith(_PEFT) for name in flat):
        raise UserError(
            f"{file} is of peft, whose settings (alpha) are in {PEFT_SETTINGS} beside {PEFT_FILE}: it is missing; give"
            " the whole folder"
        )
    return AdapterContents(file, digest.hexdigest()[:12], _parsed(flat, file), settings)


def _table(value: Any, what: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what} holds no table of settings; fetch the adapter again")
    return value


def _header(metadata: Mapping[str, str], file: Path) -> dict[str, dict[str, Any]]:
    """Component -> settings, of diffusers' header."""
    what = f"{file}: {_HEADER}"
    way_out = "it is damaged, train or fetch it again"
    header = _table(parse_json(metadata.get(_HEADER, "{}"), what, way_out), what)
    settings: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for name, value in header.items():
        component, _, rest = name.partition(".")
        if not rest or component not in _COMPONENTS:
            raise UserError(
                f"{what}: it says {short(name)!r}, which is of no part of a model: settings are under the part they are"
                f" for, such as 'unet.r' ({', '.join(_COMPONENTS)}); mend the header, or save the adapter again"
            )
        settings[component][rest] = value
    for component, found in settings.items():
        adapter_settings.check(found, f"{file}: {component}")
    return dict(settings)


def _parsed(flat: Mapping[str, Tensor], file: Path) -> dict[Key, dict[str, Tensor]]:
    """Tensors by the layer they belong to. Raises UserError for tensors that are no part of a LoRA."""
    layers: dict[Key, dict[str, Tensor]] = collections.defaultdict(dict)
    foreign = []
    for name, value in flat.items():
        found = _split(name)
        if found is None:
            foreign.append(name)
            continue
        key, kind = found
        if kind in layers[key]:
            raise UserError(f"{file} has '{name}' twice, under two names; it is damaged, fetch it again")
        layers[key][kind] = value
    if foreign or not layers:
        raise UserError(_no_lora(file, foreign, bool(layers)))
    _check_values(flat, file)
    return dict(layers)


def _check_values(flat: Mapping[str, Tensor], file: Path) -> None:
    for name, value in flat.items():
        found = _split(name)
        # Of alphas, kohya's scripts and diffusers write whole ones too.
        whole = found is not None and found[1] == "alpha" and value.dtype != torch.bool
        number = value.is_floating_point() or (whole and not value.is_complex())
        if not number or not bool(torch.isfinite(value.float()).all()):
            raise UserError(f"{file}: '{name}' holds values that are no finite numbers; it is damaged")


def _split(name: str) -> tuple[Key, str] | None:
    """A tensor's name as its layer and what it is of it; None for one that is no part of a LoRA."""
    name = name.removeprefix(_PEFT)
    component, is_flat = ANY, False
    for head, found, flat in _HEADS:
        if name.startswith(head):
            name, component, is_flat = name.removeprefix(head), found, flat
            break
    for suffix, kind in _SUFFIXES:
        if name.endswith(suffix):
            return (component, name.removesuffix(suffix), is_flat), kind
    for kind, suffix in _XLABS.items():
        layer = name.removesuffix(suffix)
        if layer != name and layer.endswith(("_lora1", "_lora2")):
            return (component, layer, is_flat), kind
    return None


def _no_lora(file: Path, foreign: Sequence[str], any_layers: bool) -> str:
    shown = listed(foreign)
    if not any_layers and not foreign:
        return f"{file} holds no adapter: it is empty; {FORMS}"
    what = next((text for part, text in _OTHER_FORMS for name in foreign if part in name), None)
    if what is not None:
        return f"{file} is not a LoRA or DoRA alone: it holds {what} ({shown}), which is not read"
    if any_layers:
        return f"{file} holds {len(foreign)} tensors that are no part of a LoRA or DoRA ({shown}); they are not read"
    return f"{file} holds no adapter: its tensors are {shown}; a whole checkpoint is given as model.path"
