"""Attention as sums: which layers count, how fine maps are averaged down, which networks are refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.maps import LARGEST, Parts, Sums, shape_of, words_of
from mitune.pixels.phrases import find
from mitune.pixels.wrapped import Wrapped
from tests.analytic import three_clouds


def parts(kind: str, queries: int, keys: int) -> Parts:
    every = slice(None)
    return Parts(every, every, None) if kind == "cross" else Parts(every, None, every)


def fed(maps: Tensor, step: int = 100) -> Any:
    """A layer that gives ``maps`` [n, queries, keys], some rows at a time."""

    def give(rows: slice) -> Iterator[Tensor]:
        own = maps[:, rows]
        yield from (own[:, at : at + step] for at in range(0, own.shape[1], step))

    return give


def shares(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).softmax(-1)


def seen(*layers: Tensor, grid: tuple[int, int], one_grid: bool = False) -> Any:
    """The maps of self-attention layers, with one of cross-attention behind them."""
    sums = Sums(parts, grid, one_grid=one_grid)
    for i, maps in enumerate(layers):
        sums.take(f"layer{i}", "self", (maps.shape[1], maps.shape[2]), fed(maps))
    words = shares(1, math.prod(grid), 3)
    sums.take("words", "cross", (math.prod(grid), 3), fed(words))
    return sums.result()


def test_the_finest_grid_counts_and_its_last_layers_in_a_row_are_the_late_ones():
    first, narrow, second, third = (
        shares(1, 16, 16),
        shares(1, 4, 4),
        shares(1, 16, 16).flip(1),
        shares(1, 16, 16).flip(2),
    )
    maps = seen(first, narrow, second, third, grid=(4, 4))
    assert maps.grid == (4, 4)
    assert torch.allclose(maps.own, (first + second + third) / 3, atol=1e-6)
    assert torch.allclose(maps.late, (second + third) / 2, atol=1e-6)


def test_layers_finer_than_the_largest_grid_are_left_to_coarser_ones():
    side = 2 * LARGEST
    fine, coarse = torch.full((1, side * side, side * side), side**-2.0), shares(1, 64, 64)
    maps = seen(fine, coarse, grid=(side, side))
    assert maps.grid == (8, 8)
    assert torch.allclose(maps.own, coarse, atol=1e-6)


def test_where_there_is_no_coarser_layer_a_fine_map_is_averaged_down():
    """Each coarse cell looks at another as much as its four cells do at the four of the other, on average."""
    side, half = 2 * LARGEST, LARGEST
    fine = shares(1, side * side, side * side)
    maps = seen(fine, grid=(side, side), one_grid=True)
    assert maps.grid == (half, half)
    assert (maps.own.sum(-1) - 1).abs().max() < 1e-5
    cells = fine.reshape(half, 2, half, 2, half, 2, half, 2)
    expected = cells.sum((5, 7)).mean((1, 3)).reshape(1, half * half, half * half)
    assert torch.allclose(maps.own, expected, atol=1e-6)


def test_parts_of_rows_are_put_together():
    maps = shares(1, 64, 5)
    sums = Sums(parts, (8, 8))
    sums.take("a", "cross", (64, 5), fed(maps, step=7))
    assert torch.equal(sums.result().cross[:, 0].flatten(2), maps.transpose(1, 2))


@pytest.mark.parametrize(("cells", "shape"), [(96, (8, 12)), (24, (4, 6)), (6, (2, 3)), (2, (1, 2))])
def test_a_layer_is_a_halving_of_the_grid(cells, shape):
    assert shape_of(cells, (8, 12)) == shape


def test_a_layer_that_is_no_halving_is_refused():
    with pytest.raises(UserError, match="7 cells of a picture of 8 x 8"):
        shape_of(7, (8, 8))


def test_columns_are_averaged_in_each_encoder_and_over_the_encoders():
    words = words_of([[{"a": (1, 2), "b": (4,)}, {"a": (3,)}], [{"a": (0,)}]], 5)
    assert words.tolist() == [[[0, 0.25, 0.25, 0, 0.5], [0, 0, 0, 1, 0]], [[1, 0, 0, 0, 0], [0] * 5]]


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes() -> Any:
    return load_denoiser({"path": "shapes", "device": "cpu"})


@pytest.fixture
def tiny(tiny_pipeline_folder: Path) -> Any:
    return load_denoiser({"path": str(tiny_pipeline_folder), "device": "cpu"})


def looked(denoiser: Any) -> Any:
    return denoiser.attention(torch.zeros(1, *denoiser.latent_shape), 400, denoiser.encode_prompts(["a cat"]))


def test_overlapping_and_repeated_phrases_have_the_columns_of_their_places(shapes):
    text = "a circle, a red circle and a circle"
    phrases = find(text, ["a red circle", "a circle", "a circle"])
    nouns, wholes = (shapes.token_spans([text], [phrases], which)[0] for which in ("noun", "phrase"))
    assert [one["text_encoder"] for one in nouns] == [(6,), (2,), (9,)]
    assert [one["text_encoder"] for one in wholes] == [(4, 5, 6), (1, 2), (8, 9)]


def test_a_phrase_that_is_cut_off_is_refused(shapes):
    text = "a red circle and " * 10 + "a square"
    with pytest.raises(UserError, match="'a square' is not read") as error:
        shapes.token_spans([text], [find(text, ["a square"])])
    assert "\n" not in str(error.value)


def test_without_a_network_there_are_no_maps():
    analytic = three_clouds()
    with pytest.raises(UserError, match="no tokens"):
        analytic.attention(torch.zeros(1, 2), 5, analytic.null(1))
    with pytest.raises(UserError, match="no tokens"):
        analytic.token_spans(["a"], [find("a", ["a"])])


def test_a_wrapped_denoiser_shows_the_maps_of_the_one_inside(tiny):
    assert torch.equal(looked(Wrapped(tiny)).cross, looked(tiny).cross)


def _sliced(network: Any) -> None:
    network.set_attention_slice(1)


def _older(network: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    network.set_attn_processor(AttnProcessor())


def _older_in_one_layer(network: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    layer = next(one for name, one in network.named_modules() if name.endswith("attn2"))
    layer.set_processor(AttnProcessor())


@pytest.mark.parametrize("change", [_sliced, _older, _older_in_one_layer])
def test_a_backend_that_shows_no_maps_is_refused(tiny, change):
    change(tiny.network)
    with pytest.raises(UserError, match="use the native backend") as error:
        looked(tiny)
    assert "\n" not in str(error.value)


def test_a_network_that_is_compiled_in_parts_is_refused(tiny):
    layer = next(one for name, one in tiny.network.named_modules() if name.endswith("transformer_blocks.0"))
    layer._compiled_call_impl = layer.forward
    with pytest.raises(UserError, match=r"model\.compile=false"):
        looked(tiny)
