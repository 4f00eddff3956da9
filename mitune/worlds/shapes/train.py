"""Train the shapes world's Stable Diffusion pipeline from nothing: ``python -m mitune.worlds.shapes.train``.

Four steps: an autoencoder on the pictures; the text encoder on the captions alone, to say what each word is about; the
UNet (with the text encoder, or on it frozen) on latents and captions; the decoder alone, for sharper textures. A run
may go on from another (``--init``) and dwell on a stretch of noise or on some captions: layout is learned fastest at
``--t-min 750 --layout-weight 1 --favour direction=8``, on a text encoder that ``--freeze-text`` keeps. A share of the
captions is wrong (``--wrong-share``), as captions from the web are: the model's mistakes are what MI-Tune repairs.
``training_log.json`` beside the published weights says with what options, on what machine and how long.

Many processes share a batch (``accelerate launch --config_file launch/cpu_2.yaml -m mitune.worlds.shapes.train``); on a
CPU one thread a process is faster than as many threads in one.
"""

from __future__ import annotations

import argparse
import copy
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

from mitune.distributed import state, sum_gradients, wait
from mitune.files import write_json
from mitune.worlds.shapes import architecture
from mitune.worlds.shapes.corpus import Corpus, build_corpus
from mitune.worlds.shapes.grammar import CATEGORIES, MAX_OBJECTS, all_prompts, parse_prompt
from mitune.worlds.shapes.vocabulary import COLOURS, DIRECTIONS, RELATIONS, SHAPES, SIZES, TEXTURES

Log = list[dict[str, Any]]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. The published model's own options, leg by leg, are in its ``training_log.json``."""
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
        sum_gradients(parameters)
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
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
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
        _update(loss, parameters, optimizer, schedule)
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
        _update(loss, parameters, optimizer, schedule)
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


# What a description says of one object, a class each; the last class of each is "not stated".
_ROLES = tuple(f"{role} {relation}" for role in ("subject", "object") for relation in RELATIONS)
_FACTS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "role": _ROLES,
    "place": ("first", "second", "third"),
}
_IGNORED = -100  # of a place that cannot know it
_FACT_SCALE = 3.0  # six facts of this length: the length CLIP's last layer norm gives a state by itself


def facts(text: str) -> list[list[int]]:
    """Class numbers [MAX_OBJECTS][len(_FACTS)] of what a caption says of its first, second and third object."""
    spec = parse_prompt(text)
    rows = []
    for index in range(MAX_OBJECTS):
        said: dict[str, str] = {}
        if index < len(spec.objects):
            said = {**spec.objects[index].stated(), "place": _FACTS["place"][index]}
            if spec.relation and index < 2:
                said["role"] = f"{('subject', 'object')[index]} {spec.relation}"
        rows.append(
            [words.index(said[name]) if name in said else len(words) for name, words in _FACTS.items()]
        )
    return rows


def readings(tokens: Tensor, labels: Tensor, shapes: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Where the facts of a caption are read: position and expected classes, [n, 2 MAX_OBJECTS] (× facts).

    `tokens` [n, PROMPT_TOKENS], `labels` [n, MAX_OBJECTS, facts]; `shapes`: token ids of the shape words; `end`: id of
    the end and of the padding. An object's own facts are read at its shape word (CLIP's encoder looks back only, so
    the first object knows nothing of its relation there), and all facts at the end token and the two after it.
    """
    n = len(tokens)
    nouns = torch.isin(tokens, shapes)
    # Positions of the shape words in order; a missing one sorts last.
    order = torch.where(nouns, torch.arange(tokens.shape[1]), tokens.shape[1]).sort(1).values[:, :MAX_OBJECTS]
    there = order < tokens.shape[1]
    ends = (tokens == end).int().argmax(1, keepdim=True) + torch.arange(MAX_OBJECTS)
    at_noun = labels.clone()
    at_noun[:, 0, list(_FACTS).index("role")] = _IGNORED
    at_noun[~there] = _IGNORED
    position = torch.cat([order.where(there, torch.zeros(n, 1, dtype=order.dtype)), ends], dim=1)
    return position.clamp(max=tokens.shape[1] - 1), torch.cat([at_noun, labels], dim=1)


def fact_codes(n: int, width: int) -> Tensor:
    """`n` orthonormal vectors [n, width], always the same. ValueError if they do not fit."""
    if n > width:
        raise ValueError(f"{n} facts do not fit {width} dimensions")
    return torch.linalg.qr(torch.randn(width, n, generator=torch.Generator().manual_seed(0))).Q.T.contiguous()


def fact_error(states: Tensor, expected: Tensor, codes: Tensor) -> Tensor:
    """Squared distance of text states from what they should say, a scalar, in units of `_FACT_SCALE`².

    `states` [n, places, width] should be `_FACT_SCALE` times the sum of the codes [classes, width] of the
    `expected` classes [n, places, facts]; a fact marked `_IGNORED` may be anything.
    """
    sizes = [len(words) + 1 for words in _FACTS.values()]
    along = states @ codes.T / _FACT_SCALE
    error = (states / _FACT_SCALE - along @ codes).square().sum(-1).mean()
    for i, part in enumerate(along.split(sizes, dim=-1)):
        said = expected[..., i]
        target = nn.functional.one_hot(said.clamp(min=0), sizes[i])
        counts = (said != _IGNORED).float()
        error = error + ((part - target).square().sum(-1) * counts).sum() / counts.sum()
    return error


def train_text(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, tokens: Tensor, texts: list[str],
    options: argparse.Namespace, log: Log,
) -> CLIPTextModel:  # fmt: skip
    """Teach the text encoder alone which attribute belongs to which object: each fact a direction of its own.

    A UNet has to find this out through its own loss otherwise, which takes it many times as long; and what it
    finds useful first (colours) then crowds out the rest. So every class of every fact has a fixed unit vector
    (all orthogonal), and a reading's states are to lie `_FACT_SCALE` along those of its facts and nowhere else:
    a texture or a relation is as loud as a colour. `tokens` [n, PROMPT_TOKENS] are those of the n `texts`.
    """
    torch.manual_seed(options.seed + 4)
    device = options.device
    sizes = [len(words) + 1 for words in _FACTS.values()]
    codes = fact_codes(sum(sizes), text_encoder.config.hidden_size).to(device)
    labels = torch.tensor([facts(text) for text in texts])
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


def time_weights(alpha_bar: Tensor, layout: float) -> Tensor:
    """Weight of the squared error of ε̂ at every timestep, [T]: min-SNR (γ = 5, Hang et al. 2023) times a factor.

    Where SNR < 1 the factor is SNR^-`layout`. Where things are is settled there, and an error of the noise
    is small there however wrong the picture that it stands for.
    """
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=5.0) / snr * snr.clamp(max=1.0).pow(-layout)


def stated_facts(text: str) -> set[str]:
    """What a caption states: names of attributes, ``direction`` or ``contact``, a ``third`` object."""
    spec = parse_prompt(text)
    facts = {name for thing in spec.objects for name in thing.stated()}
    if len(spec.objects) == MAX_OBJECTS:
        facts.add("third")
    if spec.relation:
        facts.add("direction" if spec.relation in DIRECTIONS else "contact")
    return facts


def caption_weights(texts: list[str], favour: dict[str, float]) -> Tensor:
    """How often each caption is drawn, [n], relative: the largest of `favour` among what it states, else 1."""
    return torch.tensor([max([favour.get(fact, 1.0) for fact in stated_facts(text)]) for text in texts])


def train_unet(
    latents: Tensor, tokens: Tensor, weights: Tensor, null: Tensor, vae: AutoencoderKL, text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer, options: argparse.Namespace, log: Log,
) -> tuple[CLIPTextModel, UNet2DConditionModel]:  # fmt: skip
    """Fit noise prediction, errors weighted by `time_weights`; return the averaged networks.

    `latents` [n, 8, 8, 8]; `tokens` [n, captions, PROMPT_TOKENS], drawn by `weights` [n · captions]; `null`
    [PROMPT_TOKENS]: the empty caption.
    """
    torch.manual_seed(options.seed + 1)
    device = options.device
    unet = (
        UNet2DConditionModel.from_pretrained(options.init / "unet")
        if options.init
        else architecture.build_unet()
    )
    unet = unet.train().to(device, memory_format=torch.channels_last)
    text_encoder = text_encoder.train().requires_grad_(not options.freeze_text)
    scheduler = architecture.build_scheduler()
    alpha_bar = scheduler.alphas_cumprod.to(device)
    weight = time_weights(alpha_bar, options.layout_weight)
    drawn_until = weights.double().cumsum(0)
    parameters = [p for p in (*unet.parameters(), *text_encoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, betas=(0.9, 0.99), weight_decay=1e-2)
    schedule = _schedule(optimizer, options.lr, options.steps)
    average = EMAModel(parameters, decay=0.9995, inv_gamma=1.0, power=0.75, use_ema_warmup=True)
    share, start = options.batch // state().num_processes, time.time()
    generator = torch.Generator().manual_seed(1000 * (options.seed + 2) + state().process_index)
    running = torch.zeros((), device=device)

    def averaged() -> tuple[CLIPTextModel, UNet2DConditionModel]:
        networks = copy.deepcopy(unet), copy.deepcopy(text_encoder)
        average.copy_to(p for network in networks for p in network.parameters() if p.requires_grad)
        return networks[1].eval(), networks[0].eval()

    for step in range(1, options.steps + 1):
        point = torch.rand(share, generator=generator, dtype=torch.float64) * drawn_until[-1]
        drawn = torch.searchsorted(drawn_until, point, right=True).clamp(max=len(drawn_until) - 1)
        rows = drawn // tokens.shape[1]
        captions = tokens.flatten(0, 1)[drawn]
        captions[torch.rand(share, generator=generator) < options.null_share] = null
        noise = torch.randn(share, *latents.shape[1:], generator=generator).to(device)
        t = torch.randint(options.t_min, options.t_max, (share,), generator=generator).to(device)
        noisy = scheduler.add_noise(latents[rows].to(device), noise, t)
        states = text_encoder(captions.to(device)).last_hidden_state
        error = (unet(noisy, t, states).sample - noise).square().mean((1, 2, 3))
        loss = (weight[t] * error).mean()
        _update(loss, parameters, optimizer, schedule, together=True)
        average.step(parameters)
        running += error.detach().mean()
        if step % 100 == 0:
            _report(log, "unet", step, options.steps, running / 100, start)
            running.zero_()
        if step % options.save_every == 0 and step < options.steps and state().is_main_process:
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
    if not options.vae and state().is_main_process:
        train_vae(corpus, options, log).save_pretrained(f"{options.out}-vae")
    wait()
    vae = AutoencoderKL.from_pretrained(options.vae or f"{options.out}-vae").eval()
    vae = vae.to(options.device, memory_format=torch.channels_last)
    latents = encode(vae, corpus, options)
    texts = [text for captions in corpus.texts for text in captions]
    tokens = tokenize(tokenizer, texts).view(len(latents), options.captions, -1)
    null = tokenize(tokenizer, [""])[0]
    text_encoder = (
        CLIPTextModel.from_pretrained(options.init / "text_encoder", dtype=torch.float32)
        if options.init
        else architecture.build_text_encoder(tokenizer)
    ).to(options.device)
    if options.text_steps:
        text_encoder = train_text(text_encoder, tokenizer, tokens.flatten(0, 1), texts, options, log)
    weights = caption_weights(
        texts, {fact: float(times) for fact, times in (f.split("=") for f in options.favour)}
    )
    text_encoder, unet = train_unet(
        latents, tokens, weights, null, vae, text_encoder, tokenizer, options, log
    )
    if not state().is_main_process:
        return
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
