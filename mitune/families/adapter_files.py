"""A saved adapter file, of whichever tool, as one thing: tensors under peft's names, and each layer's scale.

Read are the files of diffusers (now and then), peft, kohya's scripts, ComfyUI and trainers that write their names. All
that a file holds is taken or refused: a tensor that is no part of a LoRA, a layer that the model does not have, a
setting that is not known (``adapter_settings``).

``dora_scale`` s of kohya's and ComfyUI's files means what ComfyUI and Forge make of it, W' = diag(s / ‖W‖) (W + B A),
the norm taken over each output's row: as ``mitune.hub.comfy`` writes it. diffusers leaves it out.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mitune.errors import UserError, listed
from mitune.families import adapter_settings
from mitune.families.adapter_contents import ANY, MAGNITUDE, NETWORK, A, AdapterContents, B, Key, open_file
from mitune.families.adapter_names import LayerNames, layer_names
from mitune.families.adapter_place import find_file
from mitune.families.layers import check_size, matrix, plain, sizes

_NAMES = {"A": A, "B": B, "magnitude": MAGNITUDE}


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter file was opened: tensors of each component under peft's names, its settings, each layer's alpha where
    the file says one, and 12 hex digits of its bytes.
    """

    path: Path
    digest: str
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    alphas: dict[str, dict[str, float]] = field(default_factory=dict)

    def ranks(self, component: str) -> dict[str, int]:
        """Layer -> rank."""
        return {
            name.removesuffix(A): value.shape[0]
            for name, value in self.tensors[component].items()
            if name.endswith(A)
        }

    def is_dora(self, component: str) -> bool:
        """Tell whether it holds magnitudes."""
        return any(name.endswith(MAGNITUDE) for name in self.tensors[component])

    def rslora(self, component: str) -> bool:
        """Tell whether alpha is divided by √r, not by r (2312.03732)."""
        return bool(self.settings.get(component, {}).get("use_rslora"))

    def alpha(self, component: str, layer: str, rank: int) -> float:
        """Alpha of a layer, also under the name it has one level deeper; what scales by 1 where the file says none."""
        alphas = self.alphas.get(component, {})
        found = alphas.get(layer, alphas.get(f"text_model.{layer}"))
        return rank if found is None else found

    def scale(self, component: str, layer: str, rank: int) -> float:
        """Give what a layer's B A is multiplied with. This is the one place that says so."""
        return adapter_settings.scale(self.alpha(component, layer, rank), rank, self.rslora(component))


def read_adapter(folder: str | Path, components: Mapping[str, nn.Module] | None = None) -> SavedAdapter:
    """Open the adapter in ``folder`` (or the file itself) for the modules it is to go into. Without these, only
    diffusers' own form can be read: others' names of layers are told apart by the model's.

    Raises UserError: missing, damaged, no LoRA or DoRA, of another model, settings that are not known.
    """
    contents = open_file(find_file(Path(folder)))
    if components is None:
        return _as_named(contents)
    return _resolved(contents, components)


def _as_named(contents: AdapterContents) -> SavedAdapter:
    """The adapter as its file names it, where that is diffusers' own form."""
    tensors: dict[str, dict[str, Tensor]] = collections.defaultdict(dict)
    alphas: dict[str, dict[str, float]] = collections.defaultdict(dict)
    for (component, layer, is_flat), parts in contents.layers.items():
        if is_flat or component in (ANY, NETWORK) or "dora" in parts:
            raise UserError(
                f"{contents.path} is not in diffusers' LoRA format (peft names): it holds '{layer}'"
            )
        made, alpha = _checked(contents, component, layer, (layer,), parts)
        alphas[component][layer] = alpha
        tensors[component] |= {layer + _NAMES[kind]: value for kind, value in made.items()}
    return SavedAdapter(contents.path, contents.digest, dict(tensors), contents.settings, dict(alphas))


@dataclass(frozen=True)
class _Target:
    """A component of the model that an adapter is for."""

    component: str
    names: LayerNames
    sizes: dict[str, tuple[int, int]]
    modules: dict[str, nn.Module]


def _resolved(contents: AdapterContents, components: Mapping[str, nn.Module]) -> SavedAdapter:
    """The adapter under the names of this model's layers."""
    targets = {
        component: _Target(component, layer_names(module, component), sizes(module), plain(module))
        for component, module in components.items()
    }
    entries: dict[str, list[Key]] = collections.defaultdict(list)
    for key in contents.layers:
        entries[key[0]].append(key)
    tensors: dict[str, dict[str, Tensor]] = {}
    settings: dict[str, dict[str, Any]] = {}
    alphas: dict[str, dict[str, float]] = {}
    for named, keys in entries.items():
        target = _target(contents, named, keys, targets)
        component = target.component
        told = contents.settings.get(component) or contents.settings.get(ANY) or {}
        known = dataclasses.replace(contents, settings={component: told})
        _check_layers(known, keys, target)
        made = _Made(tensors.setdefault(component, {}), alphas.setdefault(component, {}))
        for key in keys:
            _add(known, key, target, made)
        settings[component] = told
    saved = SavedAdapter(contents.path, contents.digest, tensors, settings, alphas)
    for component in tensors:
        _make_magnitudes(saved, component, targets[component].modules)
    return saved


def _target(
    contents: AdapterContents, named: str, keys: Sequence[Key], targets: Mapping[str, _Target]
) -> _Target:
    """The component that the layers of ``keys`` are of, which the file calls ``named``."""
    network = next((name for name in ("unet", "transformer") if name in targets), next(iter(targets)))
    if named == NETWORK:
        return targets[network]
    if named in targets:
        return targets[named]
    if named != ANY:
        raise UserError(
            f"the adapter {contents.path} is for another kind of model: it has a '{named}' ({len(keys)} layers, such"
            f" as {listed([name for _, name, _ in keys])}), here are {', '.join(targets)}"
        )
    fitting = [
        component
        for component, target in targets.items()
        if all(_fits(contents.layers[key], target.names.find(*key[1:]), target) for key in keys)
    ]
    if len(fitting) > 1:
        raise UserError(
            f"{contents.path} does not say whether it is for {' or '.join(fitting)}, and fits both; give it with the"
            f" component's name before its layers' ('{fitting[0]}.{keys[0][1]}')"
        )
    return targets[fitting[0] if fitting else network]


def _fits(parts: Mapping[str, Tensor], found: tuple[str, ...] | None, target: _Target) -> bool:
    if not found:
        return False
    down = parts.get("A")
    return down is None or (down.ndim > 1 and down.shape[1] == target.sizes[found[0]][1])


def _check_layers(contents: AdapterContents, keys: Sequence[Key], target: _Target) -> None:
    """Raise UserError for layers that the model does not have, or that the settings leave out."""
    component, names = target.component, target.names
    missing = [name for _, name, is_flat in keys if not names.find(name, is_flat)]
    if missing:
        many = f" ({len(missing)} of the adapter's {len(keys)} layers are not here)"
        raise UserError(
            f"the adapter {contents.path} is for another model: this {component} has no layer {listed(missing)}{many}"
        )
    told = contents.settings[component]
    if told:
        called = [(name, *(_spellings(name) | set(names.find(name, flat) or ()))) for _, name, flat in keys]
        out = adapter_settings.left_out(told, called, contents.path)
        if out:
            raise UserError(
                f"{contents.path} contradicts itself: its settings (target_modules, exclude_modules,"
                f" layers_to_transform) leave out {listed(out)} of the {component}, whose tensors it holds"
            )


def _spellings(name: str) -> set[str]:
    """CLIP's layers are called with and without ``text_model.``, by the version of transformers."""
    inner = name.removeprefix("text_model.")
    return {inner, f"text_model.{inner}"}


@dataclass(frozen=True)
class _Made:
    """What of a component is read already."""

    tensors: dict[str, Tensor]
    alphas: dict[str, float]


def _add(contents: AdapterContents, key: Key, target: _Target, made: _Made) -> None:
    """Add a layer of the file to what is made of the module's."""
    component, layers = target.component, target.names.find(*key[1:]) or ()
    parts, alpha = _checked(contents, component, key[1], layers, contents.layers[key])
    outputs = [target.sizes[layer][0] for layer in layers]
    what = f"the adapter {contents.path} is for another model: '{component}.{key[1]}'"
    for layer in layers:
        check_size(what, (sum(outputs), target.sizes[layer][1]), parts["A"], parts["B"])
    first = 0
    for layer, size in zip(layers, outputs, strict=True):
        if layer in made.alphas:
            raise UserError(
                f"{contents.path} has '{component}.{layer}' twice, under two names; give one of them"
            )
        rows = slice(first, first + size) if len(layers) > 1 else slice(None)
        first += size
        shaped = _shaped(parts, rows, target.modules[layer], what)
        if "dora" in shaped:
            rank = len(shaped["A"])
            scale = adapter_settings.scale(alpha, rank, bool(contents.settings[component].get("use_rslora")))
            shaped["magnitude"] = _magnitude(shaped, scale, target.modules[layer], layer)
        made.alphas[layer] = alpha
        made.tensors.update({layer + _NAMES[kind]: shaped[kind] for kind in _NAMES if kind in shaped})


def _checked(
    contents: AdapterContents, component: str, name: str, layers: Iterable[str], parts: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], float]:
    """A, B and magnitudes of a layer, and its alpha. Raises UserError where they are not whole or contradict each
    other.
    """
    where = f"{contents.path}: '{component}.{name}'"
    down, up = parts.get("A"), parts.get("B")
    if down is None or up is None:
        there = ", ".join(sorted(parts))
        raise UserError(
            f"{where} is incomplete (of A, B and alpha, {there} is there); it is damaged, fetch it again"
        )
    if down.ndim < 2 or up.ndim < 2 or down.ndim > 4 or up.shape[1] != down.shape[0] or not len(down):
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise UserError(
            f"{where} has tensors that do not go together ({shapes}); it is damaged, fetch it again"
        )
    told = contents.settings.get(component, {})
    has = "magnitude" in parts or "dora" in parts
    if told.get("use_dora") is not None and told["use_dora"] != has:
        raise UserError(
            f"{where}: the settings say use_dora={str(told['use_dora']).lower()}, and it has"
            f" {'a magnitude' if has else 'no magnitudes'}; it is damaged, fetch it again"
        )
    called = sorted({name, *layers} | {spelt for one in (name, *layers) for spelt in _spellings(one)})
    alpha = adapter_settings.alpha_of(told, called, len(down), contents.path)
    given = parts.get("alpha")
    if given is not None:
        if given.numel() != 1:
            raise UserError(f"{where} has an alpha that is no number; it is damaged, fetch it again")
        if told and alpha != float(given):
            raise UserError(
                f"{where} has alpha {float(given):g}, and {alpha:g} in its settings; give one of them"
            )
        alpha = float(given)
    return {kind: value for kind, value in parts.items() if kind != "alpha"}, alpha


def _shaped(parts: Mapping[str, Tensor], rows: slice, layer: nn.Module, what: str) -> dict[str, Tensor]:
    """The rows of a layer's tensors, in the shapes that peft gives them. Raises UserError for those of a layer of
    another kind.
    """
    down, up = parts["A"], parts["B"][rows]
    convolution = isinstance(layer, nn.Conv2d)
    kernel = tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else (1, 1)
    around = tuple(down.shape[2:]) or (1, 1)
    if down.ndim == 3 or around != kernel or up[0, 0].numel() != 1:
        raise UserError(f"{what} is for a layer of another kernel ({list(down.shape)} for {list(kernel)})")
    shaped = {"A": down.flatten(1), "B": up.flatten(1)}
    if convolution:
        shaped = {"A": down.reshape(*down.shape[:2], *kernel), "B": up.reshape(*up.shape[:2], 1, 1)}
    for kind in ("magnitude", "dora"):
        if kind not in parts:
            continue
        value = parts[kind]
        whole = len(parts["B"])
        if value.numel() != whole or (kind == "dora" and len(value) != whole):
            raise UserError(
                f"{what} has a DoRA scale of shape {list(value.shape)} where one for each of {whole} outputs is read"
            )
        value = value.reshape(-1)[rows]
        shaped[kind] = value.reshape(1, -1, 1, 1) if convolution else value
    return shaped


# -- DoRA ----------------------------------------------------------------------------------------------------


def _magnitude(parts: Mapping[str, Tensor], scale: float, layer: nn.Module, name: str) -> Tensor:
    """The magnitudes that peft needs for ComfyUI's DoRA (or, without its scale, for a plain LoRA among DoRAs):
    ‖W + s B A‖, times the scale over ‖W‖.
    """
    weight = matrix(layer, name)
    added = parts["B"].float().flatten(1).cpu() @ parts["A"].float().flatten(1).cpu()
    found = torch.linalg.norm(weight + scale * added, dim=1)
    if "dora" in parts:
        before = torch.linalg.norm(weight, dim=1) + torch.finfo(torch.float32).eps
        found = found * parts["dora"].float().reshape(-1).cpu() / before
    return found.reshape(1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else found


def _make_magnitudes(saved: SavedAdapter, component: str, modules: Mapping[str, nn.Module]) -> None:
    """Give the LoRA layers of a DoRA the magnitudes that change nothing: peft has them everywhere or nowhere."""
    tensors = saved.tensors[component]
    if not saved.is_dora(component):
        return
    for layer, rank in saved.ranks(component).items():
        if layer + MAGNITUDE not in tensors:
            parts = {"A": tensors[layer + A], "B": tensors[layer + B]}
            scale = saved.scale(component, layer, rank)
            tensors[layer + MAGNITUDE] = _magnitude(parts, scale, modules[layer], layer)
