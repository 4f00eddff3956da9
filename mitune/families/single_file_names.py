"""What lies in a checkpoint file beside its network, text encoders and autoencoder: known, or refused by name.

Diffusers passes over tensors that no part asks for: those of another kind of file would be left out and nothing said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mitune.errors import UserError, listed

_CLIP = r"(transformer|model|logit_scale|text_projection)\b"
_OPEN_CLIP = (
    r"(transformer|token_embedding|positional_embedding|ln_final|text_projection"
    r"|logit_scale|attn_mask|visual)\b"
)
_PARTS = (
    r"model\.diffusion_model\.",
    r"first_stage_model\.",
    rf"cond_stage_model\.((transformer|logit_scale|text_projection)\b|model\.{_OPEN_CLIP})",
    rf"conditioner\.embedders\.\d\.{_CLIP}",
    rf"text_encoders\.\w+\.({_CLIP}|spiece_model$)",
)
# What training leaves, and the marks of ``marks.py``.
_BESIDE = (
    r"model_ema\.",
    r"(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_\w+|posterior_\w+|lvlb_weights|logvar|scale_factor)$",
    r"denoiser\.(sigmas|weighting\.\w+)",
    r"(loss|embedding_manager)\.",
    r"(global_step|epoch|iteration|num_updates|v_pred|ztsnr)$",
)
# Transformers and their autoencoders stand without a prefix too.
_BARE = (
    r"(double_blocks|single_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\b",
    r"(joint_blocks|pos_embed|x_embedder|t_embedder|y_embedder|context_embedder|register_tokens)\b",
    r"(blocks|t_block|y_norm|attention_y_norm|transformer_blocks|single_transformer_blocks)\b",
    r"(vae|encoder|decoder|quant_conv|post_quant_conv)\.",
)
_STRANGERS = (
    (re.compile(r"control(_model|net)"), "a ControlNet"),
    (re.compile(r"depth_model\."), "a depth-to-image model"),
    (re.compile(r"noise_augmentor\."), "an unCLIP or upscaling model"),
    (re.compile(r"scaled_fp8"), "weights of 8 bits with scales beside them"),
    (re.compile(r"(optimizer|optim|opt)\w*\."), "the state of a training"),
    (re.compile(r"lora_|lycoris_"), "an adapter"),
)


def check_names(file: Path, names: Iterable[str], pipeline: str, with_unet: bool) -> None:
    """Raise UserError for tensors of ``file`` that are no part of a checkpoint of this kind, and not known to lie
    beside one.
    """
    known = re.compile("|".join((*_PARTS, *_BESIDE, *(() if with_unet else _BARE))))
    foreign = [name for name in names if known.match(name) is None]
    if foreign:
        what = next((text for pattern, text in _STRANGERS for name in foreign if pattern.match(name)), None)
        raise UserError(
            f"{file} cannot be loaded as a {pipeline}: it holds {len(foreign)} tensors that are no part of one"
            f" ({listed(sorted(foreign))}){f', as of {what}' if what else ''}; take them out, or give the file of the"
            " plain text-to-image model"
        )
