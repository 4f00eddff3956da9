"""VQAScore (Lin et al. 2024): P(yes) of a language model that sees, asked whether the picture shows the prompt.

Any model that transformers opens as image-text-to-text, with its own processor: LLaVA, Qwen2-VL, InstructBLIP, ….
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from importlib import util
from typing import Any

import torch
from torch import Tensor

from mitune.errors import UserError, listed, short
from mitune.families.options import find_dtype
from mitune.reading import reading
from mitune.referees.catalogue import VqaScoreConfig
from mitune.referees.judge_files import find_judge
from mitune.referees.networks import check_model_type, open_network
from mitune.referees.pairs import check_pairs, in_batches
from mitune.referees.preprocess import to_images

_TITLE = "image-text-to-text model"
_HOLE = "{}"


class VqaScoreReward:
    """Judges by the probability of the token ``answer`` ("Yes", as published) right after the question, among all
    tokens. Pictures go through the model's own processor, which works on whole levels, so it cannot be differentiated.
    """

    name = "vqascore"
    differentiable = False

    def __init__(self, settings: VqaScoreConfig, device: torch.device | str) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        settings.check("scorer.vqascore.")
        for key, text in (("question", settings.question), ("around", settings.around)):
            if text is not None and _HOLE not in text:
                raise UserError(
                    f"scorer.vqascore.{key}={short(text)!r} has no {_HOLE}, where the text goes; put it in"
                )
        self.source = find_judge(settings.path, "scorer.vqascore.path", settings.revision)
        check_model_type(self.source, tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES), _TITLE)
        self.settings, self.device = settings, torch.device(device)

    @property
    def identity(self) -> str:
        """The weights that judge."""
        return self.source.identity

    @cached_property
    def model(self) -> Any:
        """The network, frozen."""
        from transformers import AutoModelForImageTextToText

        dtype = find_dtype(self.settings.dtype, self.device)
        return open_network(AutoModelForImageTextToText, self.source, _TITLE, self.device, dtype)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        way = f"give a whole {_TITLE} folder"
        if (
            util.find_spec("torchvision") is None
        ):  # processors of models that see videos too do not open without it
            way += ", and where its processor needs torchvision: pip install torchvision"
        with reading(f"{self._where}: its processor", way):
            processor = AutoProcessor.from_pretrained(self.source.open())
        # The last token of a row is then found by its mask, and positions are those of the row alone.
        processor.tokenizer.padding_side = "right"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return processor

    @property
    def _where(self) -> str:
        return f"{self.source.key}={self.source.name}"

    @cached_property
    def _answer(self) -> int:
        """The id of the answer. UserError where it is not one token."""
        answer = self.settings.answer
        found = self._processor.tokenizer.encode(answer, add_special_tokens=False)
        known = set(found) - {self._processor.tokenizer.unk_token_id}
        if len(found) != 1 or not known:
            pieces = listed(self._processor.tokenizer.convert_ids_to_tokens(found))
            raise UserError(
                f"scorer.vqascore.answer={short(answer)!r} is not one token of {self.source.name} ({pieces}); say"
                " scorer.vqascore.answer=yes, or another word"
            )
        return int(found[0])

    @torch.no_grad()
    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Scores [n] float32 of ``pictures`` [n, 3, H, W] in [0, 1], each against its own prompt."""
        check_pairs(self.name, pictures, prompts)
        return in_batches(self._batch, self.settings.batch_size, pictures, prompts)

    def _batch(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        questions = [self.settings.question.replace(_HOLE, prompt) for prompt in prompts]
        return torch.softmax(self._logits(self.inputs(pictures, questions)).float(), dim=-1)[:, self._answer]

    def inputs(self, pictures: Tensor, questions: Sequence[str]) -> dict[str, Tensor]:
        """Make the inputs of the network of pictures and of what is asked about each."""
        images = to_images(pictures)
        with reading(
            f"{self._where}: its processor, given a picture and the question {short(questions[0])!r}",
            "say scorer.vqascore.around, or take tokens of the model's own out of the prompts",
        ):
            if self._processor.chat_template is not None and self.settings.around is None:
                found = self._chat(
                    [_turn(image, question) for image, question in zip(images, questions, strict=True)]
                )
            else:
                around = self.settings.around or _HOLE
                texts = [around.replace(_HOLE, question) for question in questions]
                found = self._processor(images=images, text=texts, padding=True, return_tensors="pt")
        return {name: self._moved(value) for name, value in found.items()}

    def _chat(self, turns: list[list[dict[str, Any]]]) -> Any:
        apply = self._processor.apply_chat_template
        told: dict[str, Any] = {"padding": True}
        if "processor_kwargs" in inspect.signature(apply).parameters:
            told = {"processor_kwargs": told}
        return apply(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **told
        )

    def _moved(self, value: Any) -> Any:
        """On the device; what is no whole number in the network's format."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.model.dtype if value.is_floating_point() else None)

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits [n, tokens] of what comes next."""
        start = self._first_of_answer()
        if start is not None:  # an encoder reads the question, a decoder answers
            given = torch.full((len(inputs["input_ids"]), 1), start, device=self.device)
            return self.model(**inputs, decoder_input_ids=given).logits[:, -1]
        last = inputs["attention_mask"].long().sum(1) - 1
        most = inputs["input_ids"].shape[1]
        kept = most
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            kept = most - int(last.min())  # of a vocabulary of 150,000 words
            inputs = {**inputs, "logits_to_keep": kept}  # type: ignore[dict-item]
        logits = self.model(**inputs, use_cache=False).logits
        row = torch.arange(len(last), device=self.device)
        return logits[row, last - (most - logits.shape[1])]

    def _first_of_answer(self) -> int | None:
        """The id that a decoder starts with; None for a model of one stack."""
        text = self.model.config.get_text_config()
        if not (getattr(text, "is_encoder_decoder", False) or self.model.config.is_encoder_decoder):
            return None
        return int(text.decoder_start_token_id)


def _turn(image: Any, question: str) -> list[dict[str, Any]]:
    """What a user says in a chat."""
    return [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}
    ]
