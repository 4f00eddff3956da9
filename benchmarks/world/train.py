"""Train the shapes world's pipelines from nothing: ``python -m benchmarks.world.train``.

Four steps: an autoencoder on the pictures; the text encoder on the captions alone, to say what each word is about; the
network (with the text encoder, or on it frozen) on latents and captions; the decoder alone, for sharper textures. The
network is a UNet that predicts noise, or with ``--network transformer`` Stable Diffusion 3's, which predicts velocity;
``--vae`` and ``--text`` let the second start from the parts of the first.

A run may go on from another (``--init``) and dwell on a stretch of noise or on some captions: a UNet learns layout
fastest at ``--t-min 750 --layout-weight 1 --favour direction=8``, on a text encoder that ``--freeze-text`` keeps. A
share of the captions is wrong (``--wrong-share``), as captions from the web are: the model's mistakes are what MI-Tune
repairs. ``training_log.json`` beside the published weights says with what options, on what machine and how long.

Many processes share a batch (``accelerate launch --config_file launch/cpu_2.yaml -m benchmarks.world.train``); on a
CPU one thread a process is faster than as many threads in one.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.world import architecture
from benchmarks.world.architecture import Network, TextEncoder
from benchmarks.world.facts import FACTS, caption_weights, class_numbers, fact_codes, fact_error, readings
from mitune.distributed import state, wait
from mitune.files import write_json
from mitune.finetune.gradients import Gradients
from mitune.noise import NoiseSchedule
from mitune.worlds.shapes.corpus import Corpus, build_corpus
from mitune.worlds.shapes.grammar import CATEGORIES, all_prompts
from mitune.worlds.shapes.vocabulary import SHAPES

Log = list[dict[str, Any]]
Attempt = tuple[Tensor, Tensor, Tensor]
"""Pictures, the same restored by an autoencoder (both [n, 3, H, W] in [-1, 1]), and the loss."""


@dataclass(frozen=True)
class Kind:
    """A network that can be trained here; ``predicts``: a prediction type of ``NoiseSchedule``."""

    type: Any
    build: Callable[[], Network]
    scheduler: Callable[[], Any]
    predicts: str


NETWORKS = {
    "unet": Kind(UNet2DConditionModel, architecture.build_unet, architecture.build_scheduler, "epsilon"),
    "transformer": Kind(
        SD3Transformer2DModel, architecture.build_transformer, architecture.build_flow_scheduler, "flow"
    ),
}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. The published model's own options, leg by leg, are in its ``training_log.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.world.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--captions", type=int, default=4, help="captions per picture")
    parser.add_argument("--wrong-share", type=float, default=0.3, help="share of captions that are wrong")
    parser.add_argument("--vae-steps", type=int, default=5_000)
    parser.add_argument(
        "--vae-batch", type=int, default=4, help="whole pictures; crops are four times as many"
    )
    parser.add_argument("--vae-init", type=Path, help="folder of an autoencoder to go on from")
    parser.add_argument("--vae", type=Path, help="folder of a finished autoencoder, to train the UNet alone")
    parser.add_argument("--network", choices=list(NETWORKS), default="unet", help="what to train")
    parser.add_argument(
        "--init", type=Path, help="pipeline folder whose network and text encoder to go on from"
    )
    parser.add_argument(
        "--text", type=Path, help="folder of a text encoder of the UNet's kind, to start from"
    )
    parser.add_argument("--decoder-steps", type=int, default=3_000, help="of the decoder alone, at the end")
    parser.add_argument("--text-steps", type=int, default=1_000, help="of the text encoder alone")
    parser.add_argument("--text-lr", type=float, default=1e-3)
    parser.add_argument(
        "--freeze-text", action="store_true", help="train the UNet alone, on fixed text states"
    )
    parser.add_argument("--text-batch", type=int, default=256, help="captions, over all processes")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=96, help="pictures, over all processes")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--null-share", type=float, default=0.1, help="share of captions replaced by the empty one"
    )
    parser.add_argument(
        "--favour",
        nargs="*",
        default=[],
        metavar="FACT=TIMES",
        help="captions that state it are drawn so many times as often",
    )
    parser.add_argument(
        "--layout-weight", type=float, default=0.0, help="p of the factor SNR^-p on the loss where SNR < 1"
    )
    parser.add_argument("--t-min", type=int, default=0, help="first timestep trained; high ones teach layout")
    parser.add_argument("--t-max", type=int, default=1000, help="end of the timesteps trained")
    parser.add_argument(
        "--logit-mean", type=float, help="of a flow's times: logit-normal with this mean (default: even)"
    )
    parser.add_argument("--save-every", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw the corpus")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def as_tensor(pictures: np.ndarray, device: str) -> Tensor:
    """uint8 [n, 64, 64, 3] to float [n, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def _schedule(
    optimizer: torch.optim.Optimizer, lr: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)


def _update(
    loss: Tensor,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    together: bool = False,
) -> None:
    """One step down the gradient of ``loss``, clipped to norm 1; ``together``: of its mean over the processes."""
    optimizer.zero_grad()
    (loss / state().num_processes if together else loss).backward()
    if together:
        Gradients(parameters).sum()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def _report(log: Log, kind: str, step: int, steps: int, loss: Tensor, start: float) -> None:
    log.append(
        {"stage": kind, "step": step, "loss": round(float(loss), 5), "seconds": round(time.time() - start, 1)}
    )
    if state().is_main_process:
        print(f"{kind} {step}/{steps} loss {float(loss):.4f} {time.time() - start:.0f} s", flush=True)


def crops(pictures: np.ndarray, rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """`n` random square crops, uint8 [n, size, size, 3], each of its own picture and around a coloured pixel.

    Most of a picture is plain background, which an autoencoder learns in no time.
    """
    out = np.empty((n, size, size, 3), dtype=np.uint8)
    for row, index in enumerate(rng.integers(len(pictures), size=n)):
        picture = pictures[index]
        ys, xs = np.nonzero(np.ptp(picture, axis=-1) > 40)
        pixel = rng.integers(len(ys))
        corner = np.array([ys[pixel], xs[pixel]]) - rng.integers(size, size=2)
        y, x = corner.clip(0, len(picture) - size)
        out[row] = picture[y : y + size, x : x + size]
    return out


def weighted_error(restored: Tensor, pictures: Tensor) -> Tensor:
    """Absolute + squared error, coloured pixels weighing more than grey ones; a scalar."""
    weight = 1 + 2 * (pictures.amax(1, keepdim=True) - pictures.amin(1, keepdim=True))
    error = restored - pictures
    return (weight * (0.3 * error.abs() + error.square())).mean()


def train_vae(corpus: Corpus, options: argparse.Namespace, log: Log) -> AutoencoderKL:
    """Fit the autoencoder on crops, for the last tenth of the steps on whole pictures; 1e-6 KL beside the error."""
    torch.manual_seed(options.seed)
    vae = AutoencoderKL.from_pretrained(options.vae_init) if options.vae_init else architecture.build_vae()
    vae = vae.train().to(options.device, memory_format=torch.channels_last)
    rng = np.random.default_rng([options.seed, 1])

    def attempt(step: int) -> Attempt:
        if step <= 0.9 * options.vae_steps:
            drawn = crops(corpus.pictures, rng, 4 * options.vae_batch, architecture.PICTURE_SIZE // 2)
        else:
            drawn = corpus.pictures[rng.integers(len(corpus.pictures), size=options.vae_batch)]
        pictures = as_tensor(drawn, options.device)
        posterior = vae.encode(pictures).latent_dist
        restored = vae.decode(posterior.sample()).sample
        return pictures, restored, weighted_error(restored, pictures) + 1e-6 * posterior.kl().mean()

    return _fit_autoencoder(vae, list(vae.parameters()), "vae", options.vae_steps, attempt, options, log)


def sharpen(vae: AutoencoderKL, corpus: Corpus, options: argparse.Namespace, log: Log) -> AutoencoderKL:
    """Train the decoder alone on whole pictures: the fine texture that the latents hold and it does not yet draw.

    The encoder stays as it is, so a UNet trained on its latents stays right.
    """
    torch.manual_seed(options.seed + 3)
    vae = vae.train().requires_grad_(False).to(options.device, memory_format=torch.channels_last)
    parameters = [
        *vae.decoder.requires_grad_(True).parameters(),
        *vae.post_quant_conv.requires_grad_(True).parameters(),
    ]
    rng = np.random.default_rng([options.seed, 2])

    def attempt(_: int) -> Attempt:
        drawn = corpus.pictures[rng.integers(len(corpus.pictures), size=options.vae_batch)]
        pictures = as_tensor(drawn, options.device)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        # As much noise as a sampled latent is off by, so that the decoder is not thrown by it.
        latents = latents + 0.02 * latents.std() * torch.randn_like(latents)
        restored = vae.decode(latents).sample
        return pictures, restored, weighted_error(restored, pictures)

    return _fit_autoencoder(vae, parameters, "decoder", options.decoder_steps, attempt, options, log)


def _fit_autoencoder(
    vae: AutoencoderKL, parameters: list[nn.Parameter], stage: str, steps: int, attempt: Callable[[int], Attempt],
    options: argparse.Namespace, log: Log,
) -> AutoencoderKL:  # fmt: skip
    """Train `parameters` of `vae` on the loss of `attempt(step)`, steps counted from 1; log the squared error."""
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule, start = _schedule(optimizer, 2e-3, steps), time.time()
    running = torch.zeros((), device=options.device)
    for step in range(1, steps + 1):
        pictures, restored, loss = attempt(step)
        _update(loss, parameters, optimizer, schedule)
        running += (restored.detach() - pictures).square().mean()
        if step % 100 == 0:
            _report(log, stage, step, steps, running / 100, start)
            running.zero_()
        if step % 500 == 0:
            vae.save_pretrained(f"{options.out}-{stage}")
    return vae.eval()


@torch.no_grad()
def encode(vae: AutoencoderKL, corpus: Corpus, options: argparse.Namespace) -> Tensor:
    """Posterior means of all pictures, scaled to unit variance, float32 [n, 8, 8, 8] on the CPU."""
    parts = [
        vae.encode(as_tensor(corpus.pictures[i : i + 256], options.device)).latent_dist.mean.cpu()
        for i in range(0, len(corpus.pictures), 256)
    ]
    latents = torch.cat(parts)
    if not options.init:  # a UNet that goes on keeps the factor it was trained with
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return latents * vae.config.scaling_factor


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids [n, PROMPT_TOKENS], padded as the pipeline pads them."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_text(
    text_encoder: TextEncoder, tokenizer: CLIPTokenizer, tokens: Tensor, texts: list[str],
    options: argparse.Namespace, log: Log,
) -> TextEncoder:  # fmt: skip
    """Teach the text encoder alone which attribute belongs to which object: each fact a direction of its own.

    A UNet has to find this out through its own loss otherwise, which takes it many times as long; and what it
    finds useful first (colours) then crowds out the rest. So every class of every fact has a fixed unit vector
    (all orthogonal), and a reading's states are to lie `FACT_SCALE` along those of its facts and nowhere else:
    a texture or a relation is as loud as a colour.

    Args:
        text_encoder, tokenizer: what learns; `tokens` [n, PROMPT_TOKENS]: those of the n `texts`.
        options: of the command line; `log`: gets a line every so often.
    """
    torch.manual_seed(options.seed + 4)
    device = options.device
    sizes = [len(words) + 1 for words in FACTS.values()]
    codes = fact_codes(sum(sizes), text_encoder.config.hidden_size).to(device)
    labels = torch.tensor([class_numbers(text) for text in texts])
    shapes = torch.tensor([tokenizer.convert_tokens_to_ids(f"{shape}</w>") for shape in SHAPES])
    position, expected = readings(tokens, labels, shapes, tokenizer.eos_token_id)
    parameters = list(text_encoder.train().parameters())
    optimizer = torch.optim.AdamW(parameters, lr=options.text_lr, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = _schedule(optimizer, options.text_lr, options.text_steps)
    generator = torch.Generator().manual_seed(1000 * (options.seed + 5) + state().process_index)
    share, start = options.text_batch // state().num_processes, time.time()
    running = torch.zeros((), device=device)
    for step in range(1, options.text_steps + 1):
        rows = torch.randint(len(tokens), (share,), generator=generator)
        states = text_encoder(tokens[rows].to(device)).last_hidden_state
        loss = fact_error(
            states[torch.arange(share)[:, None], position[rows]], expected[rows].to(device), codes
        )
        _update(loss, parameters, optimizer, schedule, together=True)
        running += loss.detach()
        if step % 100 == 0:
            _report(log, "text", step, options.text_steps, running / 100, start)
            running.zero_()
    return text_encoder


def time_weights(schedule: NoiseSchedule, t: Tensor, layout: float) -> Tensor:
    """Weight of the squared error at times `t` [n], float32: `layout_weight`, and for a noise predictor min-SNR
    (γ = 5, Hang et al. 2023).
    """
    weight = schedule.layout_weight(t, layout)
    if schedule.kind == "vp":
        snr = schedule.log_snr(t).exp()
        weight = weight * snr.clamp(max=5.0) / snr
    return weight.float()


def draw_times(
    schedule: NoiseSchedule, n: int, options: argparse.Namespace, generator: torch.Generator
) -> Tensor:
    """Times of training [n] from ``--t-min`` to ``--t-max``: a flow's are not whole, and even or logit-normal."""
    low, high = options.t_min, options.t_max
    if schedule.kind != "flow":
        return torch.randint(low, high, (n,), generator=generator)
    if options.logit_mean is None:
        return low + (high - low) * torch.rand(n, generator=generator)
    normal = torch.randn(n, generator=generator)
    return (schedule.num_train_timesteps * torch.sigmoid(options.logit_mean + normal)).clamp(low, high)


def conditions(text_encoder: TextEncoder, tokens: Tensor) -> dict[str, Tensor]:
    """Encode what the network is told of captions `tokens` [n, PROMPT_TOKENS], by the names of its arguments."""
    if isinstance(text_encoder, CLIPTextModelWithProjection):
        output = text_encoder(tokens, output_hidden_states=True)
        return {"encoder_hidden_states": output.hidden_states[-2], "pooled_projections": output.text_embeds}
    return {"encoder_hidden_states": text_encoder(tokens).last_hidden_state}


def train_network(
    latents: Tensor, tokens: Tensor, weights: Tensor, null: Tensor, vae: AutoencoderKL, text_encoder: TextEncoder,
    tokenizer: CLIPTokenizer, options: argparse.Namespace, log: Log,
) -> tuple[TextEncoder, Network]:  # fmt: skip
    """Fit noise (UNet) or velocity (transformer), errors weighted by `time_weights`; return the averaged networks.

    Args:
        latents: [n, 8, 8, 8]; `tokens` [n, captions, PROMPT_TOKENS], drawn by `weights` [n · captions].
        null: [PROMPT_TOKENS], the empty caption.
        vae, text_encoder, tokenizer: of the pipeline that is saved on the way; the text encoder learns, too.
        options: of the command line; `log`: gets a line every so often.
    """
    torch.manual_seed(options.seed + 1)
    device, kind = options.device, NETWORKS[options.network]
    start_from = options.init and kind.type.from_pretrained(options.init / options.network)
    network = (start_from or kind.build()).train().to(device, memory_format=torch.channels_last)
    text_encoder = text_encoder.train().requires_grad_(not options.freeze_text)
    noises = NoiseSchedule.from_config(kind.scheduler().config)
    drawn_until = weights.double().cumsum(0)
    parameters = [p for p in (*network.parameters(), *text_encoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = _schedule(optimizer, options.lr, options.steps)
    average = EMAModel(parameters, decay=0.9995, inv_gamma=1.0, power=0.75, use_ema_warmup=True)
    share, start = options.batch // state().num_processes, time.time()
    generator = torch.Generator().manual_seed(1000 * (options.seed + 2) + state().process_index)
    running = torch.zeros((), device=device)

    def averaged() -> tuple[TextEncoder, Network]:
        networks = copy.deepcopy(network), copy.deepcopy(text_encoder)
        average.copy_to(p for part in networks for p in part.parameters() if p.requires_grad)
        return networks[1].eval(), networks[0].eval()

    for step in range(1, options.steps + 1):
        point = torch.rand(share, generator=generator, dtype=torch.float64) * drawn_until[-1]
        drawn = torch.searchsorted(drawn_until, point, right=True).clamp(max=len(drawn_until) - 1)
        rows = drawn // tokens.shape[1]
        captions = tokens.flatten(0, 1)[drawn]
        captions[torch.rand(share, generator=generator) < options.null_share] = null
        z0 = latents[rows].to(device)
        noise = torch.randn(z0.shape, generator=generator).to(device)
        t = draw_times(noises, share, options, generator).to(device)
        said = conditions(text_encoder, captions.to(device))
        output = network(noises.add_noise(z0, noise, t), timestep=t, **said).sample
        target = noises.target(kind.predicts, z0, noise, t)
        error = (output - target).square().mean((1, 2, 3))
        loss = (time_weights(noises, t, options.layout_weight) * error).mean()
        _update(loss, parameters, optimizer, schedule, together=True)
        average.step(parameters)
        running += error.detach().mean()
        if step % 100 == 0:
            _report(log, options.network, step, options.steps, running / 100, start)
            running.zero_()
        if step % options.save_every == 0 and step < options.steps and state().is_main_process:
            architecture.save_pipeline(
                f"{options.out}-step-{step}", copy.deepcopy(vae), averaged()[0], tokenizer, averaged()[1]
            )
    return averaged()


def find_text_encoder(tokenizer: CLIPTokenizer, options: argparse.Namespace) -> TextEncoder:
    """The text encoder to start from: that of ``--init``, that of ``--text``, or a new one."""
    if not (options.init or options.text):
        return architecture.build_text_encoder(tokenizer).to(options.device)
    of_transformer = options.init and options.network == "transformer"
    kind = CLIPTextModelWithProjection if of_transformer else CLIPTextModel
    folder = options.init / "text_encoder" if options.init else options.text
    return kind.from_pretrained(folder, dtype=torch.float32).to(options.device)


def main(argv: list[str] | None = None) -> None:
    """Run the steps and write the pipeline folder with its training log."""
    options = arguments(argv)
    start, log = time.time(), Log()
    corpus = build_corpus(
        options.pictures, options.captions, options.wrong_share, options.seed, options.workers
    )
    print(f"corpus of {len(corpus.texts)} pictures, {time.time() - start:.0f} s", flush=True)
    tokenizer = architecture.build_tokenizer([text for c in CATEGORIES for text in all_prompts(c)])
    if not options.vae and state().is_main_process:
        train_vae(corpus, options, log).save_pretrained(f"{options.out}-vae")
    wait()
    vae = AutoencoderKL.from_pretrained(options.vae or f"{options.out}-vae").eval()
    vae = vae.to(options.device, memory_format=torch.channels_last)
    latents = encode(vae, corpus, options)
    texts = [text for captions in corpus.texts for text in captions]
    tokens = tokenize(tokenizer, texts).view(len(latents), options.captions, -1)
    null = tokenize(tokenizer, [""])[0]
    text_encoder = find_text_encoder(tokenizer, options)
    if options.text_steps:
        text_encoder = train_text(text_encoder, tokenizer, tokens.flatten(0, 1), texts, options, log)
    if options.network == "transformer" and isinstance(text_encoder, CLIPTextModel):
        text_encoder = architecture.with_projection(text_encoder).to(options.device)
    weights = caption_weights(
        texts, {fact: float(times) for fact, times in (f.split("=") for f in options.favour)}
    )
    text_encoder, network = train_network(
        latents, tokens, weights, null, vae, text_encoder, tokenizer, options, log
    )
    if not state().is_main_process:
        return
    if options.decoder_steps:
        vae = sharpen(vae, corpus, options, log)
    architecture.save_pipeline(options.out, vae, text_encoder, tokenizer, network)
    write_json(
        options.out / "training_log.json",
        {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
            "machine": {
                "platform": platform.platform(),
                "device": options.device,
                "processes": state().num_processes,
                "threads": torch.get_num_threads(),
            },
            "torch": torch.__version__,
            "seconds": round(time.time() - start),
            "log": log,
        },
    )
    print(json.dumps({"folder": str(options.out), "seconds": round(time.time() - start)}))


if __name__ == "__main__":
    main()
