"""Every key with its type, default and meaning."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data.settings import PromptsConfig
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import ScorerConfig
from mitune.search.catalogue import SearchConfig
from mitune.settings import ROUNDS, SEED, Key, Settings, declared, key, section
from mitune.stages.settings import (
    AgreeConfig,
    CalibrateConfig,
    EvaluateConfig,
    ExportConfig,
    GenerateConfig,
    SampleConfig,
    ScoreConfig,
    SelectConfig,
    SweepConfig,
)


@dataclass
class ModelConfig(Settings):
    path: str = key(
        "shapes",
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
        choices={
            "auto": "bfloat16 on CUDA, else float32",
            "float32": "32 bits",
            "float16": "16 bits, 11 of them precision",
            "bfloat16": "16 bits, with the range of float32",
        },
        basic=True,
    )
    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps", basic=True)
    compile: bool = key(False, "torch.compile the denoiser network")
    channels_last: bool = key(False, "channels-last memory layout (CUDA)")
    fast_decoder: str | None = key(
        None, "an AutoencoderTiny (folder or Hub id) that pictures are decoded with", path=True
    )
    offload: str = key(
        "none",
        "what waits on the CPU until it is needed",
        choices={"none": "nothing", "model": "each part", "sequential": "encoders layer by layer"},
    )
    quantization: str = key(
        "none",
        "smaller weights of the network and of T5 or Gemma",
        choices={"none": "as they are", "8bit": "bitsandbytes", "4bit": "bitsandbytes", "int8": "torchao"},
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


@dataclass
class TrackerConfig(Settings):
    wandb: bool = key(False, "Weights & Biases; offline without a login")
    tensorboard: bool = key(False, "TensorBoard event files")


@dataclass
class Config(Settings):
    name: str = key("shapes", "name of the preset, of the run folder")
    run: str = key("runs/${name}", "the run folder", path=True, basic=True)
    seed: int = key(0, "every random draw follows from it", low=0, high=SEED, basic=True)
    rounds: int = key(
        1,
        "R: generate, select, train, evaluate, and again with the new adapter",
        low=1,
        high=ROUNDS,
        basic=True,
    )
    round: int = key(1, "the round that a stage run alone belongs to", low=1, high=ROUNDS)
    launch: str | None = key(
        None,
        "start the processes by accelerate: a file of launch/ (multi_gpu) or of your own (null: this process)",
        path=True,
        basic=True,
    )
    scorers: list[str] = key(
        ["mi", "llr", "contrast"], "scores every candidate gets", filled=True, basic=True
    )
    model: ModelConfig = section(ModelConfig)
    prompts: PromptsConfig = section(PromptsConfig)
    sampler: SamplerConfig = section(SamplerConfig)
    search: SearchConfig = section(SearchConfig)
    scorer: ScorerConfig = section(ScorerConfig)
    generate: GenerateConfig = section(GenerateConfig)
    select: SelectConfig = section(SelectConfig)
    adapter: AdapterConfig = section(AdapterConfig)
    train: TrainConfig = section(TrainConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    sample: SampleConfig = section(SampleConfig)
    score: ScoreConfig = section(ScoreConfig)
    agree: AgreeConfig = section(AgreeConfig)
    calibrate: CalibrateConfig = section(CalibrateConfig)
    export: ExportConfig = section(ExportConfig)
    sweep: SweepConfig = section(SweepConfig)
    tracker: TrackerConfig = section(TrackerConfig)


@functools.cache
def keys() -> dict[str, Key]:
    """Every key by its full name, in the order of the dataclasses."""
    return {one.name: one for one in declared(Config)}


def flatten(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """{full key: value} of a configuration; ``resolve``: whether a text that refers to others is looked up."""
    container: Any = OmegaConf.to_container(config, resolve=resolve)
    return {name: functools.reduce(operator.getitem, name.split("."), container) for name in keys()}
