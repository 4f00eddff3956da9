"""How fast this machine is with this model: a few seconds of each kind of work, and what the plan then takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig
from mitune.finetune.objectives import Batch, mse
from mitune.out_of_memory import advice, largest_that_fits
from mitune.stages.inputs import load_model, settings_of
from mitune.stages.planning import Plan, Work
from mitune.tasks import Task

TEXT = "a photo of a red circle"  # what is drawn does not matter


@dataclass(frozen=True)
class Speed:
    """Tells how many rows a second there are without and with a gradient, how many pictures are decoded, and how much
    of the device's memory it took (None where that is not told).

    >>> Speed(100.0, 10.0, 5.0).seconds(Work(1, "train", rows={"training": 20, "reference": 100}))
    3.0
    """

    rows: float
    trained: float
    decoded: float
    memory: int | None = None

    def seconds(self, work: Work) -> float:
        """Reckon what one stage takes."""
        trained = work.rows.get("training", 0)
        return trained / self.trained + (work.total - trained) / self.rows + work.decoded / self.decoded

    def total(self, plan: Plan) -> float:
        """Reckon what all of it takes."""
        return sum(map(self.seconds, plan.works))


def probe(config: DictConfig, budget: float) -> Speed:
    """Load the model and time its work for about ``budget`` seconds, in the batches that the run will have.

    Raises UserError where a batch does not fit in the memory, and as loading does.
    """
    denoiser = load_model(config)
    device, share = denoiser.device, budget / 3
    size = config.generate.batch_size
    given = _told(denoiser)
    z = torch.randn(1, *denoiser.latent_shape, device=device)
    middle = 0.5 * denoiser.schedule.num_train_timesteps
    t = middle if denoiser.schedule.kind == "flow" else int(middle)

    def draw(n: int) -> None:
        with torch.no_grad():
            denoiser.predict(z.repeat(n, *[1] * (z.ndim - 1)), t, given.repeat_interleave(n))

    def decode(n: int) -> None:
        with torch.no_grad():
            denoiser.decode(z.repeat(n, *[1] * (z.ndim - 1)))

    with denoiser.fused():
        rows = _rate(draw, size, share, device, "generate.batch_size")
        decoded = _rate(decode, min(size, 8), share, device, "generate.batch_size")
    trained = _trained(config, denoiser, share)
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Speed(rows, trained, decoded, most)


def _told(denoiser: Adapted) -> Condition:
    """One row of a condition; of a model that edits pictures without any."""
    return denoiser.null(1) if denoiser.edits_pictures else denoiser.encode([Task.of(TEXT)])


def _trained(config: DictConfig, denoiser: Adapted, budget: float) -> float:
    """Rows a second of the adapter's training: forward, backward, in the run's own precision."""
    own, device = config.train, denoiser.device
    attach(denoiser, settings_of(AdapterConfig, config.adapter))
    given = _told(denoiser)
    if own.gradient_checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(own.mixed_precision)

    def step(n: int) -> None:
        z0, noise = (torch.randn(n, *denoiser.latent_shape, device=device) for _ in range(2))
        t = torch.full((n,), 500, device=device)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            batch = Batch(z0, noise, t, given.repeat_interleave(n))
            mse(denoiser, batch).mean().backward()  # rows without a gradient are counted by themselves
        for parameter in denoiser.network.parameters():
            parameter.grad = None

    size = min(own.micro_batch or own.batch_size, own.batch_size)
    return _rate(step, size, budget, device, "train.micro_batch")


def _rate(work: Callable[[int], None], size: int, budget: float, device: torch.device, key: str) -> float:
    """How many of ``size`` at a time are done in a second; the first time, which may compile, does not count."""
    try:
        work(size)
    except torch.OutOfMemoryError as error:
        fits = largest_that_fits(size, work)
        raise UserError(advice("a batch", size, fits, f"{key}={fits}")) from error
    _wait(device)
    began, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - began < budget:
        work(size)
        _wait(device)
        done += size
    return done / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
