"""Under which names adapter files of the tools in use know a network's layers.

The way is always from the module's own layers to the names that a file may have for them, so that a name is never taken
apart by guess: ``to_out_0`` is a layer or it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from mitune.families.layers import sizes

_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_QKV = ("to_q", "to_k", "to_v")
_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
_TIME = "time_text_embed.timestep_embedder.linear_"
_TEXT = "time_text_embed.text_embedder.linear_"
# Original name -> the layers below "transformer_blocks.N." that its rows are, in order. A layer whose rows come in
# another order there (the last norms: scale before shift) has no entry, and is refused as unknown.
_FLUX_DOUBLE = {
    "img_attn.qkv": tuple(f"attn.{name}" for name in _QKV),
    "txt_attn.qkv": tuple(f"attn.{name}" for name in _ADDED),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "processor.qkv_lora1": tuple(f"attn.{name}" for name in _QKV),  # XLabs
    "processor.qkv_lora2": tuple(f"attn.{name}" for name in _ADDED),
    "processor.proj_lora1": ("attn.to_out.0",),
    "processor.proj_lora2": ("attn.to_add_out",),
}
_FLUX_SINGLE = {
    "linear1": (*(f"attn.{name}" for name in _QKV), "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "processor.qkv": tuple(f"attn.{name}" for name in _QKV),  # XLabs
    "processor.proj": ("proj_out",),
}
_FLUX = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": (f"{_TIME}1",),
    "time_in.out_layer": (f"{_TIME}2",),
    "vector_in.in_layer": (f"{_TEXT}1",),
    "vector_in.out_layer": (f"{_TEXT}2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_SD3_BLOCK = {
    "x_block.attn.qkv": tuple(f"attn.{name}" for name in _QKV),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": tuple(f"attn2.{name}" for name in _QKV),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": tuple(f"attn.{name}" for name in _ADDED),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
_SD3 = {
    "context_embedder": ("context_embedder",),
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": (f"{_TIME}1",),
    "t_embedder.mlp.2": (f"{_TIME}2",),
    "y_embedder.mlp.0": (f"{_TEXT}1",),
    "y_embedder.mlp.2": (f"{_TEXT}2",),
    "final_layer.linear": ("proj_out",),
}

Names = dict[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class LayerNames:
    """A file calls layers by these names: each -> the layers of the module that it stands for (several: its outputs are
    theirs, one after the other; None: it could be two), with dots and with underscores in their place.
    """

    dotted: Names
    flat: Names

    def find(self, name: str, is_flat: bool) -> tuple[str, ...] | None:
        """Find the layers called ``name``; none if there is no such layer, or more than one it could be."""
        return (self.flat if is_flat else self.dotted).get(name)


def layer_names(module: nn.Module, component: str) -> LayerNames:
    """Give all names of all layers of ``module``."""
    layers = sizes(module)
    dotted: Names = {name: (name,) for name in layers}
    for name, other in _others(component, set(layers)):
        dotted.setdefault(name, other)
    flat: Names = {}
    for name, found in dotted.items():
        short = name.replace(".", "_")
        flat[short] = found if flat.get(short, found) == found else None
    return LayerNames(dotted, flat)


def _others(component: str, layers: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for layer in sorted(layers):
        own = _text(layer) if component.startswith("text_encoder") else _attention(layer)
        yield from ((name, (layer,)) for name in own)
    if component == "unet":
        per_block = _per_block(layers)
        for layer in sorted(layers):
            name = _ldm(layer, per_block, layers)
            if name is not None:
                yield name, (layer,)
    if component == "transformer":
        for name, parts in _original(layers):
            if layers.issuperset(parts):
                yield name, parts


def _attention(layer: str) -> Iterator[str]:
    """The names of the attention processors that diffusers had."""
    head, dot, last = layer.rpartition(".")
    if last == "0" and head.endswith(".to_out"):
        head, dot, last = head.rpartition(".")
        yield f"{head}.to_out"
        yield f"{head}.processor.to_out"
    elif dot:
        yield f"{head}.processor.{last}"


def _text(layer: str) -> Iterator[str]:
    """CLIP's names with and without its outer level, in which versions of transformers differ, and the attention's in
    early diffusers.
    """
    inner = layer.removeprefix("text_model.")
    old = re.sub(r"\.(q|k|v)_proj$", r".to_\1", inner)
    old = re.sub(r"\.out_proj$", ".to_out", old)
    for name in {inner, old}:
        yield name
        yield f"text_model.{name}"


def _per_block(layers: set[str]) -> int:
    """How many residual layers a block of the UNet has on its way down."""
    found = [re.match(r"down_blocks\.0\.resnets\.(\d+)\.", layer) for layer in layers]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _ldm(layer: str, per_block: int, layers: set[str]) -> str | None:
    """A UNet layer's name in the original code (latent-diffusion, sgm), which kohya's scripts use for SDXL."""
    if layer in _UNET:
        return _UNET[layer]
    match = re.fullmatch(r"(?:(down|up)_blocks\.(\d+)|(mid)_block)\.([a-z]+)\.(\d+)\.(.+)", layer)
    if match is None:
        return None
    side, block, middle, kind, index, rest = match.groups()
    rest = _RESNET.get(rest, rest) if kind == "resnets" else rest
    number = int(index)
    if middle:
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{rest}"
    first = int(block) * (per_block + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + per_block + 1}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        attended = any(other.startswith(f"up_blocks.{block}.attentions.") for other in layers)
        return f"output_blocks.{first + per_block}.{2 if attended else 1}.{rest}"
    place = first + number + 1 if side == "down" else first + number
    return (
        f"{'input' if side == 'down' else 'output'}_blocks.{place}.{1 if kind == 'attentions' else 0}.{rest}"
    )


def _original(layers: set[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names that FLUX and SD3 have in their makers' code."""
    single = _numbers(layers, "single_transformer_blocks")
    double = _numbers(layers, "transformer_blocks")
    blocks = {"double_blocks": ("transformer_blocks", double, _FLUX_DOUBLE)}
    blocks["single_blocks"] = ("single_transformer_blocks", single, _FLUX_SINGLE)
    yield from (_FLUX if single else _SD3).items()
    if not single:
        blocks = {"joint_blocks": ("transformer_blocks", double, _SD3_BLOCK)}
    for theirs, (ours, numbers, names) in blocks.items():
        for number in numbers:
            for name, parts in names.items():
                # The last block's text side is normed in another order of rows.
                if name == "context_block.adaLN_modulation.1" and number == max(numbers):
                    continue
                yield f"{theirs}.{number}.{name}", tuple(f"{ours}.{number}.{part}" for part in parts)


def _numbers(layers: set[str], block: str) -> list[int]:
    found = (re.match(rf"{block}\.(\d+)\.", layer) for layer in layers)
    return sorted({int(match[1]) for match in found if match})
