"""A user's own function is a score like any other; what is wrong with one is said in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mitune
from tests.api.conftest import SHORT, TRAIN


def brightness(pictures: Tensor, prompts: list[str]) -> Tensor:
    return pictures.mean((1, 2, 3))


def words(pictures: Tensor, prompts: list[str]) -> list[int]:
    """Plain numbers do."""
    return [len(prompt.split()) for prompt in prompts]


@pytest.fixture(scope="module")
def candidates(model: mitune.Model) -> mitune.Candidates:
    scores = ["mi", brightness, "z(brightness)+0.5*mi", words]
    return model.draw(TRAIN, candidates=3, scores=scores, sampler=SHORT)


def test_a_function_is_a_column(candidates: mitune.Candidates) -> None:
    table = candidates.table
    assert list(table.columns[5:]) == ["mi", "brightness", "words", "z(brightness)+0.5*mi"]
    expected = candidates.pictures().mean((1, 2, 3)).double()
    assert table["brightness"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert table["words"].tolist() == [len(text.split()) for text in table["prompt"]]
    assert candidates.judges["brightness"] == f"function {__name__}.brightness"


def test_a_function_chooses(candidates: mitune.Candidates) -> None:
    best = candidates.table.groupby("prompt_id")["brightness"].max()
    for by in (brightness, "brightness"):
        training = candidates.select(by=by, k=1)
        assert training.by == "brightness"
        assert sorted(training.dataset["score"]) == sorted(best.tolist())
    assert sorted(candidates.best(brightness)["brightness"]) == sorted(best.tolist())
    summed = candidates.select(by="z(brightness)+0.5*mi").dataset["seed"][:]
    assert summed == candidates.best("z(brightness)+0.5*mi")["seed"].tolist()


def test_a_function_scores_pictures_of_every_form_alike(model: mitune.Model, tmp_path: Path) -> None:
    levels = torch.randint(0, 256, (2, 3, *model.denoiser.picture_size)) / 255
    from mitune.api.pictures import images

    shown = images(levels)
    files = [tmp_path / f"{place}.png" for place in range(2)]
    for file, image in zip(files, shown, strict=True):
        image.save(file)
    found = [
        model.score(form, TRAIN[:2], scores=[brightness, "elbo"])
        for form in (levels, shown, files, [str(file) for file in files], list(levels))
    ]
    assert all(table.equals(found[0]) for table in found)
    assert list(found[0]) == ["text", "elbo", "brightness"]


def test_one_picture_and_its_prompt_may_come_alone(model: mitune.Model, tmp_path: Path) -> None:
    picture = model.draw(TRAIN[0], candidates=1, scores="mi", sampler=SHORT).images()[0]
    picture.save(tmp_path / "one.png")
    tensor = torch.tensor(np.array(picture)).permute(2, 0, 1) / 255
    expected = model.score([picture], [TRAIN[0]], scores="elbo")
    for alone in (picture, str(tmp_path / "one.png"), tmp_path / "one.png", tensor):
        assert model.score(alone, TRAIN[0], scores="elbo").equals(expected)
    with pytest.raises(mitune.UserError, match="2 pictures and 1 prompts; give one prompt a picture"):
        model.score([picture, picture], TRAIN[0], scores="elbo")


def test_no_rows_are_no_pictures(model: mitune.Model) -> None:
    candidates = model.draw(TRAIN[0], candidates=1, scores="mi", sampler=SHORT)
    assert candidates.pictures([]).shape == (0, 3, *model.denoiser.picture_size)
    assert candidates.images([]) == []


def test_its_own_error_goes_through(model: mitune.Model) -> None:
    def broken(pictures: Tensor, prompts: list[str]) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.draw("a red circle", candidates=1, scores=[broken], sampler=SHORT)


def test_it_may_ask_the_model_that_draws(model: mitune.Model) -> None:
    training = model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi")
    settings = mitune.TrainConfig(steps=1, batch_size=2, lr=0.1)
    tuned = model.train(training, settings, mitune.AdapterConfig(rank=2))

    def again(pictures: Tensor, prompts: list[str]) -> list[float]:
        return tuned.score(pictures, prompts, scores="elbo")["elbo"].tolist()

    def other(pictures: Tensor, prompts: list[str]) -> list[float]:
        return model.score(pictures, prompts, scores="elbo")["elbo"].tolist()

    found = tuned.draw(TRAIN, candidates=1, scores=["mi", again], sampler=SHORT)
    expected = tuned.score(found.pictures(), TRAIN, scores="elbo")["elbo"]
    assert found.table["again"].tolist() == pytest.approx(expected.tolist(), rel=1e-3)
    assert tuned.draw(TRAIN, candidates=1, scores="mi", sampler=SHORT).latents.equal(found.latents)
    with pytest.raises(mitune.UserError, match="another model of the same network is at work"):
        tuned.draw(TRAIN, candidates=1, scores=other, sampler=SHORT)
    assert model.draw(TRAIN, candidates=1, scores=other, sampler=SHORT).table["other"].notna().all()


@pytest.mark.parametrize(
    ("gives", "line"),
    [
        (lambda n: torch.zeros(n, 1), r"your function gave \[2, 1\] for 2 pictures; give \[2\]"),
        (lambda n: 0.5, r"your function gave \[\] for 2 pictures"),
        (lambda n: [1.0, float("nan")], "your function gave nan for the picture of 'a red circle'"),
        (lambda n: None, "your function gave a NoneType, which is no tensor of numbers"),
        (lambda n: ["a", "b"], "your function gave a list, which is no tensor of numbers"),
    ],
)
def test_what_is_no_number_a_picture_is_said(model: mitune.Model, gives: Any, line: str) -> None:
    def odd(pictures: Tensor, prompts: list[str]) -> Any:
        return gives(len(pictures))

    with pytest.raises(mitune.UserError, match=f"^score 'odd': {line}"):
        model.score(torch.zeros(2, 3, *model.denoiser.picture_size), ["a red circle"] * 2, scores=odd)


def mi(pictures: Tensor, prompts: list[str]) -> Tensor:
    return pictures.mean((1, 2, 3))


def prompt(pictures: Tensor, prompts: list[str]) -> Tensor:
    return pictures.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        ([mi], "there is a score 'mi' already"),
        ([prompt], "there is a score 'prompt' already"),
        ([lambda pictures, prompts: 0], "<lambda> has no name"),
        (["nonsense"], "there is no score 'nonsense'"),
        ([], "scores: there are none"),
        (["oracle"], "the oracle judges prompts of the embedded world only"),
        (["llr"], "llr needs a sampler that adds noise"),
    ],
)
def test_scores_that_cannot_be_had_are_refused_before_anything_is_drawn(
    model: mitune.Model, scores: Any, line: str
) -> None:
    with pytest.raises(mitune.UserError, match=line):
        model.draw("my cat", candidates=1, scores=scores, sampler=mitune.SamplerConfig(steps=2, eta=0))


def test_pictures_that_cannot_be_scored_are_refused(model: mitune.Model, tmp_path: Path) -> None:
    height, width = model.denoiser.picture_size
    (tmp_path / "no.png").write_text("no picture")
    for pictures, scores, line in (
        (torch.zeros(1, 3, height + 1, width), "elbo", "a tensor of this model's pictures is"),
        (torch.full((1, 3, height, width), 2.0), "elbo", "floats from 0 to 1"),
        ([tmp_path / "no.png"], "elbo", "no.png"),
        ([3], "elbo", r"pictures\[0\] is a int"),
        (torch.zeros(2, 3, height, width), "elbo", "2 pictures and 1 prompts"),
        (torch.zeros(1, 3, height, width), "mi", "use mi_image"),
        (
            torch.zeros(1, 3, height, width),
            "z(elbo)+mi_image",
            "standardised among the pictures of each caption",
        ),
    ):
        with pytest.raises(mitune.UserError, match=line):
            model.score(pictures, ["a red circle"], scores=scores)


def test_a_configuration_names_no_code(capfd: pytest.CaptureFixture[str]) -> None:
    """A score by ``module:function`` would run what a preset of somebody else names."""
    done = subprocess.run(
        [sys.executable, "-m", "mitune", "generate", "experiment=shapes", "scorers=[os:getcwd]"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "score 'os:getcwd'" in done.stderr
