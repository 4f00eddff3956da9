"""``train``: fine-tune the adapter on the selected pictures, from where the last round left it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data import dataset as datasets
from mitune.data.store import plan_units
from mitune.distributed import broadcast, state, visible
from mitune.evaluate.drawings import grid, png
from mitune.files import write_bytes
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.information.scoring import check_judges
from mitune.runs import RunFolder
from mitune.stages.artefacts import files_in, require
from mitune.stages.balancing import check_balance
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
from mitune.stages.progress import Bar, progress
from mitune.stages.tracking import AllRounds, charts
from mitune.tasks import Task
from mitune.track import Several, open_metrics

SHOWN = 12  # prompts on a sheet of validation pictures


def train_stage(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """Write ``round-N/adapter``; gives the figures of ``summary.json``'s ``train``."""
    folder = run.round(number)
    broadcast(lambda: require(run, number, "select"))
    visible(folder / "dataset")
    check_validation(config)
    training = datasets.load(folder / "dataset")
    denoiser = load_model(config)
    adapter = settings_of(AdapterConfig, config.adapter)
    attach(denoiser, adapter, init_from=trained_from(config, run, number), seed=config.seed)
    tracker = open_metrics(folder, main=state().is_main_process)
    prompts = config.train.validation_prompts
    try:
        with progress(f"round {number}: train", config.train.steps, unit="steps") as bar:
            result = train(
                denoiser,
                training,
                settings_of(TrainConfig, config.train),
                folder,
                tracker=Several([tracker, Shown(bar), AllRounds(_step(config, number, 0))]),
                validate=_validator(config, denoiser, prompts) if config.train.keep_best_by else None,
                pictures=_painter(config, denoiser, folder, number) if config.train.pictures_every else None,
                on_step=counted_on(bar),
                seed=training_seed(config.seed, number),
            )
    finally:
        tracker.close()

    def finish() -> dict[str, Any]:
        figures = dataclasses.asdict(result) | {"best_by": config.train.keep_best_by}
        return run.write_mark(number, "train", figures, files_in(folder / "adapter"))

    return broadcast(finish)


class Shown:
    """Shows the figures of a training that are written down anyway: nobody waits for the device to show them."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def log(self, values: Mapping[str, Any], step: int, stage: str = "train") -> None:
        """Show the loss, and what an adapter was judged to be."""
        self.bar.show(
            {name: value for name, value in values.items() if name == "loss" or name.startswith("validation")}
        )

    def truncate_after(self, stage: str, step: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held back."""


def counted_on(bar: Bar) -> Callable[[int], None]:
    """Make what is told the steps done after each: those before the first are an earlier command's."""

    def on_step(done: int) -> None:
        if bar.done == 0 and done > 1:
            bar(done - 1, here=False)
        bar(done - bar.done)

    return on_step


def training_seed(seed: int, number: int) -> int:
    """Give the seed of the training of round ``number``: every round draws its own noise."""
    return seed + 1000 * (number - 1)


def validation_prompts(
    config: DictConfig, count: int, training: Sequence[Task] | None = None
) -> Sequence[Task]:
    """Find ``count`` prompts of the training source that are not trained on; trained ones where it has no more.

    The held-out prompts of the evaluation are never looked at. ``training``: those that are trained on, where they are
    read already.
    """
    training = read_prompts(config.prompts) if training is None else training
    # Where there are fewer than the limit, the source has no more.
    if config.prompts.limit is not None and len(training) >= config.prompts.limit:
        more = OmegaConf.merge(config.prompts, {"limit": config.prompts.limit + count})
        known = {prompt.id for prompt in training}
        fresh = [prompt for prompt in read_prompts(more) if prompt.id not in known]  # type: ignore[arg-type]
        if fresh:
            return fresh[:count]
    return training[:count]


def check_validation(config: DictConfig, training: Sequence[Task] | None = None) -> None:
    """Raise UserError for validation prompts, which are others than those of training, that ``sampler.balance`` finds
    no phrases in. ``training``: as of :func:`validation_prompts`."""
    if config.sampler.balance and (config.train.keep_best_by or config.train.pictures_every):
        prompts = validation_prompts(config, config.train.validation_prompts, training)
        check_balance(config, prompts, quiet=True)


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


def _painter(config: DictConfig, denoiser: Any, folder: Path, number: int) -> Callable[[int], None]:
    """Make what draws the validation prompts with the adapter as it is, always from the same seeds: a sheet of them in
    the round's folder, and in the charts."""
    prompts = validation_prompts(config, config.train.validation_prompts)[:SHOWN]
    unit = plan_units(prompts, 1, len(prompts))[0]
    scoring = scoring_of(config, denoiser, [], lambda: ())
    how = Drawing(sampler_of(config, denoiser), scoring, config.seed, config.generate.batch_size)

    def paint(step: int) -> None:
        _, latents = draw_unit(unit, how)
        if not state().is_main_process:
            return
        drawn = [denoiser.decode(one.unsqueeze(0).to(denoiser.device))[0].float().cpu() for one in latents]
        sheet = png(grid(drawn, [prompt.text for prompt in prompts]))
        write_bytes(folder / "pictures" / f"training-{step:06d}.png", sheet)
        shown = {"pictures": (sheet, f"round {number}, step {step}")}
        charts().pictures(shown, _step(config, number, step), "train")

    return paint


def _step(config: DictConfig, number: int, step: int) -> int:
    """A step of a round among those of all rounds."""
    return (number - 1) * config.train.steps + step  # type: ignore[no-any-return]
