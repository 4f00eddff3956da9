"""The world's CLIP: what it learns from is true, its loss is the formula, and the one in the package can judge."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mitune.worlds.shapes as shapes
from benchmarks.world.clip_examples import (
    PATCH,
    SEEN,
    Views,
    as_numbers,
    draw_views,
    mirrored,
    questions,
    what_is_seen,
)
from benchmarks.world.clip_teacher import CaptionReader, SceneReader, said

FOLDER = Path(shapes.__file__).parent / "clip"


@pytest.fixture(scope="module")
def views() -> Views:
    return draw_views(40, 2, 3, seed=int(np.random.default_rng().integers(2**31)))


def test_captions_are_true_near_misses_are_not_and_none_is_held_out(views: Views) -> None:
    true_scores, wrong_scores = [], []
    for picture, captions in zip(views.pictures, views.texts, strict=True):
        for true, *wrong in captions:
            assert len(wrong) == 3
            assert not any(map(shapes.is_test_prompt, (true, *wrong)))
            true_scores.append(shapes.oracle_score(picture, true))
            wrong_scores += [shapes.oracle_score(picture, text) for text in wrong]
    # By the scene itself all would be right; the oracle reads pixels and may err at the edge of a relation.
    assert np.mean(true_scores) > 0.97
    assert np.mean([score < 1 for score in wrong_scores]) > 0.93


def test_a_patch_shows_the_object_that_covers_most_of_it() -> None:
    scene = shapes.random_scene(np.random.default_rng())
    _, masks = shapes.render(scene)
    board = what_is_seen(scene, masks).reshape(8, 8, len(SEEN))
    background = [len(words) for words in SEEN.values()]
    for row in range(8):
        for column in range(8):
            window = masks[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
            shares = window.mean((1, 2))
            expected = background
            if shares.max() >= 0.2:
                thing = scene.objects[int(shares.argmax())]
                expected = [words.index(getattr(thing, name)) for name, words in SEEN.items()]
            assert board[row, column].tolist() == expected


def test_a_mirror_image_is_one_in_pixels_patches_and_numbers(views: Views) -> None:
    rows = np.arange(6)
    flip = np.array([True, False] * 3)
    pictures, seen, objects = mirrored(views, rows, flip)
    for row in rows:
        if flip[row]:
            assert (pictures[row] == views.pictures[row][:, ::-1]).all()
            expected = views.seen[row].reshape(8, 8, -1)[:, ::-1].reshape(64, -1)
            assert (seen[row] == expected).all()
            assert np.allclose(objects[row, :, -3], -views.objects[row, :, -3])
            assert np.allclose(np.delete(objects[row], -3, 1), np.delete(views.objects[row], -3, 1))
        else:
            assert (pictures[row] == views.pictures[row]).all()
            assert (objects[row] == views.objects[row]).all()


def test_numbers_of_a_scene_say_where_things_are() -> None:
    scene = shapes.random_scene(
        np.random.default_rng(), shapes.parse_prompt("a red circle left of a blue cross")
    )
    objects, gaps = as_numbers(scene)
    assert objects[0, -3] < objects[1, -3]
    assert objects[:, 0].tolist() == [1, 1, 0]
    assert gaps[0, 1] == gaps[1, 0] > 0


def test_the_readers_do_not_care_for_the_order_of_objects() -> None:
    scenes, captions = SceneReader(16), CaptionReader(16)
    objects, gaps = torch.rand(3, 3, 19), torch.rand(3, 3, 3)
    objects[..., 0] = 1
    order = [2, 0, 1]
    torch.testing.assert_close(
        scenes(objects[:, order], gaps[:, order][:, :, order]), scenes(objects, gaps), atol=1e-5, rtol=1e-4
    )
    pair = captions(said(["a red circle and a small cross", "a small cross and a red circle"]))
    torch.testing.assert_close(pair[0], pair[1], atol=1e-5, rtol=1e-4)
    turned = captions(said(["a red circle above a cross", "a cross above a red circle"]))
    assert (turned[0] - turned[1]).norm() > 1e-3


def test_the_loss_is_three_cross_entropies() -> None:
    from benchmarks.world.clip_train import clip_loss

    n, k, d, scale = 4, 2, 8, 3.0
    images, texts = (
        torch.nn.functional.normalize(torch.randn(*size), dim=-1) for size in ((n, d), (n, 1 + k, d))
    )
    total = 0.0
    for i in range(n):
        batch = [scale * float(images[i] @ texts[j, 0]) for j in range(n)]
        own = [scale * float(images[i] @ texts[i, m]) for m in range(1 + k)]
        back = [scale * float(images[j] @ texts[i, 0]) for j in range(n)]
        for values, weight in (([*batch, *own[1:]], 0.5), (back, 0.5), (own, 1.0)):
            total += weight * (math.log(sum(map(math.exp, values))) - own[0]) / n
    loss, right = clip_loss(images, texts, torch.tensor(scale))
    assert float(loss) == pytest.approx(total, rel=1e-4)
    best = torch.einsum("nd,nkd->nk", images, texts).argmax(1) == 0
    assert float(right) == pytest.approx(float(best.float().mean()))


def test_roughening_leaves_the_share_it_should() -> None:
    from benchmarks.world.clip_train import roughen

    pictures = torch.rand(30, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    assert (roughen(pictures, 0.0, generator) == pictures).all()
    rough = roughen(pictures, 1.0, generator)
    assert ((rough - pictures).abs().amax((1, 2, 3)) > 1e-3).all()
    assert rough.min() >= 0
    assert rough.max() <= 1


def test_questions_are_fair() -> None:
    for question in questions(8, seed=int(np.random.default_rng().integers(2**31))):
        true, wrong = (shapes.parse_prompt(text) for text in (question.true, question.wrong))
        assert shapes.score_scene(question.scene, wrong) < shapes.score_scene(question.scene, true) == 1
        if question.kind == "relation":
            assert true.objects == wrong.objects


def test_the_script_writes_a_standard_folder(tmp_path: Path) -> None:
    """Every stage for a few steps; what comes out opens as a judge does."""
    from benchmarks.world.clip_train import main
    from mitune.referees.clip import Clip, ClipReward
    from mitune.referees.judge_files import find_judge

    steps = [
        "--teacher-steps",
        "2",
        "--text-steps",
        "2",
        "--vision-steps",
        "2",
        "--steps",
        "2",
        "--batch",
        "4",
    ]
    more = ["--pictures", "12", "--questions", "1", "--layers", "1", "--device", "cpu"]
    main(["--out", str(tmp_path / "clip"), *steps, *more])
    log = json.loads((tmp_path / "clip" / "training_log.json").read_text())
    assert set(log["accuracy"]) == {"teacher", "taught", "both"}
    judge = ClipReward("clip", Clip(find_judge(str(tmp_path / "clip"), "k")), "cosine")
    assert judge.score(torch.rand(1, 3, 64, 64), ["a red circle"]).isfinite().all()


def test_the_one_in_the_package_is_small_and_has_a_card() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4 * 2**20
    assert {"README.md", "training_log.json", "config.json", "preprocessor_config.json", "tokenizer.json",
            "model.safetensors"} <= {path.name for path in files}  # fmt: skip


def test_the_one_in_the_package_tells_true_captions_from_near_misses() -> None:
    from transformers import CLIPModel, CLIPTokenizer

    from benchmarks.world.clip_train import accuracy, judge_of, text_features

    model = CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER)
    right = accuracy(judge_of(model, tokenizer), 60, seed=int(np.random.default_rng().integers(2**31)))
    published = json.loads((FOLDER / "training_log.json").read_text())["accuracy"]["published"]
    # 300 questions: a standard error of 0.025 at most; four of them below what was measured on others.
    assert right["all"] > published["all"] - 0.1 > 0.6
    features = text_features(model, tokenizer, ["a red circle", "a blue circle"], "cpu")
    assert float(features[0] @ features[1]) < 0.95
