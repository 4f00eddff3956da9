"""``train``: fine-tune the adapter on the selected pictures, from where the last round left it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data import dataset as datasets
from mitune.data.store import plan_units
from mitune.distributed import broadcast, state, visible
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.information.scoring import check_judges
from mitune.runs import RunFolder
from mitune.stages.artefacts import files_in, require
from mitune.stages.candidates import Drawing, draw_unit
from mitune.stages.inputs import (
    load_model,
    prompt_pool,
    read_prompts,
    sampler_of,
    scoring_of,
    settings_of,
    trained_from,
)
from mitune.stages.progress import progress
from mitune.tasks import Task
from mitune.track import make_tracker


def train_stage(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Write ``round-N/adapter``; gives the figures of ``summary.json``'s ``train``."""
    folder = run.round(number)
    broadcast(lambda: require(run, number, "select"))
    visible(folder / "dataset")
    training = datasets.load(folder / "dataset")
    denoiser = load_model(config)
    adapter = settings_of(AdapterConfig, config.adapter)
    attach(denoiser, adapter, init_from=trained_from(config, run, number), seed=config.seed)
    names = [name for name, wanted in config.tracker.items() if wanted]
    values: Any = OmegaConf.to_container(config, resolve=True)
    tracker = make_tracker(names, folder, values, main=state().is_main_process)
    prompts = config.train.validation_prompts
    try:
        with progress(f"round {number}: train", config.train.steps, unit="steps") as advance:
            result = train(
                denoiser,
                training,
                settings_of(TrainConfig, config.train),
                folder,
                tracker=tracker,
                validate=_validator(config, denoiser, prompts) if config.train.keep_best_by else None,
                on_step=lambda _: advance(1),
                seed=training_seed(config.seed, number),
            )
    finally:
        tracker.close()

    def finish() -> dict[str, Any]:
        figures = dataclasses.asdict(result)
        return run.write_mark(number, "train", figures, files_in(folder / "adapter"))

    return broadcast(finish)


def training_seed(seed: int, number: int) -> int:
    """Give the seed of the training of round ``number``: every round draws its own noise."""
    return seed + 1000 * (number - 1)


def validation_prompts(config: DictConfig, count: int) -> list[Task]:
    """Find ``count`` prompts of the training source that are not trained on; trained ones where it has no more.

    The held-out prompts of the evaluation are never looked at.
    """
    training = read_prompts(config.prompts)
    if config.prompts.limit is not None:
        more = OmegaConf.merge(config.prompts, {"limit": config.prompts.limit + count})
        known = {prompt.id for prompt in training}
        fresh = [prompt for prompt in read_prompts(more) if prompt.id not in known]  # type: ignore[arg-type]
        if fresh:
            return fresh[:count]
    return training[:count]


def _validator(config: DictConfig, denoiser: Any, count: int) -> Callable[[int], float]:
    """Make the judge of an adapter: the mean ``train.keep_best_by`` of a picture for each validation prompt."""
    column = config.train.keep_best_by
    prompts = validation_prompts(config, count)
    check_judges([column], [prompt.text for prompt in prompts], "train.keep_best_by", config.scorer)
    unit = plan_units(prompts, 1, count)[0]
    scoring = scoring_of(config, denoiser, [column], lambda: prompt_pool(config.prompts))
    how = Drawing(sampler_of(config, denoiser), scoring, config.seed, config.generate.batch_size)

    def validate(step: int) -> float:
        table, _ = draw_unit(unit, how)
        return sum(table[column]) / len(table[column])

    return validate
