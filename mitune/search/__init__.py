"""Search: candidate generators beyond plain sampling."""

from mitune.search.path_contrast import PathContrast
from mitune.search.potentials import LatentReward, PathPotential, RewardPotential
from mitune.search.resampling import effective_sample_size, resample
from mitune.search.smc import CommonNoise, Steered, draw, particle_seeds, steer
from mitune.search.tempering import Tempering, largest_temper
from mitune.search.weights import Steering

__all__ = [
    "CommonNoise",
    "LatentReward",
    "PathContrast",
    "PathPotential",
    "RewardPotential",
    "Steered",
    "Steering",
    "Tempering",
    "draw",
    "effective_sample_size",
    "largest_temper",
    "particle_seeds",
    "resample",
    "steer",
]
