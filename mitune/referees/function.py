"""A user's own function as a judge of pictures; from Python only, as a configuration names no code to be run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, first_line
from mitune.information.catalogue import Score
from mitune.referees.pairs import check_pairs

Function = Callable[[Tensor, list[str]], Any]
"""(pictures [n, 3, H, W] in [0, 1], their prompts) -> [n] numbers, higher = better."""


class FunctionReward:
    """Judges pictures by a function of (pictures [n, 3, H, W] in [0, 1], prompts), which gives n numbers.

    >>> judge = FunctionReward(lambda pictures, prompts: pictures.mean((1, 2, 3)), "brightness")
    >>> judge.score(torch.ones(2, 3, 8, 8), ["a", "b"]).tolist()
    [1.0, 1.0]

    What the function raises goes through as it is. ``name``: by default the function's own (of an object: its class's).
    UserError for a name that cannot stand in a sum of scores, or that ``known`` scores have.
    """

    differentiable = False

    def __init__(self, function: Function, name: str | None = None, known: tuple[str, ...] = ()) -> None:
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        if not self.name.isidentifier():
            raise UserError(
                f"scores: a function called {self.name} has no name that a table could show; write it with def"
            )
        if self.name in known:
            raise UserError(
                f"scores: there is a score '{self.name}' already; give your function another name"
            )
        self.row = Score(
            self.name,
            "a function of the user's",
            f"{__name__}:FunctionReward",
            where="picture",
            external=True,
        )

    @property
    def identity(self) -> str:
        """The function by its full name; what it computes is not looked at."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"function {getattr(self.function, '__module__', '')}.{name}"

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the function's numbers [n] float64, on the CPU, for ``pictures`` [n, 3, H, W] in [0, 1].

        UserError where it gives something else than n finite numbers.
        """
        check_pairs(self.name, pictures, prompts)
        found = self.function(pictures, list(prompts))
        try:
            values = torch.as_tensor(found).detach().cpu().double()
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"score '{self.name}': your function gave a {type(found).__name__}, which is no tensor of numbers"
                f" ({first_line(error)}); give one number a picture"
            ) from error
        if values.shape != (len(pictures),):
            raise UserError(
                f"score '{self.name}': your function gave {list(values.shape)} for {len(pictures)} pictures; give"
                f" [{len(pictures)}], one number a picture"
            )
        bad = ~values.isfinite()
        if bad.any():
            place = int(bad.nonzero()[0])
            raise UserError(
                f"score '{self.name}': your function gave {float(values[place])} for the picture of"
                f" {prompts[place]!r}; give finite numbers"
            )
        return values
