"""What can be told of a model by the small files beside its weights. Nothing is fetched, and no torch imported."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.errors import UserError
from mitune.families.source import EMBEDDED, find_model
from mitune.reading import home, is_file, is_folder, is_hub_id, is_whole, read_json

# The option of the group ``model`` whose steps and guidance a kind of pipeline is usually drawn with.
_OPTIONS = {
    "StableDiffusionPipeline": "sd15",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd35_medium",
    "StableDiffusionInstructPix2PixPipeline": "instruct_pix2pix",
    "FluxPipeline": "flux1_dev",
    "SanaPipeline": "sana",
    "PixArtSigmaPipeline": "pixart_sigma",
    "PixArtAlphaPipeline": "pixart_sigma",
}
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # of models distilled to a few steps, usually without guidance


@dataclass(frozen=True)
class Known:
    """Holds what is known of a model.

    Attributes:
        pipeline: the class that ``model_index.json`` names; empty where it is not at hand.
        option: of the group ``model`` that its family is drawn with; empty where none is known.
        side: of a picture in pixels.
        weights: bytes of its files here.
    """

    pipeline: str = ""
    option: str = ""
    side: int | None = None
    weights: int = 0


def known_of(path: str) -> Known:
    """Look at a model's files, in a folder or the Hub's cache. Raises UserError for a place that holds no model."""
    folder = home(path)
    if path in EMBEDDED or is_folder(folder) or not is_hub_id(path):
        if is_file(folder) and folder.suffix.lower() == ".safetensors":
            return Known(weights=folder.stat().st_size)
        source = find_model(path)
        return _of_folder(source.folder or folder, source.index)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(path, "model_index.json")
    if not isinstance(cached, str):
        return Known()
    return _of_folder(Path(cached).parent, _json(Path(cached)))


def _of_folder(folder: Path, index: Mapping[str, Any]) -> Known:
    pipeline = str(index.get("_class_name") or "")
    scheduler = index.get("scheduler")
    few = isinstance(scheduler, list) and scheduler[-1] in _FEW_STEPS
    files = [path for path in folder.rglob("*.safetensors") if path.is_file()]
    return Known(pipeline, "" if few else _OPTIONS.get(pipeline, ""), _side(folder), sum(map(_size, files)))


def _side(folder: Path) -> int | None:
    """The side that the network was made for: its latents' times what the autoencoder makes of one of their cells."""
    sizes = (_json(folder / part / "config.json").get("sample_size") for part in ("unet", "transformer"))
    size = next((one for one in sizes if is_whole(one)), None)
    autoencoder = _json(folder / "vae" / "config.json")
    blocks = autoencoder.get("block_out_channels") or autoencoder.get("encoder_block_out_channels")
    return (
        size * 2 ** (len(blocks) - 1) if size and isinstance(blocks, list) and 0 < len(blocks) < 9 else None
    )


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
