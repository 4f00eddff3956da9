"""Digests of what rows hold: of every byte, and of nothing else."""

from __future__ import annotations

import torch

from mitune.data.pictures.contents import Contents, read_contents
from mitune.data.pictures.rows import Pictures


def of(*pictures: bytes | None) -> str:
    contents = Contents()
    for data in pictures:
        contents.picture(data)
    return contents.digest


def test_every_byte_and_every_border_counts() -> None:
    others = [
        of(b"ab", b"c"),
        of(b"a", b"bc"),
        of(b"abc"),
        of(b"c", b"ab"),
        of(b"ab", b"c", b""),
        of(b"ab", None),
    ]
    assert len({*others, of(), of(None), of(b"")}) == len(others) + 3


def test_names_captions_and_place_do_not_count() -> None:
    one = Pictures("here", ["a", "b"], ["1", "2"], lambda row: [b"x", b"y"][row])
    other = Pictures("there", ["c", "d"], ["3", "4"], lambda row: [b"x", b"y"][row])
    assert read_contents(one, range(2)) == read_contents(other, range(2)) == of(b"x", b"y")
    assert read_contents(one, [0]) == of(b"x")


def test_latents_count_with_their_seeds_and_types_however_they_are_portioned() -> None:
    latents = torch.arange(140.0).reshape(70, 2)

    def read(values: torch.Tensor, seed: int = 0) -> str:
        seeds = [seed] * len(values)
        source = Pictures("", ["a"] * 70, ["b"] * 70, None, lambda rows: values[list(rows)], seeds)
        return read_contents(source, range(70))

    contents = Contents()
    for start in range(0, 70, 9):
        part = latents[start : start + 9]
        contents.latents(part, [0] * len(part))
    assert read(latents) == contents.digest
    other = latents.clone()
    other[69, 1] += 1
    digests = {read(latents), read(latents, 1), read(other), read(latents.bfloat16()), read(latents.half())}
    assert len(digests) == 5
