"""``mitune edit``: pictures before and after, again after a kill, by two processes; mistakes in one line."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from mitune.files import read_json
from tests.cli import main

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
ONE = ("edit.source=a red circle and a blue square", "edit.target=a green circle and a blue square")
PAIRS = [
    {"source": "a red circle and a blue square", "target": "a green circle and a blue square"},
    {"source": "a red circle and a blue square", "target": "a big red circle and a blue square", "seed": 5},
    {"source": "a red circle", "phrase": "red", "weight": 3},
    {"source": "a red circle", "target": "a red star", "mode": "refine", "phrase": "star"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return f"edit.pairs={path}"


def contents(folder: Path) -> dict[str, bytes]:
    """What people are given, by name; of ``edit.json`` all but how long it took."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("before", "after", "masks")
        for path in sorted((folder / name).iterdir())
    }
    figures = {name: value for name, value in read_json(folder / "edit.json").items() if name != "seconds"}
    sheet = {"sheet.png": (folder / "sheet.png").read_bytes()}
    return found | sheet | {"edit.json": json.dumps(figures, sort_keys=True).encode()}


def test_an_edit_leaves_what_was_and_what_is(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("edit", *ONE, "edit.scorers=[elbo]", "scorer.elbo.times=1")) == 0
    folder = tmp_path / "run" / "edits" / "001"
    before, after, mask = (
        np.asarray(Image.open(folder / name / "000000.png"), dtype=float)
        for name in ("before", "after", "masks")
    )
    assert before.shape == after.shape
    assert set(np.unique(mask)) <= {0.0, 255.0}
    made = read_json(folder / "edit.json")
    assert (made["schema"], made["edits"], made["modes"], made["round"]) == (1, 1, {"replace": 1}, 0)
    (row,) = made["rows"]
    assert row["region"] == ["a red circle", "a green circle"]
    assert row["changed"] == pytest.approx((mask > 0).mean())
    assert made["means"]["elbo_before"] != made["means"]["elbo_after"]
    for name, text in (("before", row["source"]), ("after", row["target"])):
        data = load_dataset("imagefolder", data_dir=str(folder / name), split="train")
        assert data["text"] == [text]
    shown = capsys.readouterr().out
    assert "edited 1 pictures" in shown
    assert "elbo of the target" in shown
    # The picture that was edited is the one that sample draws.
    assert main(arguments("sample", "sample.prompt=a red circle and a blue square", "sample.pictures=1")) == 0
    drawn = np.asarray(
        Image.open(tmp_path / "run" / "samples" / "001" / "pictures" / "000000.png"), dtype=float
    )
    assert np.abs(drawn - before).max() <= 1


def test_a_table_of_edits_and_pictures_that_are_there(
    arguments: Arguments, pairs: str, tmp_path: Path
) -> None:
    assert main(arguments("edit", pairs, "edit.rows_per_unit=3")) == 0
    first = tmp_path / "run" / "edits" / "001"
    made = read_json(first / "edit.json")
    assert [row["mode"] for row in made["rows"]] == ["replace", "refine", "reweight", "refine"]
    assert made["rows"][1]["seed"] == 5
    again = {path: path.stat().st_mtime_ns for path in (first / "edited").iterdir()}
    assert main(arguments("edit", pairs, "edit.rows_per_unit=3")) == 0
    assert {path: path.stat().st_mtime_ns for path in again if "unit" in path.name} == {
        path: time for path, time in again.items() if "unit" in path.name
    }
    # A picture of it, followed back to its noise; another command, so another folder.
    shutil.copy(first / "before" / "000000.png", tmp_path / "mine.png")
    table = tmp_path / "more.csv"
    table.write_text(
        f"source,target,picture\n{PAIRS[0]['source']},{PAIRS[0]['target']},mine.png\n{PAIRS[2]['source']},a star,\n"
    )
    assert main(arguments("edit", f"edit.pairs={table}", "sampler.eta=0", "scorers=[mi]")) == 0
    made = read_json(tmp_path / "run" / "edits" / "002" / "edit.json")
    assert [row["picture"] is None for row in made["rows"]] == [False, True]
    assert made["rows"][0]["reconstruction"] >= 0
    assert made["rows"][1]["reconstruction"] is None


def test_a_killed_command_ends_as_the_uninterrupted_one(
    arguments: Arguments, run_command: Callable[..., Any], pairs: str, tmp_path: Path
) -> None:
    units = "edit.rows_per_unit=2"
    whole = run_command(arguments("edit", pairs, units, f"edit.out={tmp_path / 'whole'}"))
    assert whole.code == 0, whole.err
    for part, number in (("unit-000001", 3), ("sheet.png", 1)):
        killed = run_command(arguments("edit", pairs, units), kill=[part, number])
        assert killed.code == -signal.SIGKILL
    assert run_command(arguments("edit", pairs, units)).code == 0
    assert contents(tmp_path / "run" / "edits" / "001") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_edit_the_same(
    arguments: Arguments, run_by_two: Callable[[list[str]], Any], pairs: str, tmp_path: Path
) -> None:
    units = "edit.rows_per_unit=1"
    assert main(arguments("edit", pairs, units, f"edit.out={tmp_path / 'one'}")) == 0
    done = run_by_two(arguments("edit", pairs, units))
    assert done.code == 0, done.err
    assert contents(tmp_path / "one") == contents(tmp_path / "run" / "edits" / "001")


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        ([], ["edit.source=", "edit.pairs="]),
        (["edit.source= ", "edit.target=a"], ["edit.source= is empty"]),
        (["edit.source=a cat"], ["have the same words", "edit.mode=reweight"]),
        (["edit.source=a cat", "edit.target=a Cat"], ["have the same words"]),
        ([*ONE, "edit.pairs=x.csv"], ["edit.pairs and edit.source"]),
        ([*ONE, "edit.mode=swap"], ["edit.mode=swap", "replace"]),
        (["edit.source=a cat", "edit.target=a big cat", "edit.mode=replace"], ["number of words", "edit.mode=refine"]),
        ([*ONE, "edit.phrase=a dog"], ["'a dog' is not in the prompt"]),
        ([*ONE, "edit.weight=2"], ["edit.phrase= and edit.weight="]),
        ([*ONE, "edit.mode=refine", "edit.weight=2"], ["edit.weight=2", "edit.mode=reweight"]),
        ([*ONE, "edit.picture=nowhere.png", "sampler.eta=0", "scorers=[mi]"], ["nowhere.png"]),
        ([*ONE, "edit.picture={picture}"], ["edit.picture", "sampler.eta=0"]),
        ([*ONE, "edit.picture={picture}", "sampler.eta=0", "scorers=[mi]"], ["is no picture"]),
        ([*ONE, "edit.picture=x.png", "edit.picture_seed=3"], ["leave one of them out"]),
        ([*ONE, "edit.scorers=[llr]"], ["edit.scorers: llr", "llr_image"]),
        ([*ONE, "edit.cross_share=1.5"], ["edit.cross_share=1.5", "at most 1"]),
        (["edit.source=a " + "cat " * 300, "edit.target=a dog"], ["too long to edit", "shorten it"]),
        (["edit.pairs={table}"], ["has no column 'target'"]),
        (["edit.pairs={rows}"], ["edit 2", "weight is no number"]),
        (["edit.pairs={heavy}"], ["h.jsonl, edit 2", "edit.weight=1e+30", "at most 100"]),
        (["edit.pairs={phrases}"], ["p.jsonl, edit 2", "'a dog' is not in the prompt"]),
        (["edit.pairs={noisy}"], ["n.jsonl, edit 2", "sampler.eta=0"]),
        ([*ONE, "edit.round=3"], ["mitune train"]),
        ([*ONE, "sampler=das", "reward=clip"], ["search.by=das", "search.by=null"]),
        (["edit.source=\N{CAT}", "edit.target=\N{DOG}"], ["has no words to edit"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: Arguments, refused: Refused, tmp_path: Path, words: list[str], hints: list[str]
) -> None:
    places = {
        name: tmp_path / file
        for name, file in (("picture", "a.png"), ("table", "t.csv"), ("rows", "r.jsonl"))
    }
    places["picture"].write_text("no picture")
    places["table"].write_text("source,aim\na cat,a dog\n")
    rows: list[dict[str, Any]] = [
        {"source": "a", "target": "b"},
        {"source": "a", "target": "b", "weight": "much"},
    ]
    places["rows"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, bad in (
        ("heavy", {"phrase": "cat", "weight": 1e30}),
        ("phrases", {"phrase": "a dog"}),
        ("noisy", {"picture": "a.png"}),
    ):
        places[name] = tmp_path / f"{name[0]}.jsonl"
        own = [{"source": "a cat", "target": "a big cat", **more} for more in ({}, bad)]
        places[name].write_text("".join(json.dumps(row) + "\n" for row in own))
    line = refused(arguments("edit", *(word.format(**places) for word in words)))
    for hint in hints:
        assert hint in line


def test_models_that_cannot_be_edited_so_are_refused(
    arguments: Arguments, refused: Refused, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.families import tiny

    folder = tiny.instruct_pix2pix(tmp_path_factory.mktemp("ip2p"))
    assert "edits pictures by an instruction" in refused(arguments("edit", *ONE, f"model.path={folder}"))
    assert "model.compile=false" in refused(arguments("edit", *ONE, "model.compile=true"))


def test_what_somebody_else_put_there_stays(arguments: Arguments, refused: Refused, tmp_path: Path) -> None:
    own = f"edit.out={tmp_path / 'out'}"
    assert main(arguments("edit", *ONE, own)) == 0
    (tmp_path / "out" / "after" / "mine.txt").write_text("kept")
    assert "move it away" in refused(arguments("edit", *ONE, own))
    assert (tmp_path / "out" / "after" / "mine.txt").read_text() == "kept"


def test_another_table_has_a_folder_of_its_own_and_a_phrase_needs_no_target(
    arguments: Arguments, tmp_path: Path
) -> None:
    for number, weight in enumerate((2, 3), 1):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps({"source": "a red circle", "phrase": "red", "weight": weight}) + "\n")
        assert main(arguments("edit", f"edit.pairs={path}")) == 0
    edits = tmp_path / "run" / "edits"
    assert sorted(path.name for path in edits.iterdir()) == ["001", "002"]
    assert all((edits / name / "edit.json").exists() for name in ("001", "002"))


def test_units_of_another_size_are_said_to_be_that(arguments: Arguments, refused: Refused) -> None:
    assert main(arguments("edit", *ONE)) == 0
    line = refused(arguments("edit", *ONE, "edit.rows_per_unit=5"))
    assert "holds units of 32 edits (edit.rows_per_unit)" in line
