"""Train the shapes world's Stable Diffusion pipeline from nothing: ``python -m mitune.worlds.shapes.train``.

Three steps: an autoencoder on the pictures; a UNet and a text encoder on its latents and the captions; the decoder
alone, for sharper textures. A share of the captions is wrong (``--wrong-share``), as captions from the web are: the
model's mistakes are what MI-Tune repairs.
The published weights came from the defaults; ``training_log.json`` beside them says on what machine and how long.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mitune.files import write_json
from mitune.worlds.shapes import architecture
from mitune.worlds.shapes.corpus import Corpus, build_corpus
from mitune.worlds.shapes.grammar import CATEGORIES, all_prompts

Log = list[dict[str, Any]]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; every default is the published model's."""
    parser = argparse.ArgumentParser(prog="python -m mitune.worlds.shapes.train", description=__doc__)
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
    parser.add_argument("--init", type=Path, help="pipeline folder whose UNet and text encoder to go on from")
    parser.add_argument("--decoder-steps", type=int, default=3_000, help="of the decoder alone, at the end")
    parser.add_argument("--steps", type=int, default=4_500)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--null-share", type=float, default=0.1, help="share of captions replaced by the empty one"
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


def _report(log: Log, kind: str, step: int, steps: int, loss: Tensor, start: float) -> None:
    log.append(
        {"stage": kind, "step": step, "loss": round(float(loss), 5), "seconds": round(time.time() - start, 1)}
    )
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
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = _schedule(optimizer, 2e-3, options.vae_steps)
    rng, start = np.random.default_rng([options.seed, 1]), time.time()
    running = torch.zeros((), device=options.device)
    for step in range(1, options.vae_steps + 1):
        if step <= 0.9 * options.vae_steps:
            drawn = crops(corpus.pictures, rng, 4 * options.vae_batch, architecture.PICTURE_SIZE // 2)
        else:
            drawn = corpus.pictures[rng.integers(len(corpus.pictures), size=options.vae_batch)]
        pictures = as_tensor(drawn, options.device)
        posterior = vae.encode(pictures).latent_dist
        restored = vae.decode(posterior.sample()).sample
        loss = weighted_error(restored, pictures) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += (restored.detach() - pictures).square().mean()
        if step % 100 == 0:
            _report(log, "vae", step, options.vae_steps, running / 100, start)
            running.zero_()
        if step % 500 == 0:
            vae.save_pretrained(f"{options.out}-vae")
    return vae.eval()


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
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule = _schedule(optimizer, 2e-3, options.decoder_steps)
    rng, start = np.random.default_rng([options.seed, 2]), time.time()
    running = torch.zeros((), device=options.device)
    for step in range(1, options.decoder_steps + 1):
        drawn = corpus.pictures[rng.integers(len(corpus.pictures), size=options.vae_batch)]
        pictures = as_tensor(drawn, options.device)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        # As much noise as a sampled latent is off by, so that the decoder is not thrown by it.
        latents = latents + 0.02 * latents.std() * torch.randn_like(latents)
        restored = vae.decode(latents).sample
        loss = weighted_error(restored, pictures)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        running += (restored.detach() - pictures).square().mean()
        if step % 100 == 0:
            _report(log, "decoder", step, options.decoder_steps, running / 100, start)
            running.zero_()
        if step % 500 == 0:
            vae.save_pretrained(f"{options.out}-decoder")
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


def train_unet(
    latents: Tensor, tokens: Tensor, null: Tensor, vae: AutoencoderKL, tokenizer: CLIPTokenizer,
    options: argparse.Namespace, log: Log,
) -> tuple[CLIPTextModel, UNet2DConditionModel]:  # fmt: skip
    """Fit noise prediction with min-SNR weights (γ = 5, Hang et al. 2023); return the averaged networks.

    `latents` [n, 8, 8, 8]; `tokens` [n, captions, PROMPT_TOKENS]; `null` [PROMPT_TOKENS]: the empty caption.
    """
    torch.manual_seed(options.seed + 1)
    device = options.device
    if options.init:
        text_encoder = CLIPTextModel.from_pretrained(options.init / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(options.init / "unet")
    else:
        text_encoder, unet = architecture.build_text_encoder(tokenizer), architecture.build_unet()
    text_encoder = text_encoder.train().to(device)
    unet = unet.train().to(device, memory_format=torch.channels_last)
    scheduler = architecture.build_scheduler()
    alpha_bar = scheduler.alphas_cumprod.to(device)
    weight = (alpha_bar / (1 - alpha_bar)).clamp(max=5.0) * (1 - alpha_bar) / alpha_bar
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = _schedule(optimizer, options.lr, options.steps)
    average = EMAModel(parameters, decay=0.9995, inv_gamma=1.0, power=0.75, use_ema_warmup=True)
    generator, start = torch.Generator().manual_seed(options.seed + 2), time.time()
    running = torch.zeros((), device=device)

    def averaged() -> tuple[CLIPTextModel, UNet2DConditionModel]:
        networks = copy.deepcopy(unet), copy.deepcopy(text_encoder)
        average.copy_to(itertools.chain(*(network.parameters() for network in networks)))
        return networks[1].eval(), networks[0].eval()

    for step in range(1, options.steps + 1):
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        which = torch.randint(tokens.shape[1], (options.batch,), generator=generator)
        captions = tokens[rows, which]
        captions[torch.rand(options.batch, generator=generator) < options.null_share] = null
        noise = torch.randn(options.batch, *latents.shape[1:], generator=generator).to(device)
        t = torch.randint(1000, (options.batch,), generator=generator).to(device)
        noisy = scheduler.add_noise(latents[rows].to(device), noise, t)
        states = text_encoder(captions.to(device)).last_hidden_state
        error = (unet(noisy, t, states).sample - noise).square().mean((1, 2, 3))
        loss = (weight[t] * error).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        running += error.detach().mean()
        if step % 100 == 0:
            _report(log, "unet", step, options.steps, running / 100, start)
            running.zero_()
        if step % options.save_every == 0 and step < options.steps:
            architecture.save_pipeline(
                f"{options.out}-step-{step}", copy.deepcopy(vae), averaged()[0], tokenizer, averaged()[1]
            )
    return averaged()


def main(argv: list[str] | None = None) -> None:
    """Run the three steps and write the pipeline folder with its training log."""
    options = arguments(argv)
    start, log = time.time(), Log()
    corpus = build_corpus(
        options.pictures, options.captions, options.wrong_share, options.seed, options.workers
    )
    print(f"corpus of {len(corpus.texts)} pictures, {time.time() - start:.0f} s", flush=True)
    tokenizer = architecture.build_tokenizer([text for c in CATEGORIES for text in all_prompts(c)])
    if options.vae:
        vae = (
            AutoencoderKL.from_pretrained(options.vae)
            .to(options.device, memory_format=torch.channels_last)
            .eval()
        )
    else:
        vae = train_vae(corpus, options, log)
        vae.save_pretrained(f"{options.out}-vae")
    latents = encode(vae, corpus, options)
    texts = [text for captions in corpus.texts for text in captions]
    tokens = tokenize(tokenizer, texts).view(len(latents), options.captions, -1)
    null = tokenize(tokenizer, [""])[0]
    text_encoder, unet = train_unet(latents, tokens, null, vae, tokenizer, options, log)
    if options.decoder_steps:
        vae = sharpen(vae, corpus, options, log)
    architecture.save_pipeline(options.out, vae, text_encoder, tokenizer, unet)
    write_json(
        options.out / "training_log.json",
        {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
            "machine": {
                "platform": platform.platform(),
                "device": options.device,
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
