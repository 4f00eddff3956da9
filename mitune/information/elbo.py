"""``elbo``: how much better a prompt explains the noise put on a latent than the null prompt does; and ``mi_image``.

    log p(z_0|c) ≥ −½ ∫ −λ'(t) E‖ε̂(z_t, t, c) − ε‖² dt + const        (VDM, arXiv 2107.00630)

The constant is the same for all conditions, so differences of two of these estimate the log-ratio of their likelihoods.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mitune.denoiser import Condition, Denoiser
from mitune.information.catalogue import ElboConfig, MIImageConfig
from mitune.information.denoising import denoising_errors, denoising_terms
from mitune.information.given import Given
from mitune.information.in_passes import Unfinished
from mitune.information.noising import Noising


def elbo(denoiser: Denoiser, z0: Tensor, condition: Condition, noising: Noising) -> Tensor:
    """Measure error(∅) − error(c) [n] float32.

    An estimate of i(z_0; c) in nats where the times span the whole range with the continuous weights; over a part of
    it, of what that part adds.

    Under "coupled" noise it is the log-likelihood ratio of one forward path, which tends to i(z_0; c) for each picture,
    not only on average, as the times grow dense.
    """
    error = denoising_errors(denoiser, z0, [denoiser.reference(condition), condition], noising).error
    return _gap(error)


def _gap(error: Tensor) -> Tensor:
    return (error[:, 0] - error[:, 1]).float()


def mi_and_elbo(
    denoiser: Denoiser, z0: Tensor, condition: Condition, noising: Noising, form: str = "square"
) -> tuple[Tensor, Tensor]:
    """Measure ``mi_image`` and ``elbo`` of the same pictures by the forwards of one, each [n] float32.

    Args:
        denoiser, z0, condition, noising: as of ``elbo``.
        form: of ``mi_image``, as :func:`mitune.information.denoising.denoising_terms`; "orthogonal" is RFMI's.
    """
    conditions = [denoiser.reference(condition), condition]
    error, mi = denoising_terms(denoiser, z0, conditions, noising, 0, form)
    assert mi is not None
    return mi[:, :, 1].sum(1).float(), (error[:, :, 0] - error[:, :, 1]).sum(1).float()


def measure(denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: ElboConfig) -> Tensor:
    """Measure the score ``elbo``."""
    return elbo(denoiser, z0, given.condition, noising)


def opened(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: ElboConfig
) -> Unfinished:
    """Begin to measure the score ``elbo``."""

    def of(rows: Sequence[int]) -> list[Condition]:
        condition = given.condition_of(rows)
        return [denoiser.reference(condition), condition]

    return Unfinished(denoiser, z0, noising, [(range(len(z0)), of)], 1, lambda error: _gap(error.sum(1)))


def measure_both(
    denoiser: Denoiser, z0: Tensor, given: Given, noising: Noising, settings: MIImageConfig
) -> dict[str, Tensor]:
    """Measure the score ``mi_image``, and ``elbo`` with it."""
    mi, bound = mi_and_elbo(denoiser, z0, given.condition, noising, settings.form)
    return {"mi_image": mi, "elbo": bound}
