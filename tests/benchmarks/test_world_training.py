"""The training script, run whole on a handful of pictures: what it writes is a standard pipeline folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.world import facts
from mitune.families import load_denoiser
from mitune.files import read_json
from mitune.noise import NoiseSchedule
from mitune.worlds.shapes import CATEGORIES, all_prompts
from mitune.worlds.shapes.corpus import build_corpus


@pytest.fixture(scope="module")
def architecture() -> Any:
    """The module: diffusers comes with it, which the other files' tests need not wait for."""
    from benchmarks.world import architecture

    return architecture


@pytest.fixture(scope="module")
def train() -> Any:
    """The script, for the same reason."""
    from benchmarks.world import train

    return train


def test_every_word_of_the_world_is_one_token(architecture: Any) -> None:
    texts = [text for category in CATEGORIES for text in all_prompts(category)[::7]]
    tokenizer = architecture.build_tokenizer(texts)
    for text in texts:
        assert len(tokenizer(text).input_ids) == len(text.replace(",", " ,").split()) + 2
    assert max(len(tokenizer(text).input_ids) for text in texts) <= architecture.PROMPT_TOKENS
    # Words it has never seen come out in pieces, and come back whole.
    assert tokenizer.decode(tokenizer("Façade 42").input_ids, skip_special_tokens=True) == "façade 4 2"


def test_crops_are_parts_of_their_pictures_with_colour_in_them(train: Any) -> None:
    pictures = build_corpus(5, 1, 0.0, seed=1).pictures
    drawn = train.crops(pictures, np.random.default_rng(0), 20, 32)
    assert drawn.shape == (20, 32, 32, 3)
    assert all(np.ptp(crop, axis=-1).max() > 40 for crop in drawn)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (32, 32), axis=(1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 32, 32, 3)
    for crop in drawn:
        assert (windows == crop).all(axis=(1, 2, 3)).any()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_the_script_writes_a_pipeline_that_diffusers_loads(
    network: str, tmp_path: Path, train: Any, architecture: Any
) -> None:
    from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

    out = tmp_path / "model"
    small = (
        "--pictures 24 --captions 2 --vae-steps 10 --text-steps 2 --text-batch 8 --decoder-steps 3 --steps 4"
    )
    small += f" --batch 4 --save-every 2 --workers 1 --network {network}"
    train.main(["--out", str(out), "--device", "cpu", *small.split()])
    pipeline = DiffusionPipeline.from_pretrained(out, **({} if network == "unet" else architecture.ABSENT))
    assert isinstance(
        pipeline, {"unet": StableDiffusionPipeline, "transformer": StableDiffusion3Pipeline}[network]
    )
    text: dict[str, Any] = {"prompt": "a red circle"}
    if network == "transformer":  # the plain pipeline reads texts with two CLIPs or not at all
        said = load_denoiser({"path": str(out), "device": "cpu"}).encode_prompts(["a red circle", ""]).tensors
        text = {
            "prompt_embeds": said["text"][:1],
            "pooled_prompt_embeds": said["pooled"][:1],
            "negative_prompt_embeds": said["text"][1:],
            "negative_pooled_prompt_embeds": said["pooled"][1:],
        }
    picture = pipeline(**text, num_inference_steps=2, output_type="np").images
    assert picture.shape == (1, 64, 64, 3)
    assert np.isfinite(picture).all()
    log = read_json(out / "training_log.json")
    assert log["options"]["steps"] == 4
    assert log["seconds"] >= 0
    assert (tmp_path / "model-step-2").is_dir()
    # It goes on from its own folder, frozen text and all.
    again = (
        f"--pictures 24 --captions 2 --vae {out}/vae --init {out} --text-steps 0 --decoder-steps 0 --steps 1"
    )
    again += f" --batch 4 --workers 1 --freeze-text --network {network}"
    train.main(["--out", str(tmp_path / "next"), "--device", "cpu", *again.split()])
    assert (tmp_path / "next" / network).is_dir()


def test_a_text_encoder_in_the_form_of_stable_diffusion_3_says_the_same(
    train: Any, architecture: Any
) -> None:
    tokenizer = architecture.build_tokenizer(["a red circle left of a square"])
    torch.manual_seed(0)
    plain = architecture.build_text_encoder(tokenizer)
    tokens = train.tokenize(tokenizer, ["a red circle", "a square left of a circle"])
    with torch.no_grad():
        state, said = plain(tokens), train.conditions(architecture.with_projection(plain), tokens)
        norm = plain.final_layer_norm
        torch.testing.assert_close(norm(said["encoder_hidden_states"]), state.last_hidden_state)
    torch.testing.assert_close(said["pooled_projections"], state.pooler_output)


def test_facts_are_read_where_they_can_be_known(train: Any, architecture: Any) -> None:
    text = "a small red circle left of a striped cross"
    names = list(facts.FACTS)
    said = [dict(zip(names, row, strict=True)) for row in facts.class_numbers(text)]
    assert facts.FACTS["shape"][said[0]["shape"]] == "circle"
    assert facts.FACTS["size"][said[0]["size"]] == "small"
    assert facts.FACTS["texture"][said[1]["texture"]] == "striped"
    assert facts.FACTS["role"][said[0]["role"]] == "subject left of"
    assert facts.FACTS["role"][said[1]["role"]] == "object left of"
    assert said[1]["colour"] == len(facts.FACTS["colour"])  # not stated
    assert facts.class_numbers(text)[2] == [len(words) for words in facts.FACTS.values()]  # no third object

    tokenizer = architecture.build_tokenizer([text, "a square and a triangle"])
    tokens = train.tokenize(tokenizer, [text])
    shapes = tokenizer.convert_tokens_to_ids([f"{shape}</w>" for shape in facts.SHAPES])
    labels = torch.tensor([facts.class_numbers(text)])
    position, expected = facts.readings(tokens, labels, torch.tensor(shapes), tokenizer.eos_token_id)
    read = [tokenizer.decode([tokens[0, place]]) for place in position[0]]
    assert read[:2] == ["circle", "cross"]
    assert read[3:] == ["<|endoftext|>"] * 3
    assert torch.equal(expected[0, 3:], labels[0])
    # At its own word the first object does not know its relation yet, the second does; the third is nowhere.
    role = names.index("role")
    assert expected[0, 0, role] == facts.IGNORED
    assert expected[0, 1, role] == labels[0, 1, role]
    assert (expected[0, 2] == facts.IGNORED).all()


def test_the_text_encoder_learns_whose_attribute_is_whose(train: Any, architecture: Any) -> None:
    corpus = build_corpus(60, 2, 0.0, seed=3)
    texts = [text for captions in corpus.texts for text in captions]
    tokenizer = architecture.build_tokenizer([text for c in CATEGORIES for text in all_prompts(c)])
    torch.manual_seed(0)
    options = train.arguments(
        ["--out", "unused", "--text-steps", "100", "--text-batch", "48", "--device", "cpu"]
    )
    log: list[Any] = []
    train.train_text(
        architecture.build_text_encoder(tokenizer),
        tokenizer,
        train.tokenize(tokenizer, texts),
        texts,
        options,
        log,
    )
    # Saying nothing costs 1 for each of the six facts; these are the first hundred steps' mean.
    assert log[-1]["loss"] < 4


def test_a_state_that_says_its_facts_and_nothing_else_has_no_error() -> None:
    sizes = [len(words) + 1 for words in facts.FACTS.values()]
    codes = facts.fact_codes(sum(sizes), 128)
    torch.testing.assert_close(codes @ codes.T, torch.eye(sum(sizes)), atol=1e-5, rtol=0)
    rng = np.random.default_rng()
    expected = torch.tensor([[[int(rng.integers(size)) for size in sizes] for _ in range(2)]])
    starts = torch.tensor([0, *np.cumsum(sizes)[:-1]])
    states = facts.FACT_SCALE * codes[expected + starts].sum(2)
    assert float(facts.fact_error(states, expected, codes)) < 1e-8
    # One fact of two places unsaid: 1 over the two places; said where it may be anything: free.
    quiet = states.clone()
    quiet[0, 0] -= facts.FACT_SCALE * codes[starts[3] + expected[0, 0, 3]]
    torch.testing.assert_close(facts.fact_error(quiet, expected, codes), torch.tensor(0.5))
    expected[0, 0, 3] = facts.IGNORED
    assert float(facts.fact_error(quiet, expected, codes)) < 1e-8
    with pytest.raises(ValueError, match="do not fit"):
        facts.fact_codes(5, 4)


def test_a_frozen_text_encoder_comes_out_as_it_went_in(train: Any, architecture: Any) -> None:
    corpus = build_corpus(6, 1, 0.0, seed=4)
    tokenizer = architecture.build_tokenizer([texts[0] for texts in corpus.texts])
    torch.manual_seed(0)
    text_encoder = architecture.build_text_encoder(tokenizer)
    before = {name: value.clone() for name, value in text_encoder.state_dict().items()}
    small = "--steps 2 --batch 4 --freeze-text --t-min 300 --t-max 700"
    options = train.arguments(["--out", "unused", "--device", "cpu", *small.split()])
    tokens = train.tokenize(tokenizer, [texts[0] for texts in corpus.texts])[:, None]
    after, network = train.train_network(
        torch.randn(6, 8, 8, 8), tokens, torch.ones(6), tokens[0, 0], architecture.build_vae(), text_encoder,
        tokenizer, options, [],
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in after.state_dict().items())
    torch.manual_seed(options.seed + 1)
    start = architecture.build_unet().parameters()
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), start, strict=True))


def test_sharpening_leaves_the_encoder_alone(train: Any, architecture: Any) -> None:
    torch.manual_seed(0)
    options = train.arguments(["--out", "unused", "--decoder-steps", "2", "--device", "cpu"])
    vae = architecture.build_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    train.sharpen(vae, build_corpus(6, 1, 0.0, seed=2), options, [])
    changed = {
        name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"decoder", "post_quant_conv"}


def test_errors_weigh_as_in_min_snr_and_more_where_the_layout_is_settled(train: Any) -> None:
    schedule = NoiseSchedule.ddpm()
    t = torch.tensor([5, 50, 200, 600, 900])
    snr = (schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])).float()
    assert snr[2] > 1 > snr[3]
    plain = train.time_weights(schedule, t, 0.0)
    torch.testing.assert_close(plain, snr.clamp(max=5.0) / snr)
    layout = train.time_weights(schedule, t, 0.5)
    torch.testing.assert_close(layout[:3], plain[:3])  # SNR of 1 and more: as it was
    torch.testing.assert_close(layout[3:], snr[3:].clamp(min=1e-3) ** -0.5)
    # A velocity's error is that of the picture already where the layout is settled.
    flow = NoiseSchedule.rectified_flow()
    assert train.time_weights(flow, torch.tensor([10.0, 500.0, 990.0]), 0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("a circle", {"shape"}),
        ("a small red circle and a striped cross", {"shape", "size", "colour", "texture"}),
        ("a red circle left of a cross", {"shape", "colour", "direction"}),
        ("a circle touching a cross", {"shape", "contact"}),
        ("a circle left of a cross and a red square", {"shape", "direction", "colour", "third"}),
    ],
)
def test_what_a_caption_states(text: str, stated: set[str]) -> None:
    assert facts.stated_facts(text) == stated


def test_captions_that_state_what_is_favoured_are_drawn_more_often(train: Any) -> None:
    texts = ["a circle", "a striped circle", "a red circle above a striped cross"]
    assert facts.caption_weights(texts, {}).tolist() == [1, 1, 1]
    # The largest of what it states: favours do not multiply.
    assert facts.caption_weights(texts, {"texture": 2.0, "direction": 3.0}).tolist() == [1, 2, 3]
    options = train.arguments(["--out", "unused", "--favour", "texture=2", "direction=3"])
    assert options.favour == ["texture=2", "direction=3"]
