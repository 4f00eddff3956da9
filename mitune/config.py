"""The configuration: every key with its type, default and meaning, and how a command line becomes one.

``compose`` reads the Hydra groups of ``conf/``, merges them into the dataclasses below and refuses what does not fit,
before any model is loaded. Nothing here imports torch, so that ``mitune --help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mitune.errors import UserError, nearest


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
    path: str = key("shapes", "a diffusers folder, a Hub id, or 'shapes' (the model inside the package)")
    revision: str | None = key(None, "Hub branch, tag or commit")
    variant: str | None = key(None, "weights variant, such as fp16")
    dtype: str = key("auto", "float32, float16, bfloat16, or auto: bfloat16 on CUDA, else float32")
    device: str = key("auto", "auto, cpu, cuda, cuda:1, mps")
    compile: bool = key(False, "torch.compile the denoiser network")
    channels_last: bool = key(False, "channels-last memory layout (CUDA)")


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
class SamplerConfig:
    name: str = key("ddim", "ddpm (ancestral) or ddim")
    steps: int = key(20, "network evaluations a picture")
    eta: float = key(1.0, "ddim: 0 = deterministic, 1 = as noisy as ddpm")
    guidance: float = key(2.0, "classifier-free guidance scale; 1 = none")
    variance: str = key("small", "ddpm: small (posterior) or large (beta)")
    spacing: str = key("trailing", "timestep spacing: leading, trailing, linspace")
    steps_offset: int = key(0, "added to every timestep of the leading spacing (Stable Diffusion: 1)")
    set_alpha_to_one: bool = key(False, "ddim: end at clean data instead of the first timestep")


@dataclass
class MIConfig:
    t_min: int = key(50, "mi, mi_continuous: steps at or below are left out (of 1000)")


@dataclass
class ElboConfig:
    times: int = key(8, "times a picture is noised at")
    t_min: int = key(400, "lowest time (of 1000)")
    t_max: int = key(1000, "highest time")
    noise: str = key("independent", "independent, or coupled: one forward path")


@dataclass
class ContrastConfig:
    edits: int = key(8, "minimal edits of the prompt to tell it from")
    times: int = key(6, "times a picture is noised at")
    t_min: int = key(560, "lowest time (of 1000)")
    t_max: int = key(1000, "highest time")
    noise: str = key("independent", "independent, or coupled: one forward path")
    kinds: list[str] = key(["swap", "substitute", "drop"], "kinds of edits, mined from the prompt pool")


@dataclass
class ScorerConfig:
    mi: MIConfig = section(MIConfig)
    elbo: ElboConfig = section(ElboConfig)
    contrast: ContrastConfig = section(ContrastConfig)


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
    by: str = key("contrast", "the score that chooses; random and oracle are controls")
    k: int = key(1, "winners a prompt")
    losers: int = key(0, "losers a prompt, for preference training (train.objective=dpo)")


@dataclass
class AdapterConfig:
    kind: str = key("dora", "dora or lora")
    rank: int = key(32, "rank r")
    alpha: int = key(32, "scale alpha (the update is multiplied by alpha / r)")
    dropout: float = key(0.0, "dropout on the adapter's input")
    targets: list[str] = key(["to_q", "to_k", "to_v", "to_out.0"], "layers of the denoiser network")
    text_encoder: bool = key(False, "adapt the text encoder too")
    text_targets: list[str] = key(["q_proj", "k_proj", "v_proj", "out_proj"], "layers of the text encoder")


@dataclass
class TrainConfig:
    objective: str = key("mse", "mse (the paper's) or dpo (needs select.losers)")
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
    caption_dropout: float = key(0.0, "share of prompts replaced by the null prompt")
    beta_dpo: float = key(2000.0, "strength of dpo's tie to the reference")
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
    scorers: list[str] = key(["mi", "llr", "contrast"], "scores every candidate gets")
    model: ModelConfig = section(ModelConfig)
    prompts: PromptsConfig = section(PromptsConfig)
    sampler: SamplerConfig = section(SamplerConfig)
    scorer: ScorerConfig = section(ScorerConfig)
    generate: GenerateConfig = section(GenerateConfig)
    select: SelectConfig = section(SelectConfig)
    adapter: AdapterConfig = section(AdapterConfig)
    train: TrainConfig = section(TrainConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    tracker: TrackerConfig = section(TrackerConfig)


PATH_SCORERS = ("mi", "mi_continuous", "llr")  # free in the sampling loop
LATENT_SCORERS = ("elbo", "contrast")  # on forward noise, extra forwards
PICTURE_SCORERS = ("oracle",)  # on decoded pictures
SCORERS = (*PATH_SCORERS, *LATENT_SCORERS, *PICTURE_SCORERS)
# Columns that come with a scorer of another name: the oracle also says whether a picture is exactly right.
COLUMNS = {"exact": "oracle"}

CHOICES: dict[str, Sequence[str]] = {
    "model.dtype": ("auto", "float32", "float16", "bfloat16"),
    "sampler.name": ("ddpm", "ddim"),
    "sampler.variance": ("small", "large"),
    "sampler.spacing": ("leading", "trailing", "linspace"),
    "scorer.elbo.noise": ("independent", "coupled"),
    "scorer.contrast.noise": ("independent", "coupled"),
    "adapter.kind": ("dora", "lora"),
    "train.objective": ("mse", "dpo"),
    "train.lr_schedule": ("constant", "constant_with_warmup", "linear", "cosine"),
    "train.mixed_precision": ("no", "bf16", "fp16"),
}
LIST_CHOICES: dict[str, Sequence[str]] = {
    "scorers": SCORERS,
    "evaluate.scorers": SCORERS,
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
    "sampler.steps": 1,
    "sampler.eta": 0,
    "sampler.guidance": 0,
    "sampler.steps_offset": 0,
    "scorer.mi.t_min": 0,
    "scorer.elbo.times": 1,
    "scorer.elbo.t_min": 0,
    "scorer.contrast.edits": 1,
    "scorer.contrast.times": 1,
    "scorer.contrast.t_min": 0,
    "generate.candidates": 1,
    "generate.batch_size": 1,
    "generate.rows_per_unit": 1,
    "generate.keep": 1,
    "select.k": 1,
    "select.losers": 0,
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
}
INTERVALS = (
    ("scorer.elbo.t_min", "scorer.elbo.t_max"),
    ("scorer.contrast.t_min", "scorer.contrast.t_max"),
    ("train.t_min", "train.t_max"),
)


def conf_folder() -> Path:
    """The folder of the Hydra groups: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"the configuration folder is missing beside {package}; install mitune again")


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


def _drop_split(config: DictConfig, given: Sequence[str]) -> None:
    """A text file of one's own has no splits: the preset's split does not apply to it."""
    for section in (config.prompts, config.evaluate.prompts):
        prefix = "prompts" if section is config.prompts else "evaluate.prompts"
        named = f"{prefix}.source" in given and f"{prefix}.split" not in given
        if named and Path(section.source).suffix == ".txt":
            section.split = None


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
    for name in ("adapter.dropout", "train.caption_dropout"):
        if values[name] > 1:
            raise UserError(f"{name}={values[name]}: must be at most 1")
    for name in ("scorers", "adapter.targets", "scorer.contrast.kinds"):
        if not values[name]:
            raise UserError(f"{name} is empty: give at least one")
    if len(values["train.betas"]) != 2:
        raise UserError(f"train.betas={values['train.betas']}: give two numbers")
    _check_selection(values)
    for name in ("scorers", "evaluate.scorers"):
        if values["sampler.name"] == "ddim" and values["sampler.eta"] == 0 and "llr" in values[name]:
            others = ",".join(other for other in values[name] if other != "llr")
            raise UserError(
                f"llr needs a stochastic sampler: say sampler.eta=1 or sampler=ddpm, or leave it out: {name}=[{others}]"
            )


def _check_selection(values: dict[str, Any]) -> None:
    by, k, losers, candidates = (
        values["select.by"], values["select.k"], values["select.losers"], values["generate.candidates"],
    )  # fmt: skip
    columns = [
        *values["scorers"],
        *(column for column, scorer in COLUMNS.items() if scorer in values["scorers"]),
    ]
    if by != "random" and by not in columns:
        known = [*SCORERS, *COLUMNS, "random"]
        if by not in known:
            raise UserError(
                f"select.by={by}: there is no such score{nearest(by, known)}; choose among {', '.join(known)}"
            )
        scorer = COLUMNS.get(by, by)
        raise UserError(
            f"select.by={by}: the candidates do not get this score; add it:"
            f" scorers=[{','.join([*values['scorers'], scorer])}]"
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
    if values["train.objective"] == "dpo" and losers < 1:
        raise UserError("train.objective=dpo compares winners with losers; add select.losers=1")
    best = values["train.keep_best_by"]
    if best is not None and best not in (*SCORERS, *COLUMNS):
        raise UserError(
            f"train.keep_best_by={best}: there is no such score{nearest(best, SCORERS)};"
            f" choose among {', '.join(SCORERS)}"
        )
    if best in ("oracle", "exact") and by not in ("oracle", "exact"):
        raise UserError(
            f"train.keep_best_by={best}: the oracle only judges; it may choose only in the control select=oracle"
        )
