"""What a plan will take of memory and disk, on a model whose footprint is known: reckoned, not measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from mitune.families.footprint import ALIVE, KEPT, Footprint
from mitune.finetune.catalogue import OBJECTIVES
from mitune.pixels.settings import BALANCES
from mitune.stages.planning import Plan

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_DECODED = 16 * 512 * 512  # pixels that are decoded at once (families.autoencoder)
_STORED = 4  # bytes of a value on the disk
_PNG = 1.5  # bytes of a pixel of a picture on the disk, about
_STATE = 16  # bytes of a parameter that trains: itself, its gradient, two moments, in float32
_SHRUNK = {"8bit": 1.0, "int8": 1.0, "4bit": 0.5}


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for.

    >>> Memory(2.0, {"drawing": 1.0, "training": 3.0}).most
    5.0

    Attributes:
        weights: of the model, as long as it is there.
        beside: what each kind of work takes beside them.
    """

    weights: float
    beside: Mapping[str, float]

    @property
    def most(self) -> float:
        """The most that is taken at once."""
        return self.weights + max(self.beside.values(), default=0.0)


def memory(config: DictConfig, found: Footprint, branches: int, adapter: int, width: int) -> Memory:
    """Reckon the memory of a run.

    Args:
        config: of the run.
        found: of the model.
        branches: rows of a guided step.
        adapter: parameters that train.
        width: bytes of a value.
    """
    own, model = config.train, config.model
    row = ALIVE * found.widest * width
    pixels = math.prod(found.picture)
    at_once = max(1, min(64, _DECODED // pixels))
    decoded = (
        1 if model.vae_slicing else min(at_once, max(config.generate.batch_size, config.evaluate.batch_size))
    )
    kept = KEPT * (found.units if own.gradient_checkpointing else found.outputs)
    half = own.mixed_precision != "no"
    batch = min(own.micro_batch or own.batch_size, own.batch_size)
    batch = max(batch, OBJECTIVES[own.objective].rows)
    balance = config.sampler.balance
    # A walk that is moved along a gradient keeps what a training step keeps, of the prompt's row alone.
    moved = KEPT * found.outputs * width if balance and BALANCES[balance].gradient else 0.0
    beside = {
        # A score is measured in batches of two rows for each candidate of a batch.
        "drawing": max(row * branches, moved) * config.generate.batch_size,
        "scoring": row * config.generate.batch_size * 2,
        "evaluating": max(row * branches, moved) * config.evaluate.batch_size,
        "decoding": ALIVE * found.decoded * width * decoded,
        "training": batch * kept * (min(width, 2) if half else width) + _STATE * adapter,
    }
    return Memory(_weights(config, found, width), beside)


def _weights(config: DictConfig, found: Footprint, width: int) -> float:
    """Bytes of the weights that are on the device at once."""
    share = _SHRUNK.get(config.model.quantization)
    sizes = {
        part: count * (share if share is not None and part == found.network else width)
        for part, count in found.parameters.items()
    }
    return max(sizes.values()) if config.model.offload == "model" else sum(sizes.values())


@dataclass(frozen=True)
class Disk:
    """Bytes and files that a run leaves, about; ``beside``: bytes that it takes for a while and gives back."""

    size: float
    files: int
    beside: float = 0.0


def disk(config: DictConfig, plan: Plan, found: Footprint, adapter: int) -> Disk:
    """Reckon what a run leaves on the disk: latents of candidates and of the comparison, training sets with their
    pictures, adapters and checkpoints. While a set is written its rows lie there twice: in pieces, too."""
    latent, picture = math.prod(found.latent) * _STORED, math.prod(found.picture) * _PNG
    size, beside, files = 0.0, 0.0, 4
    for work in plan.works:
        size += work.latents * latent
        files += 3 * work.units + 2 * bool(work.units)
        if work.stage == "select":
            size += work.decoded * picture
            beside = max(beside, work.decoded * (picture + latent))
            files += 45
        if work.stage == "train":
            # An adapter, and with every checkpoint another and the optimizer's two moments.
            checkpoints = min(config.train.keep_checkpoints, -(-work.steps // config.train.checkpoint_every))
            size += adapter * _STORED * (1 + 3 * checkpoints)
            files += 3 + 5 * checkpoints
        if work.stage == "evaluate":
            size += 3 * config.evaluate.examples * picture
            files += 2 * config.evaluate.examples + 6
    return Disk(size, files, beside)
