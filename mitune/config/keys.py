"""Every key with its type, default and meaning."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.scores import ScorerConfig
from mitune.settings import (
    BATCH,
    CANDIDATES,
    GUIDANCE,
    RESAMPLES,
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
class PromptsConfig(Settings):
    source: str = key(
        "shapes",
        "txt, csv, tsv, json, jsonl, parquet, a folder of them, a Hub dataset id, or 'shapes'",
        path=True,
    )
    split: str | None = key(
        None, "split of a folder or Hub dataset (default: train, or a held-out one to evaluate)"
    )
    limit: int | None = key(None, "at most this many prompts, evenly over the categories", low=1, high=ROWS)
    per_category: int | None = key(None, "at most this many prompts of each category", low=1, high=ROWS)
    column: str | None = key(None, "text column (default: prompt, text or caption)")
    category_column: str | None = key(None, "category column (default: category or tag, where there is one)")
    strict: bool = key(False, "refuse prompts too long for the text encoder; else warn, naming what is cut")


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
class GenerateConfig(Settings):
    candidates: int = key(12, "M: candidates a prompt", low=1, high=CANDIDATES)
    guidance: float | None = key(
        None, "guidance of the candidates (default: the sampler's)", low=0, high=GUIDANCE
    )
    batch_size: int = key(
        96, "candidates a batch (each is two rows of a forward); lower it to save memory", low=1, high=BATCH
    )
    rows_per_unit: int = key(
        192, "candidates a unit; what a killed run loses at most", low=1, high=CANDIDATES
    )
    keep: int | None = key(
        None,
        "best candidates a prompt whose latents are kept, at most all (default: select.k)",
        low=1,
        high=CANDIDATES,
    )


@dataclass
class SelectConfig(Settings):
    by: str = key(
        "contrast", "the score, or weighted sum of scores, that chooses; random and oracle are controls"
    )
    k: int = key(1, "winners a prompt", low=1, high=CANDIDATES)
    losers: int = key(
        0, "losers a prompt, for preference training (train.objective=dpo)", low=0, high=CANDIDATES
    )
    threshold: float | None = key(
        None, "lowest score of a winner; k is then the most a prompt may have, and a prompt may have none"
    )
    fraction: float = key(
        1.0, "share of the prompts kept: those whose winners stand out most", above=0, high=1
    )
    balance: bool = key(False, "as many prompts of every category: the clearest of each")
    difficulty: float = key(
        0.0,
        "hard prompts count exp(difficulty) times as much for every standard deviation their pool scores lower",
        low=0,
        high=100,
    )
    real: str | None = key(
        None, "real pictures to mix in, chosen by the same score: as score.source, or 'shapes'", path=True
    )
    real_fraction: float = key(
        0.25,
        "share of the training set that is real; they take candidates' places (1: all, and candidates need no score)",
        low=0,
        high=1,
    )
    real_limit: int | None = key(
        None, "real pictures looked at, at most (of 'shapes': 4 times those needed)", low=1, high=ROWS
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
class EvaluateConfig(Settings):
    prompts: PromptsConfig = section(PromptsConfig)
    candidates: int = key(4, "pictures a held-out prompt", low=1, high=CANDIDATES)
    batch_size: int = key(96, "pictures a batch", low=1, high=BATCH)
    guidance: float | None = key(
        None, "guidance of the comparison (default: the sampler's)", low=0, high=GUIDANCE
    )
    scorers: list[str] = key(
        ["mi", "oracle"], "scores in the tables; the oracle judges the embedded world only", filled=True
    )
    seed: int = key(
        1, "seed of the held-out pictures, the same before and after and in every round", low=0, high=SEED
    )
    examples: int = key(12, "before/after pairs in the report", low=0, high=1000)


@dataclass
class ScoreConfig(Settings):
    source: str | None = key(
        None,
        "pictures: a folder with metadata.csv/.jsonl or a.txt beside a.png, a parquet file, tar shards, a Hub"
        " dataset id, a folder of candidates",
        path=True,
    )
    split: str | None = key(None, "split of a dataset that has several (default: train, or the only one)")
    image_column: str | None = key(
        None, "picture column (default: file_name, image, …; both of a pair jpg_0, jpg_1)"
    )
    text_column: str | None = key(None, "caption column (default: text, caption or prompt)")
    caption: str = key(
        "first", "of several captions: first, or random (by seed and row)", choices=("first", "random")
    )
    outside: bool = key(
        False, "read files outside the source's folder too, where its table or its links name them"
    )
    limit: int | None = key(None, "at most this many pictures", low=1, high=ROWS)
    scorers: list[str] = key(["elbo", "mi_image"], "scores every picture gets", filled=True)
    pool: str | None = key(
        None, "more prompts for contrast to find edits in (a source like prompts.source)", path=True
    )
    adapter: str | None = key(None, "judge with this adapter's model instead of the base model", path=True)
    out: str | None = key(None, "the table (default: SOURCE-scores.parquet beside the source)", path=True)
    by: str | None = key(None, "the score that top_fraction goes by (default: the first of score.scorers)")
    top_fraction: float | None = key(
        None, "write the best share (0 to 1) of the pictures as a dataset, too", above=0, high=1
    )
    profile: str | None = key(
        None,
        "measure at which times the pictures' information lies, into this .json file, for scorer.profile",
        path=True,
    )
    skip: bool = key(False, "leave out pictures that do not decode or have no caption, instead of stopping")
    batch_size: int = key(192, "rows a forward", low=1, high=BATCH)
    rows_per_unit: int = key(
        192, "pictures a unit; what a killed command loses at most", low=1, high=CANDIDATES
    )


@dataclass
class AgreeConfig(Settings):
    prompts: int = key(100, "P: prompts, evenly over the categories", low=2, high=CANDIDATES)
    candidates: int = key(32, "M: candidates a prompt", low=2, high=CANDIDATES)
    scorers: list[str] = key(
        ["mi", "llr", "mi_image", "elbo", "llr_image", "contrast", "oracle"],
        "scores that are compared",
        filled=True,
    )
    referee: str | None = key(
        None, "the score the others are held to (default: oracle where it is one of them, else the last)"
    )
    positions: list[int] = key(
        [1, 25, 50],
        "ranks that the paper compares (fewer candidates: first, middle, last)",
        filled=True,
        low=1,
        high=CANDIDATES,
    )
    fractions: list[float] = key(
        [0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0],
        "top shares of the referee's curve",
        above=0,
        high=1,
        filled=True,
    )
    resamples: int = key(2000, "of the bootstrap over prompts", low=1, high=RESAMPLES)
    source: str | None = key(
        None, "a table of scores (mitune score) or folder of candidates, instead of drawing", path=True
    )


@dataclass
class SampleConfig(Settings):
    prompt: str | None = key(None, "one prompt, instead of those of prompts.source")
    pictures: int = key(4, "pictures a prompt", low=1, high=CANDIDATES)
    of: int | None = key(
        None,
        "drawn for them: candidates, or particles of a search (default: as many)",
        low=1,
        high=CANDIDATES,
    )
    by: str | None = key(
        None, "the score that picks the pictures (default, with sampler=das: drawn by the particles' weights)"
    )
    scorers: list[str] = key(["mi"], "scores every picture gets", filled=True)
    round: int | None = key(None, "draw with the adapter that this round of run= trained", low=1, high=ROUNDS)
    out: str | None = key(None, "the folder to write (default: samples, in the run folder)", path=True)


@dataclass
class CalibrateConfig(Settings):
    prompts: int = key(24, "P: prompts, evenly over the categories", low=2, high=CANDIDATES)
    candidates: int = key(16, "M: candidates a prompt", low=2, high=1000)
    by: list[str] = key(["mi", "llr"], "running scores to race by: those of sampler.racing.by", filled=True)
    target: str | None = key(None, "the final score whose best candidates must survive (default: select.by)")
    k: int = key(1, "how many of the best", low=1, high=1000)
    recall: float = key(0.9, "share of them that a proposed schedule shall keep", above=0, high=1)
    every: int = key(2, "steps between two looks, of scores that cost forwards", low=1, high=STEPS)
    times: int | None = key(None, "of a look: as sampler.racing.times", low=1, high=STEPS)
    edits: int = key(3, "of a look: as sampler.racing.edits", low=1, high=1000)
    resamples: int = key(2000, "of the bootstrap over prompts", low=1, high=RESAMPLES)


@dataclass
class ExportConfig(Settings):
    round: int | None = key(
        None, "the round to export (default: the last that is trained)", low=1, high=ROUNDS
    )
    out: str | None = key(None, "the folder to write (default: export, in the run folder)", path=True)
    name: str | None = key(None, "the model's name on its card (default: the repository's or the run's)")
    merged: bool = key(False, "the whole pipeline too, the adapter fused into its weights")
    comfy: bool = key(False, "the adapter under the names that ComfyUI reads, too")
    dataset: bool = key(False, "the training set too, as parquet; its repository is NAME-dataset")
    pictures: int = key(12, "before/after pairs shown, at most", low=0, high=1000)
    base_model: str | None = key(None, "Hub id of the base model for the card (default: model.path)")
    license: str | None = key(None, "licence on the card (default: the base model's, where known)")
    push: str | None = key(None, "upload to this repository of the Hub: user/name")
    private: bool = key(False, "make the repository private")
    revision: str | None = key(None, "branch of the repository (default: main)")
    dry_run: bool = key(False, "list what would be uploaded and send nothing")


@dataclass
class SweepConfig(Settings):
    objective: str | None = key(
        None,
        "a search (Optuna) goes by what this score gained on held-out prompts (default: the last of evaluate.scorers)",
    )
    share: str | None = key(
        None,
        "a folder in which runs share what they have in common (default in a sweep: shared/ in its folder)",
        path=True,
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
