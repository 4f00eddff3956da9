"""Estimators of the information a prompt and a picture share."""

from mitune.information.elbo import (
    DenoisingErrors,
    TimeGrid,
    denoising_errors,
    elbo,
    gaps,
    mi_image,
    time_grid,
)
from mitune.information.llr import PathLLR
from mitune.information.mi import PathMI

__all__ = [
    "DenoisingErrors",
    "PathLLR",
    "PathMI",
    "TimeGrid",
    "denoising_errors",
    "elbo",
    "gaps",
    "mi_image",
    "time_grid",
]
