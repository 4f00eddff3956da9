"""Checkpoint files: their own marks are obeyed or refused, and every weight in them is accounted for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.families.single_file_names import check_names
from tests.families.ldm import write_checkpoint

NONE = torch.tensor([])
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."


class File:
    """A checkpoint whose tensors and header a test may change, and the folder it is built by."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder = Path(shutil.copytree(folder, place / "config"))
        self.path = write_checkpoint(folder, place / "one.safetensors")
        self.tensors = load_file(self.path)

    def load(self, header: dict[str, str] | None = None, **more: torch.Tensor) -> Any:
        save_file(self.tensors | more, self.path, metadata=header)
        return load_denoiser({"path": str(self.path), "config": str(self.folder), "device": "cpu"})

    def refusal(self, header: dict[str, str] | None = None, **more: torch.Tensor) -> str:
        with pytest.raises(UserError) as caught:
            self.load(header, **more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def scheduler(self, **changes: Any) -> None:
        file = self.folder / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def file(tiny_pipeline_folder: Path, tmp_path: Path) -> File:
    return File(tiny_pipeline_folder, tmp_path)


@pytest.mark.parametrize(
    ("header", "tensors", "predicts", "zero"),
    [
        ({}, {"v_pred": NONE}, "v_prediction", False),
        ({}, {"v_pred": NONE, "ztsnr": NONE}, "v_prediction", True),
        ({}, {"ztsnr": NONE}, "epsilon", True),
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction", False),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon", False),
        ({"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, {}, "v_prediction", True),
        ({"ss_v_parameterization": "False", "format": "pt"}, {}, "epsilon", False),
    ],
)
def test_marks_are_obeyed(
    file: File, header: dict[str, str], tensors: dict[str, Any], predicts: str, zero: bool
) -> None:
    denoiser = file.load(header, **tensors)
    assert denoiser.prediction_type == predicts
    assert denoiser.schedule.zero_terminal_snr == zero
    file.scheduler(prediction_type=predicts, rescale_betas_zero_snr=zero)
    same = file.load()
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        ours, theirs = (model.epsilon(z, 700, model.encode_prompts(["red"])) for model in (denoiser, same))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_file_s_own_mark_wins_over_the_folder(file: File) -> None:
    file.scheduler(prediction_type="v_prediction")
    assert file.load({"modelspec.prediction_type": "epsilon"}).prediction_type == "epsilon"


def test_marks_hold_where_the_folder_s_scheduler_knows_no_zero_snr(file: File) -> None:
    index = file.folder / "model_index.json"
    index.write_text(
        json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", "PNDMScheduler"]})
    )
    denoiser = file.load(v_pred=NONE, ztsnr=NONE)
    assert denoiser.schedule.zero_terminal_snr
    assert denoiser.pipeline.scheduler.config.rescale_betas_zero_snr


@pytest.mark.parametrize(
    ("header", "tensors", "word"),
    [
        ({}, {"edm_vpred.sigma_max": torch.ones(1)}, "EDM"),
        ({}, {"edm_mean": torch.ones(1), "edm_std": torch.ones(1)}, "EDM"),
        ({"modelspec.prediction_type": "zzz"}, {}, "'zzz', which is not known here"),
        ({"modelspec.prediction_type": "flow"}, {}, "no rectified flow"),
        ({"modelspec.prediction_type": "epsilon"}, {"v_pred": NONE}, "contradicts itself"),
        ({"ss_v_parameterization": "perhaps"}, {}, "neither True nor False"),
    ],
)
def test_marks_that_cannot_be_obeyed_are_refused(
    file: File, header: dict[str, str], tensors: dict[str, Any], word: str
) -> None:
    assert word in file.refusal(header, **tensors)


@pytest.mark.parametrize(("prefix", "part"), [(UNET, "unet"), (VAE, "vae")])
def test_weights_that_a_file_lacks_are_named(file: File, prefix: str, part: str) -> None:
    for key in sorted(key for key in file.tensors if key.startswith(prefix))[-4:]:
        del file.tensors[key]
    assert f"the {part} does not fit its config.json: 4 weights are missing (" in file.refusal()


def test_a_text_encoder_with_holes_is_not_filled_from_the_folder(file: File) -> None:
    del file.tensors[f"{TEXT}final_layer_norm.bias"]
    assert "the text_encoder does not fit its config.json: 1 weights are missing" in file.refusal()
    del file.tensors[f"{TEXT}embeddings.position_embedding.weight"]  # what diffusers knows it by
    assert "its text_encoder is incomplete" in file.refusal()


@pytest.mark.parametrize(
    ("key", "part"),
    [
        (f"{UNET}strange.weight", "unet"),
        (f"{UNET}middle_block.1.strange.weight", "unet"),
        (f"{VAE}strange.weight", "vae"),
        (f"{TEXT}encoder.layers.7.layer_norm1.bias", "text_encoder"),
    ],
)
def test_weights_that_no_part_takes_are_named(file: File, key: str, part: str) -> None:
    line = file.refusal(**{key: torch.zeros(7)})
    assert f"the {part} does not fit its config.json: 1 weights are not of this kind of model" in line


def test_weights_of_another_shape_or_of_an_adapter_are_named(file: File) -> None:
    assert (
        "the unet does not fit its config.json: 1 weights have another shape (conv_out.bias)"
        in file.refusal(**{f"{UNET}out.2.bias": torch.zeros(9)})
    )
    assert "an adapter inside" in file.refusal(**{"lora_unet_x.lora_down.weight": torch.zeros(3)})


def test_what_training_leaves_beside_the_weights_is_no_alarm(file: File) -> None:
    file.load(
        **{
            "alphas_cumprod": torch.zeros(1000),
            "model_ema.decay": torch.zeros(()),
            f"{VAE}loss.logvar": torch.zeros(1),
            f"{TEXT}embeddings.position_ids": torch.arange(16)[None],
        }
    )


FOREIGN = {
    "foo.bar": None,
    "control_model.time_embed.0.weight": "as of a ControlNet",
    "cond_stage_model.extra.weight": None,
    "cond_stage_model.model.extra.weight": None,
    "conditioner.embedders.0.extra": None,
    "depth_model.x": "depth",
    "scaled_fp8": "8 bits",
    "double_blocks.0.img_mod.lin.weight": None,
    "model.strange": None,
    "betas.weight": None,
    "optimizer.state.0": "training",
    "xmodel.diffusion_model.out.2.bias": None,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_tensors_that_are_no_part_of_a_checkpoint_are_refused_by_name(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"1 tensors that are no part of one \('{re.escape(name)}'\)"
    ) as caught:
        check_names(Path("x.safetensors"), ["betas", name], "StableDiffusionPipeline", True)
    assert (FOREIGN[name] or "") in str(caught.value)


def test_a_file_with_foreign_tensors_is_not_loaded(file: File) -> None:
    assert "no part of one ('foo.bar')" in file.refusal(**{"foo.bar": torch.zeros(3)})


def test_what_real_checkpoints_hold_is_known() -> None:
    parts = """betas alphas_cumprod alphas_cumprod_prev sqrt_alphas_cumprod sqrt_one_minus_alphas_cumprod
        log_one_minus_alphas_cumprod sqrt_recip_alphas_cumprod sqrt_recipm1_alphas_cumprod posterior_variance
        posterior_log_variance_clipped posterior_mean_coef1 posterior_mean_coef2 logvar lvlb_weights scale_factor
        model_ema.decay model_ema.num_updates model_ema.diffusion_modelout2bias loss.logvar global_step v_pred ztsnr
        denoiser.sigmas embedding_manager.string_to_param_dict.x first_stage_model.loss.logvar
        model.diffusion_model.out.2.bias first_stage_model.quant_conv.bias
        cond_stage_model.transformer.text_model.embeddings.position_ids cond_stage_model.logit_scale
        cond_stage_model.text_projection cond_stage_model.model.transformer.resblocks.0.ln_1.bias
        cond_stage_model.model.token_embedding.weight cond_stage_model.model.positional_embedding
        cond_stage_model.model.ln_final.bias cond_stage_model.model.text_projection cond_stage_model.model.logit_scale
        cond_stage_model.model.attn_mask cond_stage_model.model.visual.proj
        conditioner.embedders.0.transformer.text_model.embeddings.position_ids conditioner.embedders.1.model.logit_scale
        conditioner.embedders.0.logit_scale conditioner.embedders.0.text_projection
        conditioner.embedders.1.model.ln_final.bias
        text_encoders.clip_l.transformer.text_model.final_layer_norm.bias text_encoders.clip_g.logit_scale
        text_encoders.t5xxl.transformer.shared.weight text_encoders.t5xxl.spiece_model"""
    check_names(Path("x"), parts.split(), "StableDiffusionPipeline", True)
    bare = """double_blocks.0.img_attn.qkv.weight single_blocks.0.linear1.bias img_in.bias txt_in.bias
        time_in.in_layer.bias
        vector_in.in_layer.bias guidance_in.in_layer.bias final_layer.linear.bias joint_blocks.0.x_block.mlp.fc1.weight
        pos_embed x_embedder.proj.bias t_embedder.mlp.0.bias y_embedder.mlp.0.bias context_embedder.bias
        vae.decoder.conv_in.bias encoder.conv_in.bias decoder.conv_in.bias"""
    check_names(Path("x"), [*bare.split(), *parts.split()], "FluxPipeline", False)


def test_a_text_encoder_that_a_file_does_not_hold_is_the_folder_s(file: File) -> None:
    whole = file.load()
    file.tensors = {key: value for key, value in file.tensors.items() if not key.startswith(TEXT)}
    lent = file.load()
    close = torch.testing.assert_close
    close(lent.encode_prompts(["a"]).tensors["text"], whole.encode_prompts(["a"]).tensors["text"])
    weights = file.folder / "text_encoder" / "model.safetensors"
    weights.unlink()
    weights.with_name("pytorch_model.bin").write_bytes(b"\x80\x04")
    line = file.refusal()
    assert "holds no text_encoder" in line
    assert "pickled" in line
