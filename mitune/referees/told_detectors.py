"""Detectors that are told what to look for: OWLv2 and Grounding DINO."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, short
from mitune.referees.detection import Detection, Detector, as_box, corners
from mitune.referees.networks import open_tokenizer


class Owlv2(Detector):
    """Finds boxes by an OWLv2, told "a photo of a NAME": each of its patches is the likeliest of the names."""

    title, network, processor, usual = "OWLv2", "Owlv2ForObjectDetection", "Owlv2ImageProcessorPil", 0.1

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import CLIPTokenizer

        return open_tokenizer(CLIPTokenizer, self.source, self.model.config.text_config.vocab_size)

    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        most = max(map(len, names))
        # All pictures need as many texts; what is said in place of a missing one is not looked at.
        texts = [f"a photo of a {name}" for own in names for name in [*own, *[own[0]] * (most - len(own))]]
        tokens = self._tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        said = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        output = self.model(**inputs, **said)
        boxes = corners(output.pred_boxes, size, square=True).cpu()  # padded at the right and at the bottom
        scores = output.logits.float().sigmoid().cpu()
        for own, score, box in zip(names, scores, boxes, strict=True):
            yield _named(own, score[:, : len(own)], box, confidence)


class GroundingDino(Detector):
    """Finds boxes by a Grounding DINO, told the names with full stops between them: "cat. teddy bear."

    Of a box, a name is as sure as the surest of its tokens; the box is the surest of the names. (transformers' own
    reader puts labels together from single tokens, which may be of two names.)
    """

    title, network, usual = "Grounding DINO", "GroundingDinoForObjectDetection", 0.25
    processor = "GroundingDinoImageProcessorPil"

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import BertTokenizer

        return open_tokenizer(BertTokenizer, self.source, self.model.config.text_config.vocab_size)

    def _found(
        self,
        inputs: dict[str, Tensor],
        names: Sequence[Sequence[str]],
        size: tuple[int, int],
        confidence: float,
    ) -> Iterator[list[Detection]]:
        texts = [" ".join(f"{name.lower()}." for name in own) for own in names]
        tokens = self._tokenizer(texts, padding=True, return_offsets_mapping=True, return_tensors="pt")
        length = tokens["input_ids"].shape[1]
        if length > self.model.config.max_text_len:
            raise UserError(
                f"{self.source.key}={self.source.name}: {short(max(texts, key=len))!r} and the other names of its"
                f" batch take {length} tokens, and this {self.title} reads {self.model.config.max_text_len}"
            )
        said = {
            name: tokens[name].to(self.device) for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        output = self.model(**inputs, **said)
        boxes = corners(output.pred_boxes, size).cpu()
        sure = output.logits.float().sigmoid().cpu()
        for own, score, box, places in zip(names, sure, boxes, tokens["offset_mapping"], strict=True):
            by_name = [score[:, columns].amax(-1) for columns in _tokens_of(own, places)]
            yield _named(own, torch.stack(by_name, -1), box, confidence)


def _tokens_of(names: Sequence[str], places: Tensor) -> Iterator[list[int]]:
    """The tokens of each of the names, whose text is "NAME. NAME. …"; ``places`` [L, 2]: where each token stands."""
    start = 0
    for name in names:
        stop = start + len(name.lower())
        yield [
            token
            for token, (first, last) in enumerate(places.tolist())
            if start <= first < last and last <= stop
        ]
        start = stop + 2


def _named(names: Sequence[str], scores: Tensor, boxes: Tensor, confidence: float) -> list[Detection]:
    """The boxes [q, 4] of a picture that are surer than ``confidence``, each by its surest name (``scores``)."""
    best, which = scores.max(-1)
    return [
        Detection(names[int(which[one])], float(best[one]), as_box(boxes[one]))
        for one in (best > confidence).nonzero().flatten().tolist()
    ]
