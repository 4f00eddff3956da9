"""Detectors of the real classes: what is found is what transformers' own readers find, or a plain write-out does."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mitune.errors import UserError
from mitune.referees.coco import NAMES, usual_names
from mitune.referees.detection import Detector
from mitune.referees.detectors import KINDS, open_detector
from mitune.referees.judge_files import find_judge
from mitune.referees.preprocess import to_images
from tests.referees.conftest import Detectors
from tests.referees.conftest import pictures as random_pictures
from tests.referees.small_detectors import BUILDERS

TOLD = ("owlv2", "grounding-dino")
SIZE = (40, 56)


@pytest.fixture
def folders(detector_folders: Detectors) -> Detectors:
    return detector_folders


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    """The same pictures in every run: random networks are not sure of the order of what they find."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return random_pictures(n, height, width)


def opened(folder: Path, batch_size: int = 2) -> Detector:
    return open_detector(find_judge(str(folder), "scorer.x.path"), KINDS, "cpu", batch_size)


def outputs(folder: Path, shown: torch.Tensor, **said):
    """(the model's own image processor, its bare outputs)."""
    import transformers

    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.no_grad():
        return processor, model(**processor(images=to_images(shown), return_tensors="pt"), **said)


def clipped(boxes: torch.Tensor) -> torch.Tensor:
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([SIZE[1], SIZE[0]] * 2))


def agree(found, scores, boxes, labels) -> None:
    """What was found in a picture is these rows, the highest score first."""
    order = sorted(range(len(scores)), key=lambda at: -float(scores[at]))
    assert [one.label for one in found] == [labels[at] for at in order]
    torch.testing.assert_close(torch.tensor([one.confidence for one in found]), scores[order])
    torch.testing.assert_close(
        torch.tensor([one.box for one in found]), clipped(boxes)[order], rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "d_fine"])
def test_boxes_are_those_of_the_model_s_own_reader(folders: Detectors, kind: str) -> None:
    shown = pictures(2, *SIZE)
    processor, output = outputs(folders[kind], shown)
    read = processor.post_process_object_detection(output, threshold=0.05, target_sizes=[SIZE, SIZE])
    for found, own in zip(opened(folders[kind]).detect(shown, [(), ()], 0.05), read, strict=True):
        assert found
        agree(found, own["scores"], own["boxes"], [NAMES[at] for at in own["labels"]])


def test_owlv2_finds_what_its_own_reader_does(folders: Detectors) -> None:
    from transformers import CLIPTokenizer

    shown, names = pictures(2, *SIZE), [("circle", "red square"), ("cross", "green cross")]
    tokenizer = CLIPTokenizer.from_pretrained(folders["owlv2"])
    texts = [f"a photo of a {name}" for own in names for name in own]
    said = tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    processor, output = outputs(
        folders["owlv2"], shown, input_ids=said["input_ids"], attention_mask=said["attention_mask"]
    )
    read = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[SIZE, SIZE])
    for found, own, told in zip(opened(folders["owlv2"]).detect(shown, names, 0.0), read, names, strict=True):
        agree(found, own["scores"], own["boxes"], [told[at] for at in own["labels"]])


def test_of_grounding_dino_a_name_is_as_sure_as_the_surest_of_its_tokens(folders: Detectors) -> None:
    from transformers import BertTokenizer

    folder, shown, names = folders["grounding-dino"], pictures(1, *SIZE), ("Ox", "red cab", "ox")
    tokenizer = BertTokenizer.from_pretrained(folder)
    said = tokenizer(["ox. red cab. ox."], return_tensors="pt")
    _, output = outputs(folder, shown, **said)
    ids = said["input_ids"][0].tolist()
    stops = [0, *(at for at, token in enumerate(ids) if token == 1012)]  # [CLS], and every full stop
    sure = output.logits[0].sigmoid()
    by_name = torch.stack([sure[:, a + 1 : b].max(-1).values for a, b in itertools.pairwise(stops)], -1)
    assert by_name.shape[1] == 3
    scores, labels = by_name.max(-1)
    middle, half = output.pred_boxes[0, :, :2], output.pred_boxes[0, :, 2:] / 2
    boxes = torch.cat([middle - half, middle + half], -1) * torch.tensor([SIZE[1], SIZE[0]] * 2)
    (found,) = opened(folder).detect(shown, [names], 0.0)
    agree(found, scores, boxes, [names[at] for at in labels])


def plain_instances(logits: np.ndarray, masks: np.ndarray, least: float):
    """(score, label, mask) of a picture's instances, from numpy arrays: class logits [q, c + 1], mask logits at the
    picture's size [q, h, w].
    """
    probable = np.exp(logits - logits.max(1, keepdims=True))
    probable = (probable / probable.sum(1, keepdims=True))[:, :-1]
    pairs = sorted(
        ((probable[q, c], q, c) for q in range(len(logits)) for c in range(probable.shape[1])), reverse=True
    )
    for probability, q, c in pairs[:100]:
        inside = masks[q] > 0
        if inside.any():
            sure = probability * (1 / (1 + np.exp(-masks[q][inside]))).mean()
            if sure > least:
                yield sure, c, inside


def test_mask2former_s_instances_are_those_of_a_plain_write_out(folders: Detectors) -> None:
    folder, shown, least = folders["mask2former"], pictures(2, *SIZE), 0.02
    _, output = outputs(folder, shown)
    # The processor brings 40 × 56 to 64 × 90, then to the next multiples of 32.
    masks = torch.nn.functional.interpolate(output.masks_queries_logits, (64, 96), mode="bilinear")
    masks = torch.nn.functional.interpolate(masks, SIZE, mode="bilinear").numpy()
    for row, found in enumerate(opened(folder).detect(shown, [(), ()], least)):
        wanted = sorted(
            plain_instances(output.class_queries_logits[row].numpy(), masks[row], least),
            reverse=True,
            key=lambda one: one[0],
        )
        assert len(found) == len(wanted) > 3
        for one, (sure, label, mask) in zip(found, wanted, strict=True):
            assert one.confidence == pytest.approx(sure, abs=2e-6)
            assert one.label == NAMES[label]
            assert one.mask is not None
            assert (one.mask.numpy() == mask).mean() > 0.999  # a pixel may lie on the edge
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            assert one.box == pytest.approx((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), abs=1)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_picture_s_objects_do_not_depend_on_the_others_of_its_batch(folders: Detectors, kind: str) -> None:
    shown = pictures(3, *SIZE)
    names = [("circle", "square"), ("cross",), ("a very big red circle", "square", "triangle")]
    together, detector = list(opened(folders[kind], 3).detect(shown, names, 0.1)), opened(folders[kind], 1)
    for row, own in enumerate(together):
        (alone,) = detector.detect(shown[row : row + 1], names[row : row + 1], 0.1)
        assert [one.label for one in alone] == [one.label for one in own]
        assert [one.confidence for one in alone] == pytest.approx([one.confidence for one in own], abs=1e-4)
        if kind in TOLD:
            assert {one.label for one in own} <= {*names[row]}


def test_labels_go_by_cocos_usual_names(folders: Detectors, tmp_path: Path) -> None:
    folder = shutil.copytree(folders["detr"], tmp_path / "detr")
    told = json.loads((folder / "config.json").read_text())
    told["id2label"] |= {"57": "sofa", "4": "aeroplane", "1": "N/A"}
    (folder / "config.json").write_text(json.dumps(told))
    labels = opened(folder).labels
    assert labels == tuple(name for name in NAMES if name != "bicycle")
    assert usual_names(["sofa", "couch"]) == ["sofa", "couch"]  # two labels of its own


def changed(folder: Path, place: Path, **more) -> Path:
    shutil.copytree(folder, place)
    told = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**told, **more}))
    return place


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_no_detector_is_refused(folders: Detectors, tmp_path: Path) -> None:
    folder = changed(folders["detr"], tmp_path / "a", model_type="bert")
    assert "is no OWLv2 or Grounding DINO or DETR" in refused(lambda: opened(folder))
    source = find_judge(str(folders["owlv2"]), "scorer.spatial_detr.path")
    says = refused(lambda: open_detector(source, ("detr", "d_fine"), "cpu", 1))
    assert (
        says == "scorer.spatial_detr.path=owlv2 is no DETR or D-FINE: its config.json says model_type=owlv2"
    )
    folder = changed(folders["detr"], tmp_path / "b", id2label={})
    assert "names no labels" in refused(lambda: opened(folder))
    folder = changed(folders["detr"], tmp_path / "c")
    (folder / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refused(lambda: opened(folder))


def test_weights_of_another_class_are_refused_at_the_first_picture(
    folders: Detectors, tmp_path: Path
) -> None:
    folder = changed(folders["rt_detr_v2"], tmp_path / "a")
    shutil.copy(folders["d_fine"] / "model.safetensors", folder / "model.safetensors")
    shown = pictures(1, *SIZE)
    assert "does not fit its config.json" in refused(lambda: list(opened(folder).detect(shown, [()], 0.5)))


def test_a_backbone_of_a_package_that_is_not_there_is_said(
    folders: Detectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    folder = changed(folders["detr"], tmp_path / "a", use_timm_backbone=True)
    assert "pip install timm" in refused(lambda: opened(folder))


def test_a_name_without_a_label_is_refused_with_those_near_it(folders: Detectors) -> None:
    detector = opened(folders["mask2former"])
    detector.check_names(["person", "teddy bear"], "here")
    assert "did you mean 'giraffe'" in refused(lambda: detector.check_names(["girafe"], "here"))
    assert "it knows 'dining table'" in refused(lambda: detector.check_names(["table"], "here"))
    assert refused(lambda: detector.check_names(["unicorn"], "here")).startswith(
        "here: the Mask2Former scorer.x.path="
    )
    opened(folders["owlv2"]).check_names(["unicorn"], "here")


def test_names_that_are_too_long_for_a_detector_are_refused(folders: Detectors) -> None:
    shown = pictures(1, *SIZE)
    says = refused(lambda: list(opened(folders["grounding-dino"]).detect(shown, [("abcdefgh" * 8,)], 0.5)))
    assert "reads 40" in says


def test_pictures_are_taken_as_their_files_would_be(folders: Detectors, tmp_path: Path) -> None:
    shown = torch.rand(1, 3, *SIZE)  # no whole levels
    to_images(shown)[0].save(tmp_path / "one.png")
    stored = torch.from_numpy(np.array(Image.open(tmp_path / "one.png"))).permute(2, 0, 1)[None] / 255
    detector = opened(folders["detr"])
    assert list(detector.detect(shown, [()], 0.0)) == list(detector.detect(stored, [()], 0.0))


@pytest.mark.parametrize("kind", ["owlv2", "grounding-dino"])
def test_a_detector_that_is_told_nothing_of_a_picture_finds_nothing_in_it(
    detector_folders: Detectors, kind: str
) -> None:
    """GenEval's metadata may include nothing."""
    source = find_judge(str(detector_folders[kind]), "scorer.geneval.detector")
    detector, shown = open_detector(source, KINDS, "cpu", 2), pictures(3, 40, 60)
    alone = list(detector.detect(shown[1:2], [["cat"]], 0.0))
    first, second, third = detector.detect(shown, [[], ["cat"], []], 0.0)
    assert first == third == []
    assert alone[0]
    assert [one.label for one in second] == [one.label for one in alone[0]]
    assert [one.confidence for one in second] == pytest.approx([one.confidence for one in alone[0]], abs=1e-5)
