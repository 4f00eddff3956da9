"""A diffusers pipeline that somebody else has loaded: whether it can be asked as it is, and what identifies it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mitune.errors import UserError, short
from mitune.families import lora
from mitune.families.wholeness import check_whole
from mitune.scheduler_config import check_scheduler

if TYPE_CHECKING:
    from mitune.families.latent import LatentDenoiser
    from mitune.families.settings import ModelConfig

_LOOK = 4096  # values of a tensor, spread over it, that tell fine-tunes of one architecture apart
_HOOKS = (
    "_hf_hook",
    "_diffusers_hook",
)  # what diffusers and accelerate hang on a module that waits on the CPU


def wrap(pipeline: Any, family: type[LatentDenoiser], config: ModelConfig) -> LatentDenoiser:
    """Make a loaded pipeline a denoiser, where its parts are and in their number type; nothing is copied.

    Its networks are frozen and in eval mode afterwards (``requires_grad_(False).eval()``); its weights, its scheduler
    and its device stay as they are. Of ``config`` the keys count that say what is drawn, and how prompts are read.

    Raises UserError for a pipeline with parts missing, with an adapter in it, with quantized, compiled or waiting
    parts, or of a kind that is not known here.
    """
    name = short(Path(str(pipeline.config.get("_name_or_path") or "")).name or type(pipeline).__name__, 80)
    check_whole(pipeline, family.network_name, family.encoder_names, name)
    check_scheduler(pipeline.scheduler.config)
    parts = _parts(pipeline, family)
    for part, module in parts.items():
        _check_plain(f"{name}: its {part}", module)
    devices = {str(parameter.device) for module in parts.values() for parameter in module.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise UserError(
            f"{name}: its parts are on {', '.join(sorted(devices))}; put them on one device: pipeline.to(…)"
        )
    vae = pipeline.vae
    if vae.dtype is torch.float16 and getattr(vae.config, "force_upcast", False):
        raise UserError(
            f"{name}: its autoencoder overflows in float16; say pipeline.vae.to(torch.float32), or load it in bfloat16"
        )
    return family(pipeline, f"{name}#{_digest(pipeline, parts)}", config)


def _parts(pipeline: Any, family: type[LatentDenoiser]) -> dict[str, nn.Module]:
    """The modules that are asked, by name: in the order in which files identify a model."""
    names = (family.network_name, *family.encoder_names, "vae")
    found = {name: getattr(pipeline, name, None) for name in names}
    return {name: module for name, module in found.items() if module is not None}


def _check_plain(what: str, module: nn.Module) -> None:
    """Raise UserError for a module that is not as its class makes it."""
    if lora.adapter_layers([module]):
        raise UserError(
            f"{what} has an adapter (LoRA) in it; fuse it (pipeline.fuse_lora(); pipeline.unload_lora_weights()), take"
            " it out, or give the model's path and the adapter's: mitune.load(PATH, adapter=FILE)"
        )
    if getattr(module, "is_quantized", False) or getattr(module, "hf_quantizer", None) is not None:
        raise UserError(
            f"{what} is quantized; give the model's path instead: mitune.load(PATH, quantization=…)"
        )
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        raise UserError(f"{what} is compiled, and an adapter changes it; load it without torch.compile")
    if any(hasattr(part, hook) for part in module.modules() for hook in _HOOKS):
        raise UserError(
            f"{what} waits on the CPU (offloading); load it without, or give its path: mitune.load(PATH, offload=…)"
        )


def _digest(pipeline: Any, parts: dict[str, nn.Module]) -> str:
    """12 hex digits that tell pipelines apart: names, shapes and a look at the values of all tensors; the scheduler."""
    digest = hashlib.sha256()
    for name, module in parts.items():
        for key, tensor in module.state_dict().items():
            digest.update(f"{name}.{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(_look(tensor))
    digest.update(json.dumps(dict(pipeline.scheduler.config), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]


def _look(tensor: Tensor) -> bytes:
    """Some values of a tensor, evenly spread, as bytes."""
    flat = tensor.detach().reshape(-1)
    flat = flat[:: max(1, len(flat) // _LOOK)]
    return flat.contiguous().cpu().view(torch.uint8).numpy().tobytes() if len(flat) else b""
