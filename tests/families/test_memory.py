"""Memory options: what waits on the CPU, slices and tiles, quantized weights, the fast decoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.errors import UserError
from mitune.families import load_denoiser, memory
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.trainer import train
from mitune.sampling.loop import sample
from mitune.sampling.steps import Sampler
from tests.finetune.conftest import make_dataset

PROMPTS = ["a red circle", "two dogs"]
CPU = torch.device("cpu")


def load(folder: Path, **options: Any) -> Any:
    return load_denoiser({"path": str(folder), "device": "cpu", **options})


def draw(denoiser: Any) -> torch.Tensor:
    return sample(denoiser, denoiser.encode_prompts(PROMPTS), [1, 2], Sampler("ddim", 3))


def test_parts_come_and_go_around_our_direct_calls(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    plain, moved = load(tiny_pipeline_folder), load(tiny_pipeline_folder)
    moved.offload("model", CPU)  # the hooks are diffusers' own; here both sides are the CPU
    called: list[str] = []
    for name in ("text_encoder", "unet", "vae"):
        hook = getattr(moved.pipeline, name)._hf_hook

        def note(
            module: Any, *args: Any, name: str = name, old: Any = hook.pre_forward, **keywords: Any
        ) -> Any:
            called.append(name)
            return old(module, *args, **keywords)

        hook.pre_forward = note
    freed: list[int] = []
    moved.pipeline.maybe_free_model_hooks = lambda: freed.append(len(called))
    z = draw(moved)
    assert torch.equal(z, draw(plain))
    assert torch.equal(moved.decode(z), plain.decode(z))
    assert torch.equal(moved.encode_image(plain.decode(z)), plain.encode_image(plain.decode(z)))
    assert called == ["text_encoder", "text_encoder", *["unet"] * 3, "vae", "vae"]
    assert freed == [0, 1]  # room is made before each text encoding
    assert moved.device == CPU


def test_training_goes_on_while_parts_wait(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=2, batch_size=2, checkpoint_every=1, log_every=1)
    weights = []
    for name in ("plain", "moved"):
        denoiser = load(tiny_pipeline_folder)
        if name == "moved":
            denoiser.offload("model", CPU)
            with pytest.raises(UserError, match=r"adapter.text_encoder=true: .* model.offload=none"):
                attach(denoiser, AdapterConfig(text_encoder=True))
        attach(denoiser, AdapterConfig(rank=2), seed=1)
        train(denoiser, make_dataset(), config, tmp_path / name)
        weights.append((tmp_path / name / "adapter" / "pytorch_lora_weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_sequential_offload_leaves_the_network_where_it_is(
    tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser, seen = load(tiny_pipeline_folder), {}
    pipeline = denoiser.pipeline

    def enable(device: torch.device) -> None:
        seen.update(device=device, stays=list(pipeline._exclude_from_cpu_offload))

    monkeypatch.setattr(pipeline, "enable_sequential_cpu_offload", enable)
    denoiser.offload("sequential", CPU)
    assert seen == {"device": CPU, "stays": [*type(pipeline)._exclude_from_cpu_offload, "unet"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "model"}, "model runs on the CPU; leave model.offload=none"),
        ({"offload": "all"}, r"model.offload='all' is not known \(known: none, model, sequential\)"),
        ({"quantization": "4bit"}, "model.quantization=4bit needs a CUDA device, this is cpu"),
        ({"quantization": "2bit"}, "model.quantization='2bit' is not known.*known: none, 8bit, 4bit, int8"),
        ({"max_tokens": 20}, "model.max_tokens=20: .* one fixed length"),
        ({"fast_decoder": "nowhere"}, "model.fast_decoder=nowhere is no AutoencoderTiny"),
        ({"resolution": 17}, "model.resolution=17: this model's pictures divide by 2"),
    ],
)
def test_options_that_cannot_work_are_refused(
    options: dict[str, Any], message: str, tiny_pipeline_folder: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tiny_pipeline_folder, **options)
    assert "\n" not in str(caught.value)


def test_offload_and_compile_exclude_each_other() -> None:
    memory.check_offload("model", torch.device("cuda"), compile=False)
    with pytest.raises(UserError, match=r"does not go together with model\.compile"):
        memory.check_offload("model", torch.device("cuda"), compile=True)


def test_quantized_weights_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert memory.quantization_config("none", "unet", [], torch.bfloat16, cuda) == {}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        memory.quantization_config("8bit", "unet", [], torch.bfloat16, cuda)
    with pytest.raises(UserError, match="pip install torchao"):
        memory.quantization_config("int8", "unet", [], torch.bfloat16, CPU)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is an extra: [quantization]")
def test_an_adapter_trains_on_int8_weights(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    plain, small = load(tiny_pipeline_folder), load(tiny_pipeline_folder, quantization="int8")
    projection = next(m for name, m in small.network.named_modules() if name.endswith("attn1.to_q"))
    assert type(projection.weight).__name__ == "Int8Tensor"
    z, condition = torch.randn(4, 4, 8, 8), plain.encode_prompts(["red", "blue", "a", ""])
    exact, rounded = (model.epsilon(z, 300, condition) for model in (plain, small))
    assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.05

    attach(small, AdapterConfig(rank=2), seed=1)
    train(small, make_dataset(), TrainConfig(steps=2, batch_size=2, lr=1e-2), tmp_path / "run")
    tuned = small.epsilon(z, 300, condition)
    assert not torch.equal(tuned, rounded)
    with small.fused():  # the adapter stays beside weights that cannot take it in without loss
        assert torch.equal(small.epsilon(z, 300, condition), tuned)
    plain.load_adapter(tmp_path / "run" / "adapter")
    assert torch.allclose(plain.epsilon(z, 300, condition) - exact, tuned - rounded, atol=0.05)


def test_slices_change_nothing_and_other_sizes_are_drawn(tiny_pipeline_folder: Path) -> None:
    plain, sliced = load(tiny_pipeline_folder), load(tiny_pipeline_folder, vae_slicing=True, vae_tiling=True)
    assert sliced.pipeline.vae.use_slicing
    assert sliced.pipeline.vae.use_tiling
    z = torch.randn(3, 4, 8, 8)
    assert torch.allclose(plain.decode(z), sliced.decode(z), atol=1e-6)
    large = load(tiny_pipeline_folder, resolution=32)
    assert (large.latent_shape, large.picture_size) == ((4, 16, 16), (32, 32))
    assert draw(large).shape == (2, 4, 16, 16)


def _tiny_decoder(folder: Path, blocks: int = 2) -> Path:
    from diffusers import AutoencoderTiny

    torch.manual_seed(3)
    layers = {f"{side}_block_out_channels": (8,) * blocks for side in ("encoder", "decoder")} | {
        f"num_{side}_blocks": (1,) * blocks for side in ("encoder", "decoder")
    }
    AutoencoderTiny(**layers, latent_channels=4).save_pretrained(folder)
    return folder


def test_a_fast_decoder_decodes_and_the_model_still_encodes(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderTiny

    folder = _tiny_decoder(tmp_path / "fast")
    plain, fast = load(tiny_pipeline_folder), load(tiny_pipeline_folder, fast_decoder=str(folder))
    z = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        expected = AutoencoderTiny.from_pretrained(folder).decode(z).sample
    pictures = fast.decode(z)
    assert torch.allclose(pictures, (expected / 2 + 0.5).clamp(0, 1), atol=1e-6)
    assert not torch.allclose(pictures, plain.decode(z), atol=1e-2)
    assert torch.equal(fast.encode_image(pictures), plain.encode_image(pictures))
    with pytest.raises(UserError, match="4 channels, 4 times smaller"):
        load(tiny_pipeline_folder, fast_decoder=str(_tiny_decoder(tmp_path / "other", blocks=3)))


def test_the_null_prompt_is_encoded_once_while_no_text_encoder_changes(tiny_pipeline_folder: Path) -> None:
    denoiser, calls = load(tiny_pipeline_folder), []
    denoiser.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    first, second = denoiser.null(1), denoiser.null(3)
    assert len(calls) == 1
    assert torch.equal(first.tensors["text"], second.tensors["text"][2:])
    for parameter in attach(denoiser, AdapterConfig(rank=2, text_encoder=True)):
        parameter.data += 0.1
    with torch.no_grad():
        assert not torch.equal(denoiser.null(1).tensors["text"], first.tensors["text"])
    denoiser.unload_adapter()
    assert torch.equal(denoiser.null(1).tensors["text"], first.tensors["text"])
