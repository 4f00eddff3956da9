"""What attention maps cost a forward, in time and in memory: ``python -m benchmarks.pixels_cost``.

Time: a forward of the embedded UNet that adds up its maps, and the plain one, of the same batch, in turns. Memory: the
peak of a process that runs one row of 1024 × 1024 pixels through a UNet with the layers, heads, grids and tokens of
Stable Diffusion XL, with random weights and an eighth of its widths, so that the maps are of real size and the rest is
small. Three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from mitune.families import load_denoiser
from mitune.families.attention import tapped
from mitune.maps import AttentionMaps, Parts, Sums, words_of
from mitune.pixels.phrases import find

TEXT = "a red circle left of a blue square"
PHRASES = ["a red circle", "a blue square"]
SIDE, TOKENS, WORDS = 128, 77, 2  # of the latent, of the text, and the words that are asked for
_EIGHTH = 8


# -- time --------------------------------------------------------------------------------------------------------------


def times(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Compare a forward with its maps with the plain one."""
    denoiser = load_denoiser({"path": options.model, "device": options.device})
    given = denoiser.encode_prompts([TEXT]).repeat_interleave(batch)
    spans = denoiser.token_spans([TEXT], [find(TEXT, PHRASES)])
    words = words_of(spans, given.tensors["text"].shape[1]).repeat(batch, 1, 1)
    z = torch.randn(batch, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    z, words = z.to(denoiser.device), words.to(denoiser.device)

    def plain() -> Tensor:
        with torch.no_grad():
            return denoiser.predict(z, 300, given)

    def looking() -> Tensor:
        return denoiser.look(z, 300, given, words)[0]

    apart = float((looking() - plain()).abs().max() / plain().abs().max())
    arms: dict[str, Callable[[], Any]] = {"with maps": looking, "plain": plain}
    seconds = common.interleave(arms, options.repeats, 2, options.device)
    return common.comparison(
        f"a forward of {batch} rows of {options.model}", seconds, "with maps", "plain", at_most=1.3,
        agreement={"output, relative": common.agree("the output", apart, 1e-6)},
    )  # fmt: skip


# -- memory ------------------------------------------------------------------------------------------------------------


def network() -> Any:
    """Make the network of real layers, heads and grids and small widths."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=SIDE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320 // _EIGHTH, 640 // _EIGHTH, 1280 // _EIGHTH),
        norm_num_groups=8,
        attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=2048 // _EIGHTH,
        use_linear_projection=True,
    ).eval()


def parts(kind: str, queries: int, keys: int) -> Parts:
    """Tell text from picture as a UNet has them."""
    every = slice(None)
    return Parts(every, every, None) if kind == "cross" else Parts(every, None, every)


class Counted(Sums):
    """Notes how large the maps are, and for some wants nothing but that."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.numbers = 0

    def take(self, place: str, kind: str, size: tuple[int, int], maps: Any) -> None:
        self.numbers += size[0] * size[1]
        super().take(place, kind, size, maps)


def child(arm: str) -> dict[str, Any]:
    """One forward in a process of its own: its peak of memory in MB, and the sizes of the maps."""
    torch.set_num_threads(1)
    unet = network()
    z, text = torch.randn(1, 4, SIDE, SIDE), torch.randn(1, TOKENS, 2048 // _EIGHTH)
    before = _peak()
    found: dict[str, Any] = {"before": before}
    words = torch.zeros(1, WORDS, TOKENS)
    words[0, 0, 3] = words[0, 1, 8] = 1.0
    sums = Counted(parts, (SIDE, SIDE), words)
    with torch.no_grad():
        if arm == "plain":
            unet(z, 300, encoder_hidden_states=text)
        else:
            with tapped(unet, sums, lambda told, queries: "cross" if told else "self"):
                unet(z, 300, encoder_hidden_states=text)
            found |= _sizes(sums.result()) | {"list": sums.numbers * 4 / 1e6}
    return found | {"peak": _peak()}


def _sizes(maps: AttentionMaps) -> dict[str, Any]:
    kept = sum(part.numel() * 4 for part in maps[:3] if part is not None) / 1e6
    return {"kept": kept, "grid": maps.grid, "layers": len(maps.places), "sides": sorted(set(maps.sides))}


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def memory() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Give the figures, and what was measured."""
    arms = {}
    for arm in ("plain", "maps"):
        command = [sys.executable, "-m", "benchmarks.pixels_cost", "--child", arm]
        arms[arm] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    plain, maps = arms["plain"], arms["maps"]
    shape = f"one row of 1024 × 1024, {maps['layers']} cross-attention layers on grids of {maps['sides']} cells a side"
    figures = [
        common.figure("peak above the network itself, plain", plain["peak"] - plain["before"], "MB", note=shape),
        common.figure("peak above the network itself, with maps", maps["peak"] - maps["before"], "MB"),
        common.figure("what the sums keep", maps["kept"], "MB", note=f"the picture to itself on {maps['grid']}"),
        common.figure("what a list of all its maps would keep, heads averaged", maps["list"], "MB",
                      note="counted, not measured"),
    ]  # fmt: skip
    return figures, arms


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    common.warn_if_busy()
    compared = [times(options, batch) for batch in options.batches]
    figures, arms = memory()
    settings = {"model": options.model, "repeats": options.repeats, "words": len(PHRASES)}
    return {"settings": settings, "comparisons": compared, "figures": figures, "more": {"memory": arms}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/pixels_cost.json`` and its table."""
    parser = common.parser("pixels_cost", __doc__, "pixels_cost", device="cpu", repeats=40, threads=1)
    parser.add_argument("--model", default="shapes", help="the embedded world's: shapes or shapes_flow")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64], help="rows of a forward")
    parser.add_argument("--child", choices=("plain", "maps"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(child(options.child)))
        return 0
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
