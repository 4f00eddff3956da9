"""A tiny Stable Diffusion folder as one checkpoint file, in the layer names of the original code (latent-diffusion)."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_checkpoint(folder: Path, file: Path, layers: int = 1, levels: int = 2) -> Path:
    """Write the UNet (``layers`` a block), autoencoder (``levels``) and text encoder of ``folder`` to ``file``."""
    tensors: dict[str, Tensor] = {}
    for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{_unet(name, layers)}"] = value
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        key = _autoencoder(name, levels)
        as_convolution = "attn_1" in key and key.endswith("weight") and ".norm." not in key
        tensors[f"first_stage_model.{key}"] = value[..., None, None] if as_convolution else value
    for name, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)
    return file


def _unet(name: str, layers: int) -> str:
    for ours, theirs in OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    if name.startswith("mid_block."):
        place, rest = re.match(r"mid_block\.(resnets\.0|attentions\.0|resnets\.1)\.(.*)", name).groups()  # type: ignore[union-attr]
        index = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[place]
        return f"middle_block.{index}.{_resnet(rest)}"
    side, block, kind, layer, rest = re.match(  # type: ignore[union-attr]
        r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name
    ).groups()
    first = (layers + 1) * int(block)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{first + int(layer) + 1}.{int(kind == 'attentions')}.{_resnet(rest)}"
    if kind == "upsamplers":
        attends = 2 if int(block) == 0 else 1  # in the tiny model the first block up has attention
        return f"output_blocks.{first + layers}.{attends}.{rest}"
    return f"output_blocks.{first + int(layer)}.{int(kind == 'attentions')}.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    part, _, last = rest.rpartition(".")
    return f"{RESNET.get(part, part)}.{last}"


def _autoencoder(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name
    )
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
