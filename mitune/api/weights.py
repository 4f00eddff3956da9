"""The network that a model and those trained from it share, and the adapter that is on it while one of them is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mitune.errors import UserError
from mitune.families.adapted import Adapted
from mitune.families.adapter_place import ADAPTER_FILE
from mitune.families.settings import ModelConfig
from mitune.families.source import find_adapter


@dataclass(frozen=True)
class Adapter:
    """Names an adapter, or several that are added up.

    Attributes:
        files: folders, files or Hub ids.
        weights: of each (none: 1).
    """

    files: tuple[str | Path, ...]
    weights: tuple[float, ...] = ()

    @property
    def plain(self) -> bool:
        """Tell whether it is one adapter of weight 1."""
        return len(self.files) == 1 and all(weight == 1 for weight in self.weights)

    @property
    def start(self) -> Path:
        """Find the adapter that training goes on from. Raises UserError where there are several."""
        if not self.plain:
            raise UserError(
                "training goes on from one adapter of weight 1; load the model with one of them, or with none"
            )
        return find_adapter(self.files[0])

    @property
    def file(self) -> Path | None:
        """Find the adapter's own file, where it is one in diffusers' form; None where it must be written anew."""
        file = Path(self.files[0]) / ADAPTER_FILE
        return file if self.plain and file.is_file() else None


@dataclass(eq=False)
class Weights:
    """Keeps a denoiser, on which one adapter is at a time.

    Attributes:
        denoiser: the network with its text encoders and autoencoder.
        source: what it was opened from; None for a pipeline that was loaded already.
        used: a method of one of its models is at work.
        worn: the adapter that is on it meanwhile.
        busy: it is being trained.
    """

    denoiser: Adapted
    source: ModelConfig | None = None
    used: bool = False
    worn: Adapter | None = None
    busy: bool = False

    @contextlib.contextmanager
    def wearing(self, adapter: Adapter | None) -> Iterator[Adapted]:
        """Put the adapter on for the time of the block; within it, it may be asked for again.

        Raises UserError while another one is on, or is trained, and where it is gone or does not fit.
        """
        if self.busy:
            raise UserError("this model is training: inside validate, use the model that it is given")
        if self.used:
            if adapter is not self.worn:
                raise UserError(
                    "another model of the same network is at work; use this one before or after it, or load it again"
                )
            yield self.denoiser
            return
        self.used, self.worn = True, adapter
        try:  # a load that ends half way (Ctrl-C, no memory) leaves no part of the adapter, either
            if adapter is not None:
                self.denoiser.load_adapter(list(adapter.files), weights=adapter.weights)
            yield self.denoiser
        finally:
            self.used, self.worn = False, None
            self.denoiser.unload_adapter()

    @contextlib.contextmanager
    def training(self) -> Iterator[Adapted]:
        """Keep the denoiser from all others for the time of the block; no adapter is left on it.

        Raises UserError while one of its models is at work.
        """
        if self.used:
            raise UserError("this model is at work already; train it before or after that")
        with self.wearing(None) as denoiser:
            self.busy = True
            try:
                yield denoiser
            finally:
                self.busy = False
