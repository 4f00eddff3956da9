"""Detectors with labels of their own: DETR and its kin, and Mask2Former, which gives masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mitune.referees.detection import Detection, LabelledDetector, as_box, corners


class Detr(LabelledDetector):
    """Finds boxes by a DETR: the most probable label of each query, "no object" left out (Carion et al. 2020)."""

    title, network, processor, usual = "DETR", "DetrForObjectDetection", "DetrImageProcessorPil", 0.5

    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        output = self.model(**inputs)
        scores, labels = functional.softmax(output.logits.float(), -1)[..., :-1].max(-1)
        boxes = corners(output.pred_boxes, size)
        for row in zip(scores.cpu(), labels.cpu(), boxes.cpu(), strict=True):
            yield self._kept(*row, confidence)

    def _kept(self, scores: Tensor, labels: Tensor, boxes: Tensor, confidence: float) -> list[Detection]:
        keep = (scores > confidence).nonzero().flatten().tolist()
        return [
            Detection(self._names[int(labels[one])], float(scores[one]), as_box(boxes[one]))
            for one in keep
            if self._names.get(int(labels[one]), "N/A") != "N/A"
        ]


class RTDetr(Detr):
    """Finds boxes by an RT-DETRv2: of all labels of all queries, by sigmoid, as many as there are queries."""

    title, network, processor = "RT-DETRv2", "RTDetrV2ForObjectDetection", "RTDetrImageProcessorPil"

    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        output = self.model(**inputs)
        kinds = output.logits.shape[-1]
        scores, places = output.logits.float().sigmoid().flatten(1).topk(output.logits.shape[1], dim=1)
        boxes = corners(output.pred_boxes, size)
        for score, place, box in zip(scores.cpu(), places.cpu(), boxes.cpu(), strict=True):
            yield self._kept(score, place % kinds, box[place // kinds], confidence)


class DFine(RTDetr):
    """Finds boxes by a D-FINE, read as RT-DETRv2."""

    title, network = "D-FINE", "DFineForObjectDetection"


class Mask2Former(LabelledDetector):
    """Finds objects with masks by a Mask2Former of instances, as its authors' code does (Cheng et al. 2022).

    Of all labels of all queries the ``MOST`` most probable; the confidence is that probability times the mean
    probability of the mask's own pixels; the box is around the mask. Masks are brought to the size of the network's
    input, then to the picture's, and cut at one half there (transformers' own reader cuts them at 384 px instead, and
    keeps as many objects as there are queries).
    """

    title, network, usual = "Mask2Former", "Mask2FormerForUniversalSegmentation", 0.5
    processor = "Mask2FormerImageProcessorPil"
    MOST = 100

    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        output = self.model(**inputs)
        inner = (inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1])
        for logits, masks in zip(output.class_queries_logits, output.masks_queries_logits, strict=True):
            kinds = logits.shape[-1] - 1
            scores = functional.softmax(logits.float(), -1)[:, :-1].flatten()
            best = scores.topk(min(self.MOST, len(scores)))
            # What cannot reach the confidence by its label alone needs no mask.
            places = best.indices[best.values > confidence]
            yield self._instances(
                scores[places], places % kinds, masks[places // kinds], (inner, size), confidence
            )

    def _instances(
        self,
        scores: Tensor,
        labels: Tensor,
        masks: Tensor,
        sizes: tuple[tuple[int, int], tuple[int, int]],
        confidence: float,
    ) -> list[Detection]:
        """The objects of one picture.

        Args:
            scores, labels: [k], of each.
            masks: their logits [k, h, w].
            sizes: (height, width) of the network's input, and of the picture.
            confidence: objects of a higher one are given.
        """
        found = []
        for score, label, mask in zip(scores, labels.tolist(), masks.float(), strict=True):
            logits = mask[None, None]
            for size in sizes:
                logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            logits = logits[0, 0]
            inside = logits > 0
            area = inside.sum()
            sure = float(score * (logits.sigmoid() * inside).sum() / (area + 1e-6))
            if area and sure > confidence and self._names.get(label, "N/A") != "N/A":
                found.append(Detection(self._names[label], sure, as_box(_around(inside)), inside.cpu()))
        return found


def _around(mask: Tensor) -> Tensor:
    """The box [4] around a mask [H, W] that is not empty; its right and bottom edges lie behind the last pixel."""
    rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
    return torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float()
