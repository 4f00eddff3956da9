"""The embedded world's oracle as a reward."""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.referees.pairs import check_pairs


class OracleReward:
    """Judges how much of the prompt the shapes world's own parser finds, 0 to 1. It cannot be differentiated.

    It computes on the CPU, whatever the ``device``.
    """

    name = "oracle"
    differentiable = False
    identity = "oracle"

    def __init__(self, settings: None, device: torch.device | str) -> None:
        """Take what every judge is given; there is nothing to set."""

    def columns(self, pictures: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """Give ``oracle`` and ``exact`` (0 or 1), each [n] float64, of ``pictures`` [n, 3, 64, 64] in [0, 1].

        UserError for a prompt of another world.
        """
        from mitune.worlds.shapes import oracle_scores

        check_pairs(self.name, pictures, prompts)
        try:
            scores = torch.as_tensor(oracle_scores(pictures.detach(), prompts))
        except ValueError as error:
            raise UserError(f"oracle: it judges the embedded world only; {error}") from error
        return {"oracle": scores, "exact": (scores == 1.0).double()}

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give ``oracle`` alone [n], float32 as other rewards; UserError as ``columns``."""
        return self.columns(pictures, prompts)["oracle"].to(pictures.device, torch.float32)
