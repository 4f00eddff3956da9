"""Adapters: what they attach to, and that plain diffusers reproduces what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mitune.analytic import AnalyticDenoiser
from mitune.errors import UserError
from mitune.families import load_denoiser, lora
from mitune.families.stable_diffusion import StableDiffusionDenoiser
from mitune.finetune.adapters import attach, trainable_parameters
from mitune.finetune.catalogue import AdapterConfig
from mitune.noise import NoiseSchedule

PROMPTS = ["a red circle", "two dogs"]


def _load(folder: Path, **options: object) -> StableDiffusionDenoiser:
    return load_denoiser({"path": str(folder), "device": "cpu", "dtype": "float32"} | options)


def _shake(parameters: list[torch.nn.Parameter], seed: int = 5) -> None:
    """A non-zero adapter, as training would leave it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def _predict(denoiser: StableDiffusionDenoiser, t: int = 600) -> torch.Tensor:
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return denoiser.epsilon(z, t, denoiser.encode_prompts(PROMPTS))


@pytest.mark.parametrize(
    ("kind", "text_encoder", "targets"),
    [
        *[(kind, text_encoder, []) for kind in ("lora", "dora") for text_encoder in (False, True)],
        ("lora", False, ["all"]),
        ("dora", True, ["all"]),
    ],
)
def test_plain_diffusers_reproduces_a_saved_adapter(
    kind: str, text_encoder: bool, targets: list[str], tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    denoiser = _load(tiny_pipeline_folder)
    untouched = _predict(denoiser)
    config = AdapterConfig(kind=kind, rank=3, alpha=6, text_encoder=text_encoder, targets=targets)
    parameters = attach(denoiser, config)
    assert torch.allclose(_predict(denoiser), untouched, atol=1e-6)  # B = 0: nothing has changed yet
    _shake(parameters)
    ours = _predict(denoiser)
    near = 1e-5 * max(1.0, float(ours.abs().max()))
    assert (ours - untouched).abs().max() > 0.01
    denoiser.save_adapter(tmp_path / "adapter")
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == [lora.FILE]

    pipeline = StableDiffusionPipeline.from_pretrained(str(tiny_pipeline_folder), safety_checker=None)
    pipeline.load_lora_weights(str(tmp_path / "adapter"))
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        text, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
        theirs = pipeline.unet(z, 600, encoder_hidden_states=text).sample
    assert (theirs - ours).abs().max() <= near

    fresh = _load(tiny_pipeline_folder, adapter=None)
    base_identity = fresh.identity
    fresh.load_adapter(tmp_path / "adapter")
    assert (_predict(fresh) - ours).abs().max() <= near
    assert fresh.identity.startswith(base_identity + "+")
    assert not any(
        parameter.requires_grad for module in fresh.components.values() for parameter in module.parameters()
    )
    with fresh.base():
        assert torch.equal(_predict(fresh), untouched)
    fresh.unload_adapter()
    assert torch.equal(_predict(fresh), untouched)
    assert fresh.identity == base_identity


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_merged_adapter_gives_the_same_and_leaves_no_trace(kind: str, tiny_pipeline_folder: Path) -> None:
    denoiser = _load(tiny_pipeline_folder)
    untouched = _predict(denoiser)
    _shake(attach(denoiser, AdapterConfig(kind=kind, rank=4, alpha=8, text_encoder=True)))
    apart = _predict(denoiser)
    with denoiser.fused():
        assert (_predict(denoiser) - apart).abs().max() <= 1e-5
    assert torch.equal(_predict(denoiser), apart)
    with denoiser.base():
        assert torch.equal(_predict(denoiser), untouched)
    assert torch.equal(_predict(denoiser), apart)


def test_only_the_adapter_trains_in_float32(tiny_pipeline_folder: Path) -> None:
    denoiser = _load(tiny_pipeline_folder, dtype="bfloat16")
    untouched = _predict(denoiser)
    parameters = attach(denoiser, AdapterConfig(rank=4))
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    training = [p for module in denoiser.components.values() for p in module.parameters() if p.requires_grad]
    assert {id(parameter) for parameter in training} == {id(parameter) for parameter in parameters}
    assert torch.equal(
        _predict(denoiser), untouched
    )  # DoRA's magnitudes are the norms of the weights, to the last bit
    names = trainable_parameters(denoiser)
    assert len(names) == len(parameters) == 3 * 32
    assert all(name.startswith("unet.") for name in names)


def test_a_seed_gives_one_adapter(tiny_pipeline_folder: Path) -> None:
    denoiser = _load(tiny_pipeline_folder)
    state = torch.random.get_rng_state()
    first = [parameter.clone() for parameter in attach(denoiser, AdapterConfig(rank=4), seed=1)]
    again = [parameter.clone() for parameter in attach(denoiser, AdapterConfig(rank=4), seed=1)]
    other = [parameter.clone() for parameter in attach(denoiser, AdapterConfig(rank=4), seed=2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's randomness is spent


def test_training_goes_on_from_a_saved_adapter(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    denoiser = _load(tiny_pipeline_folder)
    _shake(attach(denoiser, AdapterConfig(rank=4)))
    expected = _predict(denoiser)
    denoiser.save_adapter(tmp_path / "adapter")
    other = _load(tiny_pipeline_folder, adapter=tmp_path / "adapter")
    parameters = attach(other, AdapterConfig(rank=4), init_from=tmp_path / "adapter")
    assert (_predict(other) - expected).abs().max() <= 1e-6
    assert all(parameter.requires_grad for parameter in parameters)
    # A round may begin to train the text encoder: what is saved is kept, the rest is fresh.
    attach(other, AdapterConfig(rank=4, text_encoder=True), init_from=tmp_path / "adapter")
    assert (_predict(other) - expected).abs().max() <= 1e-6


def test_all_layers_are_the_linear_ones_and_the_convolutions(tiny_pipeline_folder: Path) -> None:
    denoiser = _load(tiny_pipeline_folder)
    layers = [
        layer for layer in denoiser.network.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    attach(denoiser, AdapterConfig(rank=2, kind="lora", targets=["all"]))
    assert len(lora.adapter_layers([denoiser.network])) == len(layers)
    attach(denoiser, AdapterConfig(rank=2, kind="lora", targets=["all"]))  # again, in the place of the first
    assert len(lora.adapter_layers([denoiser.network])) == len(layers)


def test_what_cannot_be_attached_is_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    denoiser = _load(tiny_pipeline_folder)
    for config, message in (
        (
            AdapterConfig(targets=["to_q", "to_qq"]),
            r"'to_qq' matches no layer of the unet, did you mean 'to_q'\?.*to_out\.0",
        ),
        (AdapterConfig(text_encoder=True, text_targets=["qproj"]), "adapter.text_targets: 'qproj'.*q_proj"),
    ):
        with pytest.raises(UserError, match=message):
            attach(denoiser, config)
    for options, message in (
        ({"kind": "dorra"}, "did you mean 'dora'"),
        ({"rank": 0}, "adapter.rank=0"),
        ({"dropout": 1.0}, "adapter.dropout=1.0"),
    ):
        with pytest.raises(UserError, match=message):
            attach(denoiser, AdapterConfig(**options))
    analytic = AnalyticDenoiser([[0.0]], [1.0], {"a": [1.0]}, {"a": 1.0}, NoiseSchedule.ddpm())
    with pytest.raises(UserError, match="no network"):
        attach(analytic, AdapterConfig())


def test_saved_adapters_that_do_not_fit_are_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    denoiser = _load(tiny_pipeline_folder)
    before = _predict(denoiser)
    attach(denoiser, AdapterConfig(rank=4, text_encoder=True))
    denoiser.save_adapter(tmp_path / "adapter")
    denoiser.unload_adapter()
    for config, message in (
        (AdapterConfig(rank=8, text_encoder=True), "has rank 4; go on with adapter.rank=4"),
        (AdapterConfig(rank=4, kind="lora", text_encoder=True), "is a dora"),
        (AdapterConfig(rank=4, alpha=8, text_encoder=True), "has alpha 32"),
        (AdapterConfig(rank=4, targets=["to_q"], text_encoder=True), "other target layers"),
        (AdapterConfig(rank=4), "also adapts the text_encoder"),
    ):
        with pytest.raises(UserError, match=message):
            attach(denoiser, config, init_from=tmp_path / "adapter")
    denoiser.unload_adapter()
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    wide = {f"{layer}.lora_A.weight": torch.zeros(2, 999), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    nowhere = {
        "unet.nowhere.lora_A.weight": torch.zeros(2, 3),
        "unet.nowhere.lora_B.weight": torch.zeros(3, 2),
    }
    for name, tensors, message in (
        ("shape", wide, "32 inputs here, 999 there"),
        ("layer", nowhere, "no layer 'nowhere'"),
        ("kind", {"transformer.x.lora_A.weight": torch.zeros(2, 3)}, "it has a 'transformer'"),
        ("older", {"unet.x.lora.down.weight": torch.zeros(2, 3)}, "no layer 'x'"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / lora.FILE)
        with pytest.raises(UserError, match=message):
            denoiser.load_adapter(folder)
    (tmp_path / "shape" / lora.FILE).write_bytes(b"nonsense")
    for folder, message in ((tmp_path / "shape", "damaged"), (tmp_path / "none", "no adapter at")):
        with pytest.raises(UserError, match=message):
            denoiser.load_adapter(folder)
    assert torch.equal(_predict(denoiser), before)  # a refused adapter changes nothing
