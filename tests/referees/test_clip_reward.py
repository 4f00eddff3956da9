"""CLIP's scores are the package's own on PIL pictures, and so are their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mitune.errors import UserError
from mitune.referees.clip import Clip, ClipReward
from mitune.referees.judge_files import find_judge
from mitune.referees.preprocess import to_images
from tests.referees.conftest import SIDE, TEXTS, build_clip, pictures


def reward(folder: Path, form: str = "cosine", batch_size: int = 32, prefix: str = "") -> ClipReward:
    return ClipReward("clip", Clip(find_judge(str(folder), "k"), batch_size=batch_size), form, prefix)


def by_the_package(folder: Path, shown: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, float]:
    """(cosine of each picture with its own text, exp of the temperature) through CLIPProcessor and CLIPModel."""
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folder).eval()
    inputs = CLIPProcessor.from_pretrained(folder)(
        text=texts, images=to_images(shown), return_tensors="pt", padding=True
    )
    with torch.no_grad():
        found = model(**inputs)
    scale = float(model.logit_scale.exp())
    return found.logits_per_image.diagonal() / scale, scale


def test_the_three_forms_are_the_package_s_cosine(clip_folder: Path) -> None:
    shown = pictures(3)
    cosine, scale = by_the_package(clip_folder, shown, TEXTS)
    assert cosine.abs().max() > 0.01  # or there would be nothing to agree on
    torch.testing.assert_close(reward(clip_folder).score(shown, TEXTS), cosine, atol=1e-5, rtol=1e-4)
    for form, expected in (("clipscore", 2.5 * cosine.clamp(min=0)), ("logit", scale * cosine)):
        score = reward(clip_folder, form).score(shown, TEXTS)
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, expected, atol=1e-3, rtol=1e-4)


def test_pictures_of_another_size_agree_up_to_pil_s_rounding(clip_folder: Path) -> None:
    shown = pictures(3, 60, 45)
    cosine, _ = by_the_package(clip_folder, shown, TEXTS)
    # PIL rounds to whole levels twice; what a level is worth in this network is measured, not guessed.
    judge = reward(clip_folder)
    rounded = (shown + (torch.randint(0, 2, shown.shape) * 2 - 1) * 2 / 255).clamp(0, 1)
    worth = (judge.score(rounded, TEXTS) - judge.score(shown, TEXTS)).abs().max()
    assert (judge.score(shown, TEXTS) - cosine).abs().max() < 3 * worth + 1e-4


def test_the_prefix_is_part_of_the_text(clip_folder: Path) -> None:
    shown = pictures(2)
    cosine, _ = by_the_package(clip_folder, shown, [f"a small {text}" for text in TEXTS[:2]])
    score = reward(clip_folder, prefix="a small ").score(shown, TEXTS[:2])
    torch.testing.assert_close(score, cosine, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_package_s_forward(clip_folder: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    shown = pictures(3).requires_grad_()
    (ours,) = torch.autograd.grad(reward(clip_folder).score(shown, TEXTS).sum(), shown)
    model, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPProcessor.from_pretrained(clip_folder),
    )
    tokens = processor(text=TEXTS, return_tensors="pt", padding=True)
    steps = processor.image_processor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (steps.image_mean, steps.image_std))
    found = model(pixel_values=(shown - mean) / std, **tokens)  # of the network's own size: nothing to resize
    cosine = found.logits_per_image.diagonal() / model.logit_scale.exp()
    (theirs,) = torch.autograd.grad(cosine.sum(), shown)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-3)


def test_the_gradient_through_the_resize_is_the_slope(clip_folder: Path) -> None:
    judge = reward(clip_folder)
    shown = (0.1 + 0.8 * pictures(2, 44, 50)).requires_grad_()  # away from where levels are cut off
    (gradient,) = torch.autograd.grad(judge.score(shown, TEXTS[:2]).sum(), shown)
    along = gradient / gradient.norm()
    h = 0.05
    with torch.no_grad():
        ends = [judge.score(shown + sign * h * along, TEXTS[:2]).sum() for sign in (1, -1)]
    # The difference's own error: h² times the third derivative, and float32 over 2h, each well below 2 %.
    assert float(ends[0] - ends[1]) / (2 * h) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_a_score_depends_on_its_own_picture_and_text_alone(clip_folder: Path) -> None:
    shown, texts = pictures(5), [TEXTS[i % 3] for i in range(5)]
    together = reward(clip_folder).score(shown, texts)
    torch.testing.assert_close(
        reward(clip_folder, batch_size=2).score(shown, texts), together, atol=1e-5, rtol=1e-4
    )
    alone = torch.cat([reward(clip_folder).score(shown[i : i + 1], texts[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


def test_a_text_is_encoded_once(clip_folder: Path) -> None:
    judge, rows = reward(clip_folder), []
    judge.clip.model.text_model.register_forward_hook(
        lambda _, __, found: rows.append(len(found.pooler_output))
    )
    judge.score(pictures(4), [*TEXTS, TEXTS[0]])
    judge.score(pictures(2), TEXTS[:2])
    assert sum(rows) == 3


def test_a_text_too_long_for_the_model_is_cut(clip_folder: Path) -> None:
    long = " and ".join(["a red circle"] * 20)
    assert reward(clip_folder).score(pictures(1), [long]).isfinite().all()


def test_another_model_has_another_identity(clip_folder: Path, tmp_path: Path) -> None:
    other = build_clip(tmp_path / "model", seed=1)
    assert reward(clip_folder).identity != reward(other).identity
    assert reward(clip_folder).identity == reward(clip_folder).identity


@pytest.mark.parametrize(
    ("shape", "count", "says"),
    [((2, 3, SIDE, SIDE), 3, "2 pictures but 3 prompts"), ((3, SIDE, SIDE), 3, r"\[n, 3, H, W\]")],
)
def test_pictures_and_prompts_must_belong_together(
    clip_folder: Path, shape: tuple[int, ...], count: int, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        reward(clip_folder).score(torch.rand(shape), TEXTS[:count])
