"""Where phrases are, from Python: the same files' worth as the command leaves, and the same refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mitune
from mitune.families.latent import LatentDenoiser
from mitune.files import read_json
from tests.cli import main

PROMPT, PHRASES = "a red circle and a blue square", ["a red circle", "a blue square"]
QUICK = mitune.HeatmapConfig(times=1, loss_times=1, threshold=0.4)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (20, 28, 3), dtype=np.uint8))


def test_python_gives_what_the_command_leaves(
    model: mitune.Model, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    picture().save(tmp_path / "a.png")
    words = [f"segment.source={tmp_path / 'a.png'}", f"segment.phrases=[{','.join(PHRASES)}]"]
    words += [f"segment.out={tmp_path / 'out'}"]
    words += [f"segment.caption={PROMPT}", "pixels.times=1", "pixels.loss_times=1", "pixels.threshold=0.4"]
    assert main(["segment", f"model.path={tiny_pipeline_folder}", "model.device=cpu", *words]) == 0
    folder = tmp_path / "out"
    (found,) = model.segment(picture(), PROMPT, PHRASES, QUICK)
    assert (found.mask == np.asarray(Image.open(folder / "masks" / "000000.png"))).all()
    for number, heat in enumerate(found.heatmaps, start=1):
        assert (heat == np.asarray(Image.open(folder / "heatmaps" / f"000000-{number}.png"))).all()
        overlay = np.asarray(Image.open(folder / "overlays" / f"000000-{number}.png"))
        assert (np.asarray(found.overlay(number)) == overlay).all()
    rows = read_json(folder / "segmentation.json")["rows"][0]["phrases"]
    assert found.table["loss"].tolist() == [one["loss"] for one in rows]
    assert found.table["area"].tolist() == [one["area"] for one in rows]
    assert found.overlay().size == (28, 20)


def test_phrases_are_found_where_none_are_given(model: mitune.Model) -> None:
    (found,) = model.segment([picture()], [PROMPT], settings=QUICK)
    assert list(found.phrases) == PHRASES


def test_what_does_not_fit_is_refused_in_a_line(model: mitune.Model) -> None:
    with pytest.raises(mitune.UserError, match="1 pictures, 2 prompts and no lists of phrases"):
        model.segment(picture(), [PROMPT, PROMPT])
    with pytest.raises(mitune.UserError, match="the phrase 'a dog' is not in the prompt"):
        model.segment(picture(), PROMPT, ["a dog"])
    with pytest.raises(mitune.UserError, match="phrases='a red circle' is one text"):
        model.segment(picture(), PROMPT, "a red circle")
    with pytest.raises(mitune.UserError, match=r"pixels\.times=0"):
        model.segment(picture(), PROMPT, settings=mitune.HeatmapConfig(times=0))


def test_a_model_that_gives_no_numbers_is_no_picture_of_nothing(
    model: mitune.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        LatentDenoiser, "encode_image", lambda own, pictures: torch.full((1, *own.latent_shape), torch.nan)
    )
    with pytest.raises(mitune.UserError, match=r"a heatmap of pictures\[0\] is not finite"):
        model.segment(picture(), PROMPT, PHRASES, QUICK)
