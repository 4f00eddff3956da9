"""A small training set of random latents, in the layout ``mitune.data.dataset`` writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

TEXTS = ["a red circle", "a blue square", "two dogs", "a green star"]


def make_dataset(
    losers: int = 0,
    rows: int = 8,
    seed: int = 0,
    latents: bool = True,
    shape: tuple[int, ...] = (4, 8, 8),
) -> Any:
    """``rows`` winners over four prompts, each prompt with ``losers`` losers; pictures and latents are
    random.
    """
    import pandas as pd

    from mitune.data import dataset as datasets

    generator = torch.Generator().manual_seed(seed)
    records = []
    for row in range(rows + losers * len(TEXTS)):
        text = TEXTS[row % len(TEXTS)]
        records.append(
            {
                "prompt_id": f"{TEXTS.index(text):012x}",
                "prompt": text,
                "category": "color",
                "candidate": row,
                "seed": row,
                "mi": float(row),
                "score": float(row),
                "rank": 0,
                "preferred": row < rows,
            }
        )
    count = len(records)
    pictures = torch.rand(count, 3, 16, 16, generator=generator)
    z = torch.randn(count, *shape, generator=generator)
    return datasets.build(pd.DataFrame(records), list(pictures), z if latents else None)


@pytest.fixture(scope="session")
def winners() -> Any:
    """Eight winners, two of each prompt."""
    return make_dataset()


@pytest.fixture(scope="session")
def pairs() -> Any:
    """Eight winners and eight losers."""
    return make_dataset(losers=2)
