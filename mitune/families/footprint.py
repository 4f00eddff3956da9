"""What a model will take of the memory, from the headers of its files: weights are counted, activations reckoned.

The values that a row keeps are reckoned from the shapes of the weights: a layer with so many outputs gives as many
values at every place of the picture that it looks at. Two factors stand for what lies around the layers (norms,
residual sums, the query and key of attention). They were found by following every tensor of SD 1.5, SDXL and SD 3 at
their own sizes, without contents (2.1 to 2.5, and 3.3 to 4.0), and are rounded up. Nothing here was measured on a GPU.
No torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.families.source import ModelSource
from mitune.families.weight_files import STEMS, read_config, weight_files
from mitune.reading import is_file, is_folder

KEPT = 2.5  # values that training keeps of a row, for each output of a layer
ALIVE = 4.0  # the most values alive at once without a gradient, for each output of the widest layer
_NETWORKS = ("unet", "transformer")
# Layers that see the time, the text or a position, and not every place of the picture.
_ASIDE = re.compile(
    r"time_emb|time_proj|time_text|timestep_emb|add_embedding|adaln|norm\w*\.linear|attn2\.to_[kv]\b|add_[qkv]_proj"
    r"|to_add_out|ff_context|context_embedder|caption_(projection|norm)|pooled|guidance_embedder|^pos_embed\.pos_embed"
)
_BLOCK = re.compile(r"(?P<side>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>\w+)")
# What gradient checkpointing reckons again as one: a residual block, a transformer block.
_UNIT = re.compile(
    r"^.*?(resnets|attentions|blocks|layers)\.\d+(?!.*(resnets|attentions|transformer_blocks)\.\d)"
)

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Footprint:
    """Counts what a model is made of.

    Attributes:
        parameters: of every part that has weights.
        network: the part that is trained.
        layers: of the network: name -> shape of its weight, of linear layers and convolutions.
        disk: bytes of its weight files.
        latent: (channels, height, width).
        picture: (height, width).
        widest, outputs, units: values that a row has in the network: of its widest layer, of all layers, and of what
            gradient checkpointing keeps.
        decoded: values of the widest layer of the decoder, for a picture.
    """

    parameters: Mapping[str, int]
    network: str
    layers: Shapes = field(repr=False)
    disk: int = 0
    latent: tuple[int, int, int] = (4, 64, 64)
    picture: tuple[int, int] = (512, 512)
    widest: int = 0
    outputs: int = 0
    units: int = 0
    decoded: int = 0

    def adapter(self, targets: Sequence[str], rank: int, dora: bool) -> int:
        """Count the parameters of an adapter of the network; ``targets``: layers, or ["all"]."""
        return sum(
            _adapter_of(shape, rank, dora)
            for name, shape in self.layers.items()
            if list(targets) == ["all"] or any(name == own or name.endswith(f".{own}") for own in targets)
        )


def _adapter_of(shape: Sequence[int], rank: int, dora: bool) -> int:
    outputs, inputs = shape[0], math.prod(shape[1:])
    return rank * (outputs + inputs) + outputs * dora


def footprint(
    source: ModelSource, variant: str | None = None, resolution: int | None = None
) -> Footprint | None:
    """Read the headers and configurations of a model that lies in a folder; None of one that is a single file, or still
    on the Hub, or does not say its size. Raises UserError for files that are missing or damaged.
    """
    folder = source.folder
    if folder is None or source.file is not None:
        return None
    headers = {
        part: weight_files(folder, part, variant) for part in source.components if _has_weights(folder / part)
    }
    shapes = {
        part: {name: shape for header in files.values() for name, shape in header.shapes.items()}
        for part, files in headers.items()
    }
    network = next((part for part in _NETWORKS if part in shapes), "")
    if not network or "vae" not in shapes:
        return None
    configs = [read_config(folder / part / "config.json") for part in (network, "vae")]
    disk = sum(file.stat().st_size for files in headers.values() for file in files)
    return reckon(shapes, network, configs[0], configs[1], resolution, disk)


def _has_weights(part: Path) -> bool:
    return is_folder(part) and any(
        is_file(path) for stem in STEMS for path in part.glob(f"{stem}*.safetensors*")
    )


def reckon(
    shapes: Mapping[str, Shapes],
    network: str,
    config: Mapping[str, Any],
    vae: Mapping[str, Any],
    resolution: int | None = None,
    disk: int = 0,
) -> Footprint | None:
    """Reckon a footprint from what the files say; None where the model does not say the size of its pictures.

    Args:
        shapes: part -> name -> shape of a tensor.
        network: which part is trained.
        config, vae: configurations of the network and of the autoencoder.
        resolution: side of a picture, where it is not the model's own.
        disk: bytes of the files.
    """
    scale = _downscale(vae)
    own = config.get("sample_size")
    sides = own if isinstance(own, list) else [own, own]
    if resolution is not None:
        sides = [resolution // scale] * 2
    height, width = sides
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    channels = int(vae.get("latent_channels", 4))
    # A transformer that takes latents in squares of two has four times their channels (FLUX).
    packed = round(math.sqrt(max(1, int(config.get("in_channels") or channels) // channels)))
    patch = int(config.get("patch_size") or 1) * packed if network == "transformer" else 1
    places = (height // patch) * (width // patch)
    layers = _layers(shapes[network])
    values = {name: shape[0] * _places(name, shapes[network], places) for name, shape in layers.items()}
    decoder = {
        name: shape[0] * _decoder_places(name, shapes["vae"], height * width)
        for name, shape in _layers(shapes["vae"]).items()
        if name.startswith("decoder")
    }
    return Footprint(
        {part: sum(math.prod(shape) for shape in own.values()) for part, own in shapes.items()},
        network,
        layers,
        disk,
        (channels, height, width),
        (height * scale, width * scale),
        max(values.values(), default=0),
        sum(values.values()),
        _checkpointed(values),
        max(decoder.values(), default=0),
    )


def _downscale(vae: Mapping[str, Any]) -> int:
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or []
    return int(2 ** max(0, len(blocks) - 1))


def _layers(shapes: Shapes) -> dict[str, Sequence[int]]:
    """Name and shape of every linear layer and convolution."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) in (2, 4) and "embed_tokens" not in name
    }


def _blocks(names: Iterable[str], side: str) -> int:
    return 1 + max(
        (int(at["level"]) for name in names if (at := _BLOCK.search(name)) and at["side"] == side), default=0
    )


def _places(name: str, shapes: Shapes, places: int) -> int:
    """Count the places that a layer of the network looks at; 1 where it does not look at the picture."""
    if _ASIDE.search(name):
        return 1
    count = _blocks(shapes, "down")
    at = _BLOCK.search(name)
    if at:
        level = int(at["level"]) if at["side"] == "down" else count - 1 - int(at["level"])
    else:
        level = count - 1 if name.startswith("mid_block") else 0
    return max(1, places >> (2 * level))


def _decoder_places(name: str, shapes: Shapes, places: int) -> int:
    """The same of the autoencoder's decoder, which doubles the sides at the end of a block."""
    at = _BLOCK.search(name)
    if at is None:
        last = name.startswith(("decoder.conv_out", "decoder.conv_norm_out"))
        return int(places << (2 * (_blocks(shapes, "up") - 1))) if last else places
    return int(places << (2 * (int(at["level"]) + (at["kind"] == "upsamplers"))))


def _checkpointed(values: Mapping[str, int]) -> int:
    """Values that are alive with gradient checkpointing: those of the largest unit, and what leaves every unit."""
    units: dict[str, list[int]] = {}
    for name, count in values.items():
        found = _UNIT.match(name)
        units.setdefault(found[0] if found else name, []).append(count)
    return max((sum(own) for own in units.values()), default=0) + sum(own[-1] for own in units.values())
