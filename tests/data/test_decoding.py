"""Every mode and depth of a picture's file comes out as it is meant, or is refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from packaging.version import Version
from PIL import Image, PngImagePlugin

from mitune.data import dataset
from mitune.data.decoding import decode_picture, open_picture
from mitune.errors import UserError

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
RGB = Image.fromarray(LEVELS)
GREY = Image.fromarray(LEVELS[..., 0])
DEEP = LEVELS[..., 0].astype(np.uint16) * 257


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.save(buffer, kind, **options)
    return buffer.getvalue()


def levels(data: bytes) -> np.ndarray:
    return np.asarray(open_picture(data, "x"))


def grey(data: bytes) -> list[int]:
    found = levels(data)
    assert (found == found[..., :1]).all()
    return found[..., 0].ravel().tolist()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """A PNG of one row, of any depth."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body


def tiff(bits: list[int], photometric: int, sample_format: int, data: bytes, planar: int = 1) -> bytes:
    """A TIFF of one row of four pixels, uncompressed."""
    count = len(bits)
    strips = count if planar == 2 else 1
    size = len(data) // strips
    entries: list[tuple[int, str, list[int]]] = [
        (256, "I", [4]), (257, "I", [1]), (258, "H", bits), (259, "H", [1]), (262, "H", [photometric]),
        (273, "I", [0] * strips), (277, "H", [count]), (278, "I", [1]), (279, "I", [size] * strips),
        (284, "H", [planar]), (339, "H", [sample_format] * count),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    long = [struct.pack(f"<{len(values)}{kind}", *values) for _, kind, values in entries]
    after = start + sum(len(packed) for packed in long if len(packed) > 4)
    table, extra = b"", b""
    for tag, kind, values in entries:
        if tag == 273:
            values = [after + size * strip for strip in range(strips)]
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        table += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        if len(packed) > 4:
            table += struct.pack("<I", start + len(extra))
            extra += packed
        else:
            table += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + extra + data


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bit_grey_is_as_the_eight_bit_picture(kind: str) -> None:
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    data = saved(Image.fromarray(DEEP), kind, **options)
    assert torch.equal(
        decode_picture(data, (6, 4), "x")[0], decode_picture(saved(GREY, "PNG"), (6, 4), "x")[0]
    )
    # Scaled to another size as well.
    assert torch.equal(
        decode_picture(data, (3, 3), "x")[0], decode_picture(saved(GREY, "PNG"), (3, 3), "x")[0]
    )


def test_sixteen_bits_of_a_tiff_as_its_tags_say() -> None:
    row = np.array([0, 257, 32896, 65535], "<u2").tobytes()
    assert grey(tiff([16], 1, 1, row)) == [0, 1, 128, 255]
    assert grey(tiff([16], 0, 1, row)) == [255, 254, 127, 0]  # white is 0
    big = saved(Image.frombytes("I;16B", (4, 1), np.frombuffer(row, "<u2").astype(">u2").tobytes()), "TIFF")
    assert big.startswith(b"MM")
    assert grey(big) == [0, 1, 128, 255]
    assert grey(tiff([12], 1, 1, bytes([0x00, 0x08, 0x00, 0x7F, 0xFF, 0xFF]))) == [0, 128, 127, 255]
    colours = np.array([[65535, 0, 0], [0, 65535, 257], [2313, 2056, 1799], [0, 0, 0]], "<u2")
    assert (levels(tiff([16] * 3, 2, 1, colours.tobytes()))[0] == colours // 257).all()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (tiff([16], 1, 2, bytes(8)), "signed"),
        (tiff([8], 1, 2, bytes(4)), "signed"),
        (tiff([32], 1, 1, bytes(16)), "32-bit"),
        (tiff([32], 1, 3, bytes(16)), "floats"),
        (tiff([16] * 3, 2, 1, bytes(24), planar=2), "one plane a colour"),
        (saved(Image.new("F", (4, 4), 0.5), "PPM"), "floats"),
        (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "floats"),
        (saved(Image.new("I", (4, 4), 5), "TIFF"), "32-bit"),
        (saved(Image.fromarray(DEEP), "IM"), "16-bit IM"),
        (saved(RGB, "EPS"), "another program"),
        (png(1, 16, 2, bytes(6), chunk(b"tRNS", bytes(6))), "transparent colour"),
    ],
)
def test_levels_without_a_known_range_are_refused(data: bytes, word: str) -> None:
    with pytest.raises(UserError, match=f"^the picture is not taken: .*{word}.*score.skip=true$"):
        open_picture(data, "the picture")


def test_planes_of_eight_bits_are_right() -> None:
    colours = np.arange(12, dtype=np.uint8).reshape(4, 3)
    assert (levels(tiff([8] * 3, 2, 1, colours.T.tobytes(), planar=2))[0] == colours).all()


def test_what_is_transparent_is_white() -> None:
    clear = np.dstack([LEVELS, np.where(LEVELS[..., :1] < 128, 0, 255).astype(np.uint8)])
    expected = np.where(clear[..., 3:] == 0, 255, LEVELS)
    for kind, options in (
        ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True}), ("ICO", {"sizes": [(4, 6)]}),
        ("TGA", {}),
    ):  # fmt: skip
        assert (levels(saved(Image.fromarray(clear), kind, **options)) == expected).all(), kind
    pair = Image.merge("LA", [GREY, Image.fromarray(clear[..., 3])])
    assert (levels(saved(pair, "PNG"))[..., 0] == expected[..., 0]).all()
    # A palette, its transparency one entry or a value for each; a GIF's.
    few = RGB.quantize(8)
    index, plain = np.asarray(few), np.asarray(few.convert("RGB"))
    gone = np.where((index == 3)[..., None], 255, plain)
    for kind, key in (("PNG", 3), ("GIF", 3), ("PNG", bytes([255] * 3 + [0] + [255] * 4))):
        assert (levels(saved(few, kind, transparency=key)) == gone).all(), (kind, key)
    half = levels(saved(few, "PNG", transparency=bytes([128] * 8)))
    assert np.abs(half.astype(int) - (plain.astype(int) + 255) / 2).max() <= 1.5


def test_the_transparent_level_of_a_png_has_the_depth_of_its_levels() -> None:
    row = bytes([0b00011011])  # 0, 1, 2, 3 of 2 bits
    assert grey(png(4, 2, 0, row)) == [0, 85, 170, 255]
    assert grey(png(4, 2, 0, row, chunk(b"tRNS", b"\0\1"))) == [0, 255, 170, 255]
    deep = struct.pack(">4H", 0, 257, 32896, 65535)
    assert grey(png(4, 16, 0, deep, chunk(b"tRNS", struct.pack(">H", 257)))) == [0, 255, 128, 255]
    assert grey(png(2, 16, 4, struct.pack(">4H", 0, 65535, 2313, 0))) == [0, 255]
    assert grey(png(8, 1, 0, bytes([0b01010101]), chunk(b"tRNS", bytes(2)))) == [255] * 8
    coloured = png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert levels(coloured).ravel().tolist() == [255, 255, 255, 4, 5, 6]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
def test_every_mode_that_a_tiff_can_have(mode: str) -> None:
    if mode == "YCbCr" and Version(PIL.__version__) < Version("13"):
        pytest.skip("Pillow before 13 cuts such a file short when it writes it")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
        picture = ImageCms.profileToProfile(
            Image.new("RGB", (4, 6), (200, 60, 30)), *profiles, outputMode="LAB"
        )
        assert picture is not None
        expected, most = np.array([200, 60, 30]), 4
    else:
        picture = RGB.convert("RGBA").convert(mode) if mode != "PA" else RGB.convert("P").convert("PA")
        expected, most = np.asarray(picture.convert("RGB")), 0
    found = levels(saved(picture, "TIFF")).astype(int)
    assert np.abs(found - expected).max() <= most


def test_printers_colours_of_a_jpeg_are_not_inverted() -> None:
    flat = Image.new("RGB", (16, 16), (220, 30, 60))
    found = levels(saved(flat.convert("CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(found - [220, 30, 60]).max() < 6


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_turn_that_a_camera_noted_is_obeyed(kind: str, turn: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes it
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[8:, :8] = (0, 255, 0)
    upright[:8, 24:] = (0, 0, 255)
    picture = Image.fromarray(upright)
    if turn in back:
        picture = picture.transpose(Image.Transpose(back[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    )
    found = levels(saved(picture, kind, exif=exif, **options)).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < 3


@pytest.mark.parametrize("notes", [b"junk", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01\x12"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_notes_of_a_camera_leave_the_picture_as_it_is(kind: str, notes: bytes) -> None:
    plain = saved(RGB, kind)
    assert (levels(saved(RGB, kind, exif=b"Exif\0\0" + notes)) == levels(plain)).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_or_pages_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert (levels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_half_a_file_is_refused(kind: str) -> None:
    large = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(large), kind)
    with pytest.raises(UserError, match=r"^x does not decode .*score\.skip=true$"):
        open_picture(data[: len(data) // 2], "x")


def test_pictures_of_absurd_size_are_one_line() -> None:
    def header(side: int) -> bytes:
        body = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", body)
            + chunk(b"IDAT", zlib.compress(bytes(100)))
            + chunk(b"IEND", b"")
        )

    with pytest.raises(
        UserError, match=r"^x is too large \(400,000,000 pixels; at most 178,956,970 are decoded\)"
    ):
        open_picture(header(20_000), "x")
    # Of a size that Pillow warns of: the reason is that there are no pixels in it, not the size.
    with pytest.raises(UserError, match=r"^x does not decode \((?!.*bomb)"):
        open_picture(header(10_000), "x")


def test_a_picture_that_pillow_warns_of_decodes_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # RGB has 24
    assert (levels(saved(RGB, "PNG")) == LEVELS).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11)
    with pytest.raises(UserError, match="24 pixels; at most 22"):
        open_picture(saved(RGB, "PNG"), "x")
    assert capfd.readouterr() == ("", "")


def test_text_that_unpacks_to_very_much_is_refused() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 2**21, zip=True)
    with pytest.raises(UserError, match=r"^x does not decode"):
        open_picture(saved(RGB, "PNG", pnginfo=info), "x")


def test_pillows_log_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        open_picture(tiff([8] * 9, 2, 1, bytes(36)), "x")
    assert capfd.readouterr() == ("", "")


def test_a_training_set_has_the_same_eyes() -> None:
    assert torch.equal(
        dataset.decode_png(saved(Image.fromarray(DEEP), "PNG")), dataset.decode_png(saved(GREY, "PNG"))
    )
    with pytest.raises(UserError, match=r"^row 3 does not decode .*write it again$"):
        dataset.decode_png(b"no picture", "row 3")
