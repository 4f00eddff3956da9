"""The code on a card that draws a picture: with diffusers alone, as near to the evaluation as its schedulers come."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mitune.sampling.catalogue import SAMPLERS, SamplerConfig

_PLAIN = re.compile(r"[A-Za-z0-9 ,.'-]{1,200}")  # what needs no escape in code, nor in a card
_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "lcm": "LCMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
}
_ALGORITHMS = {"dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "sde-dpmsolver++"}
_DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Drawn:
    """Holds how the evaluation drew its pictures.

    Attributes:
        sampler: with the guidance of the evaluation.
        dtype: ``model.dtype`` (None: not known).
        edits: the model edits pictures; ``picture_guidance``: how strongly it keeps to them.
    """

    sampler: SamplerConfig
    dtype: str | None = None
    edits: bool = False
    picture_guidance: float | None = None

    @property
    def in_words(self) -> str:
        """Write it as a clause: ``20 steps of ddim at guidance 2``."""
        eta = f" (eta {self.sampler.eta:g})" if SAMPLERS[self.sampler.name].noise == "eta" else ""
        own = self.sampler.guidance_interval
        between = "" if own is None else f" between times {own[0]:g} and {own[1]:g}"
        balance = f", phrases balanced by {self.sampler.balance}" if self.sampler.balance else ""
        guidance = f"guidance {self.sampler.guidance:g}{between}"
        return f"{self.sampler.steps} steps of {self.sampler.name}{eta} at {guidance}{balance}"


def usage(
    base: str, adapter: str, prompts: Iterable[str], drawn: Drawn, flow: bool | None, shipped: bool = False
) -> list[str]:
    """Write the lines that load ``base`` with ``adapter`` and draw a picture.

    Args:
        base, adapter: Hub ids, or paths to fill in.
        prompts: the first that can stand in code as it is becomes the picture's.
        drawn: how the evaluation drew.
        flow: whether the base model is a rectified flow (None: not known); the samplers of diffusion need one that is
            none.
        shipped: ``base`` is the name of a model inside this package.
    """
    own = drawn.sampler
    where = f'find_model("{base}").folder' if shipped else json.dumps(base)
    scheduler = _SCHEDULERS.get(own.name) if flow is False else None
    dtype = f", torch_dtype=torch.{drawn.dtype}" if drawn.dtype in _DTYPES else ""
    call = [json.dumps(_prompt(prompts))]
    if drawn.edits:
        call.append('image=load_image("path/to/your/picture.png")')
        if drawn.picture_guidance is not None:
            call.append(f"image_guidance_scale={drawn.picture_guidance!r}")
    call += [f"num_inference_steps={own.steps}", f"guidance_scale={own.guidance!r}"]
    if scheduler == "DDIMScheduler":
        call.append(f"eta={own.eta!r}")
    call.append("generator=torch.Generator().manual_seed(0)")
    lines = [
        "import diffusers",
        "import torch",
        *(["from diffusers.utils import load_image"] if drawn.edits else []),
        *(["from mitune.families.source import find_model"] if shipped else []),
        "",
        f"pipeline = diffusers.DiffusionPipeline.from_pretrained({where}{dtype})",
        f'pipeline.load_lora_weights("{adapter}")',
    ]
    if scheduler:
        told = ", ".join(["pipeline.scheduler.config", *_layout(own)])
        lines.append(f"pipeline.scheduler = diffusers.{scheduler}.from_config({told})")
    lines += [f"# The evaluation {line}." for line in _otherwise(own, flow)]
    return [
        *lines,
        'pipeline.to("cuda" if torch.cuda.is_available() else "cpu")',
        "picture = pipeline(",
        *(f"    {part}," for part in call),
        ").images[0]",
        'picture.save("picture.png")',
    ]


def _otherwise(own: SamplerConfig, flow: bool | None) -> list[str]:
    """What the evaluation did and the pipeline cannot be told to do."""
    found = []
    if flow is not False and own.name != "euler":
        found.append(f"drew with {own.name}; this pipeline draws as the model's own scheduler does")
    if flow is False and own.spacing == "karras" and SAMPLERS[own.name].grid == "ddim":
        found.append("laid its steps by karras; the scheduler of this pipeline has no such grid")
    if own.guidance_interval is not None:
        low, high = own.guidance_interval
        found.append(f"guided between times {low:g} and {high:g} only; this pipeline guides everywhere")
    if own.balance is not None:
        found.append(f"balanced the phrases of its prompts by {own.balance}; this pipeline does not")
    return found


def usage_here(base: str, adapter: str, prompts: Iterable[str], drawn: Drawn) -> list[str]:
    """Write the same with mitune, for models whose plain pipeline loads no adapter."""
    own = drawn.sampler
    told = [repr(own.name), f"steps={own.steps}", f"eta={own.eta!r}", f"guidance={own.guidance!r}"]
    if own.guidance_interval is not None:
        told.append(f"guidance_interval={[*own.guidance_interval]!r}")
    if own.balance is not None:
        told += [f"balance={own.balance!r}", f"balancing={own.balancing!r}"]
    return [
        "from mitune.evaluate.drawings import to_image",
        "from mitune.families import load_denoiser",
        *(["from mitune.pixels.balance import balanced"] if own.balance else []),
        *(["from mitune.pixels.settings import BalancingConfig"] if own.balance else []),
        "from mitune.sampling.catalogue import SamplerConfig",
        "from mitune.sampling.loop import sample",
        "",
        f'denoiser = load_denoiser("{base}", adapter="{adapter}")',
        f"sampler = SamplerConfig({', '.join([*told, *_layout(own, ours=True)])})",
        *(["denoiser = balanced(denoiser, sampler)"] if own.balance else []),
        f"condition = denoiser.encode_prompts([{json.dumps(_prompt(prompts))}])",
        "latents = sample(denoiser, condition, [0], sampler)",
        'to_image(denoiser.decode(latents)[0]).save("picture.png")',
    ]


def _layout(own: SamplerConfig, ours: bool = False) -> list[str]:
    """The arguments that lay out the steps as the evaluation's, where it did not take them from the model.

    ``ours``: by our names rather than diffusers'.
    """
    found: dict[str, Any] = {
        "spacing" if ours else "timestep_spacing": own.spacing,
        "steps_offset": own.steps_offset,
    }
    if own.spacing is not None and not ours:
        karras = own.spacing == "karras"
        found["timestep_spacing"] = None if karras else own.spacing
        # Said either way: the model's own scheduler may have them. Those of one step know no such grid.
        found["use_karras_sigmas"] = karras if SAMPLERS[own.name].grid != "ddim" else None
    if own.name == "ddim":
        found["set_alpha_to_one"] = own.set_alpha_to_one
    if own.name == "ddpm" and not ours:
        found["variance_type"] = f"fixed_{own.variance}"
    if own.name in _ALGORITHMS and not ours:
        found["algorithm_type"] = _ALGORITHMS[own.name]
    if own.name == "ddpm" and ours:
        found["variance"] = own.variance
    return [f"{name}={json.dumps(value) if isinstance(value, str) else repr(value)}" for name, value in found.items()
            if value is not None]  # fmt: skip


def _prompt(prompts: Iterable[str]) -> str:
    """The first prompt that needs no escape."""
    return next((text for text in prompts if _PLAIN.fullmatch(text)), "your prompt")
