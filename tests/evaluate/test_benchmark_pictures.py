"""Folders of pictures that somebody else drew: found in the benchmarks' own layouts, or refused in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.errors import UserError
from mitune.evaluate.benchmarks.compbench import CompBench
from mitune.evaluate.benchmarks.geneval import GenEval
from mitune.evaluate.benchmarks.lines import Line
from tests.evaluate.benchmark_files import asked, compbench_pictures, geneval, geneval_pictures, picture

PROMPTS = ["a red box.", "a blue box", "a red box."]
FEW = asked("t2i_compbench", whole=False, per_prompt=2, categories=("color",))
LINES = [Line("color", number, text, {}) for number, text in enumerate(PROMPTS)]
TASKS = {"single_object": 2, "colors": 1}
GENEVAL = asked("geneval", whole=False)


@pytest.mark.parametrize("inside", ["", "samples", "color"])
def test_pictures_of_t2i_compbench_are_found_by_category_by_samples_or_bare(
    inside: str, tmp_path: Path
) -> None:
    own = compbench_pictures(tmp_path / "color", PROMPTS, 2)
    folder = {"": own, "samples": own / "samples", "color": tmp_path}[inside]
    (own / "samples" / ".DS_Store").touch()
    for lines in (None, LINES):
        found = CompBench(FEW).find(folder, lines)
        assert [(one.line.text, one.line.number, one.number) for one in found] == [
            (text, row, n) for row, text in enumerate(PROMPTS) for n in range(2)
        ]
        assert [one.path.name[-10:-4] for one in found] == [f"{i:06d}" for i in range(6)]


def name(folder: Path, number: int) -> Path:
    return next((folder / "samples").glob(f"*_{number:06d}.png"))


def doubled(folder: Path) -> None:
    picture(folder / "samples" / "a blue box_000003.PNG".replace("PNG", "png").replace("blue", "green"), 3)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: name(folder, 3).unlink(), "picture 3 is missing, though 5 is there"),
        (lambda folder: name(folder, 5).unlink(), "5 pictures are not 2 of each prompt"),
        (doubled, "picture 3 is there twice"),
        (
            lambda folder: name(folder, 3).rename(folder / "samples" / "a red box._000003.png"),
            "picture 3 is of",
        ),
        (
            lambda folder: picture(folder / "samples" / "grid.png", 1),
            "grid.png is not called PROMPT_000000.png",
        ),
        (lambda folder: shutil.rmtree(folder / "samples"), "is no folder of T2I-CompBench's pictures"),
    ],
)
def test_a_harmed_folder_of_t2i_compbench_is_refused_at_its_place(
    harm: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    folder = compbench_pictures(tmp_path / "mine", PROMPTS, 2)
    harm(folder)
    for lines in (None, LINES):
        with pytest.raises(UserError) as error:
            CompBench(FEW).find(folder, lines)
        assert said in str(error.value)
        assert "mine" in str(error.value)


def test_pictures_of_other_prompts_than_the_file_has_are_refused(tmp_path: Path) -> None:
    folder = compbench_pictures(tmp_path, PROMPTS, 2)
    for text in ("a Blue box", "a blue box."):
        changed = [LINES[0], Line("color", 1, text, {}), LINES[2]]
        with pytest.raises(
            UserError, match=r"prompt 1 is 'a blue box' there and .* from another version of it"
        ):
            CompBench(FEW).find(folder, changed)
    with pytest.raises(UserError, match="pictures of 3 prompts, the prompt file has 4"):
        CompBench(FEW).find(folder, [*LINES, Line("color", 3, "more", {})])
    with pytest.raises(UserError, match=r"prompt 2 is 'a red box.' there and 'nothing' in the prompt file"):
        CompBench(FEW).find(folder, LINES[:2])


def test_a_trial_takes_the_first_prompts_of_a_whole_folder(tmp_path: Path) -> None:
    folder = compbench_pictures(tmp_path, PROMPTS, 2)
    files = CompBench(asked("t2i_compbench", whole=False, per_prompt=2, categories=("color",), limit=2))
    for lines in (None, LINES[:2]):
        assert [one.line.number for one in files.find(folder, lines)] == [0, 0, 1, 1]


def test_without_the_prompt_file_the_number_of_prompts_is_held_to_the_benchmark(tmp_path: Path) -> None:
    folder = compbench_pictures(tmp_path, PROMPTS, 2)
    with pytest.raises(UserError, match="3 prompts of color, T2I-CompBench has 300"):
        CompBench(asked("t2i_compbench", per_prompt=2, categories=("color",))).find(folder, None)
    with pytest.raises(UserError, match=r"which category .* say benchmark.categories=\[color\]"):
        CompBench(asked("t2i_compbench", per_prompt=2, whole=False)).find(folder, None)


def test_the_category_of_bare_pictures_is_told_by_the_prompts(tmp_path: Path) -> None:
    folder = compbench_pictures(tmp_path, PROMPTS, 2)
    lines = [*LINES, Line("shape", 0, "a round box", {})]
    found = CompBench(asked("t2i_compbench", per_prompt=2, whole=False)).find(folder, lines)
    assert {one.line.category for one in found} == {"color"}


# -- GenEval -----------------------------------------------------------------------------------------------------------


def test_pictures_of_geneval_are_found_whatever_the_digits_of_their_names(tmp_path: Path) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", TASKS)
    folder = geneval_pictures(tmp_path / "mine", source)
    picture(folder / "00000" / "grid.png", 0)
    files = GenEval(GENEVAL)
    for lines in (None, files.lines(source)):
        found = files.find(folder, lines)
        assert [(one.line.number, one.number) for one in found] == [
            (i, n) for i in range(3) for n in range(4)
        ]
        assert [one.line.category for one in found[::4]] == ["single_object", "single_object", "colors"]


def another(folder: Path) -> None:
    path = folder / "00001" / "metadata.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt": "a photo of a cat"}))


@pytest.mark.parametrize(
    ("harm", "said", "alone"),
    [
        (lambda folder: shutil.rmtree(folder / "00001"), "prompt 1 is missing", True),
        (lambda folder: shutil.copytree(folder / "00001", folder / "1"), "prompt 1 is there twice", True),
        (lambda folder: (folder / "00001/samples/00002.png").unlink(), "picture 2 is missing", True),
        (lambda folder: (folder / "00001/samples/00003.png").unlink(), "3 pictures, and 4 of each", True),
        (lambda folder: picture(folder / "00001/samples/0003.png", 1), "picture 3 is there twice", True),
        (lambda folder: (folder / "00001/metadata.jsonl").unlink(), "metadata.jsonl is not there", True),
        (lambda folder: (folder / "00001/metadata.jsonl").write_text("{}"), "no line of GenEval's", True),
        (another, "these pictures were drawn from another version", False),
        (
            lambda folder: [shutil.rmtree(path) for path in folder.iterdir()],
            "is no folder of GenEval's",
            True,
        ),
    ],
)
def test_a_harmed_folder_of_geneval_is_refused_at_its_place(
    harm: Callable[[Path], None], said: str, alone: bool, tmp_path: Path
) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", TASKS)
    folder = geneval_pictures(tmp_path / "mine", source)
    harm(folder)
    files = GenEval(GENEVAL)
    for lines in ([None] if alone else []) + [files.lines(source)]:
        with pytest.raises(UserError) as error:
            files.find(folder, lines)
        assert said in str(error.value)
        assert "mine" in str(error.value)


def test_pictures_of_more_or_fewer_prompts_than_the_file_has_are_refused(tmp_path: Path) -> None:
    source = geneval(tmp_path / "evaluation_metadata.jsonl", TASKS)
    folder = geneval_pictures(tmp_path / "mine", source)
    files = GenEval(GENEVAL)
    lines = files.lines(source)
    with pytest.raises(UserError, match="prompt 2 is not in the prompt file"):
        files.find(folder, lines[:2])
    with pytest.raises(UserError, match=r"prompt 3 \('more'\) is missing"):
        files.find(folder, [*lines, Line("colors", 3, "more", {})])
    with pytest.raises(UserError, match="2 prompts of single_object, GenEval has 80"):
        GenEval(asked("geneval")).find(folder, None)
