"""``mitune evaluate benchmark=``: drawn or brought by somebody else, in the benchmarks' own layouts; kills, processes,
mistakes. Both layouts are checked by readers written out here as the official scripts read them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mitune.evaluate.catalogue import BENCHMARKS, JudgesConfig
from mitune.files import read_json
from mitune.reading import lines
from mitune.referees.catalogue import JUDGES
from tests.cli import main
from tests.evaluate.benchmark_files import compbench, compbench_pictures, geneval, geneval_pictures
from tests.referees.conftest import build_clip
from tests.referees.small_blips import build_blip
from tests.referees.small_detectors import build_mask2former, build_owlv2

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
COLORS = ["a red circle and a blue square.", "a green star", "a red circle and a blue square."]
SHAPES = ["a green star", "a blue dog on a red cat"]
TASKS = {"single_object": 2, "counting": 1}
CLIP = ("scorer.clip.path=shapes", "benchmark.judge.attribute=clip", "benchmark.judge.objects=clip")
# Of the folder of a benchmark, what is the same whenever it is made.
FIXED = {"seconds": 0, "made": 0}


@pytest.fixture
def color_files(tmp_path: Path) -> str:
    return f"benchmark.source={compbench(tmp_path / 'prompts', {'color_val': COLORS, 'shape_val': SHAPES})}"


@pytest.fixture
def drawing(arguments: Arguments, color_files: str) -> Arguments:
    def make(*words: str) -> list[str]:
        few = ("benchmark.whole=false", "benchmark.per_prompt=2", "benchmark.rows_per_unit=3", *CLIP)
        return arguments("evaluate", "benchmark=t2i_compbench", color_files, *few, *words)

    return make


def results(folder: Path) -> dict[str, bytes]:
    """What users are given, by name; of the JSON all but how long it took."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "work" not in path.relative_to(folder).parts[:1]
        if path.suffix in (".png", ".json", ".jsonl", ".txt", ".md")
    }
    figures = json.loads(found["benchmark.json"]) | FIXED
    return found | {"benchmark.json": json.dumps(figures).encode()}


def official_names(out_dir: Path) -> list[tuple[int, str]]:
    """(question id, prompt) of each picture, as T2I-CompBench's scripts take the names apart."""
    names = os.listdir(out_dir / "samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
    return [(int(name.split("_")[-1].split(".")[0]), name.split("_")[0]) for name in names]


def official_answers(path: Path) -> list[tuple[int, float]]:
    """(question id, answer), as the scripts that read each other's results do."""
    with open(path) as file:
        rows = json.load(file)
    assert all(list(row) == ["question_id", "answer"] for row in rows)
    return [(row["question_id"], float(row["answer"])) for row in rows]


def test_drawn_pictures_lie_as_t2i_compbench_has_them_and_so_do_the_results(
    drawing: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(drawing()) == 0
    folder = tmp_path / "run" / "benchmarks" / "001"
    made = read_json(folder / "benchmark.json")
    for category, prompts in (("color", COLORS), ("shape", SHAPES)):
        place = folder / "base" / category
        assert official_names(place) == [(i, prompts[i // 2]) for i in range(2 * len(prompts))]
        answers = official_answers(place / "annotation_blip" / "vqa_result.json")
        assert [number for number, _ in answers] == [*range(2 * len(prompts))]
        rows = json.loads((place / "annotation_blip" / "vqa_result.json").read_text())
        assert all(re.fullmatch(r"\d\.\d{4}", row["answer"]) for row in rows)
        said = (place / "annotation_blip" / "blip_vqa_score.txt").read_text()
        assert float(said.removeprefix("BLIP-VQA score:")) == pytest.approx(
            np.mean([value for _, value in answers])
        )
        assert made["models"]["base"]["categories"][category]["mean"] == pytest.approx(
            np.mean([value for _, value in answers]), abs=1e-4
        )
    # The prompt that stands twice, and in two categories, has other pictures each time.
    pictures = [*(folder / "base").glob("*/samples/*.png")]
    assert len({path.read_bytes() for path in pictures}) == len(pictures) == 10
    out = capsys.readouterr().out
    assert "color, shape: judged by clip (shapes@" in out
    assert "these are not all of the benchmark's prompts" in out
    assert "overall" not in out
    page = (folder / "benchmark.html").read_text()
    assert "a blue dog on a red cat" in page
    assert "<script" not in page


def test_a_second_command_draws_and_judges_nothing_anew_and_harmed_files_are_made_again(
    drawing: Arguments, tmp_path: Path
) -> None:
    assert main(drawing()) == 0
    folder = tmp_path / "run" / "benchmarks" / "001"
    before = results(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/samples/*.png")}
    judged = {path: path.stat().st_mtime_ns for path in (folder / "work" / "base" / "judged").iterdir()}
    assert main(drawing()) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {path: path.stat().st_mtime_ns for path in judged} == judged
    next(iter(times)).write_bytes(b"x")
    next(iter(judged)).write_text("{}")
    assert main(drawing()) == 0
    assert results(folder) == before
    # Other keys, another folder.
    assert main(drawing("sampler.steps=3")) == 0
    assert (tmp_path / "run" / "benchmarks" / "002" / "benchmark.json").is_file()


def test_a_killed_command_ends_as_the_uninterrupted_one(
    drawing: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(drawing(f"benchmark.out={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    place = f"benchmark.out={tmp_path / 'killed'}"
    for part, number in (("candidates/unit", 3), ("samples/", 4), ("judged/color", 2), ("benchmark.md", 1)):
        killed = run_command(drawing(place), kill=[part, number])
        assert killed.code == -signal.SIGKILL, (part, killed.err)
    assert run_command(drawing(place)).code == 0
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".partial-*"))


@pytest.mark.slow
def test_two_processes_make_what_one_makes(
    drawing: Arguments, run_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    assert main(drawing(f"benchmark.out={tmp_path / 'one'}")) == 0
    for done in run_ranks(2, drawing(f"benchmark.out={tmp_path / 'two'}")):
        assert done.code == 0, done.err
    assert results(tmp_path / "two") == results(tmp_path / "one")


def test_base_and_tuned_model_stand_beside_each_other_and_witnesses_are_named(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", TASKS)
    for stage in ("generate", "select", "train"):
        assert main(arguments(stage)) == 0
    few = ("benchmark.whole=false", "benchmark.per_prompt=2", *CLIP)
    assert main(arguments("evaluate", "benchmark=geneval", f"benchmark.source={source}", *few)) == 0
    folder = tmp_path / "run" / "benchmarks" / "001"
    for side in ("base", "tuned"):
        numbers = sorted(name for name in os.listdir(folder / side) if name.isdigit())
        assert numbers == ["00000", "00001", "00002"]
        for number, text in zip(numbers, lines(source.read_text()), strict=True):
            assert json.loads((folder / side / number / "metadata.jsonl").read_text()) == json.loads(text)
            assert sorted(os.listdir(folder / side / number / "samples")) == ["0000.png", "0001.png"]
            assert Image.open(folder / side / number / "grid.png").width > 0
    made = read_json(folder / "benchmark.json")
    assert made["round"] == 1
    models = made["models"]
    for name, cell in made["difference"].items():
        means = [
            (models[side]["categories"] | {"overall": models[side]["overall"]})[name]["mean"]
            for side in models
        ]
        assert cell["difference"] == pytest.approx(means[1] - means[0])
    assert made["watch"]["chosen"] == ["mi"]
    assert made["watch"]["witnesses"] == ["single_object", "counting"]
    said = capsys.readouterr().out
    assert "tuned model (round 1)" in said
    assert "Took no part in choosing: single_object, counting" in said
    # Without a judge that says what is correct there is no results.jsonl of GenEval.
    assert not (folder / "base" / "results.jsonl").exists()
    # The run itself goes on as it was.
    assert main(arguments("evaluate")) == 0
    evaluation = read_json(tmp_path / "run" / "round-1" / "evaluation.json")
    assert "no witness: every score here took part in choosing (mi)" in evaluation["watch"]["said"]
    # Now it is known what the score that chose has gained: it is held against the benchmark's judges.
    assert main(arguments("evaluate", "benchmark=geneval", f"benchmark.source={source}", *few)) == 0
    watch = read_json(folder / "benchmark.json")["watch"]
    assert watch["witnesses"] == ["single_object", "counting"]
    assert "was not measured" not in watch["said"]
    gained = evaluation["difference"]["all"]["mi"]["ci95"]
    assert watch["rising"] == (["mi of the held-out prompts"] if gained[0] > 0 else [])


class Detective:
    """A judge that says more than a number, as GenEval's does: right where the picture is bright."""

    name, differentiable, identity = "geneval", False, "detective#1"

    def verdicts(self, pictures: Any, notes: list[Any]) -> list[Any]:
        bright = pictures.flatten(1).mean(1).tolist()
        return [
            SimpleNamespace(
                correct=value > 0.5,
                reason=f"brightness of {note['tag']}",
                details={"bench": [[0, 0, 1, 1, value]]},
            )
            for value, note in zip(bright, notes, strict=True)
        ]


def official_summary(path: Path) -> tuple[float, dict[str, float], float]:
    """(overall, score by task, share of prompts with any correct), as GenEval's own script reckons them."""
    with open(path) as file:
        rows = [json.loads(text) for text in file]
    keys = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert all(list(row) == keys for row in rows)
    assert all(isinstance(row[key], str) for row in rows for key in ("reason", "metadata", "details"))
    tags = dict.fromkeys(row["tag"] for row in rows)
    tasks = {tag: float(np.mean([row["correct"] for row in rows if row["tag"] == tag])) for tag in tags}
    prompts: dict[str, list[bool]] = {}
    for row in rows:
        prompts.setdefault(row["metadata"], []).append(row["correct"])
    return float(np.mean([*tasks.values()])), tasks, float(np.mean([any(own) for own in prompts.values()]))


def test_somebody_elses_pictures_of_geneval_are_judged_without_a_model_and_as_its_script_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", {"single_object": 4, "counting": 3})
    folder = geneval_pictures(tmp_path / "mine", source)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("mitune.stages.benchmark_judges.load_reward", lambda *_: Detective())
    words = ["evaluate", "benchmark=geneval", f"pictures={folder}", "benchmark.judge.objects=jpeg"]
    assert main([*words, "benchmark.whole=false", "experiment=mitune"]) == 0
    out = tmp_path / "mine-geneval"
    overall, tasks, any_correct = official_summary(out / "results.jsonl")
    made = read_json(out / "benchmark.json")["models"]["pictures"]
    assert made["overall"]["mean"] == pytest.approx(overall)
    assert {name: cell["mean"] for name, cell in made["categories"].items()} == pytest.approx(tasks)
    assert made["correct"]["prompts"] == pytest.approx(any_correct)
    assert 0 < overall < 1
    row = json.loads((out / "results.jsonl").read_text().splitlines()[-1])
    assert row["reason"] == "brightness of counting"
    assert json.loads(row["metadata"]) == json.loads(source.read_text().splitlines()[-1])
    assert row["filename"] == "00006/samples/00003.png"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert f"{any_correct:.2%} of prompts have any correct picture" in capsys.readouterr().out
    # Pictures that were changed since are judged again; the others are not.
    Image.new("RGB", (16, 16), "white").save(folder / "00000" / "samples" / "00000.png")
    judged = {path: path.stat().st_mtime_ns for path in (out / "work" / "pictures" / "judged").iterdir()}
    assert main([*words, "benchmark.whole=false", "experiment=mitune"]) == 0
    now = {path.name for path, time in judged.items() if path.stat().st_mtime_ns != time}
    assert now == {"single_object-000000.json"}


def test_pictures_of_which_another_thing_is_told_now_are_judged_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", {"counting": 1})
    folder = geneval_pictures(tmp_path / "theirs", source, per=1)
    few = ["benchmark.whole=false", "benchmark.per_prompt=1", "benchmark.judge.objects=clip", *CLIP[:1]]
    words = ["evaluate", "benchmark=geneval", f"pictures={folder}", *few]
    told = folder / "00000" / "metadata.jsonl"

    def mean(*more: str, place: str = "theirs-geneval") -> float:
        assert main([*words, *more]) == 0
        made = read_json(tmp_path / place / "benchmark.json")
        return float(made["models"]["pictures"]["categories"]["counting"]["mean"])

    before = mean()
    assert "overall: of counting alone, not of all 6 categories" in capsys.readouterr().out
    told.write_text(told.read_text().replace("a photo of a bench", "a red circle and a green star"))
    after = mean()
    assert after == mean(f"benchmark.out={tmp_path / 'fresh'}", place="fresh")
    assert after != before


def test_our_own_folder_of_pictures_can_be_given_to_somebody_else(drawing: Arguments, tmp_path: Path) -> None:
    """What was drawn is judged the same as pictures that were brought."""
    assert main(drawing()) == 0
    folder = tmp_path / "run" / "benchmarks" / "001"
    ours = read_json(folder / "benchmark.json")
    few = ("benchmark.whole=false", "benchmark.per_prompt=2", "benchmark.rows_per_unit=3", *CLIP)
    words = ["evaluate", "benchmark=t2i_compbench", f"pictures={folder / 'base'}", *few]
    assert main([*words, f"benchmark.out={tmp_path / 'theirs'}"]) == 0
    theirs = read_json(tmp_path / "theirs" / "benchmark.json")
    assert theirs["models"]["pictures"]["categories"] == ours["models"]["base"]["categories"]
    name = "color/annotation_blip/vqa_result.json"
    assert (tmp_path / "theirs" / name).read_bytes() == (folder / "base" / name).read_bytes()


class Asker:
    """A judge that asks about phrases, as BLIP-VQA does."""

    name, differentiable, identity = "blip_vqa", False, "asker#1"

    form = "published"

    def answers(self, pictures: Any, prompts: list[str]) -> list[list[tuple[str, float]]]:
        return [[("a red box?", 0.49996), ("a dog?", 0.99999)][: 1 + len(text) % 2] for text in prompts]


def test_what_was_asked_of_each_phrase_lies_where_t2i_compbench_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compbench_pictures(tmp_path / "mine", ["a red box.", "a dog"], 10)
    monkeypatch.setattr("mitune.stages.benchmark_judges.load_reward", lambda *_: Asker())
    words = ["evaluate", "benchmark=t2i_compbench", f"pictures={folder}", "benchmark.judge.attribute=jpeg"]
    assert (
        main([*words, "benchmark.whole=false", "benchmark.categories=[color]", "benchmark.rows_per_unit=7"])
        == 0
    )
    out = tmp_path / "mine-t2i_compbench" / "color"
    for number in range(1, 9):
        place = out / f"annotation{number}_blip"
        questions = json.loads((place / "vqa_test.json").read_text())
        assert all(list(row) == ["image", "question_id", "question", "dataset"] for row in questions)
        assert [row["question_id"] for row in questions] == [*range(20)]
        assert [(folder / row["image"]).is_file() for row in questions] == [True] * 20
        answers = official_answers(place / "VQA" / "result" / "vqa_result.json")
        assert [question for question, _ in answers] == [*range(20)]
        asked = {"a red box.": ["a red box"], "a dog": ["a red box", "a dog"]}
        for row, (_, answer) in zip(questions, answers, strict=True):
            phrases = asked[row["image"].removeprefix("samples/").split("_")[0]]
            assert row["question"] == (f"{phrases[number - 1]}?" if number <= len(phrases) else "")
            assert answer == (0.5 if number == 1 else 1.0)
    assert official_answers(out / "annotation_blip" / "vqa_result.json") == [(i, 0.5) for i in range(20)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark=genevil"], ["benchmark.name", "genevil"]),
        (["benchmark=geneval"], ["benchmark.source", "model.path"]),
        (["benchmark=geneval", "pictures=nothing"], ["benchmark.pictures=nothing does not exist"]),
        (
            ["benchmark=geneval", "pictures=pyproject.toml"],
            ["benchmark.pictures=pyproject.toml is not a folder"],
        ),
        (["benchmark=geneval", "pictures=."], [". is no folder of GenEval's pictures"]),
        (
            ["benchmark=geneval", "pictures=docs", "benchmark.source=nothing.jsonl"],
            ["benchmark.source=nothing.jsonl"],
        ),
        (["benchmark=geneval", "pictures=.", "benchmark.split=val"], ["benchmark.split"]),
        (
            ["benchmark=geneval", "pictures=.", "benchmark.categories=[color]"],
            ["benchmark.categories", "colors"],
        ),
        (["benchmark=t2i_compbench", "pictures=."], ["no folder of T2I-CompBench's pictures"]),
    ],
)
def test_what_is_refused(
    words: list[str], said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mitune import cli

    out = [] if "benchmark=genevil" in words else [f"benchmark.out={tmp_path / 'out'}"]
    assert cli.main(["evaluate", *words, f"run={tmp_path / 'run'}", *out]) == 2
    assert not (tmp_path / "run").exists()
    line = capsys.readouterr().err
    for hint in said:
        assert hint in line
    assert len([one for one in line.splitlines() if not re.match(r"mitune \d\d:", one)]) == 1


def test_results_are_never_written_among_the_pictures(tmp_path: Path, refused: Refused) -> None:
    folder = compbench_pictures(tmp_path / "color", ["a red dog"], 10)
    there = sorted(folder.rglob("*"))
    for place in (f"{folder}/../color", f"{folder}/samples", f"{folder}/results"):
        line = refused(
            ["evaluate", "benchmark=t2i_compbench", f"pictures={folder}", f"benchmark.out={place}"]
        )
        assert "benchmark.out is the folder of benchmark.pictures, or in it" in line
    assert sorted(folder.rglob("*")) == there


def test_a_judge_of_other_prompts_is_refused_with_a_way_out_that_is_one(
    drawing: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(drawing("benchmark.judge.attribute=oracle")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the oracle judges prompts of the embedded world only" in line
    assert line.endswith("name another judge by benchmark.judge.attribute=")


def test_a_category_without_a_judge_and_a_judge_that_is_none_are_refused(
    tmp_path: Path, refused: Refused
) -> None:
    folder = compbench_pictures(tmp_path / "drawn" / "3d_spatial", ["a dog behind a cat"], 10)
    compbench_pictures(tmp_path / "drawn" / "color", ["a red dog"], 10)
    words = [
        "evaluate",
        "benchmark=t2i_compbench",
        f"pictures={folder.parent}",
        "benchmark.whole=false",
        *CLIP,
    ]
    line = refused([*words, f"benchmark.out={tmp_path / 'out'}", "benchmark.judge.depth=null"])
    assert "benchmark.judge.depth: nobody judges 3d_spatial" in line
    assert "benchmark.categories=[color]" in line
    line = refused([*words, f"benchmark.out={tmp_path / 'out'}", "benchmark.judge.depth=elbo"])
    assert "benchmark.judge.depth" in line


def test_geneval_is_judged_by_its_own_rules_on_a_detector_and_a_clip(
    tmp_path: Path, refused: Refused
) -> None:
    """Both of random weights. An object that the detector cannot find is told before anything is judged."""
    source = geneval(
        tmp_path / "evaluation_metadata.jsonl", {"single_object": 2, "counting": 1, "color_attr": 1}
    )
    folder = geneval_pictures(tmp_path / "mine", source, per=2)
    detector = build_mask2former(tmp_path / "detector")
    words = [
        "evaluate",
        "benchmark=geneval",
        f"pictures={folder}",
        "benchmark.whole=false",
        "benchmark.per_prompt=2",
    ]
    words += [f"scorer.geneval.detector={detector}", f"scorer.geneval.clip={build_clip(tmp_path / 'clip')}"]
    words += ["scorer.geneval.confidence=0.01", "scorer.geneval.counting_confidence=0.01"]
    assert main(words) == 0
    out = tmp_path / "mine-geneval"
    overall, tasks, _ = official_summary(out / "results.jsonl")
    made = read_json(out / "benchmark.json")
    assert made["models"]["pictures"]["overall"]["mean"] == pytest.approx(overall)
    assert set(tasks) == {"single_object", "counting", "color_attr"}
    assert made["judged_by"]["counting"]["name"] == "geneval"
    rows = [json.loads(text) for text in lines((out / "results.jsonl").read_text())]
    assert any(len(json.loads(row["details"])) for row in rows)
    assert all(row["correct"] == (row["reason"] == "") for row in rows)
    changed = folder / "00000" / "metadata.jsonl"
    changed.write_text(changed.read_text().replace('"bench"', '"unicorn"'))
    assert "benchmark.judge.objects" in (line := refused([*words, f"benchmark.out={tmp_path / 'out'}"]))
    assert "unicorn" in line


def test_attributes_are_asked_about_by_blip_as_t2i_compbench_asks(tmp_path: Path) -> None:
    """BLIP of random weights; what lies in the files of each phrase multiplies to what lies in that of the picture."""
    prompts = ["a red circle and a blue square", "a green cross"]
    folder = compbench_pictures(tmp_path / "mine", prompts, 3)
    vqa = build_blip(tmp_path / "vqa", "BlipForQuestionAnswering")
    words = ["evaluate", "benchmark=t2i_compbench", f"pictures={folder}", f"scorer.blip_vqa.path={vqa}"]
    words += [
        "benchmark.whole=false",
        "benchmark.categories=[color]",
        "benchmark.per_prompt=3",
        "scorer.blip_vqa.side=32",
    ]
    assert main(words) == 0
    out = tmp_path / "mine-t2i_compbench"
    place = out / "color"
    parts = [
        official_answers(place / f"annotation{i}_blip" / "VQA" / "result" / "vqa_result.json")
        for i in range(1, 9)
    ]
    asked = [json.loads((place / f"annotation{i}_blip" / "vqa_test.json").read_text()) for i in range(1, 9)]
    assert [row["question"] for row in asked[0]] == ["a red circle?"] * 3 + ["a green cross?"] * 3
    assert [row["question"] for row in asked[1]] == ["a blue square?"] * 3 + [""] * 3
    reward = np.float32(1)
    for own in parts:
        reward = reward * np.array([answer for _, answer in own], dtype=np.float32)
    total = official_answers(place / "annotation_blip" / "vqa_result.json")
    assert [f"{answer:.4f}" for _, answer in total] == [f"{one:.4f}" for one in reward.tolist()]
    assert len({answer for _, answer in total}) > 1
    made = read_json(out / "benchmark.json")
    assert made["judged_by"]["color"]["name"] == "blip_vqa"
    assert made["models"]["pictures"]["categories"]["color"]["mean"] == pytest.approx(
        np.mean([answer for _, answer in total])
    )


def test_every_judge_that_a_benchmark_takes_by_default_is_there() -> None:
    for field in dataclasses.fields(JudgesConfig):
        assert field.default in JUDGES, field.name
    for row in BENCHMARKS.values():
        for category in row.categories:
            assert hasattr(JudgesConfig, category.kind)
            if original := category.original.judge:
                kind = JUDGES[original].settings
                assert kind is not None
                assert set(category.original.settings) <= {field.name for field in dataclasses.fields(kind)}


def test_complex_prompts_are_judged_by_their_lists_and_each_part_has_its_own_file(
    tmp_path: Path, refused: Refused
) -> None:
    """Prompts of the embedded world's grammar, so that no spaCy is needed; all three judges are of random weights."""
    prompts = ["a red circle left of a blue square", "a green cross", "a big red circle above a square"]
    lists = {"complex_val_spatial": prompts[:1], "complex_val_action": prompts[1:2]}
    source = compbench(tmp_path / "prompts", {"complex_val": prompts, **lists})
    folder = compbench_pictures(tmp_path / "mine", prompts, 2)
    own = {
        "blip": build_blip(tmp_path / "vqa", "BlipForQuestionAnswering"),
        "detector": build_owlv2(tmp_path / "owl"),
        "clip": build_clip(tmp_path / "clip"),
        "side": 32,
    }
    words = ["evaluate", "benchmark=t2i_compbench", f"pictures={folder}", "benchmark.categories=[complex]"]
    words += ["benchmark.whole=false", "benchmark.per_prompt=2"]
    words += [f"scorer.three_in_one.{key}={value}" for key, value in own.items()]
    assert main([*words, f"benchmark.source={source}"]) == 0
    place = tmp_path / "mine-t2i_compbench" / "complex"
    names = ("annotation_blip", "labels/annotation_obj_detection_2d", "annotation_clip", "annotation_3_in_1")
    found = [[answer for _, answer in official_answers(place / name / "vqa_result.json")] for name in names]
    for row, (attribute, spatial, action, total) in enumerate(zip(*found, strict=True)):
        expected = ((spatial + attribute) / 2, (action + attribute) / 2, (attribute + spatial + action) / 3)[
            row // 2
        ]
        assert total == pytest.approx(expected, abs=1e-9)
    line = refused([*words, f"benchmark.out={tmp_path / 'out'}"])
    assert "three_in_one judges a prompt by the list that it stands in" in line
