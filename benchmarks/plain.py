"""The plain way with diffusers and torch, as one would write it by hand: what the package is measured against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.families.stable_diffusion import StableDiffusionDenoiser


def pipeline(vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> Any:
    """Build a ``StableDiffusionPipeline`` of these parts, without a safety checker.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: as diffusers calls them.
    """
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def generate(
    denoiser: StableDiffusionDenoiser, prompt: str, seeds: Sequence[int], steps: int, guidance: float
) -> tuple[Tensor, Tensor]:
    """Draw latents [n, …] of one prompt, with their mutual information [n] step by step: Algorithm 2 of MI-Tune.

    Args:
        denoiser: whose network, scheduler and text embeddings are used, and nothing else.
        prompt, seeds: of the n candidates.
        steps, guidance: of ancestral sampling.
    """
    from diffusers import DDPMScheduler

    unet, device = denoiser.network, denoiser.device
    scheduler = DDPMScheduler.from_config(denoiser.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    text = denoiser.encode_prompts(["", prompt]).tensors["text"].repeat_interleave(len(seeds), dim=0)
    z = torch.stack([torch.randn(denoiser.latent_shape, generator=g) for g in generators]).to(device)
    total, visited = torch.zeros(len(seeds), device=device, dtype=torch.float64), 0
    alpha_bar = scheduler.alphas_cumprod
    for t in scheduler.timesteps:
        output = unet(torch.cat([z, z]), t, encoder_hidden_states=text).sample
        null, cond = output.chunk(2)
        if t > 50:
            beta = float(scheduler.betas[t])
            kappa = beta * len(alpha_bar) / (2 * (1 - beta) * (1 - float(alpha_bar[t])))
            total += kappa * (cond - null).square().flatten(1).sum(1)
            visited += 1
        guided = null + guidance * (cond - null)
        z = scheduler.step(guided, t, z, generator=generators).prev_sample
    return z, total / max(visited, 1)


def train_step(optimizer: torch.optim.Optimizer, losses: Iterable[Tensor], max_norm: float) -> Tensor:
    """Take one step of an optimizer on the sum of losses, one backward each, and give that sum."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    total = torch.zeros((), device=parameters[0].device)
    for loss in losses:
        loss.backward()
        total += loss.detach()
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total
