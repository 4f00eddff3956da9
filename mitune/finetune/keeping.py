"""The bookkeeping of a training: its figures, its checkpoints and its best adapter."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mitune import distributed
from mitune.errors import UserError, complain
from mitune.families import lora
from mitune.families.adapted import Adapted
from mitune.files import clean_partial
from mitune.finetune import checkpoint
from mitune.finetune.catalogue import TrainConfig
from mitune.track import Tracker

# What may differ between the two halves of a resumed run without changing its result; and what the stage asks for.
_FREE = {
    "micro_batch", "checkpoint_every", "keep_checkpoints", "log_every", "pictures_every", "compile",
    "gradient_checkpointing",
}  # fmt: skip
_OF_THE_STAGE = {"fresh", "validation_prompts"}


@dataclass(frozen=True)
class TrainResult:
    """These are the figures of a finished training."""

    steps: int
    seconds: float
    loss: float  # mean over the last tenth of the steps
    trainable_parameters: int
    forwards: int  # rows sent through the network
    best_step: int | None = None  # of the adapter that ``validate`` scored highest, where it was asked
    best_value: float | None = None


@dataclass(eq=False)
class Keeper:
    """A keeper writes a training down while it goes, and finds its place again. Every process has one."""

    denoiser: Adapted
    config: TrainConfig
    folder: Path  # ``checkpoints`` and ``adapter`` are written there, by the main process
    names: Mapping[str, nn.Parameter]  # what trains, under the names in an adapter file
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    digest: str  # of the training data
    seed: int
    tracker: Tracker | None
    validate: Callable[[int], float] | None  # steps done -> score of the adapter, higher = better
    pictures: Callable[[int], None] | None = None  # steps done; draws some with the adapter

    def __post_init__(self) -> None:
        self.main = distributed.state().is_main_process
        self.checkpoints = self.folder / "checkpoints"
        self.history = {  # [steps] on the device; the step fills them in
            name: torch.zeros(self.config.steps, device=self.denoiser.device)
            for name in ("loss", "grad_norm")
        }
        self.state: dict[str, Any] = {"step": 0, "best": None, "seconds": 0.0, "forwards": 0}
        self.signature = self._signature()

    def resume(self) -> int:
        """Restore the newest checkpoint that is whole, if there is one; those that were harmed are deleted.

        Gives the steps done. Raises UserError for a checkpoint of other settings.
        """
        if self.main:
            clean_partial(self.checkpoints)
        name = distributed.broadcast(self._newest)
        if name is not None:
            self._restore(self.checkpoints / name)
        done = self.state["step"]
        if self.tracker is not None and done < self.config.steps:
            self.tracker.truncate_after("train", done + 1)
        self._forwards = self.state["forwards"] - self.denoiser.forwards
        self._logged = done, time.perf_counter()
        self._began = self._logged[1] - self.state["seconds"]
        return done

    def after(self, done: int, leave: bool) -> None:
        """Write down what is due after ``done`` steps; ``leave``: the training ends here. UserError where it failed."""
        write = done % self.config.checkpoint_every == 0 or done == self.config.steps
        if write or done % self.config.log_every == 0:
            self._check_finite(done)
            self._log(done)
        if write and self.validate is not None:
            self._judge(done)
        self.paint(done)
        if write or leave:
            self._save(done)
            self._logged = done, time.perf_counter()

    def paint(self, done: int) -> None:
        """Draw pictures with the adapter where they are due: what they take is no training's cost."""
        if self.pictures is None or done % (self.config.pictures_every or 1):
            return
        if self.denoiser.device.type == "cuda":
            torch.cuda.synchronize(self.denoiser.device)  # the steps before are the training's
        forwards, began = self.denoiser.forwards, time.perf_counter()
        self.pictures(done)
        self.denoiser.forwards, took = forwards, time.perf_counter() - began
        self._began += took
        self._logged = self._logged[0], self._logged[1] + took

    def finish(self) -> TrainResult:
        """Leave the chosen adapter in the denoiser and in ``folder/adapter``."""
        best = self.state["best"]
        if best is not None:
            folder = checkpoint.best_path(self.checkpoints, best["step"])
            distributed.visible(folder)
            checkpoint.restore_adapter(folder, self.names)
        if self.main:
            self.denoiser.save_adapter(self.folder / "adapter")
        distributed.wait()
        steps = self.config.steps
        return TrainResult(
            steps=steps,
            seconds=self.state["seconds"],
            loss=float(self.history["loss"][-max(1, steps // 10) :].mean()),
            trainable_parameters=sum(parameter.numel() for parameter in self.names.values()),
            forwards=self.state["forwards"],
            best_step=best and best["step"],
            best_value=best and best["value"],
        )

    def _newest(self) -> str | None:
        path, harmed = checkpoint.latest_whole(self.checkpoints)
        if harmed is not None:
            where = "from the beginning" if path is None else f"on from {path.name}"
            complain(f"warning: {harmed} is not what was written there: training goes {where}")
        return None if path is None else path.name

    def _restore(self, path: Path) -> None:
        distributed.visible(path)
        self.state = checkpoint.read_state(path)
        before = self.state.get("signature", {})
        different = sorted(
            key for key in {*before, *self.signature} if before.get(key) != self.signature.get(key)
        )
        if different:
            raise UserError(
                f"{self.checkpoints} were made with other settings ({', '.join(different)}); use another run= "
                "or delete that folder"
            )
        checkpoint.restore(path, self.optimizer, self.names, self.history)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.state["scaler"])

    def _check_finite(self, done: int) -> None:
        """Raise UserError at the first step whose loss or gradient is not a number (all processes agree: sums are
        shared)."""
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

    def _log(self, done: int) -> None:
        (last, then), now = self._logged, time.perf_counter()
        self._logged = done, now
        if self.tracker is None or not self.main:
            return
        start = (done - 1) // self.config.log_every * self.config.log_every
        values = {name: float(figures[start:done].mean()) for name, figures in self.history.items()} | {
            "lr": self.optimizer.param_groups[0]["lr"],
            "samples_per_second": (done - last) / (now - then) * self.config.batch_size,
        }
        if self.denoiser.device.type == "cuda":
            values["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.denoiser.device) / 2**30
        self.tracker.log(values, done, "train")

    def _judge(self, done: int) -> None:
        """Score the adapter; keep its folder if it is the best so far."""
        assert self.validate is not None
        value = float(self.validate(done))
        if distributed.state().num_processes > 1:  # one opinion for all
            shared = torch.tensor(value, device=self.denoiser.device, dtype=torch.float32)
            with distributed.collective():
                torch.distributed.broadcast(shared, 0)
            value = float(shared)
        name, best = self.config.keep_best_by or "validation", self.state["best"]
        if not math.isfinite(value):
            raise UserError(
                f"the {name} score of the adapter after step {done} is not finite; look at the pictures of that step"
            )
        if self.tracker is not None and self.main:
            self.tracker.log({f"validation_{name}": value}, done, "train")
        if best is not None and value <= best["value"]:
            return
        if self.main:
            self.denoiser.save_adapter(checkpoint.best_path(self.checkpoints, done))
        self.state["best"] = {"step": done, "value": value}

    def _save(self, done: int) -> None:
        best = self.state["best"]
        self.state = {
            "seconds": time.perf_counter() - self._began,
            "forwards": self._forwards + self.denoiser.forwards,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "randomness": {"seed": self.seed, "position": done},
            "scaler": self.scaler.state_dict(),
            "best": best,
            "signature": self.signature,
        }
        if self.main:
            history = {name: values[:done].cpu() for name, values in self.history.items()}
            checkpoint.save(
                self.checkpoints, done, self.denoiser, self.optimizer, self.names, history, self.state
            )
            checkpoint.prune(self.checkpoints, self.config.keep_checkpoints)
            if best is not None:
                checkpoint.prune_best(self.checkpoints, best["step"])
        distributed.wait()

    def _signature(self) -> dict[str, Any]:
        """Name everything that the result depends on, as JSON: a checkpoint of another signature is refused."""
        free = _FREE | _OF_THE_STAGE
        if self.validate is not None:  # what is kept depends on when one looks
            free = free - {"checkpoint_every"}
        config = {f"train.{key}": value for key, value in asdict(self.config).items() if key not in free}
        adapter = hashlib.sha256()
        for name, parameter in self.names.items():
            adapter.update(f"{name} {tuple(parameter.shape)}".encode())
            adapter.update(parameter.detach().cpu().numpy().tobytes())
        for layer in lora.adapter_layers(self.denoiser.components.values()):
            scaling = dict(layer.scaling)
            dropout = {name: getattr(value, "p", 0.0) for name, value in layer.lora_dropout.items()}
            adapter.update(f"{scaling} {dropout}".encode())
        return config | {
            "train.betas": list(self.config.betas),
            "train.seed": self.seed,
            "model": self.denoiser.identity,
            "dataset": self.digest,
            "adapter": adapter.hexdigest()[:12],
        }
