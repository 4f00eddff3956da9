"""Small language models that see, of random weights, saved with their processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mitune.files import read_json, write_json
from tests.referees.small_blips import SIDE, SMALL, Size, fill

CHAT = (
    "{% for message in messages %}{{ '<user> ' }}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ 'IMAGE' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant> ' }}{% endif %}"
)
_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<user>", "<assistant>", "<image>"]
_QWEN = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_SAID = "Yes No Does this figure show Please answer a red blue green circle square cross big cyan triangle small and"


def _tokenizer(special: list[str]) -> Any:
    """A tokenizer of whole words, and of letters where it does not know one; ``Yes`` is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*_SAID.split(), "yes", "or", "no", '"', "?", ".", "above"]
    vocabulary = {word: place for place, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=special[4:],
    )  # fmt: skip


def build_llava(folder: Path, seed: int = 0, chat: bool = True, size: Size = SMALL) -> Path:
    """Write a random LLaVA: CLIP's eye, LLaMA's tongue."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer(_SPECIAL)
    tokenizer.image_token = "<image>"
    small, side = size.told(), size.side
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=side, patch_size=size.patch, projection_dim=16),
        text_config=LlamaConfig(
            **small, vocab_size=len(tokenizer), num_key_value_heads=size.heads, pad_token_id=0
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    fill(model, seed, 0.2)
    model.save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>") if chat else None,
    ).save_pretrained(folder)
    return folder


def build_blip2_t5(folder: Path, seed: int = 0) -> Path:
    """Write a random BLIP-2 that answers by a T5: an encoder reads, a decoder answers; it has no chat."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
    )

    tokenizer = _tokenizer(_SPECIAL)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
    config = Blip2Config(
        vision_config={**small, "image_size": SIDE, "patch_size": 8},
        qformer_config={**small, "encoder_hidden_size": 32, "vocab_size": 8},
        text_config={
            "model_type": "t5",
            **text,
            "vocab_size": len(tokenizer),
            "decoder_start_token_id": 0,
            "tie_word_embeddings": False,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    fill(model, seed, 0.2)
    model.save_pretrained(folder)
    Blip2Processor(
        BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer, num_query_tokens=4
    ).save_pretrained(folder)
    return folder


def build_qwen(folder: Path) -> Path:
    """Write a random Qwen2-VL, whose processor reads videos too and opens only where torchvision is."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    tokenizer = _tokenizer([*_SPECIAL, *_QWEN])
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in _QWEN}
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 2}
    config = Qwen2VLConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "intermediate_size": 48,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 1,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "mlp_ratio": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    model = Qwen2VLForConditionalGeneration(config)
    fill(model, 0, 0.2)
    model.save_pretrained(folder)
    images = Qwen2VLImageProcessor(patch_size=8, min_pixels=16 * 16, max_pixels=64 * 64)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = read_json(folder / "preprocessor_config.json") | {"processor_class": "Qwen2VLProcessor"}
    write_json(folder / "preprocessor_config.json", told)
    chat = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    (folder / "chat_template.jinja").write_text(chat)
    return folder
