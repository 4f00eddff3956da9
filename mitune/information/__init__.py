"""Estimators of the information a prompt and a picture share."""

from mitune.information.denoising import (
    DenoisingErrors,
    DenoisingTerms,
    denoising_errors,
    denoising_terms,
    gaps,
)
from mitune.information.elbo import elbo, log_prob_bound, mi_and_elbo, score_conditions
from mitune.information.estimate import Estimate, standard_error
from mitune.information.llr import PathLLR, llr_estimate, llr_image
from mitune.information.mi import PathMI, measure_profile, mi_image
from mitune.information.predictions import elbo_density, elbo_weight
from mitune.information.times import Profile, TimeGrid, Weighting, time_grid

__all__ = [
    "DenoisingErrors",
    "DenoisingTerms",
    "Estimate",
    "PathLLR",
    "PathMI",
    "Profile",
    "TimeGrid",
    "Weighting",
    "denoising_errors",
    "denoising_terms",
    "elbo",
    "elbo_density",
    "elbo_weight",
    "gaps",
    "llr_estimate",
    "llr_image",
    "log_prob_bound",
    "measure_profile",
    "mi_and_elbo",
    "mi_image",
    "score_conditions",
    "standard_error",
    "time_grid",
]
