"""The prompt files of public benchmarks, read as they are: line ends, duplicates, counts, lists; others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitune.errors import UserError
from mitune.evaluate.benchmarks.compbench import CompBench, check_name
from mitune.evaluate.benchmarks.geneval import GenEval
from tests.evaluate.benchmark_files import asked, attribute_prompts, compbench, geneval, metadata


def texts(files: Any, source: Path) -> list[str]:
    return [line.text for line in files.lines(source)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "END"])
def test_every_line_is_one_prompt_as_it_stands_whatever_the_line_ends(
    end: str, last: str, tmp_path: Path
) -> None:
    prompts = [
        *attribute_prompts(298),
        "a cañon  and a red  box",
        "a red box ",
    ]  # two blanks, a blank at the end
    compbench(tmp_path, {"color_val": prompts}, {"color_val": end})
    path = tmp_path / "color_val.txt"
    path.write_bytes(path.read_bytes() + (end.encode() if last else b""))
    found = CompBench(asked("t2i_compbench")).lines(tmp_path)
    assert [line.text for line in found] == prompts
    assert [(line.category, line.number) for line in found] == [("color", i) for i in range(300)]


def test_a_prompt_that_stands_twice_is_two_lines_whose_pictures_follow_each_other(tmp_path: Path) -> None:
    prompts = [*attribute_prompts(697), "a red box.", "a red box", "a red box."]
    compbench(tmp_path, {"color_train": prompts})
    found = CompBench(asked("t2i_compbench", "train")).lines(tmp_path)
    assert [line.before for line in found[-3:]] == [0, 0, 1]
    assert len(found) == 700
    assert found[-1].task.id == found[-3].task.id


def test_the_same_prompt_in_two_categories_gets_other_pictures_in_the_second(tmp_path: Path) -> None:
    own = attribute_prompts(300)
    compbench(tmp_path, {"color_val": own, "shape_val": own})
    found = CompBench(asked("t2i_compbench")).lines(tmp_path)
    assert {(line.category, line.before) for line in found} == {("color", 0), ("shape", 1)}


def test_the_repository_its_folder_and_one_file_say_the_same(tmp_path: Path) -> None:
    folder = compbench(
        tmp_path / "examples" / "dataset", {"color_val": attribute_prompts(300), "new_objects": ["x"]}
    )
    files = CompBench(asked("t2i_compbench"))
    assert texts(files, tmp_path) == texts(files, folder) == texts(files, folder / "color_val.txt")


def test_seen_and_unseen_words_are_the_head_and_the_end_of_the_held_out_file(tmp_path: Path) -> None:
    """Of color, color_val_unseen.txt is another list: it is not taken."""
    prompts = attribute_prompts(300)
    compbench(tmp_path, {"color_val": prompts, "color_val_unseen": attribute_prompts(100, "green")})
    for split, expected in (("val_seen", prompts[:200]), ("val_unseen", prompts[200:])):
        assert texts(CompBench(asked("t2i_compbench", split)), tmp_path) == expected


def test_the_other_list_of_unseen_colours_is_read_where_it_is_named_and_said_to_be_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compbench(tmp_path, {"color_val_unseen": attribute_prompts(100, "green")})
    found = texts(CompBench(asked("t2i_compbench", "val_unseen")), tmp_path / "color_val_unseen.txt")
    assert found == attribute_prompts(100, "green")
    assert "is not the end of color_val.txt" in capsys.readouterr().err


def test_prompts_of_complex_are_told_by_the_list_that_they_stand_in(tmp_path: Path) -> None:
    """Lists hold them in other cases, and up to the first full stop."""
    places = [f"The red box{i} is on the blue box." for i in range(58)]
    actions = [f"The cat{i} jumps. It is red." for i in range(212)]
    both = [f"The cat{i} on the box sleeps." for i in range(30)]
    compbench(
        tmp_path,
        {
            "complex_val": places + actions + both,
            "complex_val_spatial": [text.upper() for text in places],
            "complex_val_action": [f"the cat{i} jumps" for i in range(212)],
            "complex_val_spatialaction": both,
        },
    )
    found = CompBench(asked("t2i_compbench")).lines(tmp_path)
    assert [line.note["about"] for line in found] == ["spatial"] * 58 + ["action"] * 212 + ["both"] * 30
    (tmp_path / "complex_val_action.txt").unlink()
    with pytest.raises(UserError, match=r"complex_val_action\.txt is not there"):
        CompBench(asked("t2i_compbench")).lines(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda prompts: prompts[:299], "299 prompts of color, T2I-CompBench has 300: another version"),
        (lambda prompts: [*prompts, "one more"], "301 prompts of color"),
        (lambda prompts: [*prompts[:5], "", *prompts[6:]], "line 6 is empty"),
        (
            lambda prompts: ["a red/blue box", *prompts[1:]],
            "line 1: the prompt 'a red/blue box' cannot name its",
        ),
        (lambda prompts: ["a red_box", *prompts[1:]], "it holds '_'"),
        (lambda prompts: ["../a red box", *prompts[1:]], "cannot name its pictures"),
        (lambda prompts: ["x" * 245, *prompts[1:]], "it is too long"),
        (lambda prompts: [".a red box", *prompts[1:]], "it begins with '.'"),
        (lambda prompts: ["a \x1b[31mred box", *prompts[1:]], r"\\x1b"),
    ],
)
def test_a_file_of_another_version_or_with_what_cannot_be_a_name_is_refused(
    change: Callable[[list[str]], list[str]], said: str, tmp_path: Path
) -> None:
    compbench(tmp_path, {"color_val": change(attribute_prompts(300))})
    with pytest.raises(UserError) as error:
        CompBench(asked("t2i_compbench")).lines(tmp_path)
    assert said.replace("\\\\", "\\") in str(error.value)
    assert "color_val.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_longest_name_that_file_systems_take_is_taken() -> None:
    check_name("x" * (255 - len("_000000.png")), "here")
    with pytest.raises(UserError, match="too long"):
        check_name("é" * 123, "here")  # two bytes each


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing", "no color_val.txt"),
        ("prompts.txt", "is no prompt file of T2I-CompBench"),
        ("color_train.txt", "has the prompts of train; say benchmark.split=train"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, said: str, tmp_path: Path) -> None:
    compbench(tmp_path, {"prompts": ["x"], "color_train": ["x"]})
    with pytest.raises(UserError, match=said):
        CompBench(asked("t2i_compbench")).lines(tmp_path / source)


# -- GenEval -----------------------------------------------------------------------------------------------------------


def test_geneval_is_read_from_its_file_its_folder_or_its_repository(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    path = geneval(tmp_path / "prompts" / "evaluation_metadata.jsonl")
    files = GenEval(asked("geneval"))
    found = files.lines(path)
    assert len(found) == 553
    assert [line.number for line in found] == [*range(553)]
    assert found == files.lines(path.parent) == files.lines(tmp_path)
    assert files.beside(found[7]) == {"00007/metadata.jsonl": path.read_text().splitlines()[7]}


def test_a_part_of_geneval_keeps_the_numbers_of_the_whole(tmp_path: Path) -> None:
    path = geneval(tmp_path / "evaluation_metadata.jsonl")
    found = GenEval(asked("geneval", categories=("counting",), limit=2)).lines(path)
    assert [line.number for line in found] == [179, 180]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "it has no prompt"),
        ("{", "is not valid JSON"),
        (json.dumps(metadata("colors", 0) | {"tag": "colour"}), "its tag is 'colour'"),
        (json.dumps({"tag": "colors", "prompt": "x"}), "it has no list include"),
        (json.dumps(metadata("colors", 0) | {"include": [{"class": "dog"}]}), "no class with its count"),
        (
            json.dumps(metadata("colors", 0) | {"exclude": [{"class": "dog", "count": True}]}),
            "no class with its count",
        ),
        (
            json.dumps(
                metadata("colors", 0) | {"include": [{"class": "a", "count": 1, "position": ["above", 0]}]}
            ),
            "does not name an object before it",
        ),
    ],
)
def test_a_line_of_another_form_is_refused_by_its_number(line: str, said: str, tmp_path: Path) -> None:
    path = geneval(tmp_path / "evaluation_metadata.jsonl")
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], line]))
    with pytest.raises(UserError, match="line 553") as error:
        GenEval(asked("geneval")).lines(path)
    assert said in str(error.value)


def test_a_file_with_other_counts_is_another_version(tmp_path: Path) -> None:
    path = geneval(tmp_path / "evaluation_metadata.jsonl", {"single_object": 80, "counting": 79})
    with pytest.raises(UserError, match="0 prompts of two_object, GenEval has 99"):
        GenEval(asked("geneval")).lines(path)
    assert len(GenEval(asked("geneval", whole=False)).lines(path)) == 159
