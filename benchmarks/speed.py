"""Speed on a CPU (or whatever ``--device`` says): what the package adds to the network's own time.

    python -m benchmarks.speed                       the packaged model, about two minutes on two cores
    python -m benchmarks.speed --model FOLDER        any Stable Diffusion pipeline folder

Every comparison first checks that both sides compute the same, then times them in turns in this one process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import common, plain
from mitune.data.prompts import load_prompts
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.batches import Draw, Draws, load_training_set
from mitune.finetune.catalogue import OBJECTIVES, AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed

OBSERVERS_AT_MOST = 1.02
PIPELINE_AT_MOST = 1.0
TRAINING_AT_MOST = 1.05
_TWO_GREY_LEVELS = 2 / 255


def load(model: str, device: str = "cpu") -> StableDiffusionDenoiser:
    """The model in float32 on ``device``."""
    denoiser = load_denoiser({"path": model, "device": device, "dtype": "float32"})
    assert isinstance(denoiser, StableDiffusionDenoiser)
    return denoiser


def prompts_and_seeds(count: int) -> tuple[list[str], list[int]]:
    """``count`` candidates of held-out prompts of the embedded world (text costs the same whatever it says)."""
    known = [prompt.text for prompt in load_prompts("shapes", split="test", limit=count)]
    texts = [known[index % len(known)] for index in range(count)]
    return texts, [candidate_seed(0, text, index) for index, text in enumerate(texts)]


# -- (1) generation with observers against the same loop without ----------------------------------------------


def observers(
    denoiser: StableDiffusionDenoiser, batch: int, steps: int, guidance: float, repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ancestral sampling with ``mi`` and ``llr``, without, and without a second time: the last ratio is what a
    difference of nothing looks like on this machine. Text is encoded before, nothing is decoded.
    """
    texts, seeds = prompts_and_seeds(batch)
    condition = denoiser.encode_prompts(texts)
    sampler = SamplerConfig("ddpm", steps=steps, spacing="trailing", guidance=guidance)

    def unobserved() -> Tensor:
        return sample(denoiser, condition, seeds, sampler)

    def observed() -> tuple[Tensor, Tensor, Tensor]:
        mi, llr = PathMI(denoiser.schedule), PathLLR()
        latents = sample(denoiser, condition, seeds, sampler, (mi, llr))
        return latents, mi.result().cpu(), llr.result().cpu()

    latents, mi, llr = observed()
    if not (mi.isfinite().all() and llr.isfinite().all() and (mi >= 0).all()):
        raise RuntimeError("mi or llr is not finite, or mi is negative")
    apart = common.agree(
        "latents with and without observers", float((latents - unobserved()).abs().max()), 0.0
    )
    denoiser.forwards = 0
    unobserved()
    rows = denoiser.forwards
    seconds = common.interleave(
        {"observed": observed, "plain": unobserved, "plain again": unobserved},
        repeats,
        device=denoiser.device,
    )
    agreement = {"latents_max_difference": apart}
    comparisons = [
        common.comparison(
            "generation with mi and llr against without",
            seconds,
            "observed",
            "plain",
            OBSERVERS_AT_MOST,
            agreement,
        ),
        common.comparison(
            "control: the same loop against itself", seconds, "plain again", "plain", None, agreement
        ),
    ]
    median = comparisons[0]["seconds"]["observed"]["median"]
    figures = [
        common.figure("network forwards", rows / median, "rows/s", note="with mi and llr; two rows a step"),
        common.figure(
            "candidates with mi and llr",
            batch / median,
            "candidates/s",
            note=f"{steps} steps, both branches, not decoded",
        ),
    ]
    return comparisons, figures


# -- (2) our sampler and decoder against diffusers' pipeline ---------------------------------------------------


def pipeline(
    denoiser: StableDiffusionDenoiser, batch: int, steps: int, guidance: float, repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """``sample`` and ``decode`` against ``StableDiffusionPipeline.__call__``: the same modules, DDIM without noise, the
    same grid, batch, guidance and first noise (one generator a candidate), pictures as tensors; once from embeddings
    and once from texts.
    """
    from diffusers import DDIMScheduler

    own = denoiser.pipeline.scheduler.config
    scheduler = DDIMScheduler.from_config(own, clip_sample=False, thresholding=False)
    config = scheduler.config
    if config.num_train_timesteps % steps:
        raise UserError(
            f"--steps {steps}: must divide {config.num_train_timesteps}, or the two grids differ by rounding"
        )
    sampler = SamplerConfig(
        "ddim",
        steps=steps,
        eta=0.0,
        spacing=config.timestep_spacing,
        steps_offset=config.steps_offset,
        set_alpha_to_one=config.set_alpha_to_one,
        guidance=guidance,
    )
    comparisons = _pictures("", denoiser, sampler, scheduler, batch, repeats)
    median = comparisons[1]["seconds"]["ours, texts"]["median"]
    note = f"{steps} DDIM steps, from texts, decoded"
    return comparisons, [common.figure("pictures", batch / median, "pictures/s", note=note)]


def multistep(
    denoiser: StableDiffusionDenoiser, batch: int, steps: int, guidance: float, repeats: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same by DPM-Solver++ 2M, theirs by diffusers' own ``DPMSolverMultistepScheduler``; trailing grids."""
    from diffusers import DPMSolverMultistepScheduler

    own = denoiser.pipeline.scheduler.config
    scheduler = DPMSolverMultistepScheduler.from_config(own, timestep_spacing="trailing", thresholding=False)
    sampler = SamplerConfig("dpmpp_2m", steps=steps, spacing="trailing", guidance=guidance)
    comparisons = _pictures(" by DPM-Solver++ 2M", denoiser, sampler, scheduler, batch, repeats)
    median = comparisons[1]["seconds"]["ours, texts"]["median"]
    note = f"{steps} steps, from texts, decoded"
    return comparisons, [
        common.figure("pictures by DPM-Solver++ 2M", batch / median, "pictures/s", note=note)
    ]


def _pictures(
    name: str,
    denoiser: StableDiffusionDenoiser,
    sampler: SamplerConfig,
    scheduler: Any,
    batch: int,
    repeats: int,
) -> list[dict[str, Any]]:
    """The comparisons of ``sampler`` with a pipeline that has ``scheduler``, from embeddings and from texts, once their
    pictures agree."""
    texts, seeds = prompts_and_seeds(batch)
    own = denoiser.pipeline
    reference = plain.pipeline(own.vae, own.text_encoder, own.tokenizer, own.unet, scheduler)
    reference.set_progress_bar_config(disable=True)
    encoded = denoiser.encode_prompts(texts)
    nothing = denoiser.null(batch).tensors["text"]

    @torch.no_grad()
    def ours(condition: Condition) -> Tensor:
        return denoiser.decode(sample(denoiser, condition, seeds, sampler))

    def theirs(**prompt: Any) -> Tensor:
        return reference(
            **prompt,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images

    arms: dict[str, Callable[[], Tensor]] = {
        "ours, embeddings": lambda: ours(encoded),
        "pipeline, embeddings": lambda: theirs(
            prompt_embeds=encoded.tensors["text"], negative_prompt_embeds=nothing
        ),
        "ours, texts": lambda: ours(denoiser.encode_prompts(texts)),
        "pipeline, texts": lambda: theirs(prompt=texts),
    }
    apart = {}
    for kind in ("embeddings", "texts"):
        difference = (arms[f"ours, {kind}"]() - arms[f"pipeline, {kind}"]()).abs().max()
        apart[kind] = common.agree(f"pictures{name} from {kind}", float(difference), _TWO_GREY_LEVELS)
    seconds = common.interleave(arms, repeats, device=denoiser.device)
    return [
        common.comparison(
            f"pictures{name} against StableDiffusionPipeline, from {kind}",
            seconds,
            f"ours, {kind}",
            f"pipeline, {kind}",
            PIPELINE_AT_MOST,
            {"pictures_max_difference": apart[kind]},
        )
        for kind in ("embeddings", "texts")
    ]


# -- (3) our training step against a hand-written loop ---------------------------------------------------------


class HandLoop:
    """The shortest loop that trains the same adapter: index, noise, forward, loss, backward, clip, step."""

    def __init__(
        self, denoiser: StableDiffusionDenoiser, latents: Tensor, texts: Sequence[str], config: TrainConfig
    ) -> None:
        from diffusers import DDPMScheduler

        self.unet, self.config, self.latents = denoiser.network, config, latents.to(denoiser.device)
        self.scheduler = DDPMScheduler.from_config(denoiser.pipeline.scheduler.config)
        self.velocity = denoiser.prediction_type == "v_prediction"
        unique = list(dict.fromkeys(texts))
        self.embeddings = denoiser.encode_prompts(unique).tensors["text"]
        self.text_of = torch.tensor([unique.index(text) for text in texts], device=denoiser.device)
        self.parameters: list[nn.Parameter] = list(trainable_parameters(denoiser).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def draw(self) -> Draw:
        """A batch of its own: rows, times and noise."""
        device, n = self.latents.device, self.config.batch_size
        rows = torch.randint(len(self.latents), (n,), device=device)
        t = torch.randint(self.config.t_min, self.config.t_max, (n,), device=device)
        noise = torch.randn(n, *self.latents.shape[1:], device=device)
        return Draw(rows, rows, rows, self.text_of[rows], t, noise)

    def step(self, draw: Draw | None = None) -> Tensor:
        """One optimizer step on ``draw`` (None: one of its own); gives its loss."""
        return plain.train_step(
            self.optimizer, self.losses(self.draw() if draw is None else draw), self.config.max_grad_norm
        )

    def losses(self, draw: Draw) -> Iterator[Tensor]:
        """The batch's loss in parts, one a forward."""
        n = self.config.batch_size
        for at in range(0, n, self.config.micro_batch or n):
            part = draw[slice(at, at + (self.config.micro_batch or n))]
            z0, noise, t = self.latents[part.winner], part.noise, part.t
            target = self.scheduler.get_velocity(z0, noise, t) if self.velocity else noise
            noisy = self.scheduler.add_noise(z0, noise, t)
            text = self.embeddings[part.text]
            output = self.unet(noisy, t, encoder_hidden_states=text, return_dict=False)[0]
            yield F.mse_loss(output, target) * (len(t) / n)


class _Losses:
    """A tracker that remembers the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def log(self, values: dict[str, float], step: int, stage: str = "") -> None:
        self.values.append(values["loss"])

    def truncate_after(self, stage: str, step: int) -> None:
        self.values = self.values[: step - 1]

    def close(self) -> None: ...


def random_training_set(latents: Tensor, texts: Sequence[str]) -> Any:
    """A ``datasets`` set with cached latents [n, C, H, W], as the select stage writes one (without pictures)."""
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "latent": datasets.Array3D(shape=tuple(latents.shape[1:]), dtype="float32"),
        }
    )
    return datasets.Dataset.from_dict(
        {"text": list(texts), "latent": list(latents.numpy())}, features=features
    )


def training(
    model: str, device: str, adapter: AdapterConfig, config: TrainConfig, repeats: int, warmup: int = 2
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """``mitune.finetune.trainer.train`` as users call it (cached latents and texts, without a tracker) against
    ``HandLoop`` on a second copy of the model: one step each in turn, checkpoints left out.

    Before that, both take three steps on the same batches and must arrive at the same loss and the same adapter.
    """
    reference, ours = load(model, device), load(model, device)
    texts, _ = prompts_and_seeds(max(64, config.batch_size))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(len(texts), *ours.latent_shape, generator=generator)
    dataset = random_training_set(latents, texts)

    def start(denoiser: StableDiffusionDenoiser) -> dict[str, Tensor]:
        attach(denoiser, adapter, seed=0)
        return {name: value.detach().clone() for name, value in trainable_parameters(denoiser).items()}

    with tempfile.TemporaryDirectory() as folder:
        before = start(ours)
        start(reference)
        losses = _Losses()
        checked = replace(config, steps=3, checkpoint_every=3, log_every=1)
        train(ours, dataset, checked, f"{folder}/check", tracker=losses)
        data = load_training_set(dataset, ours, OBJECTIVES.find(config.objective))
        draws = Draws(
            data,
            0,
            config.batch_size,
            ours.latent_shape,
            (config.t_min, config.t_max),
            True,
            0.0,
        )
        hand = HandLoop(reference, latents, texts, checked)
        expected = [float(hand.step(_on(draws(step), reference.device))) for step in range(3)]
        apart = max(abs(a / b - 1) for a, b in zip(losses.values, expected, strict=True))
        agreement = {
            "loss_relative_difference": common.agree("training losses", apart, 1e-4),
            "adapter_relative_difference": common.agree(
                "adapters after three steps",
                _distance(before, trainable_parameters(ours), trainable_parameters(reference)),
                0.05,
            ),
        }

        start(ours)
        start(reference)
        hand = HandLoop(reference, latents, texts, config)
        seconds: dict[str, list[float]] = {"ours": [], "hand loop": []}
        last = time.perf_counter()

        def on_step(_: int) -> None:
            # Ours has just taken a step; the other one takes its own before ours goes on.
            nonlocal last
            common.synchronize(device)
            seconds["ours"].append(time.perf_counter() - last)
            seconds["hand loop"].append(common.timed(hand.step, device))
            common.synchronize(device)
            last = time.perf_counter()

        steps = warmup + repeats
        train(
            ours,
            dataset,
            replace(config, steps=steps, checkpoint_every=steps),
            f"{folder}/run",
            on_step=on_step,
        )
    seconds = {name: values[warmup:] for name, values in seconds.items()}
    result = common.comparison(
        "training step against a hand-written loop",
        seconds,
        "ours",
        "hand loop",
        TRAINING_AT_MOST,
        agreement,
    )
    rate = config.batch_size / result["seconds"]["ours"]["median"]
    return [result], [
        common.figure("training", rate, "pictures/s", note=f"{adapter.kind} of rank {adapter.rank}")
    ]


def _on(draw: Draw, device: torch.device) -> Draw:
    return Draw(
        *(getattr(draw, name).to(device) for name in ("item", "winner", "loser", "text", "t", "noise"))
    )


def _distance(before: dict[str, Tensor], ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """How far two adapters ended apart, as a share of the way one of them went."""
    apart = sum(float((ours[name] - theirs[name]).detach().square().sum()) for name in before)
    way = sum(float((ours[name].detach() - before[name]).square().sum()) for name in before)
    return (apart / way) ** 0.5 if way else float("nan")


# -- the command -----------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = common.parser(
        "speed",
        (__doc__ or "").split("\n")[0],
        "speed",
        device="cpu",
        repeats=(11, "rounds of each comparison"),
        batch=(96, "candidates a batch"),
        steps=20,
        few_steps=(10, "of DPM-Solver++ 2M"),
        train_batch=48,
        micro_batch=(None, "rows of a training forward (default: all)"),
        rank=16,
        threads=(None, "of torch (default: its own choice)"),
    )
    parser.add_argument(
        "--model", default="shapes", help="a Stable Diffusion folder (default: the packaged one)"
    )
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--kind", default="dora", choices=["dora", "lora"])
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything, write the record, print its table. Exit code 2 for what the user can mend."""
    options = arguments(argv)

    def found() -> dict[str, Any]:
        if options.threads:
            torch.set_num_threads(options.threads)
        common.warn_if_busy()
        denoiser = load(options.model, options.device)
        walk = (options.batch, options.steps, options.guidance, options.repeats)
        config = TrainConfig(
            batch_size=options.train_batch, micro_batch=options.micro_batch, lr=3e-4, steps=3
        )
        adapter = AdapterConfig(kind=options.kind, rank=options.rank, alpha=options.rank)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = [
                observers(denoiser, *walk),
                pipeline(denoiser, *walk),
                multistep(denoiser, options.batch, options.few_steps, options.guidance, options.repeats),
                # Steps are short and their ratio is the noisiest: three times the rounds.
                training(options.model, options.device, adapter, config, 3 * options.repeats),
            ]
        return {
            "settings": common.settings_of(options) | {"identity": denoiser.identity},
            "comparisons": [entry for comparisons, _ in parts for entry in comparisons],
            "figures": [entry for _, figures in parts for entry in figures],
        }

    return common.run(options, found)


if __name__ == "__main__":
    sys.exit(main())
