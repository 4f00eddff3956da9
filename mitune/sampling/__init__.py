"""Sampling: one loop over a population of candidates, its samplers, its noise and its observers."""

from mitune.sampling.loop import (
    Observer,
    Population,
    Resample,
    Samples,
    Step,
    sample,
    sample_population,
)
from mitune.sampling.racing import Cut, Look, Pilot, Racing
from mitune.sampling.seeds import NoiseStreams, candidate_noise, candidate_seed
from mitune.sampling.steps import Sampler, StepCoefficients, coefficients

__all__ = [
    "Cut",
    "Look",
    "NoiseStreams",
    "Observer",
    "Pilot",
    "Population",
    "Racing",
    "Resample",
    "Sampler",
    "Samples",
    "Step",
    "StepCoefficients",
    "candidate_noise",
    "candidate_seed",
    "coefficients",
    "sample",
    "sample_population",
]
