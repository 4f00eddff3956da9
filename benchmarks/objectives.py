"""What a training step costs under each objective: ``python -m benchmarks.objectives``.

The package's trainer on the embedded model (or any Stable Diffusion folder), random latents, the same number of
pictures a step for every objective: a pair counts as two. One step of each in turn. Memory: on a GPU the peak of a
step; on a CPU the tensors that autograd holds for the backward pass, each storage once, the network's weights left out.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.speed import load, prompts_and_seeds, random_training_set
from mitune.finetune import trainer
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import OBJECTIVES, AdapterConfig, TrainConfig

DPO_TIME, DPO_MEMORY = 2.2, 1.3  # times mse's


def step_of(
    name: str, options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack
) -> Callable[[], Any]:
    """A function that takes one training step after another under the objective ``name``."""
    denoiser = load(options.model, options.device)
    texts, _ = prompts_and_seeds(options.pictures)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2 * len(texts), *denoiser.latent_shape, generator=generator)
    dataset = random_training_set(latents, [*texts, *texts])
    dataset = dataset.add_column("preferred", [row < len(texts) for row in range(2 * len(texts))])
    dataset = dataset.add_column("score", torch.randn(2 * len(texts), generator=generator).tolist())
    attach(denoiser, AdapterConfig(rank=32, alpha=32), seed=0)
    config = TrainConfig(objective=name, steps=10**4, micro_batch=options.micro_batch, lr=1e-5)
    config = replace(config, batch_size=options.pictures // OBJECTIVES[name].rows)
    run = trainer._Run(denoiser, dataset, config, folder, None, None, None)
    stack.enter_context(run._training())
    steps = itertools.count()
    return lambda: run._step(next(steps))


def memory(step: Callable[[], Any], device: str) -> int:
    """Bytes a step needs beside the network's weights."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = max(storage.nbytes(), held.get(storage.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(held.values())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The record's settings, comparisons and figures."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        steps = {name_: step_of(name_, options, Path(name) / name_, stack) for name_ in OBJECTIVES}
        seconds = common.interleave(steps, options.repeats, warmup=2, device=options.device)
        needed = {name_: memory(step, options.device) for name_, step in steps.items()}
    comparisons = [
        common.comparison(name_, seconds, name_, "mse", DPO_TIME if name_ == "dpo" else None)
        for name_ in OBJECTIVES
        if name_ != "mse"
    ]
    figures = [
        common.figure(f"{name_}: memory of a step over mse's", needed[name_] / needed["mse"], "x")
        for name_ in OBJECTIVES
        if name_ != "mse"
    ]
    for entry in figures:
        if entry["name"].startswith("dpo"):
            entry["reached"] = entry["value"] <= DPO_MEMORY
    return {
        "settings": common.settings_of(options),
        "comparisons": comparisons,
        "figures": figures,
        "more": {"bytes": needed},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = common.parser(
        "objectives",
        __doc__,
        "objectives",
        device="cpu",
        pictures=(48, "a step"),
        micro_batch=(None, "rows of a forward (default: all)"),
        repeats=15,
    )
    parser.add_argument("--model", default="shapes")
    options = parser.parse_args(argv)
    common.warn_if_busy()
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
