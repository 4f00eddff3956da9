"""The keys of a model: ``model.*``. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.settings import Settings, key

FORMATS = ("float32", "float16", "bfloat16")
WEIGHTS = {"auto": "bfloat16 on CUDA, else float32"} | dict.fromkeys(FORMATS, "")
OFFLOADS = {"none": "nothing", "model": "each part", "sequential": "encoders layer by layer"}
QUANTIZATIONS = {"none": "as they are", "8bit": "bitsandbytes", "4bit": "bitsandbytes", "int8": "torchao"}
"""Number of bits -> the package that stores weights in so few."""


@dataclass
class ModelConfig(Settings):
    """These keys say which model is opened, and how: ``load_denoiser(ModelConfig(path="shapes", dtype="float32"))``."""

    path: str | None = key(
        None,
        "a diffusers folder, a Hub id, a .safetensors checkpoint, or one inside the package: shapes, shapes_flow",
        path=True,
        basic=True,
    )
    config: str | None = key(
        None, "of a checkpoint file: a folder or Hub id that is built alike (default: recognised)", path=True
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    variant: str | None = key(None, "weights variant, such as fp16")
    resolution: int | None = key(
        None, "side of a picture in pixels (default: the model's own)", low=8, high=4096
    )
    max_tokens: int | None = key(
        None, "tokens of T5 or Gemma (default: the pipeline's own)", low=1, high=4096
    )
    guidance_embedding: float | None = key(
        None, "what a guidance-distilled model (FLUX.1-dev) is told; 1 = no guidance", low=0, high=1000
    )
    picture_guidance: float | None = key(
        None, "guidance towards the picture of a model that edits pictures (default 1.5)", low=0, high=1000
    )
    dtype: str = key(
        "auto",
        "number format of the weights",
        choices=WEIGHTS,
        basic=True,
    )
    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps", basic=True)
    compile: bool = key(False, "torch.compile the denoiser network")
    channels_last: bool = key(False, "channels-last memory layout (CUDA)")
    fast_decoder: str | None = key(
        None, "an AutoencoderTiny (folder or Hub id) that pictures are decoded with", path=True
    )
    offload: str = key("none", "what waits on the CPU until it is needed", choices=OFFLOADS)
    quantization: str = key(
        "none", "smaller weights of the network and of T5 or Gemma", choices=QUANTIZATIONS
    )
    vae_slicing: bool = key(False, "decode one picture at a time")
    vae_tiling: bool = key(False, "decode large pictures tile by tile (seams are blended)")
    adapter: list[str] = key(
        [],
        "start with this adapter (a folder, file or Hub id), or several [a,b]; training goes on from one",
        path=True,
        basic=True,
    )
    adapter_weights: list[float] = key(
        [], "weight of each model.adapter (default: 1 each)", low=-1000, high=1000
    )
