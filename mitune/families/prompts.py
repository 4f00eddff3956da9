"""How long a prompt may be: as long as the text encoder has positions, whatever its tokenizer says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mitune.errors import UserError, short

_SPECIAL = 2  # tokens that stand around a prompt


def bound_prompts(pipeline: Any, encoders: Sequence[str], name: str) -> None:
    """Let the tokenizer of every CLIP of ``pipeline`` cut prompts where its text encoder ends: one whose configuration
    lacks ``model_max_length`` does not cut at all. (T5 and Gemma are told a length with every prompt.)

    Raises UserError for a tokenizer that leaves no room for words.
    """
    for encoder_name in encoders:
        encoder = getattr(pipeline, encoder_name, None)
        key = encoder_name.replace("text_encoder", "tokenizer")
        tokenizer = getattr(pipeline, key, None)
        if encoder is None or tokenizer is None:
            continue
        longest = tokenizer.model_max_length
        if not isinstance(longest, (int, float)) or not longest > _SPECIAL:
            raise UserError(
                f"{name}: its {key} says model_max_length={short(str(longest))}, which leaves no room for a prompt;"
                " mend tokenizer_config.json, or take the key out"
            )
        positions = getattr(encoder.config, "max_position_embeddings", None)
        is_clip = str(getattr(encoder.config, "model_type", "")).startswith("clip")
        if is_clip and positions is not None and longest > positions:
            tokenizer.model_max_length = positions
            if key == "tokenizer" and hasattr(pipeline, "tokenizer_max_length"):
                pipeline.tokenizer_max_length = positions  # its pipeline's own copy
