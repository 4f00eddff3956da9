"""BLIP-VQA as T2I-CompBench has it (Huang et al. 2023): does the picture show each noun phrase of the prompt.

The weights that the benchmark names see squares of 480 px; copies whose config.json says 384 have positions that were
made smaller, so their figures may differ in the last digits from published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mitune.english import model_name
from mitune.errors import UserError, short
from mitune.referees.blip import BlipReward
from mitune.referees.blip_texts import clean_question
from mitune.referees.catalogue import BlipVqaConfig
from mitune.referees.pairs import check_pairs
from mitune.referees.phrases import asked_phrases

YES, NO = "yes", "no"
Answer = tuple[str, float]
"""A question about a picture, and P(yes)."""


def question_of(phrase: str) -> str:
    """Give the question that the benchmark asks about a phrase, as its files have it."""
    return f"{phrase}?"


def published_answer(probability: float) -> str:
    """Write P(yes) as the benchmark's files have it: four decimals.

    >>> published_answer(0.98765)
    '0.9877'
    """
    return f"{probability:.4f}"


def published_score(answers: Sequence[str]) -> str:
    """Write the score of a picture as the benchmark does: the product, in float32, of what was written, four decimals.

    >>> published_score(["0.9877", "0.5000"])
    '0.4938'
    >>> published_score([])
    '1.0000'
    """
    product = np.float32(1)
    for answer in answers:
        product *= np.float32(answer)
    return f"{float(product):.4f}"


class BlipVqaReward(BlipReward):
    """Judges by P(yes) of BLIP, asked about every noun phrase of the prompt; higher = better; differentiable.

    ``form``: "published", the product of the probabilities, both rounded as the benchmark rounds them, and 1 for a
    prompt without a phrase; its gradient is that of the product itself. "product": not rounded; "log": Σ log P(yes),
    whose gradient does not vanish where one phrase is missed. P(yes) is against "no": e^yes / (e^yes + e^no).
    """

    name = "blip_vqa"
    architecture = "BlipForQuestionAnswering"

    def __init__(self, settings: BlipVqaConfig, device: torch.device | str) -> None:
        super().__init__(settings, device, settings.side)
        self.form, self.phrases = settings.form, settings.phrases
        vision = self.source.configuration().get("vision_config") or {}
        patch = vision.get("patch_size", 16)
        if settings.side and settings.side % patch:
            section = (self.key or f"scorer.{self.name}.path").rpartition(".")[0]
            raise UserError(
                f"{section}.side={settings.side} cannot be cut into this BLIP's patches of {patch} px; give a multiple"
            )
        if self.phrases == "spacy":
            model_name()

    @property
    def identity(self) -> str:
        """The weights that judge, and the English model that finds the phrases, where one is installed."""
        try:
            found = f", phrases by {model_name()}" if self.phrases != "world" else ""
        except UserError:
            found = ""
        return f"{self.source.identity}{found}"

    def batch_scores(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """Give the scores [n] of one forward of each network."""
        counts, margins = self._margins(pictures, self._asked(prompts))
        sums = [part.sum() for part in functional.logsigmoid(margins).split(counts)]
        # A gradient, if only of nothing; in float32, for half precision cannot hold the sum of a picture.
        logs = torch.stack(sums) + 0 * pictures.flatten(1).float().sum(1).to(self.device)
        if self.form == "log":
            return logs
        product = logs.exp()
        if self.form == "product":
            return product
        written = [
            float(published_score([published_answer(float(p)) for p in part]))
            for part in margins.detach().sigmoid().cpu().split(counts)
        ]
        return product + (product.new_tensor(written) - product).detach()

    @torch.no_grad()
    def answers(self, pictures: Tensor, prompts: list[str]) -> list[list[Answer]]:
        """List, for every picture [3, H, W] in [0, 1], the questions of its own prompt and P(yes) of each, not rounded.

        ``published_answer`` writes one as the benchmark does.
        """
        check_pairs(self.name, pictures, prompts)
        found: list[list[Answer]] = []
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            asked = self._asked(prompts[part])
            counts, margins = self._margins(pictures[part], asked)
            for phrases, said in zip(asked, margins.sigmoid().cpu().split(counts), strict=True):
                found.append(list(zip(map(question_of, phrases), said.tolist(), strict=True)))
        return found

    def _asked(self, prompts: Sequence[str]) -> list[tuple[str, ...]]:
        asked = [asked_phrases(prompt, self.phrases) for prompt in prompts]
        for prompt, phrases in zip(prompts, asked, strict=True):
            _check_asked(prompt, phrases, self.form, self.name)
        return asked

    def _margins(self, pictures: Tensor, asked: Sequence[Sequence[str]]) -> tuple[list[int], Tensor]:
        """(Questions of each picture, logit of yes less logit of no of all of them); a picture is looked at once."""
        counts = [len(phrases) for phrases in asked]
        questions = [clean_question(question_of(phrase)) for phrases in asked for phrase in phrases]
        if not questions:
            return counts, torch.zeros(0, device=self.device)
        tokens = self.texts.tokens(questions, self.texts.encoder)
        owner = torch.repeat_interleave(torch.tensor(counts)).to(self.device)
        states = self.model.text_encoder(
            tokens.ids, attention_mask=tokens.mask, encoder_hidden_states=self.seen(pictures)[owner]
        ).last_hidden_state
        return counts, self._decided(states, tokens.mask.sum(1))

    def _decided(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Logit of yes less logit of no [n] as the first word after questions of these ``states`` and ``lengths``.

        Questions of one length go together: transformers 5.23 drops the mask of what BLIP's decoder looks at, so that a
        question padded for another's sake would get another answer.
        """
        places, parts = [], []
        for length in lengths.unique().tolist():
            place = (lengths == length).nonzero()[:, 0]
            logits = self.model.text_decoder(
                place.new_full((len(place), 1), self.texts.decoder),
                encoder_hidden_states=states[place, :length],
                use_cache=False,
            ).logits[:, 0]
            places.append(place)
            parts.append(logits[:, self.texts.word(YES)] - logits[:, self.texts.word(NO)])
        return torch.cat(parts)[torch.cat(places).argsort()]


def _check_asked(prompt: str, phrases: Sequence[str], form: str, key: str) -> None:
    if not phrases and form != "published":
        raise UserError(
            f"{key}: the prompt {short(prompt)!r} has no noun phrase that BLIP could be asked about; leave it out, or"
            " say scorer.blip_vqa.form=published, which scores it 1 as T2I-CompBench does"
        )


def check_phrases(prompts: Sequence[str], settings: BlipVqaConfig, key: str) -> None:
    """Raise UserError, naming ``key``, for a prompt whose phrases cannot be found, or that has none where
    one is needed.
    """
    for prompt in prompts:
        _check_asked(prompt, asked_phrases(prompt, settings.phrases), settings.form, key)
