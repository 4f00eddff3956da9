"""``mitune ls``: every preset, and every run with what it reached, whatever else lies there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.config import groups
from mitune.manual import named

Shown = Callable[[list[str]], str]


def test_it_lists_every_preset_with_a_line_and_the_runs(
    run: Path, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "sweeps" / "tried" / "select.k=1")
    text = shown(["ls"])
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    for name in named("experiment"):
        assert len(lines[name].split()) > 3, name
    assert {"mitune", "shapes"} <= {*named("experiment")} < {*groups()["experiment"]}  # without earlier names
    row = lines["runs/mine"]
    assert " done " in row
    assert " 2/2 " in row
    assert "mi " in row
    assert "(it chose)" in row
    assert "sweeps/tried/select.k=1" in lines


def test_runs_below_a_folder_are_listed_without_the_presets(run: Path, shown: Shown) -> None:
    text = shown(["ls", str(run.parent)])
    assert str(run) in text
    assert "shapes_full" not in text
    assert str(run) in shown(["ls", str(run)])


def test_damaged_and_foreign_folders_are_passed_over(run: Path, shown: Shown, tmp_path: Path) -> None:
    place = run.parent
    (place / "pictures").mkdir()
    (place / "pictures" / "config.yaml").write_text("not: ours\n")
    (place / "broken" / "round-1" / "done").mkdir(parents=True)
    (place / "broken" / "round-1" / "done" / "evaluate.json").write_text("[")
    (place / "broken" / "config.yaml").write_bytes(b"\xff\x00")
    (place / "piped" / "round-1").mkdir(parents=True)
    os.mkfifo(place / "piped" / "config.yaml")
    os.mkfifo(place / "piped" / ".lock")
    (place / "round").symlink_to(place)
    (place / "odd\x1b[31m" / "round-7" / "done").mkdir(parents=True)
    text = shown(["ls", str(place)])
    assert str(run) in text
    assert str(place / "broken") in text
    assert str(place / "piped") in text
    assert str(place / "pictures") not in text
    assert str(place / "round/") not in text
    assert "\x1b" not in text


def test_a_run_that_has_drawn_only_says_what_it_reached(run: Path, shown: Shown) -> None:
    shutil.rmtree(run / "round-2")
    for stage in ("select", "train", "evaluate"):
        (run / f"round-1/done/{stage}.json").unlink()
    text = shown(["ls", str(run)])
    assert "generate of round 1" in text
    assert "0/2" in text


def test_an_old_run_is_listed(old: Path, shown: Shown) -> None:
    assert "2/2" in shown(["ls", str(old.parent)])


def test_a_folder_without_runs_says_so_and_one_that_is_not_there_is_refused(
    tmp_path: Path, shown: Shown, refused: Callable[[list[str]], str]
) -> None:
    assert "no runs in" in shown(["ls", str(tmp_path)])
    assert "there is no folder" in refused(["ls", str(tmp_path / "no")])
    assert "one folder, or none" in refused(["ls", "a", "b"])
