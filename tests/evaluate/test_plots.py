"""Plots for people: no two texts of one lie on each other, and a sentence under it says what is to be seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mitune.evaluate import agreement, calibration
from mitune.report import sweeps

NAMES = [
    "mi",
    "llr",
    "mi_image",
    "elbo",
    "llr_image",
    "contrast",
    "z(contrast)+0.5*z(elbo)",
    "price in $ and $",
]
JUDGED = {name: {"judge": "small#1", "itself": True, "selected": False} for name in NAMES}
Drawn = Callable[[Callable[[], bytes]], Any]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """``drawn(plot)``: the figure that a function draws."""
    caught: list[Any] = []
    for module in (agreement, calibration, sweeps):
        save = module.as_png

        def catch(figure: Any, save: Callable[[Any], bytes] = save) -> bytes:
            caught.append(figure)
            return save(figure)

        monkeypatch.setattr(module, "as_png", catch)

    def draw(plot: Callable[[], bytes]) -> Any:
        assert plot().startswith(b"\x89PNG")
        return caught.pop()

    return draw


def texts(figure: Any) -> list[tuple[str, Any]]:
    """The texts that are seen, and where they lie."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    unseen = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _beyond(axis)}
    seen = [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in unseen
    ]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in seen]


def _beyond(axis: Any) -> list[Any]:
    """The labels of ticks that are not drawn: they lie beyond the axis's ends."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def check(figure: Any) -> None:
    """No text on another, none outside, and a sentence under it."""
    found = texts(figure)
    for (one, here), (other, there) in itertools.combinations(found, 2):
        apart = 0.5  # of a pixel: ends may touch
        over = (
            min(here.x1, there.x1) - max(here.x0, there.x0),
            min(here.y1, there.y1) - max(here.y0, there.y0),
        )
        assert min(over) <= apart, f"{one!r} lies on {other!r}"
    for text, box in found:
        assert box.x0 >= -1, text
        assert box.x1 <= figure.bbox.width + 1, text
        assert box.y0 >= -1, text
    assert len(figure._supxlabel.get_text()) > 80


def candidates() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = {name: generator.normal(size=48) for name in NAMES}
    return pd.DataFrame({"prompt_id": np.repeat(np.arange(6), 8), **rows})


@pytest.mark.parametrize("known", [True, False])
def test_agreement(drawn: Drawn, known: bool) -> None:
    # Alike in cost and in rank: beside one another they would lie on each other.
    forwards = dict.fromkeys(NAMES, 16.0) if known else None
    study = agreement.agreement(candidates(), NAMES, "contrast", forwards=forwards, resamples=20)
    figure = drawn(lambda: agreement.plot(study | {"judged_by": JUDGED}))
    check(figure)
    words = [text for text, _ in texts(figure)]
    assert ("mi (16)" in words) == known
    assert "judged by" in " ".join(" ".join(words).split()).lower()


def test_calibration(drawn: Drawn) -> None:
    generator = np.random.default_rng(0)
    running = {
        name: {step: generator.normal(size=(4, 6)) for step in (1, 2, 3, 4)}
        for name in (*NAMES[:3], *NAMES[6:])
    }
    study = calibration.calibration(
        running,
        generator.normal(size=(4, 6)),
        4,
        looks=dict.fromkeys(running, 0),
        finish=4,
        seed=0,
        resamples=20,
    )
    check(drawn(lambda: calibration.plot(study | {"target": NAMES[6], "judged_by": JUDGED})))


def test_a_sweep(drawn: Drawn) -> None:
    rows = []
    for number in range(5):
        row: dict[str, Any] = {
            "job": f"job {number}",
            "train.lr": 10.0**-number,
            "round": 1,
            "status": "done",
        }
        for name in NAMES:
            for side in sweeps._SIDES:
                row |= sweeps._cells(f"{name}_{side}", 0.1 * number, [0.1 * number - 0.2, 0.1 * number + 0.2])
        rows.append(row)
    check(drawn(lambda: sweeps.plot(pd.DataFrame(rows), JUDGED)))
