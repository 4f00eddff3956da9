"""Speed on one CUDA GPU: a network of Stable Diffusion 2.1-base's shape with random weights, 512x512 pictures.

    python -m benchmarks.gpu                          about ten minutes, most of it compilation
    python -m benchmarks.gpu --tiny --device cpu      the same code, a tiny network: shows that it runs

Nothing is downloaded: weights, latents and text embeddings are random, which costs the same time as trained ones.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common, plain
from benchmarks.speed import random_training_set
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.batches import seed_of
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.information.mi import PathMI
from mitune.sampling.loop import sample
from mitune.sampling.steps import Sampler

UTILISATION_AT_LEAST = 0.45
SPEEDUP_AT_LEAST = 8.0
_TOKENS = 77
T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """Size of the network: levels, latent side, text width, attention heads of each level (diffusers calls them
    ``attention_head_dim``), layers a block.
    """

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    side: int = 64
    text_width: int = 1024
    heads: tuple[int, ...] = (5, 10, 20, 20)
    layers: int = 2
    groups: int = 32


SD21 = Shape()
TINY = Shape(channels=(8, 16, 16, 16), side=8, text_width=16, heads=(1, 2, 2, 2), layers=1, groups=4)


class RandomTextDenoiser(StableDiffusionDenoiser):
    """The package's own Stable Diffusion family, with random text embeddings in the place of an encoder's."""

    text_width: int

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Standard normal embeddings [n, 77, width], a function of the prompt; none is too long."""
        return self._condition(self._encode(prompts))

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        rows = [
            torch.randn(
                _TOKENS, self.text_width, generator=torch.Generator().manual_seed(seed_of("text", prompt))
            )
            for prompt in prompts
        ]
        return {"text": torch.stack(rows)}


def build(shape: Shape, device: torch.device, seed: int = 0) -> RandomTextDenoiser:
    """A float32 denoiser on ``device``. Tokenizer, text encoder and autoencoder are there in name only."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from benchmarks.world.architecture import build_tokenizer

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with device:
            unet = UNet2DConditionModel(
                sample_size=shape.side,
                in_channels=4,
                out_channels=4,
                block_out_channels=shape.channels,
                layers_per_block=shape.layers,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
                cross_attention_dim=shape.text_width,
                attention_head_dim=shape.heads,
                use_linear_projection=True,
                norm_num_groups=shape.groups,
            )
    vae = AutoencoderKL(
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(2, 2, 2, 2),
        norm_num_groups=1,
        sample_size=8 * shape.side,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=8,
            hidden_size=2,
            intermediate_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=_TOKENS,
        )
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    denoiser = RandomTextDenoiser(
        plain.pipeline(vae, text_encoder, build_tokenizer(["a"]), unet, scheduler), "random"
    )
    denoiser.text_width = shape.text_width
    return denoiser


# -- arithmetic ------------------------------------------------------------------------------------------------


def matmul_rate(device: torch.device, sizes: Sequence[int], repeats: int) -> float:
    """The best bf16 rate of square matrix products, in FLOP/s: what the chip really does, not its data sheet."""
    best = 0.0
    for size in sizes:
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        b = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        out = torch.empty_like(a)
        products = 10

        def run(a: Tensor = a, b: Tensor = b, out: Tensor = out, products: int = products) -> None:
            for _ in range(products):
                torch.mm(a, b, out=out)

        run()
        for _ in range(repeats):
            best = max(best, products * 2 * size**3 / common.timed(run, device))
    return best


def count_flops(run: Callable[[], Any]) -> int:
    """FLOPs of ``run``; attention is written out, so that it is counted alike whatever kernel would do it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def flops_a_row(run: Callable[[int], Any]) -> int:
    """FLOPs that one more row costs: what a forward spends whatever its rows (DoRA's B·A) is not the model's work."""
    return count_flops(lambda: run(2)) - count_flops(lambda: run(1))


def forward(denoiser: RandomTextDenoiser, rows: int) -> Tensor:
    """The network once on ``rows`` random rows."""
    z = torch.randn(rows, *denoiser.latent_shape, device=denoiser.device)
    return denoiser.predict(z, 500, denoiser.null(rows))


# -- the plain way ---------------------------------------------------------------------------------------------


def plain_training(denoiser: RandomTextDenoiser, config: TrainConfig, rows: int) -> None:
    """``rows`` pictures of a training step, one a forward, accumulated; then the optimizer's step."""
    parameters: list[nn.Parameter] = list(trainable_parameters(denoiser).values())
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    plain.train_step(
        optimizer, (training_loss(denoiser, 1) / rows for _ in range(rows)), config.max_grad_norm
    )


def training_loss(denoiser: RandomTextDenoiser, rows: int) -> Tensor:
    """The denoising loss of random rows."""
    noise = torch.randn(rows, *denoiser.latent_shape, device=denoiser.device)
    return F.mse_loss(forward(denoiser, rows), noise)


# -- the measurements ------------------------------------------------------------------------------------------


class Memory:
    """Peak memory of a block of work, in GiB; None where the device does not say."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None


def largest_that_fits(sizes: Sequence[int], run: Callable[[int], T]) -> tuple[int, T]:
    """(size, ``run(size)``) of the first of ``sizes`` that does not run out of memory. Raises UserError if none."""
    for size in sizes:
        try:
            return size, run(size)
        except torch.OutOfMemoryError:
            pass
        gc.collect()  # outside the handler: there the traceback still holds the tensors
        torch.cuda.empty_cache()
    raise UserError(f"not even {sizes[-1]} rows fit into the memory of this device; try a larger one")


def halvings(size: int) -> list[int]:
    """size, then about half of it each time, down to 1."""
    found = [size]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def compiled(network: nn.Module, backend: str) -> None:
    """Compile ``network`` in place, forgetting what was compiled before."""
    torch._dynamo.reset()
    network._compiled_call_impl = None
    if backend != "none":
        network.compile(backend=backend)


def check(denoiser: RandomTextDenoiser, options: argparse.Namespace) -> dict[str, float]:
    """Our loop and the plain one, both in float32, on the same candidates. Raises RuntimeError where they differ."""
    seeds = [11, 12]
    sampler = sampler_of(options, steps=options.check_steps)
    mi = PathMI(denoiser.schedule)
    ours = sample(denoiser, denoiser.encode_prompts(["a", "a"]), seeds, sampler, (mi,))
    latents, information = plain.generate(denoiser, "a", seeds, options.check_steps, options.guidance)
    # TF32 convolutions round differently for different batch sizes; on a CPU the two agree far better.
    limit = 1e-3 if denoiser.device.type == "cpu" else 3e-2
    difference = float((ours - latents).norm() / latents.norm())
    score = float((mi.result() / information - 1).abs().max())
    return {
        "latents_relative_difference": common.agree("latents of ours and the plain loop", difference, limit),
        "mi_relative_difference": common.agree("mi of ours and the plain loop", score, limit),
    }


def sampler_of(options: argparse.Namespace, steps: int | None = None) -> Sampler:
    """The paper's sampler."""
    return Sampler(
        "ddpm", steps=steps or options.steps, spacing="leading", steps_offset=1, guidance=options.guidance
    )


def generate(
    denoiser: RandomTextDenoiser, options: argparse.Namespace
) -> tuple[int, list[float], float | None]:
    """(candidates a batch, seconds of each batch, peak memory) of the compiled bf16 sampler with ``mi``."""
    device = denoiser.device

    def run(batch: int) -> tuple[list[float], float | None]:
        compiled(denoiser.network, options.backend)
        # Every candidate has a prompt of its own.
        condition = denoiser.encode_prompts([f"prompt {index}" for index in range(batch)])

        def once(steps: int) -> Tensor:
            mi = PathMI(denoiser.schedule)
            sample(denoiser, condition, range(batch), sampler_of(options, steps), (mi,))
            return mi.result().cpu()

        once(2)
        memory = Memory(device)
        seconds = [common.timed(lambda: once(options.steps), device) for _ in range(options.repeats)]
        return seconds, memory.peak()

    batch, (seconds, peak) = largest_that_fits(halvings(options.batch), run)
    return batch, seconds, peak


def training(
    denoiser: RandomTextDenoiser, options: argparse.Namespace, adapter: AdapterConfig, config: TrainConfig
) -> tuple[int, list[float], float | None]:
    """(rows a forward, seconds of each optimizer step, peak memory) of ``mitune.finetune.trainer.train``, compiled,
    on bf16 weights.
    """
    device = denoiser.device
    latents = torch.randn(config.batch_size, *denoiser.latent_shape)
    dataset = random_training_set(latents, [f"prompt {index}" for index in range(config.batch_size)])
    steps = 1 + options.repeats

    def run(micro_batch: int) -> tuple[list[float], float | None]:
        attach(denoiser, adapter, seed=0)
        compiled(denoiser.network, options.backend)
        memory = Memory(device)
        ends: list[float] = []

        def on_step(_: int) -> None:
            common.synchronize(device)
            ends.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            settings = replace(config, micro_batch=micro_batch, steps=steps, checkpoint_every=steps)
            train(denoiser, dataset, settings, folder, on_step=on_step)
        # The first step compiles.
        return [after - before for before, after in itertools.pairwise(ends)], memory.peak()

    micro_batch, (seconds, peak) = largest_that_fits(halvings(options.micro_batch), run)
    return micro_batch, seconds, peak


def measure(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """All figures, the plain float32 loops first, then bf16 in the place of the same weights."""
    rate = matmul_rate(device, options.matmul, options.repeats)
    figures = [
        common.figure("bf16 matrix products", rate / 1e12, "TFLOP/s", note=f"best of {options.matmul}")
    ]
    denoiser = build(TINY if options.tiny else SD21, device)
    with torch.no_grad():
        row = flops_a_row(lambda rows: forward(denoiser, rows))
    figures.append(common.figure("one row through the network", row / 1e9, "GFLOP"))
    figures += [
        common.figure(
            f"check: {name.replace('_', ' ')}", value, "", note="ours against the plain loop, both float32"
        )
        for name, value in check(denoiser, options).items()
    ]
    plain_candidates = {count: plain_rate(denoiser, count, options) for count in options.plain_candidates}

    adapter = AdapterConfig(kind="dora", rank=options.rank, alpha=options.rank)
    config = TrainConfig(batch_size=options.train_batch, mixed_precision="bf16")
    attach(denoiser, adapter, seed=0)
    training_row = flops_a_row(lambda rows: training_loss(denoiser, rows).backward())
    plain_training(denoiser, config, 1)
    plain_rows = options.plain_rows
    plain_pictures = plain_rows / common.timed(lambda: plain_training(denoiser, config, plain_rows), device)
    denoiser.unload_adapter()

    denoiser.network.to(torch.bfloat16)
    denoiser.network.to(memory_format=torch.channels_last)
    figures += of_generation(denoiser, options, row, rate, plain_candidates)
    return figures + of_training(denoiser, options, adapter, config, training_row, rate, plain_pictures)


def plain_rate(denoiser: RandomTextDenoiser, count: int, options: argparse.Namespace) -> float:
    """Candidates a second of the plain loop, ``count`` of one prompt a batch."""

    def once() -> Tensor:
        return plain.generate(denoiser, "prompt", range(count), options.steps, options.guidance)[1].cpu()

    once()
    seconds = [common.timed(once, denoiser.device) for _ in range(options.repeats)]
    return count / common.spread(seconds)["median"]


def of_generation(
    denoiser: RandomTextDenoiser,
    options: argparse.Namespace,
    row: int,
    rate: float,
    plain_candidates: Mapping[int, float],
) -> list[dict[str, Any]]:
    """The figures of drawing candidates with their mutual information.

    Args:
        denoiser, options: what draws, and how.
        row: FLOPs of one row through the network; ``rate``: of the bf16 matrix products, a second.
        plain_candidates: candidates a batch -> candidates a second of the plain loop.
    """
    batch, seconds, peak = generate(denoiser, options)
    median = common.spread(seconds)["median"]
    candidates, done = batch / median, 2 * batch * options.steps * row / median
    note = f"{options.steps} steps, {batch} a batch, not decoded"
    figures = [
        common.figure("generate + mi", candidates, "candidates/s", note=note),
        common.figure("generate + mi: arithmetic", done / 1e12, "TFLOP/s"),
        common.figure("generate + mi: share of the bf16 matrix rate", done / rate, "", UTILISATION_AT_LEAST),
        common.figure("generate + mi: peak memory", peak, "GiB"),
    ]
    for count, theirs in plain_candidates.items():
        name = f"plain float32 eager loop, one prompt and {count} of its candidates a batch"
        target = SPEEDUP_AT_LEAST if count == options.plain_candidates[0] else None
        figures += [
            common.figure(name, theirs, "candidates/s"),
            common.figure(f"generate + mi: times the {name}", candidates / theirs, "x", target),
        ]
    return figures


def of_training(
    denoiser: RandomTextDenoiser,
    options: argparse.Namespace,
    adapter: AdapterConfig,
    config: TrainConfig,
    row: int,
    rate: float,
    plain_pictures: float,
) -> list[dict[str, Any]]:
    """The figures of a training step.

    Args:
        denoiser, options, adapter, config: what trains, and how.
        row: FLOPs of one row forwards and back; ``rate``: of the bf16 matrix products, a second.
        plain_pictures: pictures a second of the plain loop.
    """
    micro_batch, seconds, peak = training(denoiser, options, adapter, config)
    median = common.spread(seconds)["median"]
    pictures, done = config.batch_size / median, config.batch_size * row / median
    note = f"{adapter.kind} of rank {adapter.rank}, {micro_batch} rows a forward"
    return [
        common.figure(f"training step at batch {config.batch_size}", median, "s", note=note),
        common.figure("training: arithmetic", done / 1e12, "TFLOP/s"),
        common.figure("training: share of the bf16 matrix rate", done / rate, "", UTILISATION_AT_LEAST),
        common.figure("training: peak memory", peak, "GiB"),
        common.figure(
            "training: plain float32 eager loop, one picture a forward", plain_pictures, "pictures/s"
        ),
        common.figure("training: times the plain loop", pictures / plain_pictures, "x", SPEEDUP_AT_LEAST),
    ]


# -- the command -----------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what is not given is filled in for the chosen size."""
    parser = common.parser(
        "gpu",
        (__doc__ or "").split("\n")[0],
        device="cuda",
        repeats=(None, "measured runs of each kind (3; tiny 1)"),
        batch=(None, "candidates a batch, halved until they fit (64; tiny 2)"),
        steps=(None, "sampling steps (50; tiny 4)"),
        check_steps=(None, "steps of the check against the plain loop (10; tiny 4)"),
        train_batch=(None, "pictures a training step (400; tiny 4)"),
        micro_batch=(None, "rows a forward, halved until they fit (50; tiny 2)"),
        rank=(None, "of the DoRA adapter (32; tiny 2)"),
        plain_rows=(None, "pictures of the plain training loop (16; tiny 2)"),
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny network: runs everything, measures nothing"
    )
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument(
        "--plain-candidates",
        type=int,
        nargs="+",
        help="of the plain loop's batches; the target is the first (1 10)",
    )
    parser.add_argument(
        "--matmul", type=int, nargs="+", help="sizes of the products (4096 8192 16384; tiny 64)"
    )
    parser.add_argument("--backend", help="of torch.compile (inductor; tiny eager), or none")
    common.add_output(parser, hint=" (gpu; tiny gpu-tiny)")
    options = parser.parse_args(argv)
    defaults: dict[str, tuple[Any, Any]] = {
        "repeats": (3, 1),
        "batch": (64, 2),
        "steps": (50, 4),
        "check_steps": (10, 4),
        "train_batch": (400, 4),
        "micro_batch": (50, 2),
        "rank": (32, 2),
        "plain_candidates": ([1, 10], [1, 2]),
        "plain_rows": (16, 2),
        "matmul": ([4096, 8192, 16384], [64]),
        "backend": ("inductor", "eager"),
        "name": ("gpu", "gpu-tiny"),
    }
    for key, (full, tiny) in defaults.items():
        if getattr(options, key) is None:
            setattr(options, key, tiny if options.tiny else full)
    return options


def find_device(options: argparse.Namespace) -> torch.device:
    """The device asked for. Raises UserError for anything but a CUDA GPU, unless the network is tiny."""
    hint = "its code can be tried anywhere with --tiny --device cpu"
    kind = options.device.partition(":")[0]
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"this benchmark needs a CUDA GPU and PyTorch finds none here; {hint}")
    elif kind != "cpu" or not options.tiny:
        raise UserError(f"this benchmark needs a CUDA GPU, not --device {options.device}; {hint}")
    return torch.device(options.device)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything, write the record, print its table. Exit code 2 for what the user can mend."""
    options = arguments(argv)

    def found() -> dict[str, Any]:
        device = find_device(options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures = measure(options, device)
        return {"settings": common.settings_of(options), "comparisons": [], "figures": figures}

    return common.run(options, found)


if __name__ == "__main__":
    sys.exit(main())
