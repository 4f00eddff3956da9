"""Maps of depth by a network of transformers, as T2I-CompBench takes them down."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mitune.errors import UserError
from mitune.reading import reading
from mitune.referees.detection import COMPUTED
from mitune.referees.judge_files import JudgeSource
from mitune.referees.networks import check_model_type, open_network
from mitune.referees.placement import frame
from mitune.referees.preprocess import to_images

# Those whose numbers are larger where things are nearer.
_KINDS = {"dpt": "DPTForDepthEstimation", "depth_anything": "DepthAnythingForDepthEstimation"}
_TITLE = "DPT or Depth Anything"


class Depth:
    """Tells what is near in pictures; the network is read at the first one.

    Args:
        source: where the model is.
        device: where it computes, in float32.
        batch_size: pictures a forward.

    Raises UserError: another kind of model, or one whose numbers are metres.
    """

    def __init__(self, source: JudgeSource, device: torch.device | str, batch_size: int) -> None:
        self.source, self.device, self.batch_size = source, torch.device(device), batch_size
        self._network = _KINDS[check_model_type(source, _KINDS, _TITLE)]
        if source.configuration().get("depth_estimation_type", "relative") != "relative":
            raise UserError(
                f"{source.key}={source.name} tells metres, larger where things are farther; take one of relative depth"
            )
        source.preprocessing()

    @cached_property
    def model(self) -> Any:
        """The network, frozen."""
        import transformers

        kind = getattr(transformers, self._network)
        return open_network(kind, self.source, _TITLE, self.device, missing=COMPUTED)

    @cached_property
    def _processor(self) -> Any:
        from transformers import DPTImageProcessorPil

        folder = self.source.open()
        with reading(f"{self.source.key}={self.source.name}: preprocessor_config.json", "fetch it again"):
            return DPTImageProcessorPil.from_pretrained(folder)

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> list[Tensor]:
        """Map ``pictures`` [n, 3, H, W] in [0, 1]: each [h, w] of its ``frame``, 0 (farthest) to 1 (nearest) in 256
        levels.
        """
        size = (pictures.shape[-2], pictures.shape[-1])
        found = []
        for start in range(0, len(pictures), self.batch_size):
            shown = to_images(pictures[start : start + self.batch_size])
            inputs = self._processor(images=shown, return_tensors="pt")["pixel_values"].to(self.device)
            found += [_taken_down(one, size) for one in self.model(inputs).predicted_depth.float().cpu()]
        return found


def _taken_down(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """A map at the picture's ``size``, stored in a file of 256 levels, and brought to the frame from there."""
    low, high = depth.min(), depth.max()
    even = (depth - low) / (high - low) if high > low else torch.zeros_like(depth)
    grown = functional.interpolate(even[None, None], size, mode="bilinear", align_corners=True)[0, 0]
    image = Image.fromarray((255 * grown).numpy()).convert("L")
    height, width = frame(*size)
    stored = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.frombuffer(bytearray(stored.tobytes()), dtype=torch.uint8).view(height, width) / 255
