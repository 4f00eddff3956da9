"""The places that commands write to: what somebody else left there stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mitune.errors import UserError
from mitune.hub import folder as exports
from mitune.report.sweeps import check_place as check_sweep
from mitune.runs import RunFolder
from mitune.stages.sample import check_place as check_sample
from tests.cli import compose

Refused = Callable[[list[str]], str]


def test_sample_replaces_no_pictures_of_the_users(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_text("x")
    (tmp_path / "sheet.png").write_text("y")
    line = refused(["sample", f"sample.out={tmp_path}", f"run={tmp_path / 'run'}"])
    assert "pictures exists and was not written by mitune sample" in line
    assert not (tmp_path / "config.yaml").exists()
    assert (tmp_path / "pictures" / "holiday.jpg").read_text() == "x"
    assert (tmp_path / "sheet.png").read_text() == "y"


def test_a_run_may_lie_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    RunFolder(tmp_path).remember(compose())


def test_sample_knows_its_own_pictures(tmp_path: Path) -> None:
    check_sample(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "000000.png").write_text("")
    (pictures / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match="pictures exists and was not written by mitune sample"):
        check_sample(tmp_path)  # somebody else's imagefolder looks the same
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "plan.json").write_text("{}")
    (tmp_path / "sheet.png").write_text("")
    check_sample(tmp_path)
    (pictures / "holiday.jpg").write_text("")
    with pytest.raises(UserError, match=r"holiday\.jpg exists and was not written by mitune sample"):
        check_sample(tmp_path)


@pytest.mark.parametrize("name", ["sheet.png", "sample.json", "pictures"])
def test_sample_writes_over_no_file_of_the_users(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists and was not written"):
        check_sample(tmp_path)


def test_an_export_replaces_exports_only(tmp_path: Path) -> None:
    exports.check_place(tmp_path)
    (tmp_path / exports.PROVENANCE).write_text('{"by": "me"}')
    with pytest.raises(UserError, match="was not written by mitune export"):
        exports.check_place(tmp_path)
    (tmp_path / exports.PROVENANCE).write_text('{"schema": 1, "exported_by": {}}')
    exports.check_place(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt exists and was not written by mitune export"):
        exports.check_place(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a file"):
        exports.check_place(tmp_path / "pipe")


@pytest.mark.parametrize("end", ["md", "csv", "parquet", "png"])
def test_a_sweep_writes_over_no_table_of_the_users(end: str, tmp_path: Path) -> None:
    check_sweep(tmp_path)
    (tmp_path / f"table.{end}").write_text("mine")
    with pytest.raises(UserError, match=f"table.{end} exists and was not written by mitune"):
        check_sweep(tmp_path)
    table = pd.DataFrame({"job": ["a"], "round": [1], "status": ["done"]})
    table.to_parquet(tmp_path / "table.parquet")
    check_sweep(tmp_path)
