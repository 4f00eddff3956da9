"""Small BLIPs of random weights, in the standard transformers layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SIDE = 32
WORDS = [
    *("yes", "no", "a", "the", "red", "blue", "green", "circle", "square", "cross", "triangle", "big", "small"),
    *("and", "above", "cyan", "picture", "of", "what", "is", "in", "?", ",", "left", "top", "cat", "dog", "it"),
]  # fmt: skip


def write_tokenizer(folder: Path, *added: str) -> int:
    """Write a BERT tokenizer of a few words, ``added`` tokens at its end; gives how many it knows."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    tokenizer = BertTokenizer(str(vocabulary))
    if added:
        tokenizer.add_tokens(list(added), special_tokens=True)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def fill(model: torch.nn.Module, seed: int, scale: float = 0.3) -> None:
    """Give every weight N(0, scale²), those of norms about one: some of these classes begin at zero, and look as if
    they had no gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = scale * torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn


@dataclass(frozen=True)
class Size:
    """How large a BLIP is."""

    side: int = SIDE
    patch: int = 8
    width: int = 32
    layers: int = 2
    heads: int = 2

    def told(self) -> dict[str, int]:
        """What both of its networks are told."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 2 * self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }


SMALL = Size()


def build_blip(folder: Path, kind: str, seed: int = 0, size: Size = SMALL, **text: Any) -> Path:
    """Write a random BLIP of the transformers class ``kind``; its tokenizer is plain BERT's, as on the Hub."""
    import transformers
    from transformers import BlipConfig, BlipImageProcessor

    words = write_tokenizer(folder)
    small = size.told()
    told = {
        **small,
        "vocab_size": words + 2,
        "encoder_hidden_size": size.width,
        "max_position_embeddings": 64,
        "projection_dim": 16,
        "bos_token_id": words,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {**small, "image_size": size.side, "patch_size": size.patch}
    config = BlipConfig(
        text_config=told | text, vision_config=vision, projection_dim=16, image_text_hidden_size=16
    )
    model = getattr(transformers, kind)(config)
    fill(model, seed)
    model.save_pretrained(folder)
    BlipImageProcessor(size={"height": size.side, "width": size.side}).save_pretrained(folder)
    return folder


def build_blip2(folder: Path, seed: int = 0, image_token: bool = False, size: Size = SMALL) -> Path:
    """Write a random ``Blip2ForImageTextRetrieval``; ``image_token``: with the index of one in its config.json."""
    from transformers import Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessor

    words = write_tokenizer(folder, "[DEC]", *(["<image>"] if image_token else []))
    small = size.told()
    config = Blip2Config(
        vision_config={**small, "image_size": size.side, "patch_size": size.patch},
        qformer_config={
            **small,
            "vocab_size": words + 1,
            "encoder_hidden_size": size.width,
            "max_position_embeddings": 64,
            "use_qformer_text_input": True,
        },
        text_config={
            "model_type": "opt",
            "vocab_size": 16,
            "hidden_size": 16,
            "ffn_dim": 16,
            "num_hidden_layers": 1,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=words - 1 if image_token else None,
    )
    model = Blip2ForImageTextRetrieval(config)
    fill(model, seed)
    model.save_pretrained(folder)
    BlipImageProcessor(size={"height": size.side, "width": size.side}).save_pretrained(folder)
    return folder
