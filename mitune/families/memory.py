"""Models larger than the memory: parts that wait on the CPU, weights in 8 or 4 bits, the autoencoder in slices."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

from mitune.errors import UserError, check_known, short
from mitune.families.config_bounds import check_bounds
from mitune.families.settings import OFFLOADS, QUANTIZATIONS
from mitune.families.weight_files import check_finite, check_loaded, check_stored, weight_files
from mitune.families.wholeness import check_scaling
from mitune.reading import home, is_folder, is_hub_id, loading


def check_offload(mode: str, device: torch.device, compile: bool) -> None:
    """Raise UserError for a mode that is not known or cannot help here."""
    check_known("model.offload", mode, OFFLOADS)
    if mode != "none" and device.type == "cpu":
        raise UserError(
            f"model.offload={mode} moves parts between an accelerator and the CPU, and this model runs on the CPU; "
            "leave model.offload=none"
        )
    if mode != "none" and compile:
        raise UserError(
            f"model.offload={mode} does not go together with model.compile; leave one of them out"
        )


def offload(pipeline: Any, mode: str, network: str, device: torch.device) -> None:
    """Let parts of ``pipeline`` wait on the CPU, by diffusers' own hooks.

    model: each part comes to ``device`` when it is called and leaves when the next one is. sequential: of the text
    encoders and the autoencoder only the layer at work is there; the ``network``, which trains, stays.
    """
    if mode == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif mode == "sequential":
        pipeline._exclude_from_cpu_offload = [*pipeline._exclude_from_cpu_offload, network]
        pipeline.enable_sequential_cpu_offload(device=device)


def slice_autoencoder(vae: Any, slicing: bool, tiling: bool) -> None:
    """Decode picture by picture, or tile by tile. Raises UserError where this autoencoder cannot."""
    for key, wanted, switch in (
        ("vae_slicing", slicing, "enable_slicing"),
        ("vae_tiling", tiling, "enable_tiling"),
    ):
        if wanted and not hasattr(vae, switch):
            raise UserError(f"model.{key}: a {type(vae).__name__} cannot do that; leave it false")
        if wanted:
            getattr(vae, switch)()


def quantization_config(
    kind: str, network: str, encoders: Sequence[str], dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Give component -> what ``from_pretrained`` needs to load it in fewer bits.

    Args:
        kind: one of ``QUANTIZATIONS``: 8bit and 4bit (NF4) on CUDA, int8 (weights alone) on any device; none gives {}.
        network: the name of the pipeline's network.
        encoders: the names of the text encoders that are large.
        dtype: what 4-bit weights are computed in.
        device: where the model is to run.

    Raises UserError: no such kind, no CUDA device where it needs one, its package not installed.
    """
    check_known("model.quantization", kind, QUANTIZATIONS)
    if kind == "none":
        return {}
    package = QUANTIZATIONS[kind]
    if package == "bitsandbytes" and device.type != "cuda":
        raise UserError(
            f"model.quantization={kind} needs a CUDA device, this is {device}; say int8 (torchao) or none"
        )
    if importlib.util.find_spec(package) is None:
        raise UserError(f"model.quantization={kind} needs {package}; pip install {package}")
    if package == "torchao":
        return _int8(network, encoders)
    return _bitsandbytes(kind, network, encoders, dtype)


def _bitsandbytes(kind: str, network: str, encoders: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """The settings part by part: diffusers and transformers have a class each for them."""
    from diffusers import BitsAndBytesConfig
    from transformers import BitsAndBytesConfig as BitsAndBytesTextConfig

    how: dict[str, Any] = {"load_in_8bit": True}
    if kind == "4bit":
        how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    texts = {name: BitsAndBytesTextConfig(**how) for name in encoders}
    return {network: BitsAndBytesConfig(**how), **texts}


def _int8(network: str, encoders: Sequence[str]) -> dict[str, Any]:
    """torchao's settings part by part."""
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig as TorchAoTextConfig

    kind = Int8WeightOnlyConfig(version=2)
    texts = {name: TorchAoTextConfig(quant_type=kind) for name in encoders}
    return {network: TorchAoConfig(kind), **texts}


def open_fast_decoder(path: str, channels: int, downscale: int, dtype: torch.dtype) -> Any:
    """Open an ``AutoencoderTiny`` (folder or Hub id) for decoding only, frozen. Raises UserError if it does not fit."""
    from diffusers import AutoencoderTiny

    what = f"model.fast_decoder={short(path)}"
    local = home(path)
    if is_folder(local):
        headers = weight_files(local, ".", None)
        check_stored(headers, "AutoencoderTiny")
        check_bounds(local, headers)
    elif not is_hub_id(path):
        raise UserError(
            f"{what} is no AutoencoderTiny that can be read: it is neither a folder nor a Hub id (owner/name)"
        )
    with loading(f"{what} is no AutoencoderTiny that can be read"):
        decoder, report = AutoencoderTiny.from_pretrained(
            str(local) if is_folder(local) else path,
            torch_dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_loaded("AutoencoderTiny", report, what)
    check_finite("AutoencoderTiny", decoder, what)
    config = decoder.config
    check_scaling(config, what)
    factor = 2 ** (len(config.decoder_block_out_channels) - 1)
    if (config.latent_channels, factor) != (channels, downscale):
        raise UserError(
            f"model.fast_decoder={path} is for latents of {config.latent_channels} channels, {factor} times smaller "
            f"than the picture; this model's have {channels} and are {downscale} times smaller"
        )
    return decoder.requires_grad_(False).eval()
