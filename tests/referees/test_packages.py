"""HPSv2 and ImageReward: what we ask of their packages, on stand-ins with the same parts."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mitune.errors import UserError
from mitune.referees.weighted import load_reward
from tests.referees.conftest import TEXTS, build_clip, pictures, settings


@pytest.mark.parametrize(("name", "package"), [("hpsv2", "hpsv2"), ("imagereward", "ImageReward")])
def test_a_package_that_is_not_there_is_named_with_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"needs the package {package}.*pip install mitune\[{name}\]"):
        load_reward(name, settings())


def install(monkeypatch: pytest.MonkeyPatch, **modules: types.ModuleType) -> None:
    """Put modules where ``import`` and ``find_spec`` look; dots are written __."""
    for name, module in modules.items():
        module.__spec__ = importlib_spec(name.replace("__", "."))
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


def importlib_spec(name: str) -> Any:
    import importlib.machinery

    return importlib.machinery.ModuleSpec(name, None)


def module(**contents: Any) -> types.ModuleType:
    made = types.ModuleType("stand-in")
    vars(made).update(contents)
    return made


class Words:
    """A tokenizer of letters; ids [n, 35]."""

    def __call__(self, texts: list[str], **how: Any) -> Any:
        assert how == {"padding": "max_length", "truncation": True, "max_length": 35, "return_tensors": "pt"}
        ids = torch.tensor([[ord(c) % 50 for c in text[:35].ljust(35)] for text in texts])
        found = types.SimpleNamespace(input_ids=ids, attention_mask=torch.ones_like(ids))
        found.to = lambda _: found
        return found


class Reader(nn.Module):
    """A text encoder that looks at the picture, with the arguments of BLIP's."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(50, 6), nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor, encoder_hidden_states: torch.Tensor,
                encoder_attention_mask: torch.Tensor, return_dict: bool) -> Any:  # fmt: skip
        assert return_dict
        assert encoder_attention_mask.shape == encoder_hidden_states.shape[:-1]
        assert attention_mask.shape == ids.shape
        seen = encoder_hidden_states.mean(1, keepdim=True).expand(-1, ids.shape[1], -1)
        return types.SimpleNamespace(
            last_hidden_state=self.mix(torch.cat([self.words(ids).cumsum(1).flip(1), seen], -1)).tanh()
        )


class Rater(nn.Module):
    """ImageReward's parts by their names: blip.tokenizer, .visual_encoder, .text_encoder; mlp, mean, std."""

    def __init__(self) -> None:
        super().__init__()
        self.blip = nn.Module()
        self.blip.tokenizer = Words()  # type: ignore[assignment]
        self.blip.visual_encoder = nn.Sequential(nn.Conv2d(3, 6, 56, 56), nn.Flatten(2), nn.Linear(16, 16))
        self.blip.visual_encoder.append(Swap())
        self.blip.text_encoder = Reader()
        self.mlp = nn.Linear(5, 1)
        self.mean, self.std = 0.2, 1.5


class Swap(nn.Module):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states.transpose(1, 2)


def test_imagereward_is_its_own_head_on_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    rater, asked = Rater(), []

    def load(name: str, device: str) -> Rater:
        asked.append((name, device))
        return rater

    install(monkeypatch, ImageReward=module(load=load))
    reward = load_reward("imagereward", settings())
    assert not asked  # nothing is loaded before a picture is judged
    shown = pictures(3, 224, 224).requires_grad_()
    score = reward.score(shown, TEXTS)
    assert asked == [("ImageReward-v1.0", "cpu")]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    seen = rater.blip.visual_encoder((shown - mean) / std)
    ids = Words()(TEXTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt").input_ids
    states = rater.blip.text_encoder(
        ids, torch.ones_like(ids), seen, torch.ones(seen.shape[:2]), return_dict=True
    ).last_hidden_state
    expected = (rater.mlp(states[:, 0]) - 0.2).squeeze(-1) / 1.5
    torch.testing.assert_close(score, expected)
    assert reward.differentiable
    ours, theirs = (torch.autograd.grad(value.sum(), shown)[0] for value in (score, expected))
    torch.testing.assert_close(ours, theirs)


def test_hpsv2_is_the_cosine_of_the_package_s_features(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, words, loads = nn.Linear(3, 8), nn.Embedding(50, 8), []
    holder: dict[str, Any] = {}

    class Model(nn.Module):
        def forward(self, shown: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
            features = encoder(shown.mean((2, 3))), words(tokens).mean(1)
            return dict(
                zip(
                    ("image_features", "text_features"), (normalize(f, dim=-1) for f in features), strict=True
                )
            )

    def score(images: list[Any], prompt: str, hps_version: str) -> list[float]:
        loads.append(hps_version)
        holder.update(model=Model(), preprocess_val=as_tensor)
        return [0.0] * len(images)

    def as_tensor(image: Any) -> torch.Tensor:
        import numpy as np

        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5

    def get_tokenizer(_: str) -> Any:
        return lambda texts: torch.tensor([[ord(c) % 50 for c in text[:9].ljust(9)] for text in texts])

    install(
        monkeypatch,
        hpsv2=module(),
        hpsv2__img_score=module(score=score, model_dict=holder),
        hpsv2__src=module(),
        hpsv2__src__open_clip=module(get_tokenizer=get_tokenizer),
    )
    section = settings()
    section["hpsv2"] |= {"batch_size": 2, "version": "v2.0"}
    reward = load_reward("hpsv2", section)
    shown = pictures(3)
    scores = reward.score(shown, TEXTS)
    found = Model()(shown - 0.5, get_tokenizer("")(TEXTS))
    torch.testing.assert_close(scores, (found["image_features"] * found["text_features"]).sum(-1))
    reward.score(shown, TEXTS)
    assert loads == ["v2.0"]  # the package reads its weights at every call: it is called once
    assert not reward.differentiable


def test_hpsv2_as_a_transformers_folder_needs_no_package(tmp_path: Any) -> None:
    folder = build_clip(tmp_path / "hps")
    section = settings(path=str(folder), form="cosine")
    section["hpsv2"]["path"] = str(folder)
    shown = pictures(2)
    reward = load_reward("hpsv2", section)
    assert reward.differentiable
    torch.testing.assert_close(
        reward.score(shown, TEXTS[:2]), load_reward("clip", section).score(shown, TEXTS[:2])
    )
