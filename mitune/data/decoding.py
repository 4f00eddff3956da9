"""A user's picture file as pixels: every mode and depth comes out as it is meant, or is refused."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mitune.errors import UserError, first_line, short

SKIP = "mend or remove it, or leave such out with score.skip=true"
OF_TASK = "mend it, or leave its row out of the table of prompts"
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RUN_BY_OTHERS = ("EPS", "WMF")  # Pillow hands these to another program
_DEEP = ("PNG", "PPM", "TIFF", "JPEG2000")  # whose 16-bit levels have a range that the file says
# TIFF's tags.
_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339


class _Unfit(Exception):
    """Why a picture that decodes is not taken."""


def decode_picture(
    data: bytes, size: tuple[int, int], what: str, way_out: str = SKIP
) -> tuple[Tensor, tuple[int, int] | None]:
    """Give a picture [3, H, W] in [0, 1] of ``size`` (H, W), and its own (H, W) where that was another.

    One of another size is scaled to cover ``size`` and cut to its middle; all else as in :func:`open_picture`.
    Raises UserError naming ``what`` for bytes that are no picture, ending with ``way_out``.
    """
    picture = open_picture(data, what, way_out)
    own = (picture.height, picture.width)
    height, width = size
    if own != size:
        with _decoding(what, way_out):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
    return as_tensor(picture), None if own == size else own


def as_tensor(picture: Image.Image) -> Tensor:
    """Give an RGB picture as floats [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def open_picture(data: bytes, what: str, way_out: str = SKIP) -> Image.Image:
    """Open the picture as 8-bit RGB, the first frame or page where there are several.

    The turn that a camera noted is obeyed; transparent parts are white; 16-bit levels are scaled by 65535 (12-bit ones
    of a TIFF by 4095). Colour profiles and gamma chunks are left alone, as training code leaves them. Levels without
    a known range (floats, signed or 32-bit integers) are refused, and so is what has more pixels than
    2 ``Image.MAX_IMAGE_PIXELS``. Pillow's warnings are not shown.

    Raises UserError naming ``what``, ending with ``way_out``.
    """
    with _decoding(what, way_out):
        picture: Image.Image = Image.open(io.BytesIO(data))
        if picture.format in _RUN_BY_OTHERS:
            raise _Unfit(f"{picture.format} needs another program to be drawn")
        if not min(picture.size):
            raise _Unfit("it has no pixels")
        tags = _tags(picture)
        _check_samples(picture, tags)
        picture.load()
        return _on_white(_turned(picture), data, tags)


@contextlib.contextmanager
def _decoding(what: str, way_out: str) -> Iterator[None]:
    """Turn what Pillow raises into a UserError, and keep what it warns of or logs to itself."""
    logger = logging.getLogger("PIL")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _Unfit as error:
        raise UserError(f"{what} is not taken: {error}; {way_out}") from error
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        said = f"{int(count[0]):,} pixels" if count else "too many pixels"
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(
            f"{what} is too large ({said}; at most {most:,} are decoded); scale it down, {way_out}"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{what} does not decode (it is no picture of a kind that Pillow knows); {way_out}"
        ) from error
    except MemoryError as error:
        raise UserError(f"{what} does not decode (there is not the memory for it); {way_out}") from error
    except Exception as error:  # of dozens of types: Pillow lets through whatever a damaged file brings
        raise UserError(f"{what} does not decode ({short(first_line(error))}); {way_out}") from error
    finally:
        logger.setLevel(level)


def _tags(picture: Image.Image) -> Mapping[int, Any]:
    """What a TIFF says of its samples; empty for other kinds."""
    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    return {tag: tags.get(tag) for tag in (_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT)}


def _check_samples(picture: Image.Image, tags: Mapping[int, Any]) -> None:
    """Raise for samples whose range is not known, or that Pillow is known to read wrongly."""
    mode = picture.mode
    if mode == "F":
        raise _Unfit("its levels are floats, whose range the file does not say; save it with 8 or 16 bits")
    if mode == "I" and picture.format not in ("PNG", "PPM"):
        raise _Unfit(
            "its levels are signed or 32-bit integers, whose range the file does not say; save it with 8 or 16 bits"
        )
    if mode.startswith("I;16") and picture.format not in _DEEP:
        raise _Unfit(f"16-bit {picture.format} files do not say their range; save it as PNG")
    if 2 in _several(tags.get(_SAMPLE_FORMAT)):
        raise _Unfit("its levels are signed integers, whose range the file does not say; save it unsigned")
    deep = max(_several(tags.get(_BITS)), default=8) > 8
    if deep and tags.get(_PLANAR) == 2 and len(_several(tags.get(_BITS))) > 1:
        raise _Unfit("16-bit TIFFs with one plane a colour are read wrongly by Pillow; save it interleaved")


def _several(value: Any) -> tuple[Any, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _turned(picture: Image.Image) -> Image.Image:
    """The picture turned as its camera noted; as it is where the note cannot be read."""
    try:
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged notes are no reason to refuse the picture, nor of a known type
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image, data: bytes, tags: Mapping[int, Any]) -> Image.Image:
    """The picture as RGB, its transparent parts white."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _shallow(picture, tags).convert("RGB")
    if "transparency" in picture.info and data.startswith(b"\x89PNG"):
        _mend_key(picture, depth=data[24])
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    clear = picture.convert("RGBA")
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    return white.convert("RGB")


def _mend_key(picture: Image.Image, depth: int) -> None:
    """Pillow scales the levels of a PNG to 8 bits, but not the level that is transparent."""
    key = picture.info["transparency"]
    if picture.mode == "RGB" and depth == 16:
        raise _Unfit("it has 16 bits and a transparent colour, which Pillow cannot tell from its like")
    if picture.mode == "RGB":
        picture.info["transparency"] = tuple(level & 255 for level in key)
    elif picture.mode == "L":
        most = (1 << depth) - 1
        picture.info["transparency"] = (key & most) * 255 // most


def _shallow(picture: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """16-bit grey levels as 8-bit ones, each the nearest; its transparent level white."""
    levels = np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
    bits = max(_several(tags.get(_BITS)), default=16)
    most = (1 << min(bits, 16)) - 1
    scale = (np.minimum(np.arange(65536), most) * 510 + most) // (2 * most)
    if tags.get(_PHOTOMETRIC) == 0:  # white is 0, which Pillow inverts for 8 bits only
        scale = 255 - scale
    key = picture.info.get("transparency")
    if isinstance(key, int):
        scale[key & 65535] = 255
    return Image.fromarray(scale.astype(np.uint8)[levels])
