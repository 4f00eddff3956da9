"""A denoiser around another: for what changes how the network is asked, such as balanced generation and editing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mitune.denoiser import Condition, Denoiser, Tap
from mitune.maps import Sums
from mitune.noise import Time
from mitune.tasks import Task


class Wrapped(Denoiser):
    """Does all as ``inner`` does: the base of those that change one thing.

    What belongs to each candidate (its phrases, say) is best held as tensors of the condition: they then follow their
    rows through batches, drops and resampling. ``null`` must have tensors of the same names.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattribute__(self, name: str) -> Any:
        # The base class has defaults for some of these; those of the model inside count.
        if name in _INNER:
            return getattr(object.__getattribute__(self, "inner"), name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INNER:
            setattr(self.inner, name, value)
        else:
            object.__setattr__(self, name, value)

    def encode(self, tasks: Sequence[Task]) -> Condition:
        """Do as the model inside."""
        return self.inner.encode(tasks)

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Do as the model inside."""
        return self.inner.encode_prompts(prompts)

    def null(self, n: int) -> Condition:
        """Do as the model inside."""
        return self.inner.null(n)

    def predict(self, z: Tensor, t: Time, condition: Condition, tap: Tap | Sums | None = None) -> Tensor:
        """Do as the model inside."""
        return self.inner.predict(z, t, condition, tap)

    def encode_image(self, pictures: Tensor) -> Tensor:
        """Do as the model inside."""
        return self.inner.encode_image(pictures)

    def decode(self, z: Tensor) -> Tensor:
        """Do as the model inside."""
        return self.inner.decode(z)

    def retold(self, given: Condition, told: Condition) -> Condition:
        """Do as the model inside."""
        return self.inner.retold(given, told)

    def combine(self, outputs: Sequence[Tensor], guidance: float) -> tuple[Tensor, Tensor, Tensor]:
        """Do as the model inside."""
        return self.inner.combine(outputs, guidance)

    def needs_branches(self, guidance: float) -> bool:
        """Do as the model inside."""
        return self.inner.needs_branches(guidance)


_INNER = {
    *(
        "schedule",
        "prediction_type",
        "latent_shape",
        "picture_size",
        "network",
        "device",
        "dtype",
        "identity",
    ),
    *("branches", "edits_pictures", "forwards", "sampler_defaults", "pictures_at_once", "to_text", "spans"),
    *("parts", "map_grid", "one_grid"),
}
