"""A denoiser whose network and text encoders can carry an adapter: the protocol of training."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mitune.denoiser import Denoiser
from mitune.errors import UserError
from mitune.families import lora, stacking
from mitune.families.opening import quiet
from mitune.families.source import find_adapter
from mitune.files import atomic_folder


class Adapted(Denoiser):
    """A denoiser that takes one adapter at a time, loaded and frozen or attached for training.

        denoiser = load_denoiser("shapes", adapter="round-1/adapter")
        with denoiser.base():
            …  # the model as it was before training

    Subclasses give the four properties below.
    """

    network: Any
    """The module adapters attach to."""
    adapter_targets: ClassVar[tuple[str, ...]]
    """Layers of the network an adapter goes to unless told otherwise."""
    _adapter: lora.SavedAdapter | None = None
    _computes_in: torch.dtype | None = None  # of quantized weights, which do not say it

    @property
    @abstractmethod
    def pipeline(self) -> Any:
        """The diffusers pipeline that holds the modules."""

    @property
    @abstractmethod
    def text_encoders(self) -> list[nn.Module]:
        """The text encoders adapters may attach to, in the order of the file's components."""

    @property
    @abstractmethod
    def components(self) -> dict[str, nn.Module]:
        """The modules that may carry an adapter, under the names they have in an adapter file."""

    @property
    @abstractmethod
    def offloaded(self) -> str:
        """What waits on the CPU: none, model or sequential."""

    def load_adapter(
        self,
        adapter: str | Path | Sequence[str | Path],
        name: str = "default",
        weights: Sequence[float] = (),
    ) -> None:
        """Put a saved adapter (a folder, file or Hub id) in the place of the present one, frozen, in the weights'
        dtype. Several, or ``weights`` other than 1, are put there as the one adapter that does the same (``stacking``).

        Raises UserError if one is not there or does not fit.
        """
        names = [adapter] if isinstance(adapter, (str, Path)) else list(adapter)
        found = [lora.read_adapter(find_adapter(one), self.components) for one in names]
        for saved in found:  # before anything is changed
            for component in saved.tensors:
                lora.fitted(self.components[component], saved, component)
        plain = len(found) == 1 and all(weight == 1 for weight in weights)
        saved = found[0] if plain else stacking.stack(self.components, found, weights or [1.0] * len(found))
        self.unload_adapter()
        for component in saved.tensors:
            lora.inject_saved(self.components[component], saved, component, name)
        self._adapter = saved

    def unload_adapter(self) -> None:
        """Go back to the base model."""
        for module in self.components.values():
            lora.remove(module)
        self._adapter = None

    def save_adapter(self, folder: str | Path, name: str = "default") -> None:
        """Write the adapter to ``folder`` atomically, so that ``load_lora_weights(folder)`` of the plain pipeline
        reproduces it.
        """
        lora.write_adapter(folder, type(self.pipeline), self.components, name)

    def adapter_updates(self) -> dict[str, dict[str, stacking.Update]]:
        """Give component -> layer -> what the loaded adapter makes of its weight."""
        saved = self._adapter
        if saved is None:
            raise ValueError("no adapter was loaded")
        return {
            component: stacking.updates(self.components[component], saved, component)
            for component in saved.tensors
        }

    def save_merged(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the whole pipeline to ``folder`` atomically, the adapter multiplied into its weights, in ``dtype``.

        It is then an ordinary diffusers folder. The denoiser's own weights are the merged ones from here on, without
        an adapter. Raises UserError for quantized weights, which cannot take an adapter in.
        """
        if self._computes_in is not None:
            raise UserError("quantized weights cannot take an adapter in; say model.quantization=none")
        for layer in lora.adapter_layers(self.components.values()):
            layer.merge()
        for module in self.components.values():
            lora.remove(module)
        with atomic_folder(folder) as partial, quiet():
            if dtype is not None:
                self.pipeline.to(dtype)
            self.pipeline.save_pretrained(str(partial), safe_serialization=True)
            lora.make_canonical(partial)

    def base(self) -> AbstractContextManager[None]:
        """Switch the adapter off for the time of the block: the base model."""
        return lora.switched_off(lora.adapter_layers(self.components.values()))

    def fused(self) -> AbstractContextManager[None]:
        """Merge the adapter into the weights for the time of the block: forwards at the base model's price.

        The weights come back bit for bit. Not for training, and not to be nested with ``base()``. Quantized weights
        cannot take it in without loss: there the adapter stays beside them.
        """
        if self._computes_in is not None:
            return contextlib.nullcontext()
        return lora.merged(lora.adapter_layers(self.components.values()))
