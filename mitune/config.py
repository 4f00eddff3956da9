"""The configuration: every key with its type, default and meaning, and how a command line becomes one.

``compose`` reads the Hydra groups of ``conf/``, merges them into the dataclasses below and refuses what does not fit,
before any model is loaded. Nothing here imports torch, so that ``mitune --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mitune.errors import UserError, nearest
from mitune.scores import (
    COLUMNS,
    COMBINED,
    INFORMATION,
    LATENT_SCORERS,
    PATH_SCORERS,
    PICTURE_SCORERS,
    REFEREES,
    SCORERS,
    STEERED,
    columns,
    normalised,
    scorers_of,
    terms,
)

__all__ = [
    "COLUMNS",
    "LATENT_SCORERS",
    "PATH_SCORERS",
    "PICTURE_SCORERS",
    "SCORERS",
    "compose",
    "flatten",
    "leaves",
]


def key(default: Any, meaning: str) -> Any:
    """A configuration key: its default and the line that ``--help`` prints."""
    metadata = {"help": meaning}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type) -> Any:
    """A group of keys."""
    return field(default_factory=kind)


@dataclass
class ModelConfig:
    path: str = key(
        "shapes",
        "a diffusers folder, a Hub id, a .safetensors checkpoint, or one inside the package: shapes, shapes_flow",
    )
    config: str | None = key(
        None, "of a checkpoint file: a folder or Hub id that is built alike (default: recognised)"
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    variant: str | None = key(None, "weights variant, such as fp16")
    resolution: int | None = key(None, "side of a picture in pixels (default: the model's own)")
    max_tokens: int | None = key(None, "tokens of T5 or Gemma (default: the pipeline's own)")
    guidance_embedding: float | None = key(
        None, "what a guidance-distilled model (FLUX.1-dev) is told; 1 = no guidance"
    )
    dtype: str = key("auto", "float32, float16, bfloat16, or auto: bfloat16 on CUDA, else float32")
    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps")
    compile: bool = key(False, "torch.compile the denoiser network")
    channels_last: bool = key(False, "channels-last memory layout (CUDA)")
    fast_decoder: str | None = key(
        None, "an AutoencoderTiny (folder or Hub id) that pictures are decoded with"
    )
    offload: str = key(
        "none", "what waits on the CPU: none, model (each part), sequential (encoders by layer)"
    )
    quantization: str = key(
        "none", "weights of the network and of T5 or Gemma: none, 8bit, 4bit (bitsandbytes), int8 (torchao)"
    )
    vae_slicing: bool = key(False, "decode one picture at a time")
    vae_tiling: bool = key(False, "decode large pictures tile by tile (seams are blended)")
    adapter: list[str] = key(
        [], "start with this adapter (a folder or Hub id), or several [a,b]; training goes on from one"
    )
    adapter_weights: list[float] = key([], "weight of each model.adapter (default: 1 each)")


@dataclass
class PromptsConfig:
    source: str = key("shapes", "txt, csv, jsonl, parquet, a folder of them, a Hub dataset id, or 'shapes'")
    split: str | None = key(None, "split of a folder or Hub dataset")
    limit: int | None = key(None, "at most this many prompts, evenly over the categories")
    per_category: int | None = key(None, "at most this many prompts of each category")
    column: str | None = key(None, "text column (default: prompt, text or caption)")
    category_column: str | None = key(None, "category column (default: category, where there is one)")
    strict: bool = key(False, "refuse prompts too long for the text encoder; else warn, naming what is cut")


@dataclass
class RacingConfig:
    """Dropping candidates while they are drawn."""

    by: str | None = key(
        None,
        "drop candidates early by this running score: mi, mi_continuous, llr (free), or elbo, mi_image, llr_image,"
        " contrast of the predicted picture (null: off)",
    )
    at: list[float] = key([0.4], "when: shares of the steps below 1, or numbers of steps from 1 on")
    survivors: list[int] = key([], "candidates a prompt that go on, for each of at")
    speedup: float | None = key(
        None, "instead of survivors: forwards of drawing, looks included, shall fall so many times"
    )
    times: int | None = key(
        None, "times a look noises the predicted picture at (2 forwards each, contrast: edits + 1)"
    )
    edits: int = key(3, "edits that a look by contrast tells the prompt from")


@dataclass
class SamplerConfig:
    name: str = key("ddim", "ddpm (ancestral), ddim, euler (rectified flow), or lcm (consistency models)")
    steps: int = key(20, "network evaluations a picture")
    eta: float = key(1.0, "ddim: 0 = deterministic, 1 = as noisy as ddpm")
    guidance: float = key(2.0, "classifier-free guidance scale; 1 = none")
    variance: str = key("small", "ddpm: small (posterior) or large (beta)")
    spacing: str = key("trailing", "timestep spacing: leading, trailing, linspace")
    steps_offset: int = key(0, "added to every timestep of the leading spacing (Stable Diffusion: 1)")
    set_alpha_to_one: bool = key(False, "ddim: end at clean data instead of the first timestep")
    racing: RacingConfig = section(RacingConfig)


@dataclass
class SearchConfig:
    """Steering the candidates of a prompt as one population (``sampler=das``)."""

    by: str | None = key(None, "das: sequential Monte Carlo on the way from noise to picture (null: off)")
    reward: str | None = key(
        None,
        "what draws the particles: a judge of pictures (clip, jpeg, aesthetic+20*clip, …), or what the model itself"
        " says on the way: llr, mi, contrast. Short: reward=",
    )
    alpha: float = key(
        1.0, "temperature of the target p exp(reward/alpha), in the reward's unit. Short: alpha="
    )
    particles: int | None = key(None, "of one population (default: all candidates of a prompt are one)")
    proposal: str = key("auto", "auto, gradient (up the reward), bootstrap (as the sampler would)")
    tempering: str = key(
        "adaptive", "when the reward begins to count: adaptive, gamma, exponential, linear, constant"
    )
    gamma: float = key(0.008, "of tempering=gamma and exponential")
    resampling: str = key("ssp", "multinomial, residual, stratified, systematic, ssp")
    ess: float = key(0.5, "resample where the effective sample size falls below this share of the particles")
    cap: float = key(1.0, "largest share of a population that may descend from one of its first particles")
    max_drift: float | None = key(
        None, "bound on the reward's pull, in standard deviations of a step's noise (null: none)"
    )
    edits: int = key(3, "reward=contrast: edits that the path is told from, a forward a step each")


@dataclass
class MIConfig:
    t_min: int = key(50, "mi, mi_continuous: steps at or below are left out (of 1000)")


@dataclass
class TimesConfig:
    """When a scorer noises a picture, and what each time counts."""

    times: int = key(8, "times a picture is noised at")
    t_min: int = key(400, "lowest time (of 1000)")
    t_max: int = key(1000, "highest time")
    weighting: str = key(
        "continuous", "of the times: continuous (exact), paper, uniform, profile (as measured)"
    )
    strategy: str = key("even", "times: even, stratified, random, small, middle, large, importance")


@dataclass
class ElboConfig(TimesConfig):
    noise: str = key("independent", "independent, antithetic, or coupled: one forward path")


@dataclass
class MIImageConfig(ElboConfig):
    """Where all but ``form`` is as for elbo, one pass gives both."""

    form: str = key("square", "square, or orthogonal: rectified flow's (RFMI)")


@dataclass
class LLRImageConfig(TimesConfig):
    paths: int = key(1, "forward paths averaged")
    guidance: float = key(1.0, "guidance of the reverse steps; 1 = none")


@dataclass
class ContrastConfig(ElboConfig):
    times: int = key(6, "times a picture is noised at")
    t_min: int = key(560, "lowest time (of 1000)")
    edits: int = key(8, "minimal edits of the prompt, or other prompts, to tell it from")
    negatives: str = key("edits", "the other prompts: edits, words (exchanged within), pool, list (given)")
    kinds: list[str] = key(["swap", "substitute", "drop"], "kinds of edits, mined from the prompt pool")
    given: str | None = key(None, "negatives=list: the other prompts, a source like prompts.source")


@dataclass
class CASConfig:
    steps: int = key(10, "steps of the inversion")
    probes: int = key(20, "random probes of the divergence a step")
    recursion: int = key(2, "fixed-point passes of an inversion step")
    divergence: str = key("hutchinson", "hutchinson (finite difference) or jvp (exact derivative)")
    rule: str = key("simpson38", "quadrature over the steps: simpson38, simpson13, trapezoid")
    inversion: str = key("trapezoid", "a step: trapezoid (second order) or ddim (as published)")
    end: str = key("denoised", "density at the path's end: denoised, or normal (as published)")
    spacing: str = key("angle", "of the steps: even in angle (arctan of noise over signal) or in time")


@dataclass
class RefereeConfig:
    """A judge from outside: which one, and how much of it at once."""

    batch_size: int = key(32, "pictures a forward")


@dataclass
class ClipConfig(RefereeConfig):
    path: str = key(
        "openai/clip-vit-large-patch14", "a CLIP: transformers folder, Hub id, or 'shapes' (in the package)"
    )
    revision: str | None = key(None, "Hub branch, tag or commit")
    form: str = key("clipscore", "clipscore: 2.5 max(cos, 0); cosine; logit: times the temperature")
    prefix: str | None = key(None, "put before each prompt (CLIPScore's authors: 'A photo depicts ')")


@dataclass
class PickScoreConfig(RefereeConfig):
    path: str = key("yuvalkirstain/PickScore_v1", "transformers folder or Hub id")
    revision: str | None = key(None, "Hub branch, tag or commit")
    processor: str | None = key(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "its tokenizer and preprocessing (null: with the model)"
    )


@dataclass
class AestheticConfig(RefereeConfig):
    path: str = key("openai/clip-vit-large-patch14", "the CLIP that the head reads: folder or Hub id")
    revision: str | None = key(None, "Hub branch, tag or commit")
    head: str | None = key(None, "the head: a .safetensors file of LAION's linear or MLP predictor")


@dataclass
class HpsConfig(RefereeConfig):
    version: str = key("v2.1", "of the package hpsv2's weights: v2.0 or v2.1")
    path: str | None = key(None, "the weights as a transformers CLIP instead: folder or Hub id, no package")
    revision: str | None = key(None, "Hub branch, tag or commit")


@dataclass
class ImageRewardConfig(RefereeConfig):
    model: str = key("ImageReward-v1.0", "as the package ImageReward names it")


@dataclass
class JpegConfig:
    quality: int = key(95, "of the JPEG whose kilobytes count, 1 to 95")


@dataclass
class ScorerConfig:
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
    )
    combined: str = key(
        "z(contrast)+z(elbo)", "the score 'combined': a weighted sum; z() = standardised within a prompt"
    )


@dataclass
class GenerateConfig:
    candidates: int = key(12, "M: candidates a prompt")
    batch_size: int = key(96, "candidates a batch (each is two rows of a forward); lower it to save memory")
    rows_per_unit: int = key(192, "candidates a unit; what a killed run loses at most")
    keep: int | None = key(
        None, "best candidates a prompt whose latents are kept, at most all (default: select.k)"
    )


@dataclass
class SelectConfig:
    by: str = key(
        "contrast", "the score, or weighted sum of scores, that chooses; random and oracle are controls"
    )
    k: int = key(1, "winners a prompt")
    losers: int = key(0, "losers a prompt, for preference training (train.objective=dpo)")
    fraction: float = key(1.0, "share of the prompts kept: those whose winners stand out most")
    real: str | None = key(
        None, "real pictures to mix in, chosen by the same score: as score.source, or 'shapes'"
    )
    real_fraction: float = key(0.25, "share of the training set that is real; they take winners' places")
    real_limit: int | None = key(None, "real pictures looked at, at most (of 'shapes': 4 times those needed)")


@dataclass
class AdapterConfig:
    kind: str = key("dora", "dora or lora")
    rank: int = key(32, "rank r")
    alpha: int = key(32, "scale alpha (the update is multiplied by alpha / r)")
    dropout: float = key(0.0, "dropout on the adapter's input")
    targets: list[str] = key([], "layers of the denoiser network (default: its attention's projections)")
    text_encoder: bool = key(False, "adapt the text encoder too")
    text_targets: list[str] = key(["q_proj", "k_proj", "v_proj", "out_proj"], "layers of the text encoder")


@dataclass
class TrainConfig:
    objective: str = key(
        "mse", "mse (the paper's), weighted (by score), dpo, spin, kto, nft (these four need select.losers)"
    )
    steps: int = key(300, "optimizer steps")
    batch_size: int = key(400, "pictures an optimizer step, over all processes")
    micro_batch: int | None = key(
        None, "pictures a forward; the rest is accumulated (default: the share of a process)"
    )
    lr: float = key(1e-4, "learning rate")
    lr_schedule: str = key("constant", "constant, linear, cosine, constant_with_warmup")
    warmup: int = key(0, "warm-up steps")
    betas: list[float] = key([0.9, 0.999], "AdamW")
    weight_decay: float = key(1e-2, "AdamW")
    eps: float = key(1e-8, "AdamW")
    max_grad_norm: float = key(1.0, "gradient clipping")
    t_min: int = key(500, "lowest training time")
    t_max: int = key(1000, "highest training time (excluded)")
    density: str = key("uniform", "of the training times between them: uniform or logit_normal")
    density_mean: float = key(0.0, "logit_normal: mean of logit(t); a flow's shift s adds ln s")
    density_std: float = key(1.0, "logit_normal: standard deviation of logit(t)")
    layout_weight: float = key(
        0.0, "p of the factor SNR^-p on errors of the noise where SNR < 1: 0 (the paper's) to 1"
    )
    caption_dropout: float = key(0.0, "share of prompts replaced by the null prompt")
    beta_dpo: float = key(2000.0, "strength of the tie of dpo, spin and kto to their reference")
    beta_nft: float = key(0.1, "nft: its steps go 1/beta times as far as winners and losers are apart")
    temperature: float = key(
        1.0, "weighted: of the weights exp(score/temperature), scores standardised within a prompt"
    )
    checkpoint_every: int = key(50, "steps between checkpoints")
    keep_checkpoints: int = key(2, "newest checkpoints kept")
    keep_best_by: str | None = key(None, "scorer that picks the best checkpoint on validation prompts")
    validation_prompts: int = key(
        24, "prompts that keep_best_by looks at; of the training source, not trained on"
    )
    log_every: int = key(10, "steps between two rows of metrics.jsonl")
    mixed_precision: str = key("no", "no, bf16, fp16")
    gradient_checkpointing: bool = key(False, "trade time for memory")
    compile: bool = key(False, "torch.compile the network for training")


@dataclass
class EvaluateConfig:
    prompts: PromptsConfig = section(PromptsConfig)
    candidates: int = key(4, "pictures a held-out prompt")
    batch_size: int = key(96, "pictures a batch")
    guidance: float | None = key(None, "guidance of the comparison (default: the sampler's)")
    scorers: list[str] = key(
        ["mi", "oracle"], "scores in the tables; the oracle judges the embedded world only"
    )
    seed: int = key(1, "seed of the held-out pictures, the same before and after and in every round")
    examples: int = key(12, "before/after pairs in the report")


@dataclass
class ScoreConfig:
    source: str | None = key(
        None,
        "pictures: a folder with metadata.csv/.jsonl, a parquet file, a Hub dataset id, a folder of candidates",
    )
    split: str | None = key(None, "split of a dataset that has several")
    image_column: str | None = key(None, "picture column (default: file_name, image, …)")
    text_column: str | None = key(None, "caption column (default: text, caption or prompt)")
    limit: int | None = key(None, "at most this many pictures")
    scorers: list[str] = key(["elbo", "mi_image"], "scores every picture gets")
    pool: str | None = key(None, "more prompts for contrast to find edits in (a source like prompts.source)")
    adapter: str | None = key(None, "judge with this adapter's model instead of the base model")
    out: str | None = key(None, "the table (default: SOURCE-scores.parquet beside the source)")
    by: str | None = key(None, "the score that top_fraction goes by (default: the first of score.scorers)")
    top_fraction: float | None = key(None, "write the best share (0 to 1) of the pictures as a dataset, too")
    profile: str | None = key(
        None,
        "measure at which times the pictures' information lies, into this .json file, for scorer.profile",
    )
    skip: bool = key(False, "leave out pictures that do not decode or have no caption, instead of stopping")
    batch_size: int = key(192, "rows a forward")
    rows_per_unit: int = key(192, "pictures a unit; what a killed command loses at most")


@dataclass
class AgreeConfig:
    prompts: int = key(100, "P: prompts, evenly over the categories")
    candidates: int = key(32, "M: candidates a prompt")
    scorers: list[str] = key(
        ["mi", "llr", "mi_image", "elbo", "llr_image", "contrast", "oracle"], "scores that are compared"
    )
    referee: str | None = key(
        None, "the score the others are held to (default: oracle where it is one of them, else the last)"
    )
    positions: list[int] = key(
        [1, 25, 50], "ranks that the paper compares (fewer candidates: first, middle, last)"
    )
    fractions: list[float] = key(
        [0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0], "top shares of the referee's curve"
    )
    resamples: int = key(2000, "of the bootstrap over prompts")
    source: str | None = key(
        None, "a table of scores (mitune score) or folder of candidates, instead of drawing"
    )


@dataclass
class SampleConfig:
    prompt: str | None = key(None, "one prompt, instead of those of prompts.source")
    pictures: int = key(4, "pictures a prompt")
    of: int | None = key(None, "drawn for them: candidates, or particles of a search (default: as many)")
    by: str | None = key(
        None, "the score that picks the pictures (default, with sampler=das: drawn by the particles' weights)"
    )
    scorers: list[str] = key(["mi"], "scores every picture gets")
    round: int | None = key(None, "draw with the adapter that this round of run= trained")
    out: str | None = key(None, "the folder to write (default: samples, in the run folder)")


@dataclass
class CalibrateConfig:
    prompts: int = key(24, "P: prompts, evenly over the categories")
    candidates: int = key(16, "M: candidates a prompt")
    by: list[str] = key(["mi", "llr"], "running scores to race by: those of sampler.racing.by")
    target: str | None = key(None, "the final score whose best candidates must survive (default: select.by)")
    k: int = key(1, "how many of the best")
    recall: float = key(0.9, "share of them that a proposed schedule shall keep")
    every: int = key(2, "steps between two looks, of scores that cost forwards")
    times: int | None = key(None, "of a look: as sampler.racing.times")
    edits: int = key(3, "of a look: as sampler.racing.edits")
    resamples: int = key(2000, "of the bootstrap over prompts")


@dataclass
class ExportConfig:
    round: int | None = key(None, "the round to export (default: the last that is trained)")
    out: str | None = key(None, "the folder to write (default: export, in the run folder)")
    name: str | None = key(None, "the model's name on its card (default: the repository's or the run's)")
    merged: bool = key(False, "the whole pipeline too, the adapter fused into its weights")
    comfy: bool = key(False, "the adapter under the names that ComfyUI reads, too")
    dataset: bool = key(False, "the training set too, as parquet; its repository is NAME-dataset")
    pictures: int = key(12, "before/after pairs shown, at most")
    base_model: str | None = key(None, "Hub id of the base model for the card (default: model.path)")
    license: str | None = key(None, "licence on the card (default: the base model's, where known)")
    push: str | None = key(None, "upload to this repository of the Hub: user/name")
    private: bool = key(False, "make the repository private")
    revision: str | None = key(None, "branch of the repository (default: main)")
    dry_run: bool = key(False, "list what would be uploaded and send nothing")


@dataclass
class SweepConfig:
    objective: str | None = key(
        None,
        "a search (Optuna) goes by what this score gained on held-out prompts (default: the last of evaluate.scorers)",
    )
    share: str | None = key(
        None,
        "a folder in which runs share what they have in common (default in a sweep: shared/ in its folder)",
    )


@dataclass
class TrackerConfig:
    wandb: bool = key(False, "Weights & Biases; offline without a login")
    tensorboard: bool = key(False, "TensorBoard event files")


@dataclass
class Config:
    name: str = key("shapes", "name of the preset, of the run folder")
    run: str = key("runs/${name}", "the run folder")
    seed: int = key(0, "every random draw follows from it")
    rounds: int = key(1, "R: generate, select, train, evaluate, and again with the new adapter")
    round: int = key(1, "the round that a stage run alone belongs to")
    launch: str | None = key(
        None,
        "start the processes by accelerate: a file of launch/ (multi_gpu) or of your own (null: this process)",
    )
    scorers: list[str] = key(["mi", "llr", "contrast"], "scores every candidate gets")
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


NOISES = ("independent", "antithetic", "coupled")
WEIGHTINGS = ("continuous", "paper", "uniform", "profile")
STRATEGIES = ("even", "stratified", "random", "small", "middle", "large", "importance")
_TIMED = ("mi_image", "elbo", "llr_image", "contrast")  # the scorers with the keys of TimesConfig
CHOICES: dict[str, Sequence[str]] = {
    "model.dtype": ("auto", "float32", "float16", "bfloat16"),
    "model.offload": ("none", "model", "sequential"),
    "model.quantization": ("none", "8bit", "4bit", "int8"),
    "sampler.name": ("ddpm", "ddim", "euler", "lcm"),
    "sampler.variance": ("small", "large"),
    "sampler.spacing": ("leading", "trailing", "linspace"),
    "search.proposal": ("auto", "gradient", "bootstrap"),
    "search.tempering": ("adaptive", "gamma", "exponential", "linear", "constant"),
    "search.resampling": ("multinomial", "residual", "stratified", "systematic", "ssp"),
    **{f"scorer.{name}.noise": NOISES for name in ("mi_image", "elbo", "contrast")},
    **{f"scorer.{name}.weighting": WEIGHTINGS for name in _TIMED},
    **{f"scorer.{name}.strategy": STRATEGIES for name in _TIMED},
    "scorer.mi_image.form": ("square", "orthogonal"),
    "scorer.contrast.negatives": ("edits", "words", "pool", "list"),
    "scorer.cas.divergence": ("hutchinson", "jvp"),
    "scorer.cas.rule": ("simpson38", "simpson13", "trapezoid"),
    "scorer.cas.inversion": ("trapezoid", "ddim"),
    "scorer.cas.end": ("denoised", "normal"),
    "scorer.cas.spacing": ("angle", "time"),
    "scorer.clip.form": ("clipscore", "cosine", "logit"),
    "scorer.hpsv2.version": ("v2.0", "v2.1"),
    "adapter.kind": ("dora", "lora"),
    "train.density": ("uniform", "logit_normal"),
    "train.objective": ("mse", "weighted", "dpo", "spin", "kto", "nft"),
    "train.lr_schedule": ("constant", "constant_with_warmup", "linear", "cosine"),
    "train.mixed_precision": ("no", "bf16", "fp16"),
}
LIST_CHOICES: dict[str, Sequence[str]] = {
    "scorer.contrast.kinds": ("swap", "substitute", "drop"),
}
# The lowest value a number may have; None stays None.
AT_LEAST: dict[str, float] = {
    "rounds": 1,
    "round": 1,
    "prompts.limit": 1,
    "prompts.per_category": 1,
    "evaluate.prompts.limit": 1,
    "evaluate.prompts.per_category": 1,
    "model.resolution": 8,
    "model.max_tokens": 1,
    "sampler.steps": 1,
    "sampler.eta": 0,
    "sampler.guidance": 0,
    "sampler.steps_offset": 0,
    "sampler.racing.speedup": 1,
    "sampler.racing.times": 1,
    "sampler.racing.edits": 1,
    "search.particles": 1,
    "search.ess": 0,
    "search.edits": 1,
    "scorer.mi.t_min": 0,
    **{f"scorer.{name}.times": 1 for name in _TIMED},
    **{f"scorer.{name}.t_min": 0 for name in _TIMED},
    "scorer.llr_image.paths": 1,
    "scorer.llr_image.guidance": 0,
    "scorer.cas.steps": 2,
    "scorer.cas.probes": 1,
    "scorer.cas.recursion": 0,
    "scorer.contrast.edits": 1,
    **{f"scorer.{name}.batch_size": 1 for name in REFEREES if name != "jpeg"},
    "scorer.jpeg.quality": 1,
    "generate.candidates": 1,
    "generate.batch_size": 1,
    "generate.rows_per_unit": 1,
    "generate.keep": 1,
    "select.k": 1,
    "select.losers": 0,
    "select.real_fraction": 0,
    "select.real_limit": 1,
    "adapter.rank": 1,
    "adapter.alpha": 1,
    "adapter.dropout": 0,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.micro_batch": 1,
    "train.lr": 0,
    "train.warmup": 0,
    "train.weight_decay": 0,
    "train.eps": 0,
    "train.max_grad_norm": 0,
    "train.t_min": 0,
    "train.layout_weight": 0,
    "train.caption_dropout": 0,
    "train.beta_dpo": 0,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 1,
    "train.validation_prompts": 1,
    "train.log_every": 1,
    "evaluate.candidates": 1,
    "evaluate.batch_size": 1,
    "evaluate.guidance": 0,
    "evaluate.examples": 0,
    "sample.pictures": 1,
    "sample.of": 1,
    "sample.round": 1,
    "score.limit": 1,
    "score.batch_size": 1,
    "score.rows_per_unit": 1,
    "agree.prompts": 2,
    "agree.candidates": 2,
    "agree.resamples": 1,
    "calibrate.prompts": 2,
    "calibrate.candidates": 2,
    "calibrate.k": 1,
    "calibrate.every": 1,
    "calibrate.times": 1,
    "calibrate.edits": 1,
    "calibrate.resamples": 1,
    "export.pictures": 0,
    "export.round": 1,
}
INTERVALS = (
    *((f"scorer.{name}.t_min", f"scorer.{name}.t_max") for name in _TIMED),
    ("train.t_min", "train.t_max"),
)


def shipped_folder(name: str, sign: str) -> Path:
    """The folder ``name`` that comes with the package, known by the file ``sign`` in it: inside the installed package,
    or at the root of a checkout. Raises UserError where it is missing.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if (folder / sign).is_file():
            return folder
    raise UserError(f"the folder {name} is missing beside {package}; install mitune again")


def conf_folder() -> Path:
    """The folder of the Hydra groups."""
    return shipped_folder("conf", "config.yaml")


def groups() -> dict[str, list[str]]:
    """Every group and the names of its options."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def leaves(kind: type = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(full key, default, meaning) of every key, in the order of the dataclasses."""
    for item in dataclasses.fields(kind):
        name = f"{prefix}{item.name}"
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()  # type: ignore[operator]
        if dataclasses.is_dataclass(default):
            yield from leaves(type(default), f"{name}.")
        else:
            yield name, default, item.metadata["help"]


def flatten(config: DictConfig) -> dict[str, Any]:
    """{full key: value} of a resolved configuration."""
    return {name: _plain(OmegaConf.select(config, name)) for name, _, _ in leaves()}


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The resolved, validated and read-only configuration that ``overrides`` (``key=value``, ``group=option``) ask for.

    Raises UserError on one line: an unknown key, group option or value, a value of the wrong type, values that do not
    go together (k > M).
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    choices, values = _read_overrides(overrides)
    ConfigStore.instance().store(name="mitune_schema", node=Config)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = hydra_compose("config", overrides=[f"{group}={option}" for group, option in choices])
    except HydraException as error:  # our own files are at fault, or a group was given what it cannot take
        raise UserError(f"configuration: {_one_line(error)}") from error
    for name, text in values:
        _set(config, name, text)
    _drop_split(config, [name for name, _ in values])
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {_one_line(error)}") from error
    check(config)
    OmegaConf.set_readonly(config, True)
    return config


def compose_saved(path: Path, overrides: Sequence[str], allowed: Sequence[str]) -> DictConfig:
    """The configuration saved at ``path`` with ``overrides`` set in it, for a stage that goes by what a run was.

    Keys that came later have their defaults. Raises UserError: unreadable, of another version, an override that is
    neither one of ``allowed`` nor in such a section.
    """
    choices, values = _read_overrides(overrides)
    for name in [*(group for group, _ in choices), *(name for name, _ in values)]:
        if name.partition(".")[0] not in allowed or name in dict(choices):
            raise UserError(
                f"{name}=: this stage goes by the run's own configuration ({path}); give {', '.join(allowed)} only"
            )
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"{path} is not a configuration of this version of mitune ({_one_line(error)})"
        ) from error
    assert isinstance(config, DictConfig)
    for name, text in values:
        _set(config, name, text)
    check(config)
    OmegaConf.set_readonly(config, True)
    return config


def _drop_split(config: DictConfig, given: Sequence[str]) -> None:
    """A text file of one's own has no splits: the preset's split does not apply to it."""
    for section in (config.prompts, config.evaluate.prompts):
        prefix = "prompts" if section is config.prompts else "evaluate.prompts"
        named = f"{prefix}.source" in given and f"{prefix}.split" not in given
        if named and Path(section.source).suffix == ".txt":
            section.split = None


# Short names of keys: ``mitune sample sampler=das reward=clip alpha=0.1``.
SHORT = {"reward": "search.reward", "alpha": "search.alpha"}


def _read_overrides(overrides: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Part the arguments into (group, option) and (key, value text); refuse what is neither."""
    options = groups()
    names = [name for name, _, _ in leaves()]
    choices, values = [], []
    for argument in overrides:
        name, equals, text = argument.partition("=")
        if not equals:
            raise UserError(
                f"'{argument}' is not understood: give key=value{nearest(name, [*names, *options])}"
            )
        name = name.strip().lstrip("+").replace("/", ".")
        name = SHORT.get(name, name)
        if name in options:
            wanted = [option.strip() for option in text.strip().strip("[]").split(",")]
            for option in wanted:
                if option not in options[name]:
                    path = (
                        f"; a folder or Hub id is given by {name}.{'path' if name == 'model' else 'source'}="
                        if name in ("model", "prompts")
                        else ""
                    )
                    raise UserError(
                        f"{name}={text}: there is no such option{nearest(option, options[name])};"
                        f" {name} is one of {', '.join(options[name])}{path}"
                    )
            if len(wanted) > 1 and name != "tracker":
                raise UserError(f"{name}={text}: give one option, of {', '.join(options[name])}")
            choices.append((name, text.strip()))
        elif name in names:
            values.append((name, text))
        else:
            raise UserError(
                f"there is no key '{name}'{_nearest_key(name, names, options)}; mitune run --help lists all keys"
            )
    return choices, values


def _nearest_key(name: str, names: Sequence[str], options: dict[str, list[str]]) -> str:
    """The nearest full key: by the whole name, or by its last part where the rest is missing or wrong."""
    inside = [full for full in names if full.startswith(f"{name}.")]
    if inside:
        return f", it is a group of keys: {', '.join(inside[:4])}{', …' if len(inside) > 4 else ''}"
    last = [full for full in names if full.rpartition(".")[2] == name.rpartition(".")[2]]
    if not last and "." not in name:
        ends = {full.rpartition(".")[2] for full in names}
        like = difflib.get_close_matches(name, sorted(ends), n=1, cutoff=0.75)
        last = [full for full in names if like and full.rpartition(".")[2] == like[0]]
    return nearest(name, last) or (
        f", did you mean '{last[0]}'?" if last else nearest(name, [*names, *options])
    )


def _set(config: DictConfig, name: str, text: str) -> None:
    """Set one key from the command line; its type decides how the text is read."""
    types = {full: type(default) for full, default, _ in leaves()}
    value: Any = text
    if types[name] is not str and not _is_text(config, name):
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"{name}={text}: not a value that can be read; lists are written [a,b]"
            ) from error
    elif text == "null" and types[name] is not str:
        value = None
    elif types[name] is str and not text.strip():
        raise UserError(f"{name}= is empty: give a value")
    if types[name] is list and isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    try:
        OmegaConf.update(config, name, value)
    except OmegaConfBaseException as error:
        raise UserError(f"{name}={text}: {_wrong_type(config, name)}") from error


def _node(config: DictConfig, name: str) -> Any:
    """The OmegaConf node of a key, which knows its type."""
    parent, _, last = name.rpartition(".")
    return (OmegaConf.select(config, parent) if parent else config)._get_node(last)


def _is_text(config: DictConfig, name: str) -> bool:
    """Whether the key holds text (or null): such a value is taken as it stands, paths with brackets and all."""
    return _node(config, name)._metadata.ref_type is str


def _wrong_type(config: DictConfig, name: str) -> str:
    metadata = _node(config, name)._metadata
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    optional = " or null" if metadata.optional else ""
    return f"this key takes {words.get(metadata.ref_type, 'a list, written [a,b]')}{optional}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def check(config: DictConfig) -> None:
    """Refuse values that cannot work, alone or together. Raises UserError."""
    values = flatten(config)
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise UserError(
                f"{name}={values[name]}: it is one of {', '.join(choices)}{nearest(values[name], choices)}"
            )
    for name, choices in LIST_CHOICES.items():
        for value in values[name]:
            if value not in choices:
                raise UserError(
                    f"{name}: there is no '{value}'{nearest(value, choices)}; choose among {', '.join(choices)}"
                )
    for name, lowest in AT_LEAST.items():
        if values[name] is not None and not values[name] >= lowest:
            raise UserError(f"{name}={values[name]}: must be at least {lowest}")
    for low, high in INTERVALS:
        if values[low] >= values[high]:
            raise UserError(f"{low}={values[low]} is not below {high}={values[high]}")
    for name in (
        "adapter.dropout",
        "train.caption_dropout",
        "train.layout_weight",
        "select.fraction",
        "select.real_fraction",
        "score.top_fraction",
        "calibrate.recall",
        "search.ess",
        "search.cap",
    ):
        if values[name] is not None and values[name] > 1:
            raise UserError(f"{name}={values[name]}: must be at most 1")
    if values["scorer.jpeg.quality"] > 95:
        raise UserError(
            f"scorer.jpeg.quality={values['scorer.jpeg.quality']}: must be at most 95, above that JPEG only grows"
        )
    for name in (
        "select.fraction",
        "score.top_fraction",
        "train.density_std",
        "train.temperature",
        "train.beta_nft",
        "calibrate.recall",
        "search.alpha",
        "search.gamma",
        "search.cap",
        "search.max_drift",
    ):
        if values[name] is not None and not values[name] > 0:
            raise UserError(f"{name}={values[name]}: must be above 0")
    if not all(0 < fraction <= 1 for fraction in values["agree.fractions"]):
        raise UserError(f"agree.fractions={values['agree.fractions']}: shares lie above 0 and at most at 1")
    for name in (
        *_SCORE_LISTS,
        "scorer.contrast.kinds",
        "agree.positions",
        "agree.fractions",
        "calibrate.by",
    ):
        if not values[name]:
            raise UserError(f"{name} is empty: give at least one")
    if len(values["train.betas"]) != 2:
        raise UserError(f"train.betas={values['train.betas']}: give two numbers")
    adapters, weights = values["model.adapter"], values["model.adapter_weights"]
    if weights and len(weights) != len(adapters):
        raise UserError(
            f"model.adapter_weights={weights}: {len(weights)} weights for {len(adapters)} adapters in model.adapter;"
            " give one for each"
        )
    if values["scorer.contrast.negatives"] == "list" and values["scorer.contrast.given"] is None:
        raise UserError("scorer.contrast.negatives=list: say which prompts with scorer.contrast.given=")
    _check_profile(values)
    _check_scores(values)
    _check_selection(values)
    _check_racing(values)
    _check_search(values)


def _check_profile(values: dict[str, Any]) -> None:
    """A profile is there where one is needed; what it says is read with the model."""
    for name in _TIMED:
        for last, value in (("weighting", "profile"), ("strategy", "importance")):
            if values[f"scorer.{name}.{last}"] == value and values["scorer.profile"] is None:
                raise UserError(
                    f"scorer.{name}.{last}={value} needs a measured profile: scorer.profile=FILE.json, which"
                    " mitune score score.source=… score.profile=FILE.json writes"
                )
    path = values["score.profile"]
    if path is not None and Path(path).suffix != ".json":
        raise UserError(f"score.profile={path}: the profile is a JSON file; give a name that ends in .json")


# What candidates can be dropped by: scores of the path, and the cheaper ones of the predicted picture.
RACERS = (*PATH_SCORERS, *(name for name in LATENT_SCORERS if name != "cas"))
_SCORE_LISTS = ("scorers", "evaluate.scorers", "score.scorers", "agree.scorers", "sample.scorers")
# Where what a search says of its particles (``STEERED``) can be had.
_STEERED_LISTS = ("scorers", "sample.scorers", "sample.by")


def _check_scores(values: dict[str, Any]) -> None:
    """Every score named is one, and can be had where it is asked for."""
    combined = values["scorer.combined"]
    terms(COMBINED, combined)
    lists = {name: values[name] for name in _SCORE_LISTS}
    lists |= {
        name: [values[name]]
        for name in ("train.keep_best_by", "score.by", "agree.referee", "calibrate.target", "sample.by")
        if values[name]
    }
    for name, wanted in lists.items():
        for score in wanted:
            try:
                terms(score, combined)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
            for steered in set(STEERED).intersection(columns([score], combined)):
                check_steered(name, steered, values["search.by"], name in _STEERED_LISTS)
            if name in ("evaluate.scorers", "train.keep_best_by") and normalised(score, combined):
                raise UserError(
                    f"{name}: {score} is standardised within each prompt, so its mean is 0 for every model;"
                    " give a sum without z(), such as contrast+0.5*elbo"
                )
    straight = _straight(values)
    for name in ("scorers", "evaluate.scorers", "train.keep_best_by"):
        if straight and "llr" in scorers_of(lists.get(name, ()), combined):
            others = ",".join(other for other in lists[name] if "llr" not in columns([other], combined))
            way_out = "null" if name == "train.keep_best_by" else f"[{others}]"
            raise UserError(
                f"llr needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or leave it out:"
                f" {name}={way_out}"
            )


PREFERENCES = ("dpo", "spin", "kto", "nft")  # objectives that learn from losers


def _check_selection(values: dict[str, Any]) -> None:
    by, k, losers, candidates = (
        values["select.by"], values["select.k"], values["select.losers"], values["generate.candidates"],
    )  # fmt: skip
    combined = values["scorer.combined"]
    if by != "random":
        try:
            wanted = columns([by], combined)
        except UserError as error:
            known = [*SCORERS, *COLUMNS, COMBINED, "random"]
            if by.isidentifier():
                raise UserError(
                    f"select.by={by}: there is no such score{nearest(by, known)}; choose among {', '.join(known)}"
                ) from error
            raise UserError(f"select.by={by}: {error}") from error
        for steered in set(STEERED).intersection(wanted):
            check_steered("select.by", steered, values["search.by"])
            if values["select.real"] is not None:
                raise UserError(
                    f"select.real: real pictures have no {steered}, which select.by={by} goes by; leave one out"
                )
        there = scorers_of(values["scorers"], combined)
        missing = [scorer for scorer in scorers_of(wanted) if scorer not in there]
        if missing:
            what = "this score" if wanted == [by] else f"the score {missing[0]}"
            raise UserError(
                f"select.by={by}: the candidates do not get {what}; add it:"
                f" scorers=[{','.join([*values['scorers'], *missing])}]"
            )
    objective = values["train.objective"]
    if values["select.real"] is not None and objective in PREFERENCES:
        raise UserError(
            f"select.real: train.objective={objective} compares candidates of one prompt; leave one of them out"
        )
    if k + losers > candidates:
        more = f" and select.losers={losers}" if losers else ""
        raise UserError(
            f"select.k={k}{more} but only generate.candidates={candidates} (M) a prompt; lower k or raise M"
        )
    keep = values["generate.keep"]
    if keep is not None and keep < k:
        raise UserError(
            f"generate.keep={keep}: fewer than the select.k={k} winners a prompt; leave it out (null) or raise it"
        )
    if objective in PREFERENCES and losers < 1:
        raise UserError(f"train.objective={objective} compares winners with losers; add select.losers=1")
    best = values["train.keep_best_by"]
    if best is not None and _by_oracle(best, combined) and not _by_oracle(by, combined):
        raise UserError(
            f"train.keep_best_by={best}: the oracle only judges; it may choose only in the control select=oracle"
        )


def _by_oracle(score: str, combined: str) -> bool:
    return score != "random" and "oracle" in scorers_of([score], combined)


def _straight(values: dict[str, Any]) -> bool:
    """Whether the sampler adds no noise, so that a path has no density."""
    kind = values["sampler.name"]
    return kind == "euler" or (kind == "ddim" and values["sampler.eta"] == 0)


def _check_racing(values: dict[str, Any]) -> None:
    """What the steps, candidates and forwards allow is told by ``stages.racing.cuts_of``, before a model is loaded."""
    by, at, survivors, speedup = (
        values[f"sampler.racing.{name}"] for name in ("by", "at", "survivors", "speedup")
    )
    if by is None:
        given = [name for name in ("survivors", "speedup", "times") if values[f"sampler.racing.{name}"]]
        if given:
            raise UserError(
                f"sampler.racing.{given[0]}: say which score drops candidates: sampler.racing.by=, one of"
                f" {', '.join(RACERS)}"
            )
        return
    check_racer("sampler.racing.by", by, values["sampler.racing.times"], _straight(values))
    if (speedup is None) == (not survivors):
        both = "give one of them, not both" if survivors else "say how many candidates go on"
        raise UserError(
            f"sampler.racing: {both}: sampler.racing.survivors=[4] (one number for each of sampler.racing.at), or"
            " sampler.racing.speedup=2"
        )
    if speedup is None and len(survivors) != len(at):
        raise UserError(
            f"sampler.racing.survivors={survivors}: give one number for each of sampler.racing.at={at}"
        )
    if not at:
        raise UserError("sampler.racing.at is empty: say when candidates are dropped, such as [0.4]")


SEARCHES = ("das",)


def check_steered(name: str, score: str, search: str | None, possible: bool = True) -> None:
    """Raise UserError unless the key ``name`` can ask for ``score``, which only a search's particles have."""
    if not possible:
        raise UserError(
            f"{name}: {score} is a figure of the population that a picture was drawn in, and these have none; judge by"
            " the reward's own name, such as clip"
        )
    if search is None:
        raise UserError(
            f"{name}: only a search gives {score}; say sampler=das reward=clip (or another reward)"
        )


def _check_search(values: dict[str, Any]) -> None:
    """What the prompts, the reward and its weights allow is told by ``stages.search``."""
    by, reward = values["search.by"], values["search.reward"]
    if by is None:
        if reward is not None:
            raise UserError(
                f"search.reward={reward}: nothing is steered by it; say sampler=das (search.by=das)"
            )
        return
    if by not in SEARCHES:
        raise UserError(f"search.by={by}: it is one of {', '.join(SEARCHES)}{nearest(by, SEARCHES)}")
    if reward is None:
        raise UserError(
            "search.by=das: say what the particles are drawn to: reward=clip, another judge or a sum of judges"
            f" (aesthetic+20*clip), or one of the model's own {', '.join(INFORMATION)}"
        )
    if values["search.proposal"] == "gradient" and reward in INFORMATION:
        raise UserError(
            f"search.proposal=gradient needs a differentiable reward, and '{reward}' is measured on the path; say"
            " search.proposal=bootstrap, or auto"
        )
    if _straight(values):
        raise UserError(
            f"search.by=das: sampler.name={values['sampler.name']} with sampler.eta={values['sampler.eta']:g} has no"
            " noise to choose among; say sampler.name=ddim sampler.eta=1"
        )
    if values["sampler.racing.by"] is not None:
        raise UserError(
            "search.by and sampler.racing.by: a population is either raced or steered; set one to null"
        )


def check_racer(key: str, by: str, times: int | None, straight: bool) -> None:
    """Raise UserError, naming ``key``, unless candidates can be dropped by ``by``; ``times``: of a look;
    ``straight``: the sampler adds no noise."""
    if by not in RACERS:
        why = "judges finished pictures only" if by in SCORERS or by in COLUMNS else "is no running score"
        raise UserError(f"{key}: {by} {why}{nearest(by, RACERS)}; choose among {', '.join(RACERS)}")
    if by == "llr" and straight:
        raise UserError(
            f"{key}: llr needs a stochastic sampler: say sampler=ddim sampler.eta=1 or sampler=ddpm, or race by another"
            " score"
        )
    if by not in PATH_SCORERS and times is None:
        section = key.rpartition(".")[0]
        raise UserError(
            f"{key}: {by} is not free, it costs forwards at every look; say so by {section}.times=2 (the times that a"
            f" look noises the predicted picture at), or race by {', '.join(PATH_SCORERS)}"
        )
