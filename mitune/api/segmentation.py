"""Where in a picture each phrase of its prompt is, from Python: what ``mitune segment`` does, on objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mitune.api.asking import bar
from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.pixels.asking import unambiguous
from mitune.pixels.catalogue import HeatmapConfig
from mitune.pixels.drawings import Levels, heat_over, mask_over
from mitune.pixels.phrases import Asked, phrases_of
from mitune.stages.drawn_masks import mask_of
from mitune.stages.picture_scores import picture_seeds
from mitune.stages.segmented import check_model, heat_of, plain

_AT_ONCE = 16  # pictures that are measured together


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Holds what was found in one picture.

    Attributes:
        picture: it, at its own size.
        prompt, phrases: what was looked for.
        heatmaps: [P, H, W] uint8, 0 to 255: how much each pixel is of each phrase.
        mask: [H, W]: the number of the phrase (from 1), 0 for the background.
        threshold: the heat, of 0 to 1, from which a pixel is no background.
        losses: how badly each phrase explains the picture; None where that was not measured.
        strengths: S of each: 1 for the one that explains it best.
    """

    picture: Image.Image
    prompt: str
    phrases: tuple[str, ...]
    heatmaps: Levels
    mask: NDArray[np.int64]
    threshold: float
    losses: tuple[float | None, ...]
    strengths: tuple[float | None, ...]

    @property
    def table(self) -> pd.DataFrame:
        """A row a phrase: its share of the picture, its loss and its strength."""
        areas = [float((self.mask == number).mean()) for number in range(1, len(self.phrases) + 1)]
        columns = {"phrase": self.phrases, "area": areas, "loss": self.losses, "S": self.strengths}
        return pd.DataFrame(columns)

    def overlay(self, phrase: int | None = None) -> Image.Image:
        """Draw the masks over the picture, or the heat of the phrase with this number (from 1)."""
        if phrase is None:
            return mask_over(self.picture, self.mask)
        return heat_over(self.picture, self.heatmaps[phrase - 1])


def asked_of(prompts: Sequence[str], phrases: Sequence[Sequence[str]] | None, source: str) -> list[Asked]:
    """Find the phrases of prompts: those given, or those that ``source`` finds. UserError as :func:`unambiguous`."""
    if phrases is None:
        try:
            return [Asked(text, phrases_of(text, source)) for text in prompts]
        except UserError as error:
            raise UserError(f"{error}; or give them: phrases=") from error
    return [Asked(text, unambiguous(text, own)) for text, own in zip(prompts, phrases, strict=True)]


def segmented(
    denoiser: Adapted,
    pictures: Sequence[Image.Image],
    asked: Sequence[Asked],
    settings: HeatmapConfig,
    seed: int,
    batch_size: int,
    progress: bool,
) -> list[Segmentation]:
    """Segment pictures, each for its own phrases.

    Args:
        denoiser: the model.
        pictures, asked: as many of each.
        settings: how heatmaps are made.
        seed: of the noise.
        batch_size: rows a forward.
        progress: show a bar.
    """
    check_model(denoiser, asked, settings)
    seeds = picture_seeds(seed, [one.prompt for one in asked])
    threshold = float(settings.filled().threshold or 0)
    result = []
    with bar("segment", len(pictures), progress, "pictures") as advance:
        for start in range(0, len(pictures), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            names = [f"pictures[{place}]" for place in range(len(pictures))[part]]
            found = heat_of(denoiser, pictures[part], asked[part], seeds[part], settings, batch_size, names)
            for picture, one, (grey, own) in zip(pictures[part], asked[part], found, strict=True):
                result.append(
                    Segmentation(
                        picture,
                        one.prompt,
                        tuple(phrase.text for phrase in one.phrases),
                        np.stack(grey),
                        mask_of(grey, threshold),
                        threshold,
                        tuple(plain(own.losses)),
                        tuple(plain(own.scores)),
                    )
                )
            advance(len(found))
    return result
