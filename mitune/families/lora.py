"""Adapters (LoRA, DoRA) inside a network, and the diffusers LoRA file that holds them.

LoRA (Hu et al., 2106.09685): W' = W + (alpha/r) B A.  DoRA (Liu et al., 2402.09353): W' = m · (W + (alpha/r)
B A) / ‖W + (alpha/r) B A‖, the norm taken over each output's row, with m trained beside A and B.

In the file a parameter is called ``<component>.<layer>.lora_A.weight`` (``lora_B.weight``,
``lora_magnitude_vector``); r and alpha are in the header, where diffusers looks for them.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.errors import UserError
from mitune.families.source import ADAPTER_FILE as FILE
from mitune.files import atomic_folder, write_bytes

_HEADER = "lora_adapter_metadata"  # the key of diffusers' own header
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter file, opened: tensors of each component under peft's names, its settings, and 12 hex digits
    of its bytes.
    """

    path: Path
    digest: str
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def ranks(self, component: str) -> dict[str, int]:
        """Layer -> rank."""
        return {
            name.removesuffix(_A): value.shape[0]
            for name, value in self.tensors[component].items()
            if name.endswith(_A)
        }

    def is_dora(self, component: str) -> bool:
        """Whether it holds magnitudes."""
        return any(name.endswith(_MAGNITUDE) for name in self.tensors[component])


def read_adapter(folder: str | Path) -> SavedAdapter:
    """Open the adapter in ``folder`` (or the file itself). Raises UserError: missing, damaged, or in another
    format.
    """
    import safetensors
    from safetensors.torch import load

    path = Path(folder)
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no adapter at {path} (looked for {FILE}); run the train stage first")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is not a safetensors file; other formats are not read")
    try:
        data = file.read_bytes()
        flat = load(data)
        with safetensors.safe_open(str(file), framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get(_HEADER, "{}"))
    except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{file} cannot be read ({error}); it is damaged, train or fetch it again") from error
    tensors: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    for name, value in flat.items():
        component, _, rest = name.partition(".")
        rest = rest.removesuffix(".weight") if rest.endswith(f"{_MAGNITUDE}.weight") else rest
        if not rest.endswith((_A, _B, _MAGNITUDE)):
            raise UserError(f"{file} is not in diffusers' LoRA format (peft names): it holds '{name}'")
        tensors[component][rest] = value
    settings: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for name, value in header.items():
        component, _, rest = name.partition(".")
        settings[component][rest] = value
    return SavedAdapter(file, hashlib.sha256(data).hexdigest()[:12], dict(tensors), dict(settings))


def write_adapter(
    folder: str | Path, pipeline_class: Any, components: Mapping[str, nn.Module], name: str = "default"
) -> None:
    """Write the adapter ``name`` of ``components`` ({"unet": …, "text_encoder": …}) to ``folder``,
    atomically, by diffusers' own writer.
    """
    # PixArt's pipelines have no writer of their own: they take that of a pipeline with a transformer alone.
    from diffusers.loaders import SanaLoraLoaderMixin

    layers: dict[str, dict[str, Tensor]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for component, module in components.items():
        tensors = adapter_tensors(module, name)
        if not tensors:
            continue
        config: Any = module.peft_config[name]  # type: ignore[index]
        if component.startswith("text_encoder") and not hasattr(module, "text_model"):
            # Older transformers nest CLIP's text model one level deeper; diffusers strips the level where it
            # is absent.
            tensors = {f"text_model.{key}": value for key, value in tensors.items()}
        if component.startswith("text_encoder"):
            # transformers 5 looks for a magnitude under its full name and, not finding it, leaves it as it
            # was; older versions take both names.
            tensors = {key + ".weight" * key.endswith(_MAGNITUDE): value for key, value in tensors.items()}
        layers[f"{component}_lora_layers"] = {key: value.cpu().contiguous() for key, value in tensors.items()}
        given = {"r": config.r, "lora_alpha": config.lora_alpha, "use_dora": config.use_dora}
        patterns = {"rank_pattern": config.rank_pattern, "alpha_pattern": config.alpha_pattern}
        settings[f"{component}_lora_adapter_metadata"] = {
            **given,
            "target_modules": sorted(config.target_modules),
            **{key: dict(value) for key, value in patterns.items() if value},
        }
    if not layers:
        raise ValueError("there is no adapter to write")
    with atomic_folder(folder) as partial:
        writer = pipeline_class if hasattr(pipeline_class, "save_lora_weights") else SanaLoraLoaderMixin
        writer.save_lora_weights(str(partial), **layers, **settings)
        data = _canonical((partial / FILE).read_bytes())
        (partial / FILE).unlink()
        write_bytes(partial / FILE, data)


def _canonical(data: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: the library leaves that to chance, and equal
    adapters are to be equal files."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def make_canonical(folder: Path) -> None:
    """Do the same to every safetensors file below ``folder``; its tensors are not read."""
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("r+b") as stream:
            size = int.from_bytes(stream.read(8), "little")
            before = json.loads(stream.read(size))
            header = json.dumps(before, sort_keys=True, separators=(",", ":")).encode()
            if len(header) <= size:  # written in place: the rest of the file may be many gigabytes
                stream.seek(8)
                stream.write(header.ljust(size))


# -- inside a network ----------------------------------------------------------------------------------------


def adapter_parameters(module: nn.Module, name: str = "default") -> dict[str, nn.Parameter]:
    """The adapter's parameters under peft's names (the file's, without the component)."""
    found = {}
    for key, parameter in module.named_parameters():
        if ".lora_" in key and f".{name}." in key:
            key = key.replace(f".{name}.", ".")
            found[key.removesuffix(".weight") if key.endswith(f"{_MAGNITUDE}.weight") else key] = parameter
    return found


def adapter_tensors(module: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """The adapter's values under peft's names."""
    return {key: parameter.detach() for key, parameter in adapter_parameters(module, name).items()}


def adapter_layers(modules: Iterable[nn.Module]) -> list[Any]:
    """Every layer of ``modules`` that carries an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for module in modules for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def inject(module: nn.Module, config: Any, name: str = "default") -> None:
    """Put an adapter of this ``peft.LoraConfig`` into ``module``, through the method its own library offers, or
    peft's where it has none (PixArt's transformer).
    """
    if hasattr(module, "add_adapter"):
        module.add_adapter(config, adapter_name=name)  # type: ignore[operator]
    else:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, module, name)


def inject_saved(module: nn.Module, saved: SavedAdapter, component: str, name: str = "default") -> None:
    """Rebuild a saved adapter in ``module``, frozen, in the module's dtype. Raises UserError where it does
    not fit.
    """
    from peft import LoraConfig

    tensors = fitted(module, saved, component)
    ranks = {layer: value.shape[0] for layer, value in _by_layer(tensors, _A)}
    rank = collections.Counter(ranks.values()).most_common(1)[0][0]
    other = {layer: value for layer, value in ranks.items() if value != rank}
    alpha = saved.settings.get(component, {}).get("lora_alpha")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if alpha is None else alpha,
        rank_pattern=other,
        alpha_pattern=other if alpha is None else {},
        target_modules=sorted(ranks),
        use_dora=saved.is_dora(component),
    )
    inject(module, config, name)
    copy_into(module, tensors, name)
    for parameter in adapter_parameters(module, name).values():
        parameter.requires_grad_(False)


def _by_layer(tensors: Mapping[str, Tensor], suffix: str) -> Iterator[tuple[str, Tensor]]:
    return ((key.removesuffix(suffix), value) for key, value in tensors.items() if key.endswith(suffix))


def fitted(module: nn.Module, saved: SavedAdapter, component: str) -> dict[str, Tensor]:
    """The tensors of ``component`` under this module's own layer names. Raises UserError if a layer is
    missing or of another shape.
    """
    tensors = saved.tensors[component]
    if not hasattr(module, "text_model"):
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    sizes = _sizes(module)
    for suffix, axis, side in ((_A, 1, "inputs"), (_B, 0, "outputs")):
        for layer, value in _by_layer(tensors, suffix):
            size = sizes.get(layer)
            if size is None:
                raise UserError(
                    f"the adapter {saved.path} is for another model: this {component} has no layer '{layer}'"
                )
            if value.shape[axis] != size[axis]:
                raise UserError(
                    f"the adapter {saved.path} is for another model: '{component}.{layer}' has "
                    f"{size[axis]} {side} here, {value.shape[axis]} there"
                )
    return tensors


def _sizes(module: nn.Module) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of all layers under the names they have without an adapter.

    Not from the weights: those of 4 bits are packed into another shape.
    """
    return {
        key.removesuffix(".base_layer"): (layer.out_features, layer.in_features)
        if isinstance(layer, nn.Linear)
        else (layer.out_channels, layer.in_channels)
        for key, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".lora_" not in key
    }


@torch.no_grad()
def copy_into(module: nn.Module, tensors: Mapping[str, Tensor], name: str = "default") -> None:
    """Set the adapter's values. Raises ValueError if the names differ (the callers check shapes first)."""
    parameters = adapter_parameters(module, name)
    if parameters.keys() != tensors.keys():
        raise ValueError(f"adapters differ in {sorted(parameters.keys() ^ tensors.keys())[:4]}")
    for key, parameter in parameters.items():
        parameter.copy_(tensors[key])


def remove(module: nn.Module) -> None:
    """Take every adapter out of ``module``; its own weights were never touched."""
    from diffusers.utils import recurse_remove_peft_layers

    if not getattr(module, "peft_config", None):
        return
    recurse_remove_peft_layers(module)
    del module.peft_config
    module._hf_peft_config_loaded = False  # type: ignore[assignment]


@contextlib.contextmanager
def switched_off(layers: Iterable[Any]) -> Iterator[None]:
    """The network as if it had no adapter, for the time of the block.

    peft's own switch (``enable_adapters``) also resets ``requires_grad`` of every parameter: five times the cost,
    and wrong for frozen adapters. This sets the flag that ``forward`` reads, and nothing else.
    """
    layers = list(layers)
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer._disable_adapters = value


@contextlib.contextmanager
def merged(layers: Iterable[Any]) -> Iterator[None]:
    """The adapter multiplied into the weights, so that it costs nothing; on leaving, the old weights return
    bit for bit.
    """
    layers = list(layers)
    before = [layer.get_base_layer().weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, before, strict=True):
            layer.get_base_layer().weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters.clear()
