"""The embedded world's oracle as a reward."""

from __future__ import annotations

import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.referees.pairs import check_pairs


class OracleReward:
    """How much of the prompt the shapes world's own parser finds, 0 to 1. It cannot be differentiated."""

    name = "oracle"
    differentiable = False
    identity = "oracle"

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, 64, 64] in [0, 1]. UserError for a prompt of another world."""
        from mitune.worlds.shapes import oracle_scores

        check_pairs(self.name, pictures, prompts)
        try:
            scores = oracle_scores(pictures.detach(), prompts)
        except ValueError as error:
            raise UserError(f"oracle: it judges the embedded world only; {error}") from error
        return torch.as_tensor(scores, dtype=torch.float32, device=pictures.device)
