"""BLIP-VQA is T2I-CompBench's: questions, tokens, pictures, roundings; each held to a plain write-out."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mitune.errors import UserError
from mitune.referees.blip_texts import clean_question
from mitune.referees.blip_vqa import published_answer, published_score, question_of
from mitune.referees.preprocess import to_images
from mitune.referees.weighted import load_reward
from tests.referees.conftest import TEXTS, pictures, settings
from tests.referees.small_blips import SIDE, build_blip

PHRASES = [["a red circle", "a blue square"], ["a green cross"], ["a big cyan triangle", "a small red cross"]]


@pytest.fixture(scope="session")
def vqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_blip(tmp_path_factory.mktemp("blip") / "vqa", "BlipForQuestionAnswering")


def judge(folder: Path, **keys: Any) -> Any:
    section = settings()
    section["blip_vqa"] |= {"path": str(folder), "side": SIDE, "phrases": "world"} | keys
    return load_reward("blip_vqa", section)


def plainly(folder: Path, image: Image.Image, phrase: str, side: int = SIDE) -> float:
    """P(yes) of one picture and one phrase by PIL and the parts of the class, ids as the benchmark's code has them."""
    import numpy as np
    from transformers import BertTokenizer, BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = BertTokenizer.from_pretrained(folder)
    words = len(tokenizer)
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    question = re.sub(r'([.!"()*#:;~])', "", f"{phrase}?".lower()).rstrip(" ")
    ids = torch.tensor([tokenizer(question, truncation=True, max_length=35)["input_ids"]])
    ids[:, 0] = words + 1  # [ENC]
    with torch.no_grad():
        seen = model.vision_model((pixels - mean) / std, interpolate_pos_encoding=side != SIDE)[0]
        states = model.text_encoder(ids, encoder_hidden_states=seen)[0]
        logits = model.text_decoder(torch.tensor([[words]]), encoder_hidden_states=states).logits[0, 0]
    p = logits.softmax(0)
    yes, no = (p[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
    return float(yes / (yes + no))


def test_it_is_the_published_procedure_on_pil_pictures(vqa_folder: Path) -> None:
    shown = pictures(3)
    expected = [
        [plainly(vqa_folder, image, phrase) for phrase in phrases]
        for image, phrases in zip(to_images(shown), PHRASES, strict=True)
    ]
    found = judge(vqa_folder).answers(shown, TEXTS)
    assert [[question for question, _ in row] for row in found] == [[f"{p}?" for p in row] for row in PHRASES]
    for row, want in zip(found, expected, strict=True):
        assert [p for _, p in row] == pytest.approx(want, abs=1e-4)  # float32 in two orders
    products = torch.tensor([torch.tensor(row).prod() for row in expected])
    torch.testing.assert_close(
        judge(vqa_folder, form="product").score(shown, TEXTS), products, atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(
        judge(vqa_folder, form="log").score(shown, TEXTS), products.log(), atol=1e-3, rtol=1e-3
    )
    rounded = [round(torch.tensor([round(p, 4) for _, p in row]).prod().item(), 4) for row in found]
    assert judge(vqa_folder).score(shown, TEXTS).tolist() == pytest.approx(rounded, abs=1e-7)
    assert max(abs(a - b) for a, b in zip(rounded, products.tolist(), strict=True)) > 0


def test_a_picture_is_stretched_to_the_square_and_positions_follow(vqa_folder: Path) -> None:
    """Of another size than the network's own, and of another shape than a square."""
    shown = pictures(1, 40, 60)
    (((_, found),),) = judge(vqa_folder, side=2 * SIDE).answers(shown, ["a green cross"])
    want = plainly(vqa_folder, to_images(shown)[0], "a green cross", 2 * SIDE)
    assert found == pytest.approx(want, abs=0.03)  # PIL rounds to whole levels
    (((_, small),),) = judge(vqa_folder, side=None).answers(shown, ["a green cross"])
    assert abs(small - found) > 1e-4


def test_the_first_token_of_a_question_is_enc_and_of_an_answer_dec(vqa_folder: Path) -> None:
    reward, seen = judge(vqa_folder), []
    words = len(reward.texts._tokenizer)
    for part in ("text_encoder", "text_decoder"):
        getattr(reward.model, part).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    reward.score(pictures(2), TEXTS[:2])
    question, answer = seen
    assert question[:, 0].tolist() == [words + 1] * 3
    assert answer.tolist() == [[words]] * 3  # all of one length


def test_published_ids_are_those_of_bert_s_vocabulary() -> None:
    """[DEC] and [ENC] follow BERT's 30522 words; the benchmark's code has the four numbers written out."""
    from mitune.referees.blip_texts import BlipTexts

    class Bert:
        def get_vocab(self) -> dict[str, int]:
            return {"yes": 2748, "no": 2053}

    texts = BlipTexts.__new__(BlipTexts)
    texts._tokenizer, texts._vocabulary = Bert(), 30524
    assert (texts._added(30522, "[DEC]"), texts._added(30523, "[ENC]")) == (30522, 30523)
    assert (texts.word("yes"), texts.word("no")) == (2748, 2053)


def test_a_picture_is_looked_at_once_and_all_questions_go_together(vqa_folder: Path) -> None:
    reward, rows = judge(vqa_folder), []
    for part in ("vision_model", "text_encoder", "text_decoder"):
        getattr(reward.model, part).register_forward_hook(
            lambda module, _, found: rows.append((type(module).__name__, len(found[0])))
        )
    reward.score(pictures(3), TEXTS)
    # The decoder once for each length of a question.
    assert rows[:2] == [("BlipVisionModel", 3), ("BlipTextModel", 5)]
    assert rows[2:] == [("BlipTextLMHeadModel", 3), ("BlipTextLMHeadModel", 2)]


def test_a_question_padded_for_another_s_sake_gets_its_own_answer(vqa_folder: Path) -> None:
    """The package drops the mask of the question that its decoder looks at (transformers 5.23)."""
    shown = pictures(1)
    (both,) = judge(vqa_folder).answers(shown, ["a cross and a big cyan triangle"])
    (alone,) = judge(vqa_folder).answers(shown, ["a cross"])
    assert len(both) == 2
    assert both[0][1] == pytest.approx(alone[0][1], abs=1e-5)


def test_a_score_depends_on_its_own_picture_and_prompt_alone(vqa_folder: Path) -> None:
    shown, texts = pictures(5), [TEXTS[i % 3] for i in range(5)]
    together = judge(vqa_folder, form="log").score(shown, texts)
    parts = judge(vqa_folder, form="log", batch_size=2).score(shown, texts)
    torch.testing.assert_close(parts, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["log", "product", "published"])
def test_the_gradient_is_the_slope_of_what_is_not_rounded(vqa_folder: Path, form: str) -> None:
    smooth = judge(vqa_folder, form="product" if form == "published" else form)
    shown = (0.1 + 0.8 * pictures(2, 44, 50)).requires_grad_()
    (gradient,) = torch.autograd.grad(judge(vqa_folder, form=form).score(shown, TEXTS[:2]).sum(), shown)
    along, h = gradient / gradient.norm(), 0.0005  # at 0.002 curvature shows in some draws
    with torch.no_grad():
        ends = [smooth.score(shown + sign * h * along, TEXTS[:2]).sum() for sign in (1, -1)]
    assert float(ends[0] - ends[1]) / (2 * h) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_prompt_without_a_phrase_scores_one_as_published_and_is_refused_by_other_forms(
    vqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.referees import blip_vqa

    monkeypatch.setattr(
        blip_vqa, "asked_phrases", lambda prompt, source: () if "running" in prompt else ("a dog",)
    )
    shown = pictures(2).requires_grad_()
    score = judge(vqa_folder).score(shown, ["running", "running"])
    assert score.tolist() == [1.0, 1.0]
    assert torch.autograd.grad(score.sum(), shown)[0].abs().max() == 0
    mixed = judge(vqa_folder).score(shown, ["running", "a dog"])
    assert mixed[0] == 1.0
    assert mixed[1] < 1
    assert judge(vqa_folder).answers(shown, ["running", "a dog"])[0] == []
    with pytest.raises(UserError, match=r"'running' has no noun phrase .*form=published") as error:
        judge(vqa_folder, form="log").score(shown, ["a dog", "running"])
    assert "\n" not in str(error.value)


def test_the_product_is_written_as_the_benchmark_writes_it() -> None:
    """400 random pictures of 0 to 8 phrases against its steps written out: text, float32 products, text."""
    rng = random.Random()
    for _ in range(400):
        chances = [rng.random() ** rng.choice([0.05, 1, 4]) for _ in range(rng.randrange(9))]
        files = [json.loads(json.dumps([{"answer": f"{p:.4f}"}])) for p in chances]
        reward = torch.ones(1, 8)
        for i, file in enumerate(files):
            reward[0][i] = float(file[0]["answer"])
        total = reward[:, 0].clone()
        for i in range(1, 8):
            total *= reward[:, i]
        assert published_score([published_answer(p) for p in chances]) == f"{total[0].item():.4f}"


def test_questions_are_cleaned_as_the_benchmark_cleans_them() -> None:
    """300 random phrases against the steps written out: lower case, signs out, blanks at the end, 50 words."""
    rng = random.Random()
    for _ in range(300):
        phrase = "".join(rng.choice("aB c.!\"()*#:;~,'-é ") for _ in range(rng.randrange(260)))
        plain = "".join(sign for sign in f"{phrase}?".lower() if sign not in '.!"()*#:;~')
        while plain.endswith(" "):
            plain = plain[:-1]
        assert clean_question(question_of(phrase)) == " ".join(plain.split(" ")[:50])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"form": "publshed"}, "did you mean 'published'"),
        ({"side": 30}, "side=30 cannot be cut into this BLIP's patches of 8"),
        ({"phrases": "spcy"}, "did you mean 'spacy'"),
    ],
)
def test_settings_that_cannot_be(vqa_folder: Path, keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        judge(vqa_folder, **keys)


def test_prompts_are_looked_at_before_anything_is_drawn(
    vqa_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.referees import blip_vqa
    from mitune.referees.catalogue import BlipVqaConfig

    monkeypatch.setattr(blip_vqa, "asked_phrases", lambda *_: ())
    blip_vqa.check_phrases(["running"], BlipVqaConfig(), "score.scorers")
    with pytest.raises(UserError, match=r"score\.scorers: the prompt 'running' has no noun phrase"):
        blip_vqa.check_phrases(["running"], BlipVqaConfig(form="log"), "score.scorers")


def test_large_pictures_in_half_precision_are_judged_as_others(vqa_folder: Path) -> None:
    """The sum of a picture of 512 px is more than half precision can hold."""
    reward, shown = judge(vqa_folder, form="product"), pictures(1, 512, 512).half().requires_grad_()
    score = reward.score(shown, TEXTS[:1])
    torch.testing.assert_close(score, reward.score(shown.detach().float(), TEXTS[:1]))
    (gradient,) = torch.autograd.grad(score.sum(), shown)
    assert gradient.isfinite().all()
