"""Every key with its type, default and meaning."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data.settings import PromptsConfig
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.search.catalogue import SearchConfig
from mitune.settings import (
    BATCH,
    GUIDANCE,
    ROUNDS,
    SEED,
    STEPS,
    Key,
    Settings,
    declared,
    key,
    section,
)
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

NOISES = ("independent", "antithetic", "coupled")
WEIGHTINGS = ("continuous", "paper", "uniform", "profile")
STRATEGIES = ("even", "stratified", "random", "small", "middle", "large", "importance")


@dataclass
class ModelConfig(Settings):
    path: str = key(
        "shapes",
        "a diffusers folder, a Hub id, a .safetensors checkpoint, or one inside the package: shapes, shapes_flow",
        path=True,
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
    dtype: str = key(
        "auto",
        "float32, float16, bfloat16, or auto: bfloat16 on CUDA, else float32",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps")
    compile: bool = key(False, "torch.compile the denoiser network")
    channels_last: bool = key(False, "channels-last memory layout (CUDA)")
    fast_decoder: str | None = key(
        None, "an AutoencoderTiny (folder or Hub id) that pictures are decoded with", path=True
    )
    offload: str = key(
        "none",
        "what waits on the CPU: none, model (each part), sequential (encoders by layer)",
        choices=("none", "model", "sequential"),
    )
    quantization: str = key(
        "none",
        "weights of the network and of T5 or Gemma: none, 8bit, 4bit (bitsandbytes), int8 (torchao)",
        choices=("none", "8bit", "4bit", "int8"),
    )
    vae_slicing: bool = key(False, "decode one picture at a time")
    vae_tiling: bool = key(False, "decode large pictures tile by tile (seams are blended)")
    adapter: list[str] = key(
        [],
        "start with this adapter (a folder, file or Hub id), or several [a,b]; training goes on from one",
        path=True,
    )
    adapter_weights: list[float] = key(
        [], "weight of each model.adapter (default: 1 each)", low=-1000, high=1000
    )




@dataclass
class MIConfig(Settings):
    t_min: int = key(
        50, "mi, mi_continuous, rfmi: steps at or below are left out (of 1000)", low=0, high=STEPS
    )


@dataclass
class TimesConfig(Settings):
    """When a scorer noises a picture, and what each time counts."""

    times: int = key(8, "times a picture is noised at", low=1, high=STEPS)
    t_min: int = key(400, "lowest time (of 1000)", low=0, high=STEPS)
    t_max: int = key(1000, "highest time", low=0, high=STEPS)
    weighting: str = key(
        "continuous",
        "of the times: continuous (exact), paper, uniform, profile (as measured)",
        choices=WEIGHTINGS,
    )
    strategy: str = key(
        "even", "times: even, stratified, random, small, middle, large, importance", choices=STRATEGIES
    )


@dataclass
class ElboConfig(TimesConfig):
    noise: str = key("independent", "independent, antithetic, or coupled: one forward path", choices=NOISES)


@dataclass
class MIImageConfig(ElboConfig):
    """Where all but ``form`` is as for elbo, one pass gives both."""

    form: str = key(
        "square",
        "square, or orthogonal: the product of velocities, as RFMI has it for flows",
        choices=("square", "orthogonal"),
    )


@dataclass
class LLRImageConfig(TimesConfig):
    paths: int = key(1, "forward paths averaged", low=1, high=1000)
    guidance: float = key(1.0, "guidance of the reverse steps; 1 = none", low=0, high=GUIDANCE)


@dataclass
class ContrastConfig(ElboConfig):
    times: int = key(6, "times a picture is noised at", low=1, high=STEPS)
    t_min: int = key(560, "lowest time (of 1000)", low=0, high=STEPS)
    edits: int = key(8, "minimal edits of the prompt, or other prompts, to tell it from", low=1, high=1000)
    negatives: str = key(
        "edits",
        "the other prompts: edits, words (exchanged within), pool, list (given)",
        choices=("edits", "words", "pool", "list"),
    )
    kinds: list[str] = key(
        ["swap", "substitute", "drop"],
        "kinds of edits, mined from the prompt pool",
        choices=("swap", "substitute", "drop"),
        filled=True,
    )
    given: str | None = key(
        None, "negatives=list: the other prompts, a source like prompts.source", path=True
    )


@dataclass
class CASConfig(Settings):
    steps: int = key(10, "steps of the inversion", low=2, high=STEPS)
    probes: int = key(20, "random probes of the divergence a step", low=1, high=10_000)
    recursion: int = key(2, "fixed-point passes of an inversion step", low=0, high=100)
    divergence: str = key(
        "hutchinson",
        "hutchinson (finite difference) or jvp (exact derivative)",
        choices=("hutchinson", "jvp"),
    )
    rule: str = key(
        "simpson38",
        "quadrature over the steps: simpson38, simpson13, trapezoid",
        choices=("simpson38", "simpson13", "trapezoid"),
    )
    inversion: str = key(
        "trapezoid", "a step: trapezoid (second order) or ddim (as published)", choices=("trapezoid", "ddim")
    )
    end: str = key(
        "denoised",
        "density at the path's end: denoised, or normal (as published)",
        choices=("denoised", "normal"),
    )
    spacing: str = key(
        "angle",
        "of the steps: even in angle (arctan of noise over signal) or in time",
        choices=("angle", "time"),
    )


@dataclass
class RefereeConfig(Settings):
    """A judge from outside: which one, and how much of it at once."""

    batch_size: int = key(32, "pictures a forward", low=1, high=BATCH)


@dataclass
class ClipConfig(RefereeConfig):
    path: str = key(
        "openai/clip-vit-large-patch14",
        "a CLIP: transformers folder, Hub id, or 'shapes' (in the package)",
        path=True,
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    form: str = key(
        "clipscore",
        "clipscore: 2.5 max(cos, 0); cosine; logit: times the temperature",
        choices=("clipscore", "cosine", "logit"),
    )
    prefix: str | None = key(
        None, "put before each prompt (CLIPScore's authors: 'A photo depicts ')", empty=True
    )


@dataclass
class PickScoreConfig(RefereeConfig):
    path: str = key("yuvalkirstain/PickScore_v1", "transformers folder or Hub id", path=True)
    revision: str | None = key(None, "Hub branch, tag or commit")
    processor: str | None = key(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "its tokenizer and preprocessing (null: with the model)",
        path=True,
    )


@dataclass
class AestheticConfig(RefereeConfig):
    path: str = key(
        "openai/clip-vit-large-patch14", "the CLIP that the head reads: folder or Hub id", path=True
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    head: str | None = key(
        None, "the head: a .safetensors file of LAION's linear or MLP predictor", path=True
    )


@dataclass
class HpsConfig(RefereeConfig):
    version: str = key("v2.1", "of the package hpsv2's weights: v2.0 or v2.1", choices=("v2.0", "v2.1"))
    path: str | None = key(
        None, "the weights as a transformers CLIP instead: folder or Hub id, no package", path=True
    )
    revision: str | None = key(None, "Hub branch, tag or commit")


@dataclass
class ImageRewardConfig(RefereeConfig):
    model: str = key("ImageReward-v1.0", "as the package ImageReward names it", path=True)


@dataclass
class JpegConfig(Settings):
    quality: int = key(
        95, "of the JPEG whose kilobytes count, 1 to 95", low=1, high=95, why="above that JPEG only grows"
    )


@dataclass
class ScorerConfig(Settings):
    mi: MIConfig = section(MIConfig)
    mi_image: MIImageConfig = section(MIImageConfig)
    elbo: ElboConfig = section(ElboConfig)
    llr_image: LLRImageConfig = section(LLRImageConfig)
    contrast: ContrastConfig = section(ContrastConfig)
    cas: CASConfig = section(CASConfig)
    clip: ClipConfig = section(ClipConfig)
    pickscore: PickScoreConfig = section(PickScoreConfig)
    aesthetic: AestheticConfig = section(AestheticConfig)
    hpsv2: HpsConfig = section(HpsConfig)
    imagereward: ImageRewardConfig = section(ImageRewardConfig)
    jpeg: JpegConfig = section(JpegConfig)
    profile: str | None = key(
        None,
        "where the information is, for weighting=profile and strategy=importance; score.profile measures it",
        path=True,
    )
    combined: str = key(
        "z(contrast)+z(elbo)", "the score 'combined': a weighted sum; z() = standardised within a prompt"
    )




@dataclass
class TrackerConfig(Settings):
    wandb: bool = key(False, "Weights & Biases; offline without a login")
    tensorboard: bool = key(False, "TensorBoard event files")


@dataclass
class Config(Settings):
    name: str = key("shapes", "name of the preset, of the run folder")
    run: str = key("runs/${name}", "the run folder", path=True)
    seed: int = key(0, "every random draw follows from it", low=0, high=SEED)
    rounds: int = key(
        1, "R: generate, select, train, evaluate, and again with the new adapter", low=1, high=ROUNDS
    )
    round: int = key(1, "the round that a stage run alone belongs to", low=1, high=ROUNDS)
    launch: str | None = key(
        None,
        "start the processes by accelerate: a file of launch/ (multi_gpu) or of your own (null: this process)",
        path=True,
    )
    scorers: list[str] = key(["mi", "llr", "contrast"], "scores every candidate gets", filled=True)
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


def leaves() -> Iterator[tuple[str, Any, str]]:
    """(full key, default, meaning) of every key, in the order of the dataclasses."""
    for name, one in keys().items():
        yield name, list(one.default) if one.many else one.default, one.meaning


@functools.cache
def keys() -> dict[str, Key]:
    """Every key by its full name, in the order of the dataclasses."""
    return {one.name: one for one in declared(Config)}


def flatten(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """{full key: value} of a configuration; ``resolve``: whether a text that refers to others is looked up."""
    container: Any = OmegaConf.to_container(config, resolve=resolve)
    return {name: functools.reduce(operator.getitem, name.split("."), container) for name in keys()}
