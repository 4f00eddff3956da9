"""Grounding: the formula by hand, its bounds, along the path and on the picture, in batches, and who is refused."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.scoring import Scoring, check_judges
from mitune.pixels.grounding import grounding
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import Guide, sample
from mitune.scores import SCORES
from mitune.tasks import Task
from tests.cli import main

TEXTS = ["a red circle and a blue square", "a cross", "a striped square, a circle and a green triangle"]


@pytest.fixture(scope="module", params=["shapes", "shapes_flow"])
def model(request):
    return load_denoiser({"path": request.param, "device": "cpu"})


def sampler(model, steps=8):
    return SamplerConfig("euler" if model.schedule.kind == "flow" else "ddim", steps=steps, guidance=2.0)


def settings(name, **changed):
    return {name: changed}


def test_the_formula_is_the_divergence_from_blind_and_other_glances():
    first, second = torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    maps, there = torch.stack([first, second])[None], torch.tensor([[True, True]])
    told = []
    for own, other in ((first / 4, second / 4), (second / 4, first / 4)):
        mixed = (0.25 + other) / 2
        told.append(
            sum(
                q * math.log(q / m)
                for q, m in zip(own.flatten().tolist(), mixed.flatten().tolist(), strict=True)
                if q
            )
        )
    assert grounding(maps, there).item() == pytest.approx(min(told), abs=1e-12)
    assert torch.equal(grounding(7 * maps, there), grounding(maps, there))


def test_a_flat_or_stolen_map_tells_nothing_and_points_apart_tell_most():
    point = torch.zeros(2, 4, 4)
    point[0, 0, 0] = point[1, 3, 3] = 1
    same = torch.stack([point[0], point[0]])
    flat = torch.stack([point[0], torch.ones(4, 4)])
    maps, there = torch.stack([point, same, flat]), torch.ones(3, 2, dtype=torch.bool)
    apart, stolen, nowhere = grounding(maps, there).tolist()
    assert apart == pytest.approx(math.log(2 * 16), abs=1e-9)
    assert stolen == pytest.approx(math.log(2 / (1 / 16 + 1)), abs=1e-9)
    assert nowhere < 0.7 < apart


def test_phrases_that_are_not_there_count_nothing():
    maps = torch.rand(1, 3, 5, 5)
    padded = grounding(
        torch.cat([maps, torch.zeros(1, 1, 5, 5)], 1), torch.tensor([[True, True, True, False]])
    )
    assert padded.item() == pytest.approx(
        grounding(maps, torch.ones(1, 3, dtype=torch.bool)).item(), abs=1e-12
    )


def test_looking_changes_no_picture_and_costs_no_forward(model):
    tasks = [Task.of(text) for text in TEXTS]
    scoring = Scoring(["grounding", "mi"], {}, model)
    drawn, rows = [], []
    for observers in (scoring.observers(tasks), Scoring(["mi"], {}, model).observers(tasks)):
        model.forwards = 0
        drawn.append(sample(model, model.encode(tasks), [1, 2, 3], sampler(model), observers))
        rows.append(model.forwards)
    assert torch.equal(*drawn)
    assert rows[0] == rows[1]


def test_the_path_gives_the_mean_map_of_its_last_steps(model):
    """Held to maps taken by themselves, at each step's latent and time, of the steps that count."""
    tasks = [Task.of(text) for text in TEXTS]
    scoring = Scoring(["grounding"], settings("grounding", t_max=400), model)
    (observer,) = scoring.observers(tasks)

    class Note:
        name = "note"

        def start(self, n, device):
            self.seen = []

        def observe(self, step):
            self.seen.append((step.told, step.t, step.z))

        def select(self, rows): ...

        def result(self): ...

    note = Note()
    sample(model, model.encode(tasks), [1, 2, 3], sampler(model), [observer, note])
    words = observer._words
    counted = [(told, z) for told, t, z in note.seen if t <= 400]
    assert 0 < len(counted) < len(note.seen)
    maps = sum(
        model.attention(z, told, model.encode(tasks), words.weights).cross.mean(1) for told, z in counted
    )
    assert (grounding(maps, words.there) - observer.result()).abs().max() < 1e-4


def test_batches_and_drops_leave_a_candidates_score_alone(model):
    tasks = [Task.of(text) for text in TEXTS]
    scoring = Scoring(["grounding"], {}, model)

    class DropFirst(Guide):
        reads_steps = True

        def after(self, step, population):
            return torch.tensor([1, 2]) if step.index == 6 else None

    found = []
    for size, guide in ((None, None), (2, None), (None, DropFirst())):
        (observer,) = scoring.observers(tasks)
        sample(model, model.encode(tasks), [1, 2, 3], sampler(model, 12), [observer], guide, size)
        found.append(observer.result())
    assert (found[0] - found[1]).abs().max() < 1e-3
    assert (found[0][1:] - found[2]).abs().max() < 1e-3


def test_a_search_is_steered_by_it_and_still_measures_it(tmp_path, capsys):
    """Particles are resampled between a step's forward and its end: the maps follow their rows."""
    words = [
        "sample",
        "sampler=das",
        "search.reward=grounding",
        "search.alpha=0.05",
        "sampler.steps=8",
        "sample.of=6",
    ]
    words += [
        "sample.prompt=a red circle and a blue square",
        "sample.scorers=[grounding]",
        "sample.pictures=6",
    ]
    assert main([*words, f"sample.out={tmp_path / 'drawn'}"]) == 0
    rows = [
        json.loads(line)
        for line in (tmp_path / "drawn" / "pictures" / "metadata.jsonl").read_text().splitlines()
    ]
    assert rows
    for row in rows:
        assert row["grounding"] == pytest.approx(row["reward"], abs=1e-6)


def test_a_picture_is_scored_alike_in_any_batch(model):
    tasks = [Task.of(text) for text in TEXTS]
    latents = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    found = [
        Scoring(["grounding_image"], {}, model, batch_size=size).on_latents(latents, tasks, [4, 5, 6])[
            "grounding_image"
        ]
        for size in (96, 2)
    ]
    assert (found[0] - found[1]).abs().max() < 1e-5
    model.forwards = 0
    Scoring(["grounding_image"], {}, model).on_latents(latents, tasks, [4, 5, 6])
    assert model.forwards == 3 * SCORES["grounding_image"].rows(SCORES["grounding_image"].own({}))


def test_of_few_steps_the_last_one_counts(model):
    (observer,) = Scoring(["grounding"], settings("grounding", t_max=1), model).observers(
        [Task.of("a cross")]
    )
    trailing = dataclasses.replace(sampler(model, 1), spacing="trailing")
    sample(model, model.encode_prompts(["a cross"]), [1], trailing, [observer])
    assert observer.result().item() > 0


def test_a_prompt_that_names_nothing_is_refused(monkeypatch):
    monkeypatch.setattr("mitune.pixels.grounding.phrases_of", lambda text, source: ())
    with pytest.raises(UserError, match="'the left' names none; leave the prompt out"):
        check_judges(["grounding"], ["the left"], "scorers", {"combined": "mi", "grounding": {}})


def test_other_grammar_is_refused_in_a_line(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog on a beach\n")
    words = [
        "generate",
        f"run={tmp_path / 'run'}",
        f"prompts.source={prompts}",
        "scorers=[grounding]",
        "select.by=grounding",
    ]
    assert main([*words, "scorer.grounding.phrases=world"]) == 2
    error = capsys.readouterr().err
    assert "a dog on a beach" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "round-1" / "candidates" / "plan.json").exists()


def test_it_selects_candidates_and_judges_pictures(tmp_path, capsys):
    run = tmp_path / "run"
    words = [
        f"run={run}",
        "generate.candidates=3",
        "sampler.steps=6",
        "scorers=[grounding]",
        "select.by=grounding",
    ]
    assert main(["generate", *words, "prompts.limit=2"]) == 0
    assert main(["select", *words, "prompts.limit=2", "select.k=1"]) == 0
    assert (
        main(
            [
                "score",
                "model=shapes",
                f"score.source={run / 'round-1' / 'candidates'}",
                "score.scorers=[grounding_image]",
                f"score.out={tmp_path / 's.parquet'}",
            ]
        )
        == 0
    )
    assert "grounding_image: mean" in capsys.readouterr().out
