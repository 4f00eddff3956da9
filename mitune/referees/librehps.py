"""LibreHPS through its own package, where it is there: a preference model under a free licence.

``librehps`` 1.1 needs Python 3.12 and transformers 5.5.4 exactly, which is older than what MI-Tune is built on; so it
is no extra, and is refused by name where it cannot be imported.
"""

from __future__ import annotations

from functools import cached_property
from importlib import util
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, first_line
from mitune.referees.catalogue import LibreHpsConfig
from mitune.referees.package import version_of
from mitune.referees.pairs import check_pairs
from mitune.referees.preprocess import to_images

_WAY = (
    "it needs Python 3.12 and pins transformers 5.5.4, so it is no extra of mitune: pip install --no-deps librehps may"
    " do where that transformers' models still load, else judge saved pictures in an environment of its own; hpsv2 and"
    " pickscore are preference models that need none"
)


class LibreHpsReward:
    """Judges how people would rate the picture, the mean of LibreHPS's axis "overall"; it cannot be differentiated."""

    name = "librehps"
    differentiable = False

    def __init__(self, settings: LibreHpsConfig, device: torch.device | str) -> None:
        if util.find_spec("librehps") is None:
            raise UserError(f"the scorer librehps needs the package librehps, which is not installed: {_WAY}")
        settings.check("scorer.librehps.")
        self.path, self.device = settings.path, torch.device(device)

    @property
    def identity(self) -> str:
        """The weights that judge."""
        return f"{self.path} (librehps {version_of('librehps')})"

    @cached_property
    def model(self) -> Any:
        """The judge, as the package loads it."""
        try:
            from librehps import LibreHPS
        except ImportError as error:
            raise UserError(
                f"the scorer librehps: the package does not import ({first_line(error)}): {_WAY}"
            ) from error
        return LibreHPS.from_pretrained(self.path, device=self.device)

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        rated = [
            self.model.score_image(image=image, prompt=prompt).overall.mean
            for image, prompt in zip(to_images(pictures), prompts, strict=True)
        ]
        return torch.tensor(rated, dtype=torch.float32, device=pictures.device)
