"""T2I-CompBench's rule of 3D placement, against a plain write-out; maps of depth as its files hold them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mitune.english import Word
from mitune.errors import UserError
from mitune.referees import depth_judge
from mitune.referees.depth import Depth
from mitune.referees.depth_placement import RELATIONS, depth_relation_of, depth_score
from mitune.referees.detection import Detection
from mitune.referees.judge_files import find_judge
from mitune.referees.placement import Asked
from mitune.referees.preprocess import to_images
from mitune.referees.weighted import load_reward
from tests.referees.conftest import Detectors, pictures, settings
from tests.referees.small_detectors import build_dpt

CASES = 1000


def plain_score(relation, first, second, labels, sure, boxes, depth):
    """The score from parallel lists and a numpy map, as the benchmark keeps them."""
    one = two = None
    if any(first in label for label in labels) and any(second in label for label in labels):
        for i, label in enumerate(labels):
            if first in label:
                one = i
            if second in label:
                two = i
            if one is not None and two is not None:
                break
        a, b = boxes[one], boxes[two]
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(0, w) * max(0, h)
        iou = inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)
        far = [depth[int(x[0]) : int(x[2]), int(x[1]) : int(x[3])] for x in (a, b)]
        difference = np.mean(far[0]) - np.mean(far[1]) if min(map(np.size, far)) else np.nan
        right = difference > 0 if relation == "in front of" else difference < 0
        position = 0
        if iou > 0.5:
            position = 1 if right else 0
        elif 0 < iou < 0.5:
            position = iou / 0.5 if right else 0
        return 0.25 * sure[one] + 0.25 * sure[two] + position / 2
    for name in (first, second):
        for i, label in enumerate(labels):
            if name in label:
                return 0.25 * sure[i]
    return 0


def test_scores_are_those_of_the_plain_rule_to_the_last_digit():
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(CASES):
        depth = rng.integers(0, 256, (120, 90)).astype(np.float64)
        n = int(rng.integers(0, 7))
        corner = rng.uniform(0, 30, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 60, (n, 2))], 1).tolist()
        labels = [str(name) for name in rng.choice(["dog", "hot dog", "cat", "bench"], n)]
        sure = np.sort(rng.random(n))[::-1].tolist()
        relation, first, second = str(rng.choice(RELATIONS)), "dog", str(rng.choice(["cat", "dog", "bench"]))
        found = [Detection(*one) for one in zip(labels, sure, map(tuple, boxes), strict=True)]
        wanted = plain_score(relation, first, second, labels, sure, boxes, depth)
        told = depth_score(Asked(relation, first, second), found, torch.from_numpy(depth))
        assert repr(told) == repr(float(wanted))
        held += wanted > 0.6
    assert held > CASES / 20


@pytest.mark.parametrize(("left", "wanted"), [(9, 1.0), (10, 0.0), (11, 19 / 41 / 0.5), (30, 0.0)])
def test_an_overlap_of_exactly_one_half_is_worth_nothing(left, wanted):
    """Two boxes of 30 × 40 px, the second of which is nearer: the map is read by columns first."""
    depth = torch.arange(100.0)[:, None].expand(100, 100)
    found = [Detection("dog", 0.8, (left, 0, left + 30, 40)), Detection("cat", 0.4, (0, 0, 30, 40))]
    told = depth_score(Asked("in front of", "dog", "cat"), found, depth)
    assert told == pytest.approx(0.3 + wanted / 2, abs=1e-12)


def test_the_first_relation_of_the_list_counts():
    assert depth_relation_of("a dog hidden by a car behind a tree") == "behind"
    assert depth_relation_of("a dog in front of a car") == "in front of"
    assert depth_relation_of("a dog near a car") is None


@pytest.fixture(scope="module")
def dpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dpt(tmp_path_factory.mktemp("depth") / "dpt")


def test_maps_are_those_that_its_files_would_hold(dpt: Path, tmp_path: Path) -> None:
    from transformers import DPTForDepthEstimation, DPTImageProcessorPil

    shown = pictures(3, 40, 60)
    maps = Depth(find_judge(str(dpt), "k"), "cpu", 2).maps(shown)
    model = DPTForDepthEstimation.from_pretrained(dpt).eval()
    inputs = DPTImageProcessorPil.from_pretrained(dpt)(images=to_images(shown), return_tensors="pt")
    with torch.no_grad():
        depths = model(**inputs).predicted_depth
    for one, depth in zip(maps, depths, strict=True):
        even = (depth - depth.min()) / (depth.max() - depth.min())
        grown = torch.nn.functional.interpolate(
            even[None, None], (40, 60), mode="bilinear", align_corners=True
        )
        Image.fromarray((255 * grown[0, 0]).numpy()).convert("L").save(tmp_path / "depth.png")
        # 40 × 60 at 479 px would be 718 px long: 480, and 320 short.
        stored = Image.open(tmp_path / "depth.png").resize((480, 320), Image.Resampling.BILINEAR)
        assert one.shape == (320, 480)
        assert (one - torch.from_numpy(np.array(stored)) / 255).abs().max() <= 1.001 / 255
        assert one.std() > 0.05


def test_a_flat_map_has_nothing_nearer(dpt: Path) -> None:
    from mitune.referees.depth import _taken_down

    assert _taken_down(torch.full((8, 8), 3.0), (20, 20)).unique().tolist() == [0]


def test_networks_of_other_depths_are_refused(dpt: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dpt, tmp_path / "metres")
    told = json.loads((folder / "config.json").read_text())
    for more, says in (
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, "tells metres"),
        ({"model_type": "zoedepth"}, "is no DPT or Depth Anything"),
    ):
        (folder / "config.json").write_text(json.dumps({**told, **more}))
        with pytest.raises(UserError, match=says):
            Depth(find_judge(str(folder), "scorer.x.depth"), "cpu", 2)


def test_the_judge_is_the_rule_on_boxes_and_depth(
    dpt: Path, detector_folders: Detectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(prompt: str) -> list[Word]:
        return [Word(text, 0, 0, "NOUN" if text in ("dog", "cat", "boy") else "X") for text in prompt.split()]

    monkeypatch.setattr(depth_judge, "words", words)
    section = settings()
    own = {"path": str(detector_folders["owlv2"]), "depth": str(dpt), "confidence": 0.0}
    section["spatial_3d_owlv2"] |= own
    reward = load_reward("spatial_3d_owlv2", section)
    found = [Detection("dog", 0.8, (0, 0, 60, 40)), Detection("person", 0.4, (10, 0, 60, 40))]
    monkeypatch.setattr(reward.detector, "detect", lambda shown, *_: iter([found] * len(shown)))
    shown = pictures(4, 40, 60)
    scores = reward.score(shown, ["a dog behind a boy", "a dog in front of a boy"] * 2)
    assert {round(float(score) - 0.3, 4) for score in scores} == {
        0,
        0.5,
    }  # 5/6 of the union is more than half
    assert reward.identity.count("@") == 2
    with pytest.raises(UserError, match=r"'a dog near a cat' says of no two things which is nearer"):
        reward.score(shown[:1], ["a dog near a cat"])
