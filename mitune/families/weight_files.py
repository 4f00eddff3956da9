"""The weight files of a part of a model, and whether all of its weights, and no others, were in them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mitune.errors import UserError, first_line, listed, short
from mitune.families.headers import Header, read_headers
from mitune.families.shards import check_shards, shard_files
from mitune.reading import check_regular, is_file, is_folder, read_json, reading

STEMS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call a weight file."""
_NO_SETTINGS = {"quantization_config", "torch_dtype", "dtype", "architectures"}
_WAY_OUT = "fetch the model again"
_SHOWN = 3
# name[.variant].safetensors, or a shard of it (the second place of the variant is diffusers' older one)
_FILE = re.compile(r"(?P<stem>[^.]+?)(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5}(\.(?P<older>[^.]+))?)?")
# What peft, and the scripts before it, call the layers of an adapter that is inside a model.
_ADAPTER = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer|lora|processor)\.|[._]lora[._]|[._](hada|lokr)_|\.oft_[rR]\."
)
_WEIGHT = re.compile(r"(^|[._])(weight|bias)$")
# A buffer of CLIPs that was saved once; of text encoders also the parts that their class does not have.
POSITIONS = re.compile(r"(^|\.)position_ids$")
BESIDE_TEXTS = re.compile(
    r"((^|\.)position_ids$|^(vision_model|visual_projection|text_projection|decoder|lm_head)\.|^logit_scale$)"
)


def weight_files(folder: Path, component: str, variant: str | None) -> dict[Path, Header]:
    """Find the safetensors files that are loaded of a component (several when sharded), each with its header: those of
    the variant, or where it has none its plain ones, as diffusers does.

    Raises UserError: none (with a setting that works, where there is one), pickled ones only, a file that is none.
    """
    part = folder / component
    found = _chosen(part, variant)
    if found is None and variant is not None:
        found = _chosen(part, None)
    if found is None:
        raise UserError(_lacking(folder, part, variant))
    headers = read_headers(found)
    first = _first(part, variant) or _first(part, None)
    if first is not None and first.suffix == ".json":
        check_shards(first, component, headers)
    return headers


def variant_of(folder: Path, component: str, variant: str | None) -> str | None:
    """Give the variant that a component is loaded in: None where it has no files of it."""
    return variant if variant is not None and _chosen(folder / component, variant) is not None else None


def check_variant(folder: Path, components: Iterable[str], variant: str | None) -> None:
    """Raise UserError for a variant that no part of the model has files of."""
    parts = list(components)
    if variant is None or any(variant_of(folder, part, variant) is not None for part in parts):
        return
    there = sorted({name for part in parts for name in _variants(folder / part)})
    raise UserError(
        f"model.variant={variant}: no part of {folder} has weights of this variant; "
        + (f"those there: {', '.join(there)}" if there else "leave model.variant out")
    )


def _chosen(part: Path, variant: str | None) -> list[Path] | None:
    """The files of exactly this variant, sorted; None where there are none."""
    first = _first(part, variant)
    if first is None:
        return None
    return shard_files(first) if first.suffix == ".json" else [first]


def _first(part: Path, variant: str | None) -> Path | None:
    """The file of exactly this variant that is looked at first: all weights, or the index of several files."""
    mark = f".{variant}" if variant else ""
    text = part.name.startswith("text_encoder")
    for stem in reversed(STEMS) if text else STEMS:
        whole = part / f"{stem}{mark}.safetensors"
        if text and whole.exists():  # transformers looks for it first, diffusers for the index
            return whole
        for index in (f"{stem}.safetensors.index{mark}.json", f"{stem}.safetensors{mark}.index.json"):
            if (part / index).exists():
                return part / index
        if whole.exists():
            return whole
    return None


def check_stem(files: Iterable[Path], part: Path, text: bool) -> None:
    """Raise UserError for weights of ``part`` by a name that its library (``text``: transformers) does not look for."""
    stem = STEMS[1] if text else STEMS[0]
    if not any(part.glob(f"{stem}[.-]*")):
        raise UserError(
            f"{next(iter(files))} is not looked for there: the weights of a {part.name} are called"
            f" {stem}.safetensors; rename it (several files: with the index beside them), or save the model again with"
            " save_pretrained"
        )


def _variants(part: Path) -> set[str]:
    """The variants a component has complete files of."""
    named = set()
    for file in part.glob("*.safetensors") if is_folder(part) else ():
        match = _FILE.fullmatch(file.name.removesuffix(".safetensors"))
        if match is not None:
            named |= {match["variant"], match["older"]} - {None}
    return {name for name in named if _chosen(part, name) is not None}


def _lacking(folder: Path, part: Path, variant: str | None) -> str:
    """Why a component has no weights, and what can be done."""
    own = sorted(_variants(part))
    if own:
        asked = f" of the variant {variant!r}, nor any" if variant else ""
        line = f"{part} has no weights{asked} without a variant; "
        parts = [other.name for other in sorted(folder.iterdir()) if _has_weights(other)]
        fit = [name for name in own if all(_fits(folder / other, name) for other in parts)]
        if fit:
            return f"{line}choose model.variant={fit[0]}"
        return (
            f"{line}it has {', '.join(own)}, which other parts have neither weights of nor plain ones;"
            " rename its files, or fetch the missing ones"
        )
    if is_folder(part) and any(part.glob("*.bin")):
        return (
            f"{part} has pickled weights only (.bin), which are not read; save the pipeline again with "
            "safe_serialization=True"
        )
    others = sorted(file.name for file in part.glob("*.safetensors")) if is_folder(part) else []
    if others:
        stem = STEMS[1] if part.name.startswith("text_encoder") else STEMS[0]
        return (
            f"{part} has no weights by the name they are looked for ({stem}.safetensors), and {listed(others)}; rename"
            " what holds them, or fetch the model again"
        )
    return f"{part} has no safetensors weights; the model is incomplete, fetch it again"


def _has_weights(part: Path) -> bool:
    return is_folder(part) and (_chosen(part, None) is not None or bool(_variants(part)))


def _fits(part: Path, variant: str) -> bool:
    return _chosen(part, variant) is not None or _chosen(part, None) is not None


def check_settings(part: Path) -> None:
    """Raise UserError unless the JSON files of a component are files, and its configuration is an object."""
    if not is_folder(part):
        raise UserError(f"{part} is not there, though model_index.json names it; {_WAY_OUT}")
    with reading(part):
        files = sorted(part.iterdir())
    for file in files:
        if file.suffix == ".json" and not is_folder(file):
            check_regular(file)
        if file.name.endswith("config.json"):
            read_config(file)


def read_config(file: Path) -> dict[str, Any]:
    """Read what a component's configuration says. Raises UserError unless it is a JSON object."""
    found = read_json(file, _WAY_OUT)
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a configuration: it is no JSON object; {_WAY_OUT}")
    return found


def check_stored(headers: Mapping[Path, Header], component: str, quantized: bool = False) -> None:
    """Raise UserError for weight files that hold a component together with an adapter that was attached to it, or
    whole numbers where there should be weights (unless it was ``quantized``).
    """
    for file, header in headers.items():
        inside = [key for key in header.types if _ADAPTER.search(key)]
        if inside:
            raise UserError(
                f"{file}: the {component} was saved with an adapter inside ({_some(inside)}); take it out before"
                f" save_pretrained: save the plain {component} (unload_lora) and the adapter by itself"
                " (save_lora_weights), or multiply it in first (fuse_lora, then unload_lora)"
            )
        whole = [
            key
            for key, kind in header.types.items()
            if kind[0] in "IUB" and kind != "BF16" and _WEIGHT.search(key)
        ]
        if whole and not quantized:
            raise UserError(
                f"{file}: {len(whole)} weights of the {component} are whole numbers ({_some(whole)}), and nothing says"
                f" how they stand for others; {_WAY_OUT}"
            )


def check_loaded(
    component: str, report: Mapping[str, Any], place: object, beside: re.Pattern[str] | None = None
) -> None:
    """Raise UserError unless a library's report says that the weights of ``component`` in ``place`` are those of its
    class: all there, of the right shape, and no others than those that match ``beside``.
    """
    unexpected = [key for key in report.get("unexpected_keys") or () if not (beside and beside.search(key))]
    kinds = {
        "are missing": list(report.get("missing_keys") or ()),
        "have another shape": [entry[0] for entry in report.get("mismatched_keys") or ()],
        "are not of this kind of model": unexpected,
    }
    wrong = [f"{len(keys)} weights {what} ({_some(keys)})" for what, keys in kinds.items() if keys]
    wrong += [short(first_line(line)) for line in (report.get("error_msgs") or ())[:1]]
    if wrong:
        raise UserError(
            f"{place}: the {component} does not fit its config.json: {'; '.join(wrong)}; it would be another model"
            f" than was saved: {_WAY_OUT}, or save it again from its own class"
        )


def check_finite(component: str, module: Any, place: object) -> None:
    """Raise UserError for weights that are no finite numbers: whatever is computed with them is none either."""
    empty = [name for name, value in module.named_parameters() if value.is_meta]
    if empty:  # what a library left out, and does not report
        check_loaded(component, {"missing_keys": empty}, place)
    wrong = [
        name
        for name, value in module.named_parameters()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if wrong:
        raise UserError(
            f"{place}: the {component} has {len(wrong)} weights that are no finite numbers ({_some(wrong)}) as"
            f" {str(module.dtype).removeprefix('torch.')}; fetch the model again, or choose another model.dtype"
        )


def check_known_fields(module: Any, part: Path) -> None:
    """Raise UserError for settings in a component's ``config.json`` that the installed diffusers would leave out: it is
    then another model. (Those that are off say nothing.)
    """
    known = set(inspect.signature(type(module).__init__).parameters) | _NO_SETTINGS
    told = read_config(part / "config.json").items()
    strange = [key for key, value in told if key[:1] != "_" and key not in known and value]
    if strange:
        raise UserError(
            f"{part / 'config.json'} says {_some(strange)}, which a {type(module).__name__} of the installed diffusers"
            " does not know; pip install -U diffusers, or take it out of the file if it means nothing"
        )


def _some(keys: Iterable[str]) -> str:
    """The first three of the keys, in order."""
    ordered = sorted(keys)
    more = ", …" if len(ordered) > _SHOWN else ""
    return short(", ".join(ordered[:_SHOWN]), 300) + more


def config_is_quantized(part: Path) -> bool:
    """Tell whether a component was saved in fewer bits."""
    file = part / "config.json"
    return is_file(file) and bool(read_config(file).get("quantization_config"))
