"""The samplers by name, and the keys of ``sampler``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mitune.errors import UserError
from mitune.information.catalogue import SCORES
from mitune.parts import Catalogue, Part
from mitune.pixels.settings import BALANCES, BalancingConfig
from mitune.settings import CANDIDATES, GUIDANCE, STEPS, Settings, key, section


@dataclass(frozen=True)
class SamplerPart(Part):
    """One sampler: its code makes a :class:`mitune.sampling.solver.Solver` of a grid and a ``SamplerConfig``.

    >>> SAMPLERS["ddim"].noise, SAMPLERS.where(lambda part: part.flow_only)
    ('eta', ('euler',))

    Attributes:
        noise: whether a step adds noise: "always", "never", or as "eta" says.
        flow_only: it solves rectified flow's ODE and no diffusion's.
        clean_end: its last step lands on clean data, whatever ``set_alpha_to_one`` says.
        evaluations: of the network in a step; the last takes one, as there is nothing to see at clean data.
        grid: whose steps it takes: those of "ddim", or of diffusers' "multistep" or "heun" schedulers
            (:mod:`mitune.sampling.grids`).
    """

    noise: str = "always"
    flow_only: bool = False
    clean_end: bool = False
    evaluations: int = 1
    grid: str = "ddim"

    def evaluated(self, steps: int) -> list[int]:
        """Count the evaluations of each of so many steps."""
        return [self.evaluations] * (steps - 1) + [1]


SAMPLERS = Catalogue(
    "sampler.name",
    SamplerPart("ddpm", "ancestral sampling (Ho et al. 2020)", "mitune.sampling.ancestral:ddpm", clean_end=True),
    SamplerPart("ddim", "any share eta of ddpm's noise (Song et al. 2021)", "mitune.sampling.ddim:ddim", noise="eta"),
    SamplerPart("euler", "rectified flow's ODE", "mitune.sampling.ddim:euler", noise="never", flow_only=True),
    SamplerPart("lcm", "few steps of a consistency model (Luo et al. 2023)", "mitune.sampling.consistency:lcm",
                clean_end=True),
    SamplerPart("dpmpp_2m", "DPM-Solver++ of second order, without noise (Lu et al. 2022)",
                "mitune.sampling.multistep:DPMSolverPP2M", noise="never", clean_end=True, grid="multistep"),
    SamplerPart("dpmpp_2m_sde", "DPM-Solver++ of second order, with noise (Lu et al. 2022)",
                "mitune.sampling.multistep:SDEDPMSolverPP2M", clean_end=True, grid="multistep"),
    SamplerPart("unipc", "predictor and corrector of second order, without noise (Zhao et al. 2023)",
                "mitune.sampling.unipc:UniPC", noise="never", clean_end=True, grid="multistep"),
    SamplerPart("heun", "Heun's method, two evaluations a step (Karras et al. 2022)", "mitune.sampling.heun:Heun",
                noise="never", clean_end=True, evaluations=2, grid="heun"),
)  # fmt: skip
TABLE_SPACINGS = {  # Lin et al. 2023, table 2
    "leading": "even, counted from the first timestep",
    "trailing": "even, counted from the last timestep",
    "linspace": "even, with the first and the last timestep",
}
SPACINGS = {**TABLE_SPACINGS, "karras": "even in (sigma/alpha)^(1/7), of diffusions (Karras et al. 2022)"}


def is_deterministic(name: str, eta: float) -> bool:
    """Tell whether the sampler ``name`` adds no noise, so that a path has no density. UserError for an unknown name."""
    noise = SAMPLERS.find(name).noise
    return noise == "never" or (noise == "eta" and eta == 0)


def _racers(path: bool) -> str:
    """The scores that candidates can be dropped by: those of the path, or the others."""
    return ", ".join(SCORES.where(lambda score: score.races and (score.where == "path") == path))


@dataclass
class RacingConfig(Settings):
    """Dropping candidates while they are drawn."""

    by: str | None = key(
        None,
        f"drop candidates early by this running score: {_racers(True)} (free), or {_racers(False)} of the predicted"
        " picture (null: off)",
    )
    at: list[float] = key(
        [0.4], "when: shares of the steps below 1, or numbers of steps from 1 on", low=-STEPS, high=STEPS
    )
    survivors: list[int] = key([], "candidates a prompt that go on, for each of at", low=1, high=CANDIDATES)
    speedup: float | None = key(
        None,
        "instead of survivors: forwards of drawing, looks included, shall fall so many times",
        low=1,
        high=1000,
    )
    times: int | None = key(
        None,
        "times a look noises the predicted picture at (2 forwards each, contrast: edits + 1)",
        low=1,
        high=STEPS,
    )
    edits: int = key(3, "edits that a look by contrast tells the prompt from", low=1, high=1000)


@dataclass
class SamplerConfig(Settings):
    """Say how to walk from noise to a latent.

    >>> SamplerConfig("ddim", steps=20, eta=0.5, guidance=3.0).resolved({"spacing": "trailing"}).spacing
    'trailing'
    """

    name: str = key("ddim", "how to walk from noise to a picture", choices=SAMPLERS.meanings)
    steps: int = key(
        20,
        "of a picture: network evaluations (of heun two each, but for the last)",
        low=1,
        high=STEPS,
        basic=True,
    )
    eta: float = key(1.0, "ddim: 0 = deterministic, 1 = as noisy as ddpm", low=0, high=1)
    guidance: float = key(2.0, "classifier-free guidance scale; 1 = none", low=0, high=GUIDANCE, basic=True)
    guidance_interval: list[float] | None = key(
        None,
        "[low,high]: times between which guidance works; at others the network is told the prompt alone, one row a"
        " step, and the scores of the path count nothing (null: everywhere)",
        low=0,
        high=STEPS,
        sizes=2,
    )
    variance: str = key(
        "small",
        "noise of a ddpm step",
        choices={"small": "the posterior's", "large": "the forward kernel's, beta"},
    )
    spacing: str | None = key(
        None, "timestep spacing (default: as the model's scheduler says)", choices=SPACINGS
    )
    steps_offset: int | None = key(
        None,
        "added to every timestep of the leading spacing (default: as the model's scheduler says)",
        low=0,
        high=STEPS,
    )
    set_alpha_to_one: bool | None = key(
        None, "ddim: end at clean data, not at the first timestep (default: as the model's scheduler says)"
    )
    balance: str | None = key(
        None,
        "keep phrases of a prompt from being forgotten; prompts of fewer than two are drawn as ever (null: off)",
        choices=BALANCES.meanings,
    )
    balancing: BalancingConfig = section(BalancingConfig)
    racing: RacingConfig = section(RacingConfig)

    def resolved(self, defaults: Mapping[str, Any]) -> SamplerConfig:
        """Fill what is None from ``Denoiser.sampler_defaults``. UserError for a spacing that is not known here.

        What a scheduler says of σ ("sigmas") is said to those samplers that diffusers has the same schedulers for.
        """
        missing = {name: value for name, value in defaults.items() if getattr(self, name, "") is None}
        sigmas = defaults.get("sigmas")
        if sigmas and "spacing" in missing and SAMPLERS.find(self.name).grid != "ddim":
            if sigmas not in SPACINGS:
                raise UserError(
                    f"the model's scheduler lays its steps by {sigmas}, which is not known here: say sampler.spacing="
                    f" with one of {', '.join(SPACINGS)}"
                )
            missing["spacing"] = sigmas
        return dataclasses.replace(self, **missing)
