"""Training by objects: what is kept, what goes on, what is refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

import mitune
from tests.api.conftest import SHORT, TRAIN
from tests.hub.test_card import read

RANK = mitune.AdapterConfig(rank=2)


@pytest.fixture(scope="module")
def training(model: mitune.Model) -> mitune.TrainingSet:
    return model.draw(TRAIN, candidates=2, scores="mi", sampler=SHORT).select(by="mi", losers=1)


def settings(**changed: object) -> mitune.TrainConfig:
    return mitune.TrainConfig(**({"steps": 4, "batch_size": 2, "lr": 0.1, "checkpoint_every": 2} | changed))  # type: ignore[arg-type]


def data(model: mitune.Model, folder: Path) -> bytes:
    model.save_adapter(folder)
    return (folder / "pytorch_lora_weights.safetensors").read_bytes()


def test_the_same_call_with_the_same_folder_goes_on(
    model: mitune.Model, training: mitune.TrainingSet, tmp_path: Path
) -> None:
    whole = model.train(training, settings(), RANK)
    stopped: list[int] = []

    def stop(tuned: mitune.Model) -> float:
        stopped.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.train(training, settings(), RANK, folder=tmp_path / "run", validate=stop)
    assert stopped == [1]
    tuned = model.train(training, settings(), RANK, folder=tmp_path / "run")
    assert tuned.training is not None
    assert tuned.training.steps == 4
    assert data(tuned, tmp_path / "one") == data(whole, tmp_path / "two")


def test_the_best_by_a_function_is_kept(model: mitune.Model, training: mitune.TrainingSet) -> None:
    values = iter([2.0, 1.0])
    seen: list[torch.Tensor] = []

    def validate(tuned: mitune.Model) -> float:
        seen.append(tuned.draw("a red circle", candidates=1, scores="mi", sampler=SHORT).latents)
        with pytest.raises(mitune.UserError, match="this model is training"):
            model.draw("a red circle", candidates=1, scores="mi", sampler=SHORT)
        return next(values)

    tuned = model.train(training, settings(), RANK, validate=validate)
    assert tuned.training is not None
    assert (tuned.training.best_step, tuned.training.best_value) == (2, 2.0)
    drawn = tuned.draw("a red circle", candidates=1, scores="mi", sampler=SHORT).latents
    torch.testing.assert_close(drawn, seen[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(seen[0], seen[1], rtol=1e-3, atol=1e-3)


def test_an_adapter_whose_loading_is_stopped_leaves_the_base_as_it_was(
    model: mitune.Model, training: mitune.TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import LoraModel

    from mitune.families import lora

    def drawn(one: mitune.Model) -> torch.Tensor:
        return one.draw("a red circle", candidates=1, scores="mi", sampler=SHORT).latents

    before, tuned = drawn(model), model.train(training, settings(), RANK)
    after = drawn(tuned)
    assert not torch.equal(after, before)
    inject, wrap, layers = lora.inject_saved, LoraModel._create_and_replace, list[object]()

    def stopped(*args: Any) -> None:
        inject(*args)
        raise KeyboardInterrupt

    def stopped_half_way(own: Any, *args: Any, **kwargs: Any) -> None:
        wrap(own, *args, **kwargs)
        layers.append(own)
        if len(layers) == 3:
            raise KeyboardInterrupt

    for place, name, strike in (
        (lora, "inject_saved", stopped),
        (LoraModel, "_create_and_replace", stopped_half_way),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, strike)
            with pytest.raises(KeyboardInterrupt):
                drawn(tuned)
        assert not lora.adapter_layers(model.denoiser.components.values())
        assert torch.equal(drawn(model), before)
        assert torch.equal(drawn(tuned), after)
    assert len(layers) == 3


def test_models_of_one_network_do_not_mix(
    model: mitune.Model, training: mitune.TrainingSet, tmp_path: Path
) -> None:
    def drawn(one: mitune.Model) -> torch.Tensor:
        return one.draw("a red circle", candidates=1, scores="mi", sampler=SHORT).latents

    before = drawn(model)
    first = model.train(training, settings(), RANK)
    after = drawn(first)
    second = first.train(training, settings(), RANK)  # goes on from the first
    assert second.rounds == 2
    assert second.base is model
    assert len({model.identity, first.identity, second.identity}) == 3
    assert torch.equal(drawn(model), before)
    assert torch.equal(drawn(first), after)
    assert not torch.equal(drawn(second), after)
    second.save_adapter(tmp_path / "adapter")
    other = mitune.load(
        Path(model.denoiser.pipeline.config._name_or_path), tmp_path / "adapter", device="cpu"
    )
    assert torch.equal(drawn(other), drawn(second))
    assert torch.equal(drawn(other.base), before)
    shown = other.evaluate("a green star", scores="elbo", candidates=1, sampler=SHORT).table
    assert shown["difference"].notna().all()


def test_a_dataset_of_ones_own_is_trained_on(model: mitune.Model, tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    image = Image.new("RGB", model.denoiser.picture_size[::-1], "red")
    own = datasets.Dataset.from_dict({"image": [image, image], "text": TRAIN[:2]})
    own = own.cast_column("image", datasets.Image())
    tuned = model.train(own, settings(steps=1), RANK)
    assert tuned.rounds == 1
    card = read((tuned.export(tmp_path / "export", license="mit") / "README.md").read_text())
    assert "on a data set of the user's own. It was not evaluated" in card
    assert "A data set of the user's own, 1 optimizer steps." in card
    assert not [word for word in ("chosen", "candidates", "own pictures", "judges") if word in card]


@pytest.mark.usefixtures("no_hub")
def test_an_export_says_what_was_done(
    model: mitune.Model, training: mitune.TrainingSet, tmp_path: Path
) -> None:
    tuned = model.train(training, settings(objective="nft"), RANK)
    evaluation = tuned.evaluate(TRAIN[:2], scores="elbo", candidates=1, sampler=SHORT)
    folder = tuned.export(
        tmp_path / "export", evaluation, name="mine", license="mit", base_model="someone/small"
    )
    card = (folder / "README.md").read_text()
    assert "license: mit" in card
    assert "pipeline.scheduler = diffusers.DDIMScheduler.from_config(" in card
    table = evaluation.table.set_index("category").loc["all"]
    assert f"On held-out prompts: elbo ({table['before']:.4g} to {table['after']:.4g}) " in read(card)
    assert "2 candidates a prompt, the best chosen by mi, 4 optimizer steps." in read(card)
    assert {path.name for path in folder.iterdir()} >= {
        "pytorch_lora_weights.safetensors",
        "pictures",
        "config.yaml",
    }
    assert "objective: nft" in (folder / "config.yaml").read_text()


def brightness(pictures: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return pictures.mean((1, 2, 3))


def test_an_export_says_that_a_function_chose(
    model: mitune.Model, tmp_path: Path, tiny_pipeline_folder: Path
) -> None:
    training = model.draw(TRAIN, candidates=2, scores=brightness, sampler=SHORT).select(by=brightness)
    folder = model.train(training, settings(), RANK).export(tmp_path / "export")
    card = read((folder / "README.md").read_text())
    assert "chosen by the score brightness, which judges from outside of the model." in card
    assert "2 candidates a prompt, the best chosen by brightness, 4 optimizer steps." in card


def test_a_temporary_folder_goes_with_the_model(model: mitune.Model, training: mitune.TrainingSet) -> None:
    tuned = model.train(training, settings(steps=1), RANK)
    assert tuned.adapter is not None
    place = Path(tuned.adapter.files[0]).parent
    assert place.is_dir()
    next_one = tuned.train(training, settings(steps=1), RANK)
    del tuned
    gc.collect()
    assert place.is_dir()  # the next one's parent
    del next_one
    gc.collect()
    assert not place.exists()


def test_what_cannot_be_is_refused(model: mitune.Model, training: mitune.TrainingSet, tmp_path: Path) -> None:
    with pytest.raises(mitune.UserError, match="this model has no adapter; say against="):
        model.evaluate(TRAIN, scores="elbo")
    with pytest.raises(mitune.UserError, match="save_adapter: this model has no adapter"):
        model.save_adapter(tmp_path / "adapter")
    with pytest.raises(mitune.UserError, match="this model was not trained here"):
        model.export(tmp_path / "export")
    with pytest.raises(mitune.UserError, match="here give validate="):
        model.train(training, settings(keep_best_by="mi"))
    with pytest.raises(mitune.UserError, match=r"train\.steps=0"):
        model.train(training, settings(steps=0))
    with pytest.raises(mitune.UserError, match="candidates=0"):
        model.draw(TRAIN, candidates=0)
    racing = mitune.SamplerConfig(steps=2)
    racing.racing.by = "mi"
    with pytest.raises(mitune.UserError, match="candidates race on the command line only"):
        model.draw(TRAIN, sampler=racing)
    with pytest.raises(mitune.UserError, match="prompts: there are none"):
        model.draw([])
    with pytest.raises(mitune.UserError, match=r"select\.by=nonsense"):
        model.draw("a red circle", candidates=1, scores="mi", sampler=SHORT).select(by="nonsense")


def test_progress_is_shown_where_it_is_asked_for(
    model: mitune.Model,
    training: mitune.TrainingSet,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MITUNE_LOG_EVERY", "0.001")

    def work(shown: bool) -> str:
        capfd.readouterr()
        drawn = model.draw(TRAIN, candidates=1, scores="mi", sampler=SHORT, progress=shown)
        drawn.pictures()
        model.score(drawn.pictures(), TRAIN, scores="elbo", progress=shown)
        model.train(training, settings(steps=2), RANK, progress=shown)
        said = capfd.readouterr()
        assert not said.out
        return said.err

    assert "draw" not in work(False)
    shown = work(True)
    assert all(name in shown for name in ("draw", "score", "train"))
