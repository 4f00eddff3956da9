"""The same small run twice: by commands, and by Python."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

import mitune
from mitune.stages.inputs import settings_of
from tests.cli import main

TRAIN = ["a red circle and a blue square", "a blue circle and a red square", "a green star on a red square"]
HELD_OUT = ["a green circle and a red star", "a yellow star and a blue dog"]
SHORT = mitune.SamplerConfig(steps=2)


@pytest.fixture(scope="session")
def model(tiny_pipeline_folder: Path) -> mitune.Model:
    """The tiny random pipeline, from its folder."""
    return mitune.load(tiny_pipeline_folder, device="cpu")


@pytest.fixture(scope="session")
def commands(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a run by the command line."""
    folder = tmp_path_factory.mktemp("commands")
    for name, prompts in (("train", TRAIN), ("held", HELD_OUT)):
        (folder / f"{name}.txt").write_text("\n".join(prompts))
    words = [
        f"run={folder / 'run'}", f"model.path={tiny_pipeline_folder}", "model.device=cpu",
        "prompts=file", f"prompts.source={folder / 'train.txt'}",
        "evaluate=file", f"evaluate.prompts.source={folder / 'held.txt'}", "evaluate.scorers=[elbo,contrast]",
        "scorers=[mi,llr,elbo,contrast]", "select.by=z(contrast)+z(elbo)", "select.k=1", "select.losers=1",
        "sampler.steps=2", "generate.candidates=3", "generate.guidance=null", "adapter.rank=2", "adapter.targets=[]",
        "train.steps=3", "train.batch_size=2", "train.objective=nft", "evaluate.candidates=2", "evaluate.examples=1",
    ]  # fmt: skip
    assert main(["run", *words]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def objects(commands: Path, tiny_pipeline_folder: Path) -> SimpleNamespace:
    """The same run by objects of the same settings: candidates, training set, tuned model, evaluation."""
    config = OmegaConf.load(commands / "config.yaml")
    sampler = settings_of(mitune.SamplerConfig, config.sampler)
    model = mitune.load(
        tiny_pipeline_folder, device="cpu", scorer=settings_of(mitune.ScorerConfig, config.scorer)
    )
    candidates = model.draw(TRAIN, candidates=3, scores=["mi", "llr", "elbo", "contrast"], sampler=sampler)
    training = candidates.select(by="z(contrast)+z(elbo)", k=1, losers=1)
    tuned = model.train(
        training,
        settings_of(mitune.TrainConfig, config.train),
        settings_of(mitune.AdapterConfig, config.adapter),
    )
    scores = ["elbo", "contrast"]
    evaluation = tuned.evaluate(HELD_OUT, scores=scores, candidates=2, sampler=sampler, pool=TRAIN)
    return SimpleNamespace(
        model=model, candidates=candidates, training=training, tuned=tuned, evaluation=evaluation
    )
