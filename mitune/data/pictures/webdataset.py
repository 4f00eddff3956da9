"""WebDataset shards: tar files of ``key.jpg`` with ``key.txt`` or ``key.json`` beside it, read where they lie."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.data.pictures.cells import LARGEST, Place
from mitune.data.pictures.columns import CAPTION_COLUMNS, caption_of
from mitune.data.pictures.rows import Pictures, Wanted
from mitune.errors import UserError, nearest, short
from mitune.reading import check_regular, decode, parse_json, reading

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "avif", "jp2", "ppm", "pgm")
CAPTIONS = ("txt", "caption", "text")
_LARGEST_TEXT = 2**24
_BLOCK = 512


@dataclass(frozen=True)
class _Part:
    """Where the contents of a member lie."""

    shard: Path
    start: int
    size: int

    def read(self) -> bytes:
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError("the file has been cut")
        return data


@dataclass
class _Sample:
    """A key's members by what is behind its first dot."""

    name: str
    parts: dict[str, _Part] = field(default_factory=dict)


def read_shards(shards: list[Path], wanted: Wanted, root: Path | None = None) -> Pictures:
    """Read the samples of tar files, in their order; the picture is ``jpg``, ``png``, … or ``score.image_column``, the
    caption ``txt``, ``caption``, or a field of ``json``, or ``score.text_column``.

    The headers are read once; pictures by their places when they are asked for, without unpacking anything.
    ``root``: the folder that was asked for. Raises UserError: a tar that is cut or damaged, a member that is a link or
    a device, no picture.
    """
    where = str(shards[0] if len(shards) == 1 else shards[0].parent)
    names: list[str] = []
    texts: list[str] = []
    places: list[_Part] = []
    for shard in shards:
        if root is not None:
            Place(root, wanted.outside).check(shard, str(shard))
        if wanted.limit is not None and len(names) >= wanted.limit:
            break
        for sample in _samples(shard):
            if wanted.limit is not None and len(names) >= wanted.limit:
                break
            kind = _picture_kind(sample, shard, wanted)
            if kind is None:
                continue
            name = f"{sample.name} of {shard.name}"
            names.append(name)
            texts.append(_caption(sample, name, where, wanted))
            places.append(sample.parts[kind])
    if not names:
        said = f"with the ending '{wanted.image}'" if wanted.image else "(.jpg, .png, .webp, …)"
        raise UserError(
            f"{where} has no picture {said} in it; give tar files of key.jpg with key.txt or key.json"
        )

    def read(row: int) -> bytes:
        what = f"the picture {names[row]}"
        with reading(what):
            return places[row].read()

    return Pictures(where, texts, names, read)


def _picture_kind(sample: _Sample, shard: Path, wanted: Wanted) -> str | None:
    if wanted.image is not None:
        return wanted.image if wanted.image in sample.parts else None
    found = [kind for kind in sample.parts if kind.rsplit(".", 1)[-1] in PICTURES]
    if len(found) > 1:
        raise UserError(
            f"{shard}: {sample.name} has the pictures {', '.join(sorted(found))}; choose one with score.image_column="
        )
    if found and sample.parts[found[0]].size > LARGEST:
        raise UserError(f"{shard}: {sample.name} is larger than any picture; remove it")
    return found[0] if found else None


def _caption(sample: _Sample, name: str, where: str, wanted: Wanted) -> str:
    parts = sample.parts
    for kind in CAPTIONS if wanted.text is None else (wanted.text,):
        if kind in parts and kind != "json":
            return caption_of(_text(parts[kind], name), name, wanted, where)
    if "json" not in parts:
        return ""
    what = f"{name}.json"
    value = parse_json(_text(parts["json"], what), what)
    if not isinstance(value, Mapping):
        return caption_of(value, name, wanted, where)
    return caption_of(caption_field(value, what, wanted), name, wanted, where)


def caption_field(value: Mapping[str, Any], what: str, wanted: Wanted) -> Any:
    """Give the caption among the fields of a picture's JSON; None where there is none."""
    if wanted.text is not None:
        if wanted.text not in value:
            raise UserError(
                f"{what} has no field '{wanted.text}' (score.text_column){nearest(wanted.text, value)}; it has"
                f" {short(', '.join(map(str, value)))}"
            )
        return value[wanted.text]
    lower = {name.lower(): name for name in reversed(list(value))}
    return next((value[lower[name]] for name in CAPTION_COLUMNS if name in lower), None)


def _text(part: _Part, what: str) -> str:
    if part.size > _LARGEST_TEXT:
        raise UserError(f"{what}: its text has {part.size:,} bytes: no caption is that long; remove it")
    with reading(what):
        data = part.read()
    return decode(data, what)


def _samples(shard: Path) -> Iterator[_Sample]:
    """The members of a shard by key; those of one key follow each other."""
    sample: _Sample | None = None
    for member, part in _members(shard):
        folder, _, base = member.rpartition("/")
        if base.startswith("."):  # ._a.jpg of macOS, .DS_Store
            continue
        stem, _, kind = base.partition(".")
        name = f"{folder}/{stem}".removeprefix("./").lstrip("/")
        if sample is None or sample.name != name:
            if sample is not None:
                yield sample
            sample = _Sample(name)
        if kind.lower() in sample.parts:
            raise UserError(f"{shard} has {member} twice; write it again")
        sample.parts[kind.lower()] = part
    if sample is not None:
        yield sample


def _members(shard: Path) -> Iterator[tuple[str, _Part]]:
    """(name, place) of each file in a tar. The names are never used as paths."""
    check_regular(shard)
    size = shard.stat().st_size
    again = "fetch or write it again"
    with (
        reading(f"{shard} is not a readable tar file: it", f"{again}, uncompressed"),
        tarfile.open(shard, "r:", errors="surrogateescape") as tar,
    ):
        while True:
            member = tar.next()
            if member is None:
                break
            vars(tar)["members"] = []  # nothing is looked up by name: do not keep them
            if member.isdir():
                continue
            shown = short(member.name.encode("utf-8", "replace").decode())
            if not member.isreg() or member.issparse():
                raise UserError(f"{shard}: {shown} is a link, a device or the like; pack the file itself")
            if member.offset_data + member.size > size:
                raise UserError(f"{shard} is cut: {shown} is not whole; {again}")
            yield shown, _Part(shard, member.offset_data, member.size)
        _check_end(shard, tar.offset)


def _check_end(shard: Path, offset: int) -> None:
    """The library takes a damaged header for the end: at the true one there are zeros only."""
    with open(shard, "rb") as file:
        file.seek(offset)
        first = file.read(_BLOCK)
        if len(first) < _BLOCK or first.strip(b"\0"):
            raise UserError(f"{shard} is cut or damaged: it has no end mark; fetch or write it again")
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise UserError(
                    f"{shard} is damaged, or several tar files in one; fetch it again, or give each by itself"
                )
