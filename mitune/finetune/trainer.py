"""Train the attached adapter: one loop for every objective, one process or many.

Many processes (``accelerate launch``): each takes its slice of the global batch, and the adapter's gradients,
a few megabytes, are summed once a step. The loop never waits for the device except where it writes figures
down.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from mitune import distributed, leaving
from mitune.errors import UserError
from mitune.families import lora
from mitune.families.adapted import Adapted
from mitune.files import clean_partial
from mitune.finetune import sharding
from mitune.finetune.adapters import trainable_parameters
from mitune.finetune.batches import Density, Draw, Draws, Texts, load_training_set, seed_of
from mitune.finetune.catalogue import OBJECTIVES, TrainConfig
from mitune.finetune.composed import composed
from mitune.finetune.encoded import Scratch
from mitune.finetune.gradients import Gradients
from mitune.finetune.keeping import Keeper, TrainResult
from mitune.finetune.objectives import Batch, LayoutWeight
from mitune.leaving import TEMPORARY, Leave
from mitune.out_of_memory import advice, largest_that_fits
from mitune.track import Tracker


def learning_rate(config: TrainConfig, step: int) -> float:
    """Give the rate of ``step`` 0, 1, …: linear warm-up, then constant, or falling to 0 by a line or half a cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    if config.lr_schedule == "linear":
        return config.lr * (1 - progress)
    if config.lr_schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr


def train(
    denoiser: Adapted,
    dataset: Any,
    config: TrainConfig,
    folder: str | Path,
    tracker: Tracker | None = None,
    validate: Callable[[int], float] | None = None,
    on_step: Callable[[int], None] | None = None,
    seed: int = 0,
    pictures: Callable[[int], None] | None = None,
) -> TrainResult:
    """Train the adapter that is attached to ``denoiser`` on ``dataset``; write ``folder/adapter`` and
    ``folder/checkpoints``.

    Goes on from the newest checkpoint, bit for bit as if never interrupted; a finished run is only read back.

    Args:
        denoiser: with an adapter from ``attach``.
        dataset: as ``load_training_set`` reads it.
        config: how.
        folder: what is written goes there.
        tracker: gets the figures.
        validate: steps done -> score, higher = better; called on every process at each checkpoint. With it the adapter
            of the best one is kept, in ``folder/adapter`` and in ``denoiser``.
        on_step: called with the steps done after each, for a progress bar.
        seed: of everything that is drawn.
        pictures: called with the steps done, on every process, each ``pictures_every`` steps and before the first;
            draws some with the adapter as it is, which changes nothing of the training.

    Told to leave (:mod:`mitune.leaving`), it ends the step, and a validation that is due, writes a checkpoint and
    raises Leave, on all processes after the same step. With another number of processes it goes on with the same
    batches; their sums round differently, and the adapter's dropout, if any, draws other masks.
    Raises UserError: nothing to train on, checkpoints of another run, a loss that is not finite.
    """
    return _Run(denoiser, dataset, config, Path(folder), tracker, validate, on_step, seed, pictures).run()


@dataclass(eq=False)
class _Run:
    """A run is one call of ``train``, whose arguments it takes: it holds what the loop needs at hand."""

    denoiser: Adapted
    dataset: Any
    config: TrainConfig
    folder: Path
    tracker: Tracker | None = None
    validate: Callable[[int], float] | None = None
    on_step: Callable[[int], None] | None = None
    seed: int = 0
    pictures: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        denoiser, config = self.denoiser, self.config
        config.check("train.")
        if config.keep_best_by is not None and self.validate is None:
            raise ValueError("keep_best_by needs validate()")
        self.processes = distributed.state()
        self.device = denoiser.device
        self.objective = OBJECTIVES.find(config.objective)
        self.loss = self.objective.load()
        self.strength = getattr(config, self.objective.strength) if self.objective.strength else 0.0
        self.weight: LayoutWeight | None = (
            LayoutWeight(denoiser.schedule, config.layout_weight, config.t_min, config.t_max)
            if config.layout_weight and denoiser.prediction_type == "epsilon"
            else None  # what other networks predict is wrong by the picture's error where SNR is low as it is
        )
        self.names = trainable_parameters(denoiser)
        if not self.names:
            raise ValueError("no adapter is attached: call attach() first")
        self.parameters = list(self.names.values())
        _check(config, denoiser, self.processes)
        self.layers = lora.adapter_layers(denoiser.components.values())
        if self.processes.is_main_process:
            clean_partial(self.folder)
        self.scratch = Scratch(self.folder)
        try:
            self._prepare()
        except BaseException:
            self.scratch.close()
            raise

    def _prepare(self) -> None:
        """Read the training set, and make what the loop needs of it."""
        denoiser, config = self.denoiser, self.config
        self.data = load_training_set(
            self.dataset, denoiser, self.objective, config.temperature, config.soft_labels, self.scratch
        )
        longest = denoiser.schedule.num_train_timesteps
        self.draws = Draws(
            self.data, self.seed, config.batch_size, denoiser.latent_shape, (config.t_min, config.t_max),
            denoiser.schedule.kind == "vp", config.caption_dropout, self.device.type == "cuda",
            Density(longest, config.density_mean, config.density_std) if config.density != "uniform" else None,
        )  # fmt: skip
        text_trains = any(p.requires_grad for encoder in denoiser.text_encoders for p in encoder.parameters())
        self.anchor = None
        if self.objective.anchor == "start":
            self.start = [parameter.detach().clone() for parameter in self.parameters]
            self.anchor = self._at_start
        self.texts = Texts(denoiser, self.data.texts, text_trains, self.anchor, self.scratch)
        if denoiser.offloaded == "model":
            denoiser.network.to(self.device)  # the optimizer's state goes where it is
        self.sharded = sharding.asked() and self.processes.num_processes > 1
        if self.sharded:
            sharding.shard(denoiser.network, self.parameters, self.device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, config.lr, (float(config.betas[0]), float(config.betas[1])), config.eps,
            config.weight_decay, fused=self.device.type in ("cuda", "cpu"),
        )  # fmt: skip
        self.gradients = Gradients(self.parameters, totals=2)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.mixed_precision == "fp16")
        self.keeper = Keeper(
            denoiser, config, self.folder, self.names, self.optimizer, self.scaler, self.data.digest, self.seed,
            self.tracker, self.validate and self._score, self.pictures and self._paint,
        )  # fmt: skip
        self.history = self.keeper.history
        self.wish: tuple[Tensor, torch.cuda.Event] | None = None  # of the last step, on its way to the host
        rank, ranks = self.processes.process_index, self.processes.num_processes
        self.rows = (config.batch_size * rank // ranks, config.batch_size * (rank + 1) // ranks)

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Take all steps that are not taken yet; what was written for them alone is removed."""
        try:
            with distributed.said_first():
                return self._run()
        finally:
            self.scratch.close()

    def _run(self) -> TrainResult:
        leave = False
        start = self.keeper.resume()
        cuda = [self.device.index or 0] if self.device.type == "cuda" else []
        # Seeds are set freely inside; the caller's generators are as they were afterwards.
        with self._training(), torch.random.fork_rng(devices=cuda), leaving.deferred():
            if start == 0:
                self.keeper.paint(0)
            for step in range(start, self.config.steps):
                leave = self._step(step)
                if self.on_step is not None:
                    self.on_step(step + 1)
                self.keeper.after(step + 1, leave)
                if leave:
                    break
        leaving.check()
        if leave:  # another process was told to
            raise Leave(TEMPORARY)
        return self.keeper.finish()

    def _step(self, step: int) -> bool:
        """Take one optimizer step; leaves its loss and gradient norm in the history, on the device.

        Gives whether to leave after it: the same answer on every process, as the question goes with the gradients.
        """
        config = self.config
        torch.manual_seed(seed_of(self.seed, "dropout", step, self.processes.process_index))
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        draw = self._place(self.draws(step)[slice(*self.rows)])
        total = torch.zeros((), device=self.device)
        for rows in self._micro_batches():
            try:
                total += self._accumulate(draw[rows])
            except torch.OutOfMemoryError as error:
                if self.sharded:  # the others would wait for this process to look what fits
                    raise
                raise UserError(self._too_large(draw[rows])) from error
        wish = torch.full((), float(leaving.asked()), device=self.device)
        total, wish = self.gradients.sum(total, wish)
        self.scaler.unscale_(self.optimizer)
        norm = self.gradients.clip(config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.gradients.clear()
        self.history["loss"][step] = total
        self.history["grad_norm"][step] = norm
        return leaving.asked() if self.processes.num_processes == 1 else self._wished(wish)

    def _wished(self, wish: Tensor) -> bool:
        """Tell whether any process wishes to leave. On a GPU the answer of the step before, which is there already: the
        host does not wait for the step that it has just begun."""
        if self.device.type != "cuda":
            return bool(wish > 0)
        answer = torch.empty((), pin_memory=True)
        answer.copy_(wish, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        before, self.wish = self.wish, (answer, event)
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0] > 0)

    def _accumulate(self, draw: Draw) -> Tensor:
        """Add the gradient of some rows of the batch; gives their share of the loss."""
        with self._autocast():
            losses = self.loss(self.denoiser, self._batch(draw), self.strength)
            if self.data.importance is not None:
                losses = losses * _move(self.data.importance[draw.item], self.device)
            loss = losses.sum() / self.config.batch_size
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _too_large(self, draw: Draw) -> str:
        """Say how many rows would fit where these do not. Their gradients are lost, as the run ends here."""
        self.gradients.clear()
        fits = largest_that_fits(len(draw.t), lambda size: self._accumulate(draw[:size]))
        rows = self.objective.rows
        key = f"train.micro_batch={fits * rows if fits else 0}"
        return advice("a micro-batch", len(draw.t) * rows, fits and fits * rows, key)

    def _micro_batches(self) -> Iterator[slice]:
        """Cut this process's share of the batch in near-equal parts."""
        share = self.rows[1] - self.rows[0]
        size = max(1, (self.config.micro_batch or 2**62) // self.objective.rows)
        parts = -(-share // size)
        bounds = [share * part // parts for part in range(parts + 1)]
        return itertools.starmap(slice, itertools.pairwise(bounds))

    def _place(self, draw: Draw) -> Draw:
        """Put the draw where it is needed: indices beside what they index, t and noise on the device; nobody waits for
        the copies."""
        latents, device = self.data.latents.device, self.device
        places = (draw.item.device, latents, latents, self.texts.device, device, device)
        return Draw(*map(_move, vars(draw).values(), places))

    def _batch(self, draw: Draw) -> Batch:
        """Gather the rows of one forward on the device."""
        data, latents, objective = self.data, self.data.latents, self.objective
        return Batch(
            z0=_move(latents[draw.winner], self.device),
            noise=draw.noise,
            t=draw.t,
            condition=self.texts.condition(draw.text),
            rejected=_move(latents[draw.loser], self.device) if objective.pairs else None,
            reference=self.texts.reference(draw.text) if objective.anchor else None,
            weight=self.weight(draw.t) if self.weight else None,
            label=_move(data.label[draw.item], self.device) if objective.unpaired else None,
            real=None if data.real is None else _move(data.real[draw.item], self.device),
            anchor=self.anchor,
        )

    @contextlib.contextmanager
    def _at_start(self) -> Iterator[None]:
        """Set the adapter back to where this training began, without dropout, for the time of the block: a few
        megabytes change places."""
        now = [parameter.data for parameter in self.parameters]
        self._train_mode(False)
        try:
            for parameter, start in zip(self.parameters, self.start, strict=True):
                parameter.data = start
            yield
        finally:
            for parameter, data in zip(self.parameters, now, strict=True):
                parameter.data = data
            self._train_mode(True)

    # -- around the loop -------------------------------------------------------------------------------------

    @torch.no_grad()
    def _score(self, done: int) -> float:
        """Ask ``validate`` about the adapter, without its dropout."""
        assert self.validate is not None
        self._train_mode(False)
        value = float(self.validate(done))
        self._train_mode(True)
        return value

    @torch.no_grad()
    def _paint(self, done: int) -> None:
        """Ask for pictures with the adapter, without its dropout."""
        assert self.pictures is not None
        self._train_mode(False)
        self.pictures(done)
        self._train_mode(True)

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """Turn dropout of the adapter on (the frozen rest stays in eval mode), compose its weights where that pays, and
        set gradient checkpointing and compilation as asked for, for the time of the block."""
        network = self.denoiser.network
        if self.config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        compiles = self.config.compile and network._compiled_call_impl is None
        if compiles:
            network.compile()
        compose = self.config.mixed_precision == "no" and not self.sharded and not self.config.compile
        self._train_mode(True)
        try:
            with composed(self.layers if compose else ()):
                yield
        finally:
            self._train_mode(False)
            if self.config.gradient_checkpointing:
                network.disable_gradient_checkpointing()
            if compiles:  # torch has no call that takes it back
                network._compiled_call_impl = None

    def _train_mode(self, mode: bool) -> None:
        for layer in self.layers:
            layer.train(mode)

    def _autocast(self) -> Any:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.mixed_precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to ``device`` without making the host wait: from ordinary memory it would, from pinned it does not."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # nothing is copied if it is pinned already
    return tensor.to(device, non_blocking=True)


def _check(config: TrainConfig, denoiser: Adapted, processes: PartialState) -> None:
    """Raise UserError for what does not fit this model or this machine."""
    longest = denoiser.schedule.num_train_timesteps
    if config.t_max > longest:
        raise UserError(f"train.t_max={config.t_max}: this model's time ends at {longest}")
    if config.batch_size < processes.num_processes:
        raise UserError(
            f"train.batch_size={config.batch_size}: must be at least the number of processes "
            f"({processes.num_processes})"
        )
    if config.mixed_precision == "fp16" and denoiser.device.type == "cpu":
        raise UserError("train.mixed_precision=fp16 needs a GPU; use bf16 or no")
