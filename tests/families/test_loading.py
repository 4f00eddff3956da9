"""Model folders as they lie on disks: what is loaded is what was saved, or it is refused by part, number and name."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mitune.errors import UserError
from mitune.families import load_denoiser, memory
from mitune.families.components import scheduler_file
from mitune.families.config_bounds import check_bounds
from mitune.families.weight_files import POSITIONS, check_finite, check_loaded, weight_files
from mitune.families.wholeness import check_scaling, check_vocabulary
from tests.families import tiny

UNET, TEXT, VAE = (
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
PARTS = pytest.mark.parametrize("file", [UNET, TEXT, VAE])


@pytest.fixture
def copy(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))


def load(path: Path | str, **options: Any) -> Any:
    return load_denoiser({"path": str(path), "device": "cpu", **options})


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(file: Path, how: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = how(load_file(file))
    file.unlink()
    save_file(tensors, file)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@PARTS
def test_missing_weights_are_refused_with_their_number_and_the_first_three(copy: Path, file: str) -> None:
    change(copy / file, lambda all_of: dict(sorted(all_of.items())[5:]))
    line = refusal(copy)
    assert f"the {file.split('/')[0]} does not fit" in line
    assert "5 weights are missing (" in line
    assert line.count(".bias") + line.count(".weight") >= 3


@PARTS
def test_left_over_and_wrongly_shaped_weights_are_refused(copy: Path, file: str) -> None:
    plain = load_file(copy / file)
    name = sorted(plain)[0]
    change(copy / file, lambda all_of: all_of | {"strange.weight": torch.zeros(3)})
    assert "1 weights are not of this kind of model (strange.weight)" in refusal(copy)
    save_file(plain | {name: torch.zeros(7)}, copy / file)
    assert f"1 weights have another shape ({name})" in refusal(copy)


@PARTS
def test_weights_that_are_no_numbers_or_whole_numbers_are_refused(copy: Path, file: str) -> None:
    plain = load_file(copy / file)
    name = sorted(plain)[0]
    save_file(plain | {name: torch.full_like(plain[name], float("nan"))}, copy / file)
    assert f"1 weights that are no finite numbers ({name})" in refusal(copy)
    save_file({key: value.to(torch.int32) for key, value in plain.items()}, copy / file)
    assert "are whole numbers" in refusal(copy)


def test_names_of_older_files_are_no_false_alarm(copy: Path) -> None:
    plain = load(copy).encode_prompts(["a red circle"]).tensors["text"]
    ids = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    change(
        copy / TEXT,
        lambda all_of: {f"text_model.{key.removeprefix('text_model.')}": all_of[key] for key in all_of} | ids,
    )
    assert torch.equal(load(copy).encode_prompts(["a red circle"]).tensors["text"], plain)


def test_a_part_saved_with_its_adapter_inside_says_how_to_take_it_out(copy: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    unet = UNet2DConditionModel.from_pretrained(copy / "unet")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    (copy / UNET).unlink()
    unet.save_pretrained(copy / "unet")
    line = refusal(copy)
    for word in ("the unet was saved with an adapter inside", "fuse_lora", "save_lora_weights"):
        assert word in line


def test_shards_are_checked_as_one(copy: Path) -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    whole = load(copy)
    for made_by, file in ((UNet2DConditionModel, UNET), (CLIPTextModel, TEXT)):
        module = made_by.from_pretrained((copy / file).parent)
        (copy / file).unlink()
        module.save_pretrained((copy / file).parent, max_shard_size="20KB")
    z, sharded = torch.randn(1, 4, 8, 8), load(copy)
    with torch.no_grad():
        text = whole.encode_prompts(["red"])
        found = sharded.predict(z, 500, sharded.encode_prompts(["red"]))
        # Weights lie elsewhere in the files, and how they are aligned decides how a product is rounded.
        torch.testing.assert_close(found, whole.predict(z, 500, text), rtol=1e-4, atol=1e-5)
    index = next((copy / "unet").glob("*.index.json"))
    good = json.loads(index.read_text())
    first = sorted(good["weight_map"])[0]
    edit(index, weight_map={key: file for key, file in good["weight_map"].items() if key != first})
    assert f"1 weights are not in its weight_map ({first!r})" in refusal(copy)
    for bad in (
        "[]",
        "{",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": 5}',
    ):
        index.write_text(bad)
        assert "model.safetensors.index.json" in refusal(copy)
    index.write_text(json.dumps(good))
    (copy / "unet" / sorted(set(good["weight_map"].values()))[0]).unlink()
    assert "does not exist" in refusal(copy)


def _sharded(folder: Path, index: dict[str, str], **files: dict[str, Tensor]) -> Path:
    part = folder / "unet"
    part.mkdir(parents=True)
    for name, tensors in files.items():
        save_file(tensors, part / f"{name}.safetensors")
    named = {key: f"{file}.safetensors" for key, file in index.items()}
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    return folder


@pytest.mark.parametrize(
    ("index", "second", "words"),
    [
        ({"a": "one", "b": "two"}, {"b": 1}, None),
        (
            {"a": "one", "b": "two"},
            {"c": 1},
            "1 weights are missing ('b'); 1 weights are not in its weight_map ('c')",
        ),
        ({"a": "one", "b": "one"}, {}, "1 weights are missing ('b')"),
        ({"a": "one", "b": "two"}, {"b": 1, "c": 1}, "1 weights are not in its weight_map ('c')"),
        ({"a": "one", "b": "two"}, {"b": 1, "a": 2}, "1 weights are in two of its files ('a')"),
        ({"a": "two", "b": "one"}, {"b": 1}, "2 weights are in another of its files than it says ('a', 'b')"),
    ],
)
def test_shards_hold_what_their_index_lists_each_once(
    index: dict[str, str], second: dict[str, float], words: str | None, tmp_path: Path
) -> None:
    two = {key: torch.tensor([float(value)]) for key, value in second.items()}
    folder = _sharded(tmp_path / "model", index, one={"a": torch.zeros(1)}, two=two)
    if words is None:
        assert [file.stem for file in weight_files(folder, "unet", None)] == ["one", "two"]
        return
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        weight_files(folder, "unet", None)
    assert "\n" not in str(caught.value)


def test_weights_that_were_left_empty_are_missing() -> None:
    module = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(UserError, match=r"2 weights are missing \(bias, weight\)"):
        check_finite("unet", module, "here")


def _rename(copy: Path, variant: str, *files: str) -> None:
    for file in files:
        (copy / file).rename(copy / file.replace(".safetensors", f".{variant}.safetensors"))


def test_a_part_without_the_variant_takes_its_plain_files(copy: Path) -> None:
    plain = load(copy)
    _rename(copy, "bf16", TEXT, VAE)
    assert "text_encoder has no weights without a variant; choose model.variant=bf16" in refusal(copy)
    mixed = load(copy, variant="bf16")
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(
            mixed.predict(z, 9, mixed.encode_prompts(["a"])), plain.predict(z, 9, plain.encode_prompts(["a"]))
        )
    assert mixed.identity != plain.identity  # other files were read
    assert refusal(copy, variant="fp16").endswith("those there: bf16")


def test_no_message_about_variants_sends_in_a_circle(copy: Path) -> None:
    assert refusal(copy, variant="fp16").endswith("leave model.variant out")
    _rename(copy, "a", TEXT)
    _rename(copy, "b", VAE)
    for variant in ({}, {"variant": "a"}, {"variant": "b"}):
        line = refusal(copy, **variant)
        assert "rename its files, or fetch the missing ones" in line
        assert "choose" not in line


def test_the_files_of_a_variant_are_found_by_every_name(tmp_path: Path) -> None:
    part = tmp_path / "unet"
    part.mkdir()
    shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"
    save_file({"a": torch.zeros(1)}, part / shard)
    for index in (
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
    ):
        (part / index).write_text(json.dumps({"weight_map": {"a": shard}}))
        assert list(weight_files(tmp_path, "unet", "fp16")) == [part / shard]
        with pytest.raises(UserError, match=r"choose model\.variant=fp16"):
            weight_files(tmp_path, "unet", None)
        (part / index).unlink()


@pytest.mark.parametrize("told", [None, 512, 10**30])
def test_a_tokenizer_that_does_not_end_is_cut_where_its_encoder_ends(copy: Path, told: int | None) -> None:
    plain = load(copy)
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=told)
    prompt = " ".join(["red circle"] * 40)
    with pytest.warns(UserWarning, match="longer than the 14 tokens"):
        text = load(copy).encode_prompts([prompt]).tensors["text"]
    with pytest.warns(UserWarning, match="longer than the 14 tokens"):
        assert torch.equal(text, plain.encode_prompts([prompt]).tensors["text"])


@pytest.mark.parametrize("kind", ["CLIPTokenizer", "T5Tokenizer", "GemmaTokenizer", "Qwen2Tokenizer"])
def test_a_tokenizer_without_its_words_is_refused(kind: str, tmp_path: Path) -> None:
    import transformers

    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    empty = getattr(transformers, kind).from_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"the tokenizer has no vocabulary: .* of the 30000 of"):
        check_vocabulary(empty, 30_000, "the tokenizer")


def test_a_model_whose_tokenizer_lost_its_files_or_its_merges_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer" / "tokenizer.json").unlink()
    assert ": its tokenizer has no vocabulary" in refusal(copy)
    tokenizer, _ = tiny.clip(tmp_path / "words")
    check_vocabulary(tokenizer, len(tokenizer), "the tokenizer")
    (tmp_path / "words" / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = type(tokenizer).from_pretrained(str(tmp_path / "words"))
    with pytest.raises(UserError, match="has no merges"):
        check_vocabulary(tokenizer, len(tokenizer), "the tokenizer")


def test_words_of_every_kind_of_tokenizer_are_seen() -> None:
    from tests.families.test_sana import gemma

    for tokenizer, encoder in (tiny.t5(), gemma()):
        check_vocabulary(tokenizer, encoder.config.vocab_size, "the tokenizer")
        check_vocabulary(tokenizer, None, "the tokenizer")


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_settings_that_are_missing_are_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    part, name = file.split("/")
    assert refusal(copy) == (
        f"{copy / part} has no {name}, which says how the {part} is built; fetch the model again"
    )


@pytest.mark.parametrize(
    ("file", "name", "right"),
    [
        (UNET, "model.safetensors", "diffusion_pytorch_model.safetensors"),
        (TEXT, "diffusion_pytorch_model.safetensors", "model.safetensors"),
        (UNET, "weights.safetensors", "diffusion_pytorch_model.safetensors"),
        (TEXT, "weights.safetensors", "(model.safetensors"),
    ],
)
def test_weights_by_another_name_say_what_they_are_called(
    copy: Path, file: str, name: str, right: str
) -> None:
    (copy / file).rename((copy / file).with_name(name))
    line = refusal(copy)
    assert right in line
    assert "rename" in line


CONFIGS = {
    "unet/config.json": {"sample_size": "x", "in_channels": "4", "block_out_channels": [], "not_known": 3},
    "vae/config.json": {"scaling_factor": "x", "shift_factor": "x", "latent_channels": "4"},
    "text_encoder/config.json": {
        "max_position_embeddings": "x",
        "num_attention_heads": 3,
        "hidden_act": "nope",
    },
    "scheduler/scheduler_config.json": {
        "beta_start": "x",
        "beta_schedule": "sigmoid",
        "num_train_timesteps": 10**12,
        "prediction_type": "flow",
        "trained_betas": [1, 2],
        "snr_shift_scale": 3.0,
        "rescale_betas_zero_snr": "x",
    },
    "tokenizer/tokenizer_config.json": {"model_max_length": "x", "pad_token": None},
    "model_index.json": {
        "unet": ["os", "system"],
        "vae": ["diffusers", "Nope"],
        "scheduler": ["evil", "X"],
        "text_encoder": [1, 2],
        "tokenizer": ["transformers", "BertTokenizer"],
        "_class_name": ["custom", "Pipeline"],
        "../x": ["diffusers", "AutoencoderKL"],
    },
}


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in CONFIGS.items() for key in keys])
def test_a_damaged_setting_is_refused_in_one_line(copy: Path, file: str, key: str) -> None:
    edit(copy / file, **{key: CONFIGS[file][key]})
    refusal(copy)


NUMBERS: list[tuple[str, str, Any]] = [
    ("unet", "sample_size", 10**9),
    ("unet", "sample_size", [8, 2000]),
    ("unet", "layers_per_block", 10**7),
    ("unet", "layers_per_block", [1, 10**7]),
    ("unet", "transformer_layers_per_block", 1e300),
    ("unet", "attention_head_dim", 10**9),
    ("unet", "block_out_channels", [16, 10**9]),
    ("unet", "cross_attention_dim", 10**6),
    ("vae", "layers_per_block", 10**7),
    ("vae", "latent_channels", 10**9),
    ("vae", "sample_size", 10**9),
    ("text_encoder", "num_hidden_layers", 10**7),
    ("text_encoder", "hidden_size", 10**9),
    ("text_encoder", "hidden_size", 16_000),
    ("text_encoder", "intermediate_size", 60_000),
    ("text_encoder", "intermediate_size", 10**9),
    ("text_encoder", "vocab_size", 10**9),
    ("text_encoder", "max_position_embeddings", 10**9),
]


@pytest.mark.parametrize(("part", "key", "value"), NUMBERS)
def test_a_number_that_no_model_has_is_refused_before_a_network_is_built(
    copy: Path, part: str, key: str, value: Any
) -> None:
    files = weight_files(copy, part, None)
    check_bounds(copy / part, files)
    edit(copy / part / "config.json", **{key: value})
    with pytest.raises(
        UserError, match=rf"config\.json says {key}=.*, and (its weight file has|the most is|no tensor)"
    ):
        check_bounds(copy / part, files)


def test_layers_are_bounded_together(copy: Path) -> None:
    files = weight_files(copy, "unet", None)
    edit(copy / "unet" / "config.json", layers_per_block=40, transformer_layers_per_block=[40, 2])
    with pytest.raises(UserError, match="its weight file has"):
        check_bounds(copy / "unet", files)


@pytest.mark.parametrize(
    ("key", "value", "fine"),
    [
        *(
            ("scaling_factor", value, False)
            for value in (1e300, 1e-320, math.inf, math.nan, None, 0, -1, True)
        ),
        *(("scaling_factor", value, True) for value in (0.18215, 0.13025, 1, 1.5305, 0.41407)),
        *(("shift_factor", value, False) for value in (1e300, math.inf, "x")),
        *(("shift_factor", value, True) for value in (None, 0.0609, -0.1, 0)),
    ],
)
def test_a_scaling_is_a_number_that_latents_can_have(key: str, value: Any, fine: bool) -> None:
    config = types.SimpleNamespace(**{key: value})
    if fine:
        check_scaling(config, "it")
    else:
        with pytest.raises(UserError, match=rf"it: .* says {key}=.*, which is no number from"):
            check_scaling(config, "it")


def test_the_scaling_that_a_file_does_not_say_is_its_class_s(copy: Path) -> None:
    file = copy / "vae" / "config.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "scaling_factor"})
    )
    assert load(copy)._autoencoder.scale == 0.18215
    edit(file, scaling_factor=None)
    assert "scaling_factor=None" in refusal(copy)


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.1, "num_train_timesteps": 1000}
SHIFT = {"shift": 3.0, "num_train_timesteps": 1000}
DDIM, FLOW = "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("config", "name", "words"),
    [
        ({}, DDIM, "says nothing of the noise"),
        ({"beta_strat": 1, "_class_name": DDIM}, DDIM, "says nothing of the noise"),
        ({"_class_name": FLOW}, FLOW, "says nothing of the noise"),
        (BETAS | {"_class_name": DDIM}, FLOW, "is of a beta schedule"),
        (BETAS, FLOW, "is of a beta schedule"),
        (SHIFT | {"_class_name": FLOW}, DDIM, "is of a rectified flow"),
        (SHIFT, DDIM, "is of a rectified flow"),
        (BETAS | {"_class_name": DDIM}, DDIM, None),
        (BETAS | {"_class_name": "PNDMScheduler"}, "EulerDiscreteScheduler", None),
        (BETAS, DDIM, None),
        ({"num_train_timesteps": 1000}, DDIM, None),
        ({"num_train_timesteps": 1000}, FLOW, None),
        (SHIFT | {"_class_name": FLOW}, FLOW, None),
        (SHIFT | {"_class_name": FLOW}, "FlowMatchHeunDiscreteScheduler", None),
        # Sana's own: a solver of both kinds
        (
            {"flow_shift": 3.0, "prediction_type": "flow_prediction", "use_flow_sigmas": True} | BETAS,
            "DPMSolverMultistepScheduler",
            None,
        ),
    ],
)
def test_a_scheduler_s_configuration_is_of_the_kind_of_its_class(
    config: dict[str, Any], name: str, words: str | None, tmp_path: Path
) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = {"scheduler": ["diffusers", name]}
    if words is None:
        scheduler_file(tmp_path, index)
    else:
        with pytest.raises(UserError, match=words):
            scheduler_file(tmp_path, index)


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler"])
def test_a_scheduler_of_another_kind_is_refused_whatever_betas_its_file_names(copy: Path, kind: str) -> None:
    edit(copy / "model_index.json", scheduler=["diffusers", kind])
    assert "are not known here" in refusal(copy)


@pytest.mark.parametrize("text", ["[]", "5", "null", "{", "[" * 100_000, "\0", '{"a": ' * 100_000])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_json_that_is_no_configuration_is_refused(copy: Path, file: str, text: str) -> None:
    (copy / file).write_text(text)
    refusal(copy)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", UNET, TEXT])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_not_waited_for(copy: Path, file: str) -> None:
    (copy / file).unlink()
    os.mkfifo(copy / file)
    assert "is a named pipe" in refusal(copy)
    (copy / file).unlink()
    assert refusal(copy)


@pytest.mark.parametrize("path", ["x\0y", "a" * 5000, "~nobodyatall", "/dev/zero", "a/b/c", " "])
def test_a_path_where_no_model_can_be(path: str) -> None:
    assert len(refusal(path)) < 500


@pytest.mark.parametrize(
    "device", ["meta", "cpu:7", "cuda:-1", "xla", "mps:3", "", "cpu:99999999999999999999"]
)
def test_a_device_where_no_model_can_run(device: str, tiny_pipeline_folder: Path) -> None:
    assert f"model.device={device}" in refusal(tiny_pipeline_folder, device=device)


def test_a_fast_decoder_with_holes_is_refused(tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    layers = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")} | {
        f"num_{side}_blocks": (1, 1) for side in ("encoder", "decoder")
    }
    AutoencoderTiny(**layers, latent_channels=4).save_pretrained(tmp_path)
    change(tmp_path / "diffusion_pytorch_model.safetensors", lambda all_of: dict(sorted(all_of.items())[2:]))
    with pytest.raises(
        UserError, match=r"the AutoencoderTiny does not fit its config\.json: 2 weights are missing"
    ):
        memory.open_fast_decoder(str(tmp_path), 4, 2, torch.float32)


def test_a_report_is_read_for_every_kind_of_fault() -> None:
    check_loaded("judge", {"missing_keys": set(), "unexpected_keys": {"a.position_ids"}}, "here", POSITIONS)
    keys = {"missing_keys": ["d", "c", "b", "a"], "mismatched_keys": [("e", 1, 2)], "unexpected_keys": ["f"]}
    with pytest.raises(UserError, match=r"4 weights are missing \(a, b, c, …\); 1 .*\(e\); 1 .*\(f\)"):
        check_loaded("judge", keys, "here")
