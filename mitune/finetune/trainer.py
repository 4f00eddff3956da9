"""Train the attached adapter: one loop for every objective, one process or many.

Many processes (``accelerate launch``): each takes its slice of the global batch, and the adapter's gradients,
a few megabytes, are summed once a step. The loop never waits for the device except where it writes figures
down.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from mitune import distributed, leaving
from mitune.errors import UserError, complain
from mitune.families import lora
from mitune.families.adapted import Adapted
from mitune.files import clean_partial
from mitune.finetune import checkpoint, sharding
from mitune.finetune.adapters import trainable_parameters
from mitune.finetune.batches import Density, Draw, Draws, Texts, TrainingSet, load_training_set, seed_of
from mitune.finetune.catalogue import OBJECTIVES, Objective, TrainConfig
from mitune.finetune.composed import composed
from mitune.finetune.objectives import Batch, LayoutWeight
from mitune.leaving import TEMPORARY, Leave
from mitune.out_of_memory import advice, largest_that_fits
from mitune.track import Tracker

# What may differ between the two halves of a resumed run without changing its result.
_FREE = {
    "micro_batch",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "compile",
    "gradient_checkpointing",
    # What the stage asks, not the training.
    "fresh",
    "validation_prompts",
}


@dataclass(frozen=True)
class TrainResult:
    """What training did. ``loss``: mean over the last tenth of the steps; ``forwards``: rows sent through the
    network.
    """

    steps: int
    seconds: float
    loss: float
    trainable_parameters: int
    forwards: int
    best_step: int | None = None
    best_value: float | None = None


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of ``step`` (0, 1, …): linear warm-up, then constant, or falling to 0 along a line or half a
    cosine.
    """
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
) -> TrainResult:
    """Train the adapter that is attached to ``denoiser`` on ``dataset``; write ``folder/adapter`` and
    ``folder/checkpoints``.

    Goes on from the newest checkpoint, bit for bit as if never interrupted; a finished run is only read back.
    ``validate(steps done)`` -> score, higher = better, is called on every process at each checkpoint; with it
    the adapter of the best one is kept, in ``folder/adapter`` and in ``denoiser``. ``on_step(steps done)``
    after each step, for a progress bar.
    Told to leave (:mod:`mitune.leaving`), it ends the step, and a validation that is due, writes a checkpoint and
    raises Leave, on all processes after the same step. With another number of processes it goes on with the same
    batches; their sums round differently, and the adapter's dropout, if any, draws other masks.
    Raises UserError: nothing to train on, checkpoints of another run, a loss that is not finite.
    """
    return _Run(denoiser, dataset, config, Path(folder), tracker, validate, on_step, seed).run()


class _Run:
    """One call of ``train``: what the loop needs at hand."""

    def __init__(
        self,
        denoiser: Adapted,
        dataset: Any,
        config: TrainConfig,
        folder: Path,
        tracker: Tracker | None,
        validate: Callable[[int], float] | None,
        on_step: Callable[[int], None] | None,
        seed: int = 0,
    ) -> None:
        config.check("train.")
        self.denoiser, self.config, self.folder, self.seed = denoiser, config, folder, seed
        self.tracker, self.validate, self.on_step = tracker, validate, on_step
        if config.keep_best_by is not None and validate is None:
            raise ValueError("keep_best_by needs validate()")
        self.processes = distributed.state()
        self.device = denoiser.device
        self.objective: Objective = OBJECTIVES.find(config.objective)
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
        self.parameters: list[nn.Parameter] = list(self.names.values())
        _check(config, denoiser, self.processes)
        self.layers = lora.adapter_layers(denoiser.components.values())
        self.data: TrainingSet = load_training_set(
            dataset, denoiser, self.objective, config.temperature, config.soft_labels
        )
        self.draws = Draws(
            self.data,
            seed,
            config.batch_size,
            denoiser.latent_shape,
            (config.t_min, config.t_max),
            denoiser.schedule.kind == "vp",
            config.caption_dropout,
            pin=self.device.type == "cuda",
            density=None if config.density == "uniform" else _density(config, denoiser),
        )
        encoders = denoiser.text_encoders
        text_trains = any(
            parameter.requires_grad for encoder in encoders for parameter in encoder.parameters()
        )
        self.signature = self._signature()
        self.anchor = None
        if self.objective.anchor == "start":
            self.start = [parameter.detach().clone() for parameter in self.parameters]
            self.anchor = self._at_start
        self.texts = Texts(denoiser, self.data.texts, text_trains, self.anchor)
        if denoiser.offloaded == "model":
            denoiser.network.to(self.device)  # the optimizer's state goes where it is
        self.sharded = sharding.asked() and self.processes.num_processes > 1
        if self.sharded:
            sharding.shard(denoiser.network, self.parameters, self.device)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(float(config.betas[0]), float(config.betas[1])),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cuda", "cpu"),
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.mixed_precision == "fp16")
        self.history = {name: torch.zeros(config.steps, device=self.device) for name in ("loss", "grad_norm")}
        self.wish: tuple[Tensor, torch.cuda.Event] | None = None  # of the last step, on its way to the host
        rank, ranks = self.processes.process_index, self.processes.num_processes
        self.rows = (config.batch_size * rank // ranks, config.batch_size * (rank + 1) // ranks)

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        config = self.config
        checkpoints = self.folder / "checkpoints"
        if self.processes.is_main_process:
            clean_partial(checkpoints)
            clean_partial(self.folder)
        state = self._resume(checkpoints)
        start, best = state["step"], state["best"]
        seconds, rows, before = state["seconds"], state["forwards"], self.denoiser.forwards
        if self.tracker is not None and start < config.steps:
            self.tracker.truncate_after("train", start + 1)
        began = last = time.perf_counter()
        last_step = start
        leave = False
        with self._training(), self._own_randomness(), leaving.deferred():
            for step in range(start, config.steps):
                leave = self._step(step)
                done = step + 1
                if self.on_step is not None:
                    self.on_step(done)
                write = done % config.checkpoint_every == 0 or done == config.steps
                if write or done % config.log_every == 0:
                    self._check_finite(done)
                    now = time.perf_counter()
                    self._log(done, (done - last_step) / (now - last))
                    last, last_step = now, done
                if write:
                    best = self._validate(done, best)
                if write or leave:
                    state = {
                        "seconds": seconds + time.perf_counter() - began,
                        "forwards": rows + self.denoiser.forwards - before,
                        "learning_rate": learning_rate(config, step),
                        "randomness": {"seed": self.seed, "position": done},
                        "scaler": self.scaler.state_dict(),
                        "best": best,
                        "signature": self.signature,
                    }
                    self._save(done, state)
                    last = time.perf_counter()
                if leave:
                    break
        leaving.check()
        if leave:  # another process was told to
            raise Leave(TEMPORARY)
        self._finish(best)
        window = max(1, config.steps // 10)
        return TrainResult(
            steps=config.steps,
            seconds=state["seconds"],
            loss=float(self.history["loss"][-window:].mean()),
            trainable_parameters=sum(parameter.numel() for parameter in self.parameters),
            forwards=state["forwards"],
            best_step=best and best["step"],
            best_value=best and best["value"],
        )

    def _step(self, step: int) -> bool:
        """One optimizer step; leaves its loss and gradient norm in the history, on the device.

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
        total, wish = distributed.sum_gradients(self.parameters, total, wish)
        self.scaler.unscale_(self.optimizer)
        limit = config.max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.history["loss"][step] = total
        self.history["grad_norm"][step] = norm
        return leaving.asked() if self.processes.num_processes == 1 else self._wished(wish)

    def _wished(self, wish: Tensor) -> bool:
        """Whether any process wishes to leave. On a GPU the answer of the step before, which is there already: the host
        does not wait for the step that it has just begun.
        """
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
        """What to say when these rows do not fit: how many would. Their gradients are lost, as the run ends here."""
        self.optimizer.zero_grad(set_to_none=True)
        fits = largest_that_fits(len(draw.t), lambda size: self._accumulate(draw[:size]))
        rows = self.objective.rows
        key = f"train.micro_batch={fits * rows if fits else 0}"
        return advice("a micro-batch", len(draw.t) * rows, fits and fits * rows, key)

    def _micro_batches(self) -> Iterator[slice]:
        """This process's share of the batch in near-equal parts."""
        share = self.rows[1] - self.rows[0]
        size = max(1, (self.config.micro_batch or 2**62) // self.objective.rows)
        parts = -(-share // size)
        bounds = [share * part // parts for part in range(parts + 1)]
        return itertools.starmap(slice, itertools.pairwise(bounds))

    def _place(self, draw: Draw) -> Draw:
        """The draw where it is needed: indices beside what they index, t and noise on the device; nobody
        waits for the copies.
        """
        latents, device = self.data.latents.device, self.device
        return Draw(
            draw.item,
            _move(draw.winner, latents),
            _move(draw.loser, latents),
            _move(draw.text, self.texts.device),
            _move(draw.t, device),
            _move(draw.noise, device),
        )

    def _batch(self, draw: Draw) -> Batch:
        """The rows of one forward, gathered on the device."""
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
        """The adapter as it was when this training began, without dropout: a few megabytes change places."""
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

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """Dropout of the adapter on (the frozen rest stays in eval mode), its weights composed where that pays,
        gradient checkpointing and compilation as asked for.
        """
        network = self.denoiser.network
        if self.config.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if self.config.compile and network._compiled_call_impl is None:
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

    def _train_mode(self, mode: bool) -> None:
        for layer in self.layers:
            layer.train(mode)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Seed freely; the caller's generators are as they were afterwards."""
        cuda = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            yield

    def _autocast(self) -> Any:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.mixed_precision)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _check_finite(self, done: int) -> None:
        """Raises UserError at the first step whose loss or gradient is not a number (all processes agree:
        sums are shared).
        """
        losses, norms = self.history["loss"][:done], self.history["grad_norm"][:done]
        finite = losses.isfinite()
        if not self.scaler.is_enabled():  # with a scaler an overflow is a skipped step, not a failure
            finite &= norms.isfinite()
        if not bool(finite.all()):
            step = int((~finite).nonzero()[0]) + 1
            hint = "" if self.config.mixed_precision != "fp16" else " or use train.mixed_precision=bf16"
            raise UserError(
                f"training went astray: the loss is not finite at step {step}; lower train.lr (now "
                f"{self.config.lr}){hint}"
            )

    def _log(self, done: int, rate: float) -> None:
        if self.tracker is None or not self.processes.is_main_process:
            return
        start = (done - 1) // self.config.log_every * self.config.log_every
        values = {
            "loss": float(self.history["loss"][start:done].mean()),
            "grad_norm": float(self.history["grad_norm"][start:done].mean()),
            "lr": learning_rate(self.config, done - 1),
            "samples_per_second": rate * self.config.batch_size,
        }
        if self.device.type == "cuda":
            values["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.tracker.log(values, done, "train")

    def _validate(self, done: int, best: dict[str, Any] | None) -> dict[str, Any] | None:
        """Score the adapter; keep its folder if it is the best so far."""
        if self.validate is None:
            return best
        self._train_mode(False)
        with torch.no_grad():
            value = float(self.validate(done))
        self._train_mode(True)
        if self.processes.num_processes > 1:  # one opinion for all
            shared = torch.tensor(value, device=self.device, dtype=torch.float32)
            with distributed.collective():
                torch.distributed.broadcast(shared, 0)
            value = float(shared)
        name = self.config.keep_best_by or "validation"
        if not math.isfinite(value):
            raise UserError(
                f"the {name} score of the adapter after step {done} is not finite; look at the pictures of "
                "that step"
            )
        if self.tracker is not None and self.processes.is_main_process:
            self.tracker.log({f"validation_{name}": value}, done, "train")
        if best is not None and value <= best["value"]:
            return best
        if self.processes.is_main_process:
            self.denoiser.save_adapter(checkpoint.best_path(self.folder / "checkpoints", done))
        return {"step": done, "value": value}

    def _save(self, done: int, state: Mapping[str, Any]) -> None:
        checkpoints = self.folder / "checkpoints"
        if self.processes.is_main_process:
            history = {name: values[:done].cpu() for name, values in self.history.items()}
            checkpoint.save(checkpoints, done, self.denoiser, self.optimizer, self.names, history, state)
            checkpoint.prune(checkpoints, self.config.keep_checkpoints)
            if state["best"] is not None:
                checkpoint.prune_best(checkpoints, state["best"]["step"])
        distributed.wait()

    def _resume(self, checkpoints: Path) -> dict[str, Any]:
        """Restore the newest checkpoint that is whole, if there is one; those that were harmed are deleted."""

        def newest() -> str | None:
            path, harmed = checkpoint.latest_whole(checkpoints)
            if harmed is not None:
                where = "from the beginning" if path is None else f"on from {path.name}"
                complain(f"warning: {harmed} is not what was written there: training goes {where}")
            return None if path is None else path.name

        name = distributed.agreed(newest)
        if name is None:
            return {"step": 0, "best": None, "seconds": 0.0, "forwards": 0}
        path = checkpoints / name
        distributed.seen(path)
        state = checkpoint.read_state(path)
        before = state.get("signature", {})
        different = sorted(
            key for key in {*before, *self.signature} if before.get(key) != self.signature.get(key)
        )
        if different:
            raise UserError(
                f"{checkpoints} were made with other settings ({', '.join(different)}); use another run= "
                "or delete that folder"
            )
        checkpoint.restore(path, self.optimizer, self.names, self.history)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        return state

    def _finish(self, best: dict[str, Any] | None) -> None:
        """Leave the chosen adapter in the denoiser and in ``folder/adapter``."""
        if best is not None:
            folder = checkpoint.best_path(self.folder / "checkpoints", best["step"])
            distributed.seen(folder)
            checkpoint.restore_adapter(folder, self.names)
        if self.processes.is_main_process:
            self.denoiser.save_adapter(self.folder / "adapter")
        distributed.wait()

    def _signature(self) -> dict[str, Any]:
        """Everything the result depends on, as JSON: a checkpoint of another signature is refused."""
        free = (
            _FREE - {"checkpoint_every"} if self.validate else _FREE
        )  # what is kept depends on when one looks
        config = {f"train.{key}": value for key, value in asdict(self.config).items() if key not in free}
        config |= {"train.betas": list(self.config.betas), "train.seed": self.seed}
        digest = hashlib.sha256()
        for name, parameter in self.names.items():
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().numpy().tobytes())
        for layer in self.layers:
            scaling = dict(layer.scaling)
            dropout = {name: getattr(value, "p", 0.0) for name, value in layer.lora_dropout.items()}
            digest.update(f"{scaling} {dropout}".encode())
        return config | {
            "model": self.denoiser.identity,
            "dataset": self.data.digest,
            "adapter": digest.hexdigest()[:12],
        }


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To ``device`` without making the host wait: a copy from ordinary memory would, one from pinned memory
    does not.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # nothing is copied if it is pinned already
    return tensor.to(device, non_blocking=True)


def _density(config: TrainConfig, denoiser: Adapted) -> Density:
    return Density(denoiser.schedule.num_train_timesteps, config.density_mean, config.density_std)


def _check(config: TrainConfig, denoiser: Adapted, processes: PartialState) -> None:
    """Raises UserError for what does not fit this model or this machine."""
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
