"""Every solver on every family: our loop against the plain pipeline with diffusers' scheduler of the same kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mitune.sampling.seeds import candidate_noise

CLASSES = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


def scheduler_of(name: str, pipeline: Any, denoiser: Any, spacing: str | None = None) -> Any:
    """Theirs for a pipeline. A flow's is set to the model's own grid, and tells the network its times as they are."""
    import diffusers

    kind, own = CLASSES[name]
    if denoiser.schedule.kind != "flow":
        # "linspace": of Heun's Karras grid the times' spacing says which σ it spans.
        grid = {"use_karras_sigmas": True, "timestep_spacing": "linspace"} if spacing == "karras" else {}
        return getattr(diffusers, kind).from_config(pipeline.scheduler.config, **own, **grid)
    heun = name == "heun"
    made = diffusers.FlowMatchHeunDiscreteScheduler() if heun else getattr(diffusers, kind)(**own, **FLOW)
    lay = made.set_timesteps

    def set_timesteps(
        count: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        count = count or len(sigmas)
        lay(count)
        times = denoiser.schedule.timesteps(count, spare=not heun)
        if heun:  # each but the first stands there for both evaluations
            times = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        made.timesteps, sigmas = times.float(), times / 1000
        if name == "unipc":
            sigmas[0] -= 1e-6  # as theirs has it
        made.sigmas = torch.cat([sigmas, torch.zeros(1)]).float()

    made.set_timesteps = set_timesteps
    return made


def give_noise(scheduler: Any, maps: Iterable[Tensor]) -> None:
    """Let each of its steps take a map of these: not all pipelines hand a generator on."""
    step, left = scheduler.step, iter(maps)

    def stepped(output: Tensor, t: Any, z: Tensor, generator: Any = None, return_dict: bool = True) -> Any:
        return step(output, t, z, variance_noise=next(left), return_dict=return_dict)

    scheduler.step = stepped


def same_as(model: Any, name: str, seeds: list[int]) -> None:
    """Latents of a sampler, on the model's own grid and, of diffusions, on that of Karras et al."""
    from tests.families.checks import CLOSE, sampled

    pipeline, denoiser = model.plain(), model.ours
    spacings = (
        [model.sampler.spacing] if denoiser.schedule.kind == "flow" else [model.sampler.spacing, "karras"]
    )
    found: list[Tensor] = []
    own = pipeline.scheduler
    for spacing in spacings:
        pipeline.scheduler = own
        pipeline.scheduler = scheduler_of(name, pipeline, denoiser, spacing)
        sampler = dataclasses.replace(model.sampler, name=name, spacing=spacing, steps=5)
        if name == "dpmpp_2m_sde":
            maps = torch.stack([candidate_noise(seed, denoiser.latent_shape, 5)[1:] for seed in seeds], 1)
            give_noise(pipeline.scheduler, [model.pack(noise) for noise in maps])
        begun = model.pack
        if (name, spacing) == (
            "heun",
            "karras",
        ):  # theirs begins with σ·noise there, ours with √(σ² + 1)·noise
            pipeline.scheduler.set_timesteps(5)
            top = float(pipeline.scheduler.sigmas.max())
            begun = lambda z, more=(1 + top**-2) ** 0.5: z * more  # noqa: E731
        ours = sampled(model, denoiser, sampler)
        theirs = dataclasses.replace(model, sampler=sampler, pack=begun).theirs(pipeline)
        assert (ours - theirs).abs().max() <= CLOSE * theirs.abs().max()
        found.append(ours)
    if len(found) > 1:
        assert (found[0] - found[1]).abs().max() > 10 * CLOSE
