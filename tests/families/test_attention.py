"""A look at attention: maps of a trained UNet and of joint attention, changed or not, with gradients; words' tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mitune.errors import UserError
from mitune.families import load_denoiser
from tests.analytic import three_clouds
from tests.families import test_flux, test_sd3

TEXT = "a red circle left of a blue square"


class Keep:
    """Keeps what it is shown, and gives back what ``change`` makes of maps that read the text."""

    def __init__(self, change: Any = None) -> None:
        self.seen: list[tuple[str, str, Tensor]] = []
        self.change = change

    def layer(self, place: str, kind: str, maps: Tensor) -> Tensor | None:
        self.seen.append((place, kind, maps))
        return None if self.change is None or kind == "self" else self.change(maps)


@pytest.fixture(scope="module", params=["unet", "sd3", "flux"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    if request.param == "unet":
        return "unet", load_denoiser({"path": "shapes", "device": "cpu"})
    family = {"sd3": test_sd3, "flux": test_flux}[request.param]
    return request.param, family.describe(family.build(tmp_path_factory.mktemp(request.param))).load()


def given(denoiser: Any) -> tuple[Tensor, int, Any]:
    z = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    return z, 400, denoiser.encode_prompts([TEXT, "a green star"])


@torch.no_grad()
def test_maps_are_shares_and_looking_changes_nothing(model):
    name, denoiser = model
    z, t, condition = given(denoiser)
    plain = denoiser.predict(z, t, condition)
    tap = Keep()
    looked = denoiser.predict(z, t, condition, tap)
    assert (looked - plain).abs().max() <= 1e-5 * max(1.0, float(plain.abs().max()))
    assert torch.equal(denoiser.predict(z, t, condition), plain)  # nothing is left behind
    for place, kind, maps in tap.seen:
        denoiser.network.get_submodule(place)
        assert kind in (("self", "cross") if name == "unet" else ("self", "joint"))
        assert (maps.sum(-1) - 1).abs().max() < 1e-5
        text = denoiser.to_text(kind, maps)
        assert (text is None) == (kind == "self")
        if text is not None:
            assert text.shape[0] == 2
            assert text.shape[-1] == condition.tensors["text"].shape[1]
    if name == "unet":
        assert [kind for _, kind, _ in tap.seen] == ["self", "cross"] * 7
    assert len({place for place, _, _ in tap.seen}) == len(tap.seen)


@torch.no_grad()
def test_maps_that_are_given_back_are_used(model):
    _, denoiser = model
    z, t, condition = given(denoiser)
    plain = denoiser.predict(z, t, condition)
    changed = denoiser.predict(z, t, condition, Keep(lambda maps: maps.flip(-1)))
    assert (changed - plain).abs().max() > 1e-3
    same = denoiser.predict(z, t, condition, Keep(lambda maps: maps.clone()))
    assert (same - plain).abs().max() <= 1e-5 * max(1.0, float(plain.abs().max()))


def test_gradients_flow_through_the_maps(model):
    _, denoiser = model
    z, t, condition = given(denoiser)
    z.requires_grad_()
    tap = Keep()
    denoiser.predict(z, t, condition, tap)
    looks = [denoiser.to_text(kind, maps) for _, kind, maps in tap.seen]
    loss = sum(look.amax(-2).mean() for look in looks[1:] if look is not None)
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).abs().amax(1).min() > 0


def test_every_word_has_the_columns_that_read_it(model):
    name, denoiser = model
    spans = denoiser.spans(TEXT)
    assert [span.word for span in spans] == TEXT.split()
    assert all(TEXT[span.start : span.stop] == span.word for span in spans)
    tokens = denoiser.encode_prompts([TEXT]).tensors["text"].shape[1]
    for encoder in spans[0].columns:
        columns = [column for span in spans for column in span.columns[encoder]]
        assert columns
        assert columns == sorted(set(columns))
        assert columns[-1] < tokens
    if name == "unet":  # each grammar word is one token, behind the first
        assert [span.columns["text_encoder"] for span in spans] == [(i,) for i in range(1, len(spans) + 1)]
    if name == "sd3":
        assert min(spans[0].columns["text_encoder_3"]) >= 16
    assert not any(span.columns[next(iter(span.columns))] for span in denoiser.spans("cat " * 900)[-2:])


@torch.no_grad()
def test_a_words_column_is_where_the_word_is_read():
    """Of the trained UNet: another colour at one word changes that word's column of the text, and none before."""
    denoiser = load_denoiser({"path": "shapes", "device": "cpu"})
    red, green = (
        denoiser.encode_prompts([f"a {word} circle"]).tensors["text"][0] for word in ("red", "green")
    )
    first = int(((red - green).abs().amax(-1) > 1e-4).nonzero()[0])
    assert denoiser.spans("a red circle")[1].columns["text_encoder"] == (first,)


def test_where_there_are_no_maps_a_tap_is_refused():
    analytic = three_clouds()
    with pytest.raises(UserError, match="no attention"):
        analytic.predict(torch.zeros(1, 2), 5, analytic.null(1), Keep())
    denoiser = load_denoiser({"path": "shapes", "device": "cpu"})
    z, t, condition = given(denoiser)
    denoiser.network.enable_gradient_checkpointing()
    with pytest.raises(UserError, match="gradient_checkpointing=false"):
        denoiser.predict(z, t, condition, Keep())
    denoiser.network.disable_gradient_checkpointing()
    denoiser.network._compiled_call_impl = denoiser.network.forward
    with pytest.raises(UserError, match=r"model\.compile=false"):
        denoiser.predict(z, t, condition, Keep())
