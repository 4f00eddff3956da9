"""What jobs of a sweep share: a name by all that the contents depend on, one writer at a time."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.runs import RunFolder
from mitune.stages import sharing
from mitune.stages.evaluate import baseline_folder
from mitune.stages.sharing import candidates_name, real_name, shared
from mitune.sweep.sweep import kept_by_all
from mitune.tasks import Task
from tests.cli import compose

PROMPTS = [Task("p1", "a red circle", "color"), Task("p2", "a blue square", "color")]

# What the preset said when the names below were first written down.
BEFORE = (
    "sampler.name=ddim", "sampler.steps=20", "generate.candidates=12", "generate.guidance=4", "prompts.limit=150",
    "scorer.contrast.times=7",
)  # fmt: skip


@functools.cache
def name(*overrides: str, number: int = 1, identity: str = "model#1", count: int = 2) -> str:
    return candidates_name(compose(overrides), number, PROMPTS[:count], identity)


@pytest.mark.parametrize(
    "override",
    [
        *("adapter=lora", "train.lr=0.1", "train.objective=mse", "evaluate.candidates=7", "rounds=3"),
        *(
            "generate.batch_size=3",
            "model.device=cpu",
            "run=elsewhere",
            "select.k=2",
            "select.by=mi",
            "launch=cpu_2",
        ),
    ],
)
def test_what_only_trains_chooses_or_judges_shares_its_candidates(override: str) -> None:
    assert name(override) == name()


@pytest.mark.parametrize(
    "overrides",
    [
        *(["seed=1"], ["sampler.steps=19"], ["sampler.guidance=3"], ["generate.candidates=11"]),
        *(["generate.rows_per_unit=24"], ["scorers=[contrast,elbo,oracle]"], ["scorer.contrast.edits=2"]),
        *(["prompts.limit=9"], ["model.dtype=bfloat16"]),
        ["sampler.racing.by=mi", "sampler.racing.speedup=1.2"],
    ],
)
def test_what_draws_or_scores_otherwise_does_not(overrides: list[str]) -> None:
    assert name(*overrides) != name()


def test_names_of_earlier_versions_stay() -> None:
    # As the version before pictures were told beside the text named them: sweeps that were begun by it go on.
    config = compose(BEFORE)
    assert candidates_name(config, 1, [Task.of("a red circle")], "model@1") == "candidates-d063a58e909bd70d"
    assert real_name(config, {"rows": 3}, ["elbo"], False, "model@1") == "real-2e73dce679d03dcc"
    other = compose([*BEFORE, "model.picture_guidance=2"])
    assert real_name(other, {"rows": 3}, ["elbo"], False, "model@1") != "real-2e73dce679d03dcc"


def test_candidates_of_other_steps_are_not_those_of_earlier_versions(tmp_path: Path) -> None:
    config, prompts, run = compose(), [Task.of("a red circle")], RunFolder(tmp_path)
    names = {candidates_name(config, 1, prompts, "model@1", 2, laid) for laid in (None, "multistep")}
    bases = {baseline_folder(config, run, prompts, "model@1", laid) for laid in (None, "multistep")}
    assert len(names) == len(bases) == 2


def test_the_form_of_mi_came_later_and_counts_where_it_is_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)

    def base(*words: str) -> str:
        config = compose([*BEFORE, *words])
        return baseline_folder(config, run, [Task.of("a red circle")], "model@1").name

    assert base() == "baseline-a280d0e86e8f"  # as the version before named it
    assert base("scorer.mi.form=orthogonal") != base()
    assert name("scorer.mi.form=orthogonal") != name()


def test_model_prompts_and_round_are_part_of_the_name() -> None:
    assert len({name(), name(identity="model#1+adapter"), name(number=2), name(count=1)}) == 4


def test_scores_of_real_pictures_are_named_by_what_they_depend_on() -> None:
    plan = {"rows": 9, "rows_per_unit": 3, "sha256": "abc"}

    def named(
        *overrides: str, rows: int = 9, scores: str = "elbo", skip: bool = False, identity: str = "a"
    ) -> str:
        return real_name(compose(overrides), {**plan, "rows": rows}, [scores], skip, identity)

    for same in ("select.k=2", "train.lr=0.1", "generate.candidates=11", "sampler.guidance=3", "rounds=3"):
        assert named(same) == named()
    others = [named("seed=1"), named("scorer.elbo.times=3"), named("prompts.limit=9"), named(rows=8)]
    others += [named(scores="mi_image"), named(skip=True), named(identity="b"), named()]
    assert len(set(others)) == len(others)


def test_the_choice_matters_where_it_decides_which_latents_are_kept() -> None:
    few = "generate.keep=4"
    assert name(few, "select.k=1") == name(few, "select.k=2")
    assert name(few, "select.by=mi") != name(few, "select.by=llr")
    assert name("generate.keep=null", "select.k=1") != name("generate.keep=null", "select.k=2")


def test_a_sweep_keeps_what_all_its_jobs_need() -> None:
    def kept(*jobs: str) -> list[str]:
        return kept_by_all([compose(["generate.keep=null", *job.split()]) for job in jobs])

    assert kept("select.k=1", "select.k=3") == ["generate.keep=3"]
    assert kept("select.k=2 adapter=dora", "select.k=2 adapter=lora") == []
    assert kept("select.by=mi", "select.by=llr") == [f"generate.keep={compose().generate.candidates}"]
    assert kept_by_all([compose(["select.k=1"]), compose(["select.k=2"])]) == []  # the preset keeps all


def test_without_a_shared_folder_the_place_is_the_runs_own(tmp_path: Path) -> None:
    with shared(compose(), tmp_path / "candidates", "candidates-1"):
        assert not (tmp_path / "candidates").exists()


def test_the_link_survives_a_move_of_the_sweep(tmp_path: Path) -> None:
    config = compose([f"sweep.share={tmp_path / 'sweep' / 'shared'}"])
    place = tmp_path / "sweep" / "job" / "round-1" / "candidates"
    with shared(config, place, "candidates-1"):
        (place / "plan.json").write_text("{}")
    (tmp_path / "sweep").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "job" / "round-1" / "candidates"
    assert moved.is_symlink()
    assert (moved / "plan.json").read_text() == "{}"
    assert (tmp_path / "moved" / "shared" / "candidates-1" / "plan.json").is_file()


def test_a_link_to_other_candidates_is_refused_unless_nothing_is_there(tmp_path: Path) -> None:
    config = compose([f"sweep.share={tmp_path / 'shared'}"])
    place = tmp_path / "job" / "candidates"
    with shared(config, place, "candidates-1"):
        pass
    with shared(config, place, "candidates-2"):  # of the first nothing was made
        (place / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="not candidates-3"), shared(config, place, "candidates-3"):
        raise AssertionError("it was taken over")


def test_a_folder_of_ones_own_stays(tmp_path: Path) -> None:
    place = tmp_path / "candidates"
    place.mkdir()
    with shared(compose([f"sweep.share={tmp_path / 'shared'}"]), place, "candidates-1"):
        assert not place.is_symlink()


def test_two_jobs_write_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "POLL", 0.01)
    looked, said = threading.Event(), []
    monkeypatch.setattr(sharing, "say", lambda line: (said.append(line), looked.set()))
    config = compose([f"sweep.share={tmp_path / 'shared'}"])
    order: list[str] = []

    def second() -> None:
        with shared(config, tmp_path / "two", "candidates-1"):
            order.append("second")

    other = threading.Thread(target=second)
    with shared(config, tmp_path / "one", "candidates-1"):
        other.start()
        assert looked.wait(60)  # it has seen that the first one is at work
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]
    assert len(said) == 1
