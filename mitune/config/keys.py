"""Every key with its type, default and meaning."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data.settings import PromptsConfig
from mitune.settings import (
    BATCH,
    CANDIDATES,
    GUIDANCE,
    ROUNDS,
    ROWS,
    SEED,
    STEPS,
    TRAINING,
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
    picture_guidance: float | None = key(
        None, "guidance towards the picture of a model that edits pictures (default 1.5)", low=0, high=1000
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
class RacingConfig(Settings):
    """Dropping candidates while they are drawn."""

    by: str | None = key(
        None,
        "drop candidates early by this running score: mi, mi_continuous, rfmi, llr (free), or elbo, mi_image,"
        " llr_image, contrast of the predicted picture (null: off)",
    )
    at: list[float] = key(
        [0.4], "when: shares of the steps below 1, or numbers of steps from 1 on", low=-STEPS, high=STEPS
    )
    survivors: list[int] = key([], "candidates a prompt that go on, for each of at", low=1, high=CANDIDATES)
    speedup: float | None = key(
        None,
        "instead of survivors: forwards of drawing, looks included, shall fall so many times",
        low=1,
        high=1000,
    )
    times: int | None = key(
        None,
        "times a look noises the predicted picture at (2 forwards each, contrast: edits + 1)",
        low=1,
        high=STEPS,
    )
    edits: int = key(3, "edits that a look by contrast tells the prompt from", low=1, high=1000)


@dataclass
class SamplerConfig(Settings):
    name: str = key(
        "ddim",
        "ddpm (ancestral), ddim, euler (rectified flow), or lcm (consistency models)",
        choices=("ddpm", "ddim", "euler", "lcm"),
    )
    steps: int = key(20, "network evaluations a picture", low=1, high=STEPS)
    eta: float = key(1.0, "ddim: 0 = deterministic, 1 = as noisy as ddpm", low=0, high=1)
    guidance: float = key(2.0, "classifier-free guidance scale; 1 = none", low=0, high=GUIDANCE)
    variance: str = key("small", "ddpm: small (posterior) or large (beta)", choices=("small", "large"))
    spacing: str | None = key(
        None,
        "timestep spacing: leading, trailing, linspace (default: as the model's scheduler says)",
        choices=("leading", "trailing", "linspace"),
    )
    steps_offset: int | None = key(
        None,
        "added to every timestep of the leading spacing (default: as the model's scheduler says)",
        low=0,
        high=STEPS,
    )
    set_alpha_to_one: bool | None = key(
        None, "ddim: end at clean data, not at the first timestep (default: as the model's scheduler says)"
    )
    racing: RacingConfig = section(RacingConfig)


@dataclass
class SearchConfig(Settings):
    """Steering the candidates of a prompt as one population (``sampler=das``)."""

    by: str | None = key(None, "das: sequential Monte Carlo on the way from noise to picture (null: off)")
    reward: str | None = key(
        None,
        "what draws the particles: a judge of pictures (clip, jpeg, aesthetic+20*clip, …), or what the model itself"
        " says on the way: llr, mi, contrast. Short: reward=",
    )
    alpha: float = key(
        1.0,
        "temperature of the target p exp(reward/alpha), in the reward's unit. Short: alpha=",
        above=0,
        high=1e9,
    )
    particles: int | None = key(
        None, "of one population (default: all candidates of a prompt are one)", low=1, high=CANDIDATES
    )
    proposal: str = key(
        "auto",
        "auto, gradient (up the reward), bootstrap (as the sampler would)",
        choices=("auto", "gradient", "bootstrap"),
    )
    tempering: str = key(
        "adaptive",
        "when the reward begins to count: adaptive, gamma, exponential, linear, constant",
        choices=("adaptive", "gamma", "exponential", "linear", "constant"),
    )
    gamma: float = key(0.008, "of tempering=gamma and exponential", above=0, high=1000)
    resampling: str = key(
        "ssp",
        "multinomial, residual, stratified, systematic, ssp",
        choices=("multinomial", "residual", "stratified", "systematic", "ssp"),
    )
    ess: float = key(
        0.5, "resample where the effective sample size falls below this share of the particles", low=0, high=1
    )
    cap: float = key(
        1.0, "largest share of a population that may descend from one of its first particles", above=0, high=1
    )
    max_drift: float | None = key(
        None,
        "bound on the reward's pull, in standard deviations of a step's noise (null: none)",
        above=0,
        high=1e6,
    )
    edits: int = key(
        3, "reward=contrast: edits that the path is told from, a forward a step each", low=1, high=1000
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
class AdapterConfig(Settings):
    kind: str = key("dora", "dora or lora", choices=("dora", "lora"))
    rank: int = key(32, "rank r", low=1, high=4096)
    alpha: int = key(32, "scale alpha (the update is multiplied by alpha / r)", low=1, high=1_000_000)
    dropout: float = key(0.0, "dropout on the adapter's input", low=0, high=1, below=1)
    targets: list[str] = key(
        [],
        "layers of the denoiser network (default: its attention's projections); [all]: linear ones and convolutions",
    )
    text_encoder: bool = key(False, "adapt the text encoder too")
    text_targets: list[str] = key(
        ["q_proj", "k_proj", "v_proj", "out_proj"], "layers of the text encoder; [all]: all"
    )


@dataclass
class TrainConfig(Settings):
    objective: str = key(
        "mse",
        "mse (the paper's), weighted (by score), dpo, spin, kto, nft (these four need select.losers)",
        choices=("mse", "weighted", "dpo", "spin", "kto", "nft"),
    )
    steps: int = key(300, "optimizer steps", low=1, high=TRAINING)
    batch_size: int = key(400, "pictures an optimizer step, over all processes", low=1, high=BATCH)
    micro_batch: int | None = key(
        None,
        "pictures a forward; the rest is accumulated (default: the share of a process)",
        low=1,
        high=BATCH,
    )
    lr: float = key(1e-4, "learning rate", low=0, high=100)
    lr_schedule: str = key(
        "constant",
        "constant, linear, cosine, constant_with_warmup",
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    warmup: int = key(0, "warm-up steps", low=0, high=TRAINING)
    betas: list[float] = key([0.9, 0.999], "AdamW", low=0, below=1, sizes=2)
    weight_decay: float = key(1e-2, "AdamW", low=0, high=1000)
    eps: float = key(1e-8, "AdamW", low=1e-30, high=1)
    max_grad_norm: float = key(1.0, "gradient clipping", low=0, high=1e9)
    t_min: int = key(500, "lowest training time", low=0, high=STEPS)
    t_max: int = key(1000, "highest training time (excluded)", low=0, high=STEPS)
    density: str = key(
        "uniform",
        "of the training times between them: uniform or logit_normal",
        choices=("uniform", "logit_normal"),
    )
    density_mean: float = key(
        0.0, "logit_normal: mean of logit(t); a flow's shift s adds ln s", low=-20, high=20
    )
    density_std: float = key(1.0, "logit_normal: standard deviation of logit(t)", above=0, high=100)
    layout_weight: float = key(
        0.0,
        "p of the factor SNR^-p on errors of the noise where SNR < 1: 0 (the paper's) to 1",
        low=0,
        high=1,
    )
    caption_dropout: float = key(0.0, "share of prompts replaced by the null prompt", low=0, high=1)
    fresh: bool = key(
        False, "every round trains a new adapter on the base model instead of going on from the last round's"
    )
    beta_dpo: float = key(
        2000.0, "strength of the tie of dpo, spin and kto to their reference", low=0, high=1e9
    )
    beta_nft: float = key(
        0.1, "nft: its steps go 1/beta times as far as winners and losers are apart", above=0, high=1000
    )
    soft_labels: float | None = key(
        None,
        "nft: a picture counts by its score, wholly where that is so many standard deviations from its prompt's mean;"
        " null: the chosen wholly for, the others wholly against",
        above=0,
        high=1e6,
    )
    temperature: float = key(
        1.0,
        "weighted: of the weights exp(score/temperature), scores standardised within a prompt",
        above=0,
        high=1e6,
    )
    checkpoint_every: int = key(50, "steps between checkpoints", low=1, high=TRAINING)
    keep_checkpoints: int = key(2, "newest checkpoints kept", low=1, high=TRAINING)
    keep_best_by: str | None = key(None, "scorer that picks the best checkpoint on validation prompts")
    validation_prompts: int = key(
        24, "prompts that keep_best_by looks at; of the training source, not trained on", low=1, high=ROWS
    )
    log_every: int = key(10, "steps between two rows of metrics.jsonl", low=1, high=TRAINING)
    mixed_precision: str = key("no", "no, bf16, fp16", choices=("no", "bf16", "fp16"))
    gradient_checkpointing: bool = key(False, "trade time for memory")
    compile: bool = key(False, "torch.compile the network for training")


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
