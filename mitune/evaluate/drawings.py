"""Pictures for people: captioned grids, before/after pairs, histograms and curves, all drawn without a display."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST, LARGEST = 128, 256  # side of a picture on a sheet, in pixels
_GAP, _MARGIN, _LINES = 6, 14, 8
_BEFORE, _AFTER = "#8a8f98", "#d9731a"  # told apart by lightness as well as hue


def to_image(picture: Any) -> Image.Image:
    """Make an RGB image of an image, a tensor [3, H, W] (float in [0, 1] or uint8) or an array [H, W, 3]."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        picture = (picture if picture.dtype == torch.uint8 else picture.float()).permute(1, 2, 0).numpy()
    array = np.asarray(picture)
    if array.dtype != np.uint8:
        array = np.rint(np.nan_to_num(np.clip(array, 0.0, 1.0)) * 255.0).astype(np.uint8)
    return Image.fromarray(array)


def png(picture: Any) -> bytes:
    """Give the PNG file contents of a picture (see :func:`to_image`)."""
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "PNG")
    return buffer.getvalue()


def grid(
    images: Sequence[Any], captions: Sequence[str], columns: int = 4, size: int | None = None
) -> Image.Image:
    """Draw a sheet of pictures, ``columns`` wide, the caption wrapped under each.

    ``size``: side of a picture in pixels; by default small ones are enlarged to 128 and large ones reduced to 256.
    """
    return _sheet([[image] for image in images], captions, columns, size, ())


def pairs(
    before: Sequence[Any], after: Sequence[Any], captions: Sequence[str], columns: int = 3
) -> Image.Image:
    """Draw a sheet of pairs side by side, ``columns`` of them in a row, the caption wrapped under each."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} pictures before, {len(after)} after: pairs need as many of each")
    cells = [list(pair) for pair in zip(before, after, strict=True)]
    return _sheet(cells, captions, columns, None, ("before", "after"))


def wrap(text: str, font: Any, width: float, lines: int = _LINES) -> list[str]:
    """Break ``text`` into at most ``lines`` lines no wider than ``width`` pixels; too long words are cut,
    the rest elided."""
    result = [""]
    for word in text.split():
        joined = f"{result[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            result[-1] = joined
            continue
        if result[-1]:
            result.append("")
        for letter in word:
            if result[-1] and font.getlength(result[-1] + letter) > width:
                result.append("")
            result[-1] += letter
    if len(result) > lines:
        last = result[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        result = [*result[: lines - 1], last + "…"]
    return result


def histogram(before: ArrayLike, after: ArrayLike, label: str, dark: bool = False) -> bytes:
    """Draw the two distributions of a score on common bins, a dashed line at each mean; ``dark``: for a dark page."""
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    both = np.concatenate([old, new])
    # Far outliers go into the outermost bins, or the body of both distributions would shrink to two bars.
    low, high = np.quantile(both, [0.005, 0.995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 1 + int(np.clip(np.sqrt(len(both)), 8, 32))).tolist()
    figure, axes = _figure(label, "share of pictures", dark)
    for values, name, colour in ((old, "before", _BEFORE), (new, "after", _AFTER)):
        weights = np.full(len(values), 1.0 / max(1, len(values)))
        axes.hist(np.clip(values, low, high), bins, weights=weights, color=colour, alpha=0.45, label=name)
        axes.hist(
            np.clip(values, low, high), bins, weights=weights, color=colour, histtype="step", linewidth=1.5
        )
        axes.axvline(float(np.clip(values.mean(), low, high)), color=colour, linestyle="--", linewidth=1.5)
    _legend(axes, dark)
    return as_png(figure)


def curve(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str, dark: bool = False
) -> bytes:
    """Draw named lines (x [n], y [n]) as PNG; a long noisy one is drawn pale with its running mean over it. NaN
    leaves a gap."""
    figure, axes = _figure(xlabel, ylabel, dark)
    colours = [_AFTER, "#3b7dd8", "#2e9e6b", "#a05bc8", _BEFORE]
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = colours[number % len(colours)]
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        window = len(ys) // 20
        if window < 3:
            marker = "o" if len(ys) < 3 else None
            axes.plot(xs, ys, color=colour, linewidth=1.8, label=name, marker=marker)
            continue
        axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(
            xs, _running_mean(ys, window), color=colour, linewidth=2.0, label=f"{name} (mean of {window})"
        )
    _legend(axes, dark)
    return as_png(figure)


def panels(width: float, height: float, count: int = 1, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """Make a figure of so many inches with ``count`` pairs of axes side by side, without the upper and right spines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    made = list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])
    for axes in made:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, made


def explain(figure: Figure, text: str) -> None:
    """Write a sentence under a figure: what is to be seen there."""
    width = int(17 * figure.get_figwidth())  # letters of this size a line
    figure.supxlabel(
        _verbatim(textwrap.fill(text, width)), x=0.01, ha="left", fontsize=8, color="#5b616b", wrap=False
    )


def as_png(figure: Figure) -> bytes:
    """Draw a figure as the contents of a PNG file, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last ``window`` finite values at each place (of fewer at the start)."""
    finite = np.isfinite(values)
    sums = np.cumsum(np.where(finite, values, 0.0))
    counts = np.cumsum(finite)
    sums[window:] -= sums[:-window].copy()
    counts[window:] -= counts[:-window].copy()
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _figure(xlabel: str, ylabel: str, dark: bool) -> tuple[Figure, Any]:
    """A figure with one pair of axes that sits on the page: transparent ground, ink that suits it."""
    ink = "#d5d8de" if dark else "#33373d"
    figure, (axes,) = panels(6.4, 3.2)
    figure.set_dpi(110)
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    for spine in axes.spines.values():
        spine.set_color(ink)
    axes.tick_params(colors=ink)
    axes.set_xlabel(_verbatim(xlabel), color=ink)
    axes.set_ylabel(_verbatim(ylabel), color=ink)
    axes.grid(axis="y", color=ink, alpha=0.15)
    return figure, axes


def _verbatim(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _legend(axes: Any, dark: bool) -> None:
    """Above the axes, where no line and no bar is."""
    ink = "#d5d8de" if dark else "#33373d"
    axes.legend(
        frameon=False, labelcolor=ink, loc="lower right", bbox_to_anchor=(1, 1), ncols=5, borderaxespad=0
    )


@functools.lru_cache
def _font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib and knows Latin, Greek, Cyrillic and many signs."""
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size
    )


def _fit(image: Image.Image, size: int) -> Image.Image:
    """Scale so that the longer side is ``size``."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def _sheet(
    cells: Sequence[Sequence[Any]],
    captions: Sequence[str],
    columns: int,
    size: int | None,
    headers: Sequence[str],
) -> Image.Image:
    """Cells of one or more pictures in rows of ``columns``, headers above the top row, captions below each cell."""
    if not cells:
        raise ValueError("a sheet needs one picture or more")
    if len(captions) != len(cells):
        raise ValueError(f"{len(cells)} pictures but {len(captions)} captions")
    if columns < 1:
        raise ValueError("a sheet needs one column or more")
    pictures = [[to_image(picture) for picture in cell] for cell in cells]
    if size is None:
        size = min(LARGEST, max(SMALLEST, *(max(picture.size) for cell in pictures for picture in cell)))
    pictures = [[_fit(picture, size) for picture in cell] for cell in pictures]

    font = _font(max(11, size // 11))
    line = font.size + 3
    width = len(cells[0]) * (size + _GAP) - _GAP
    columns = min(columns, len(cells))
    texts = [wrap(caption, font, width) for caption in captions]
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    pixels = [max(picture.height for index in row for picture in pictures[index]) for row in rows]
    heights = [
        tall + _GAP + line * max(len(texts[index]) for index in row) + _MARGIN
        for tall, row in zip(pixels, rows, strict=True)
    ]
    top = _MARGIN + (line + _GAP if headers else 0)

    sheet = Image.new("RGB", (columns * (width + _MARGIN) + _MARGIN, top + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for place, header in enumerate(headers):
            x = _MARGIN + column * (width + _MARGIN) + place * (size + _GAP)
            draw.text((x, _MARGIN), header, fill="#5b616b", font=font)
    y = top
    for row, tall, height in zip(rows, pixels, heights, strict=True):
        for column, index in enumerate(row):
            x = _MARGIN + column * (width + _MARGIN)
            for place, picture in enumerate(pictures[index]):
                left = x + place * (size + _GAP)
                sheet.paste(picture, (left, y))
                # A hairline, or a picture with a white ground would have no edge.
                draw.rectangle((left - 1, y - 1, left + picture.width, y + picture.height), outline="#d8dade")
            for number, text in enumerate(texts[index]):
                draw.text((x, y + tall + _GAP + number * line), text, fill="#16181c", font=font)
        y += height
    return sheet
