"""Models that cannot be used, each refused in one line that says what, where and the way out; checkpoint files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mitune.errors import UserError
from mitune.families import families, load_denoiser
from tests.families.ldm import write_checkpoint


def refusal(path: Path | str, **options: Any) -> str:
    """The one line with which this model is refused."""
    with pytest.raises(UserError) as caught:
        load_denoiser({"path": str(path), "device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def copy(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may spoil."""
    return Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_every_family_is_found_by_the_class_its_pipelines_have() -> None:
    import diffusers

    assert set(families()) == {
        "FluxPipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "SanaPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
    }
    assert all(hasattr(diffusers, name) for name in families())


def test_an_unknown_class_lists_the_families_and_how_to_add_one(copy: Path) -> None:
    edit(copy / "model_index.json", _class_name="HunyuanDiTPipeline")
    line = refusal(copy)
    assert "HunyuanDiTPipeline" in line
    assert all(name in line for name in families())
    assert "mitune/families/" in line


def test_a_class_this_diffusers_does_not_have(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    monkeypatch.delattr(diffusers, "StableDiffusionPipeline", raising=False)
    monkeypatch.setattr(diffusers, "StableDiffusionPipeline", None, raising=False)
    assert "pip install -U diffusers" in refusal(copy)


def test_a_text_encoder_that_is_missing(copy: Path) -> None:
    shutil.rmtree(copy / "text_encoder")
    assert "text_encoder has no safetensors weights; the model is incomplete" in refusal(copy)
    edit(copy / "model_index.json", text_encoder=[None, None])
    assert "has no text_encoder: prompts cannot be encoded" in refusal(copy)


def test_a_package_that_reading_the_model_takes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def needs(*_: Any, **__: Any) -> None:
        raise ImportError("\nT5Tokenizer requires the SentencePiece library\nsee its page")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", needs)
    assert refusal(copy).endswith("cannot be loaded: T5Tokenizer requires the SentencePiece library")


def test_weights_that_do_not_fit_their_configuration(copy: Path) -> None:
    edit(copy / "unet" / "config.json", cross_attention_dim=48)
    line = refusal(copy)
    assert "the unet does not fit its config.json: 8 weights have another shape" in line


def test_a_checkpoint_file_is_the_model_of_its_folder(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    file = write_checkpoint(tiny_pipeline_folder, tmp_path / "one.safetensors")
    whole = load_denoiser(str(tiny_pipeline_folder))
    single = load_denoiser({"path": str(file), "config": str(tiny_pipeline_folder)})
    assert single.identity.startswith("one#")
    condition = whole.encode_prompts(["a red circle"])
    weights = zip(single.network.parameters(), whole.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    # Weights are mapped from the file where they lie in it, and how they are aligned decides how a product is rounded.
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(single.encode_prompts(["a red circle"]).tensors["text"], condition.tensors["text"])
    z = torch.randn(1, 4, 8, 8)
    close(single.predict(z, 500, condition), whole.predict(z, 500, condition))
    close(single.decode(z), whole.decode(z))
    tensors = load_file(file)
    save_file({name: value + 1e-3 for name, value in tensors.items()}, file)
    changed = load_denoiser({"path": str(file), "config": str(tiny_pipeline_folder)})
    assert changed.identity != single.identity


def test_a_checkpoint_file_without_its_configuration(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mitune.families.source._from_hub", _unreachable)
    file = write_checkpoint(tiny_pipeline_folder, tmp_path / "one.safetensors")
    line = refusal(file)
    assert "built as stable-diffusion-v1-5/stable-diffusion-v1-5" in line  # recognised by its layers
    assert "model.config=FOLDER" in line
    assert "no model_index.json" in refusal(file, config=str(tmp_path))


def test_a_checkpoint_file_is_built_as_the_hub_says(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    from mitune.families import source

    found = dataclasses.replace(source.find_model(tiny_pipeline_folder), name="owner/name", folder=None)
    monkeypatch.setattr(source, "_from_hub", lambda name, revision: found)
    asked: dict[str, Any] = {}

    def from_single_file(path: str, **keywords: Any) -> None:
        asked.update(keywords, path=path)
        raise OSError("enough")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", from_single_file)
    file = write_checkpoint(tiny_pipeline_folder, tmp_path / "one.safetensors")
    assert "one.safetensors cannot be loaded as a StableDiffusionPipeline: enough" in refusal(file)
    assert asked["path"] == str(file)
    assert asked["config"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert not asked["local_files_only"]


def _unreachable(name: str, revision: str | None) -> None:
    raise UserError(f"{name}: the Hub cannot be reached")


def test_checkpoint_files_that_cannot_be_read(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    for name in ("old.ckpt", "old.bin", "old.pt"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        assert "pickled" in refusal(tmp_path / name)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "no safetensors file" in refusal(tmp_path / "model.gguf")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    assert "damaged" in refusal(tmp_path / "cut.safetensors")
    save_file({"something.else": torch.zeros(2)}, tmp_path / "other.safetensors")
    line = refusal(tmp_path / "other.safetensors", config=str(tiny_pipeline_folder))
    assert "cannot be loaded as a StableDiffusionPipeline" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float23"}, "did you mean 'float32'"),
        ({"dtype": "int8"}, "model.dtype='int8' is not known"),
        ({"device": "gpu"}, "model.device=gpu is no device"),
        ({"device": "cuda:99"}, "CUDA devices; use model.device=auto"),
    ],
)
def test_a_wrong_dtype_or_device(options: dict[str, str], words: str, tiny_pipeline_folder: Path) -> None:
    assert words in refusal(tiny_pipeline_folder, **options)
