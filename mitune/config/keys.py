"""Every key with its type, default and meaning."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data.settings import PromptsConfig, SelectConfig
from mitune.evaluate.catalogue import BenchmarkConfig
from mitune.families.settings import ModelConfig
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.settings import EditConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import ScorerConfig
from mitune.search.catalogue import SearchConfig
from mitune.settings import ROUNDS, SEED, Key, Settings, declared, key, section
from mitune.stages import settings as stages


@dataclass
class TrackerConfig(Settings):
    wandb: bool = key(False, "Weights & Biases; offline without a login")
    tensorboard: bool = key(False, "TensorBoard event files")
    name: str | None = key(None, "name of the chart (default: the run folder's)")
    project: str | None = key(None, "W&B project (default: WANDB_PROJECT, else mitune)")
    entity: str | None = key(None, "W&B user or team (default: that of the login)")
    group: str | None = key(None, "W&B group, such as a sweep's name")
    tags: list[str] = key([], "W&B tags")


@dataclass
class Config(Settings):
    name: str = key("own", "name of the preset, and of the run folder where none is given")
    run: str = key("runs/${name}", "the run folder (default: runs/ and the name)", path=True, basic=True)
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
    pixels: HeatmapConfig = section(HeatmapConfig)
    generate: stages.GenerateConfig = section(stages.GenerateConfig)
    select: SelectConfig = section(SelectConfig)
    adapter: AdapterConfig = section(AdapterConfig)
    train: TrainConfig = section(TrainConfig)
    evaluate: stages.EvaluateConfig = section(stages.EvaluateConfig)
    sample: stages.SampleConfig = section(stages.SampleConfig)
    edit: EditConfig = section(EditConfig)
    score: stages.ScoreConfig = section(stages.ScoreConfig)
    segment: stages.SegmentConfig = section(stages.SegmentConfig)
    agree: stages.AgreeConfig = section(stages.AgreeConfig)
    calibrate: stages.CalibrateConfig = section(stages.CalibrateConfig)
    benchmark: BenchmarkConfig = section(BenchmarkConfig)
    export: stages.ExportConfig = section(stages.ExportConfig)
    sweep: stages.SweepConfig = section(stages.SweepConfig)
    tracker: TrackerConfig = section(TrackerConfig)


@functools.cache
def keys() -> dict[str, Key]:
    """Give every key by its full name, in the order of the dataclasses."""
    return {one.name: one for one in declared(Config)}


def known_keys(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{full key: value} of the keys that nested values hold; what is no key is left out."""
    values: dict[str, Any] = {}
    for name, value in nested.items():
        full = f"{prefix}{name}"
        if full in keys():
            values[full] = value
        elif isinstance(value, Mapping):
            values |= known_keys(value, f"{full}.")
    return values


def flatten(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """{full key: value} of a configuration; ``resolve``: whether a text that refers to others is looked up."""
    return known_keys(OmegaConf.to_container(config, resolve=resolve))  # type: ignore[arg-type]
