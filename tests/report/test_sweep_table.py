"""The table of a sweep: every run, every round, harmless cells."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mitune.report.sweeps import collect, plot, write_sweep
from tests.cli import compose, main


def entry(number: int, before: float, after: float, score: str = "oracle") -> dict[str, Any]:
    return {
        "round": number,
        "generate": {"forwards": 100, "seconds": 1.5},
        "select": {"oracle_pool": 0.5, "oracle_kept": 0.6, "oracle_best": 0.7},
        "train": {"loss": 0.25, "forwards": 10, "seconds": 0.5},
        "evaluate": {
            "before": {"all": {score: before, "n": 4, "ci95": {score: [before - 0.1, before + 0.1]}}},
            "after": {"all": {score: after, "n": 4, "ci95": {score: [after - 0.1, after + 0.1]}}},
            "difference": {
                "all": {
                    score: {
                        "before": before,
                        "after": after,
                        "difference": after - before,
                        "ci95": [-0.05, 0.2],
                    },
                    "n": 4,
                }
            },
            "forwards": 8,
            "seconds": 1.0,
        },
    }


def put(
    folder: Path,
    values: dict[str, str] | None,
    rounds: list[dict[str, Any]] | None,
    code: int = 0,
    line: str = "",
) -> None:
    folder.mkdir(parents=True)
    if values is not None:
        (folder / "sweep.json").write_text(json.dumps({"values": values, "code": code, "line": line}))
    if rounds is not None:
        (folder / "summary.json").write_text(json.dumps({"schema": 1, "rounds": rounds}))


def test_a_row_for_each_round_of_each_job(tmp_path: Path) -> None:
    put(tmp_path / "a", {"select.k": "1"}, [entry(1, 0.5, 0.6), entry(2, 0.5, 0.65)])
    put(tmp_path / "b", {"select.k": "10"}, [entry(1, 0.5, 0.55)])
    put(tmp_path / "c", {"select.k": "3"}, None, 2, "the disk is full")
    table = collect(tmp_path)
    assert table["select.k"].tolist() == [1, 1, 10, 3]  # numbers, as all are
    assert table["round"].tolist()[:3] == [1, 2, 1]
    assert table["status"].tolist() == ["done", "done", "done", "failed: the disk is full"]
    first = table.iloc[0]
    assert first["oracle_before"] == 0.5
    assert (first["oracle_before_low"], first["oracle_before_high"]) == pytest.approx((0.4, 0.6))
    assert first["oracle_gain"] == pytest.approx(0.1)
    assert (first["oracle_gain_low"], first["oracle_gain_high"]) == (-0.05, 0.2)
    assert (first["oracle_pool"], first["oracle_kept"], first["oracle_best"]) == (0.5, 0.6, 0.7)
    assert (first["forwards"], first["seconds"], first["loss"]) == (118, 3.0, 0.25)
    assert table.iloc[3]["oracle_gain"] is None or pd.isna(table.iloc[3]["oracle_gain"])


def test_it_is_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "a", {"adapter": "dora"}, [entry(1, 0.5, 0.6)])
    put(tmp_path / "b", {"adapter": "lora"}, [entry(1, 0.5, 0.45)])
    assert main(["sweep-table", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    lines = (tmp_path / "table.md").read_text().splitlines()
    for text in (shown, lines[2]):
        assert "dora" in text
        assert "0.500 [0.400, 0.600]" in text
        assert "+0.100 [−0.050, +0.200]" in text
    assert len(lines) == 4
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    for read in (pd.read_csv(tmp_path / "table.csv"), pq.read_table(tmp_path / "table.parquet").to_pandas()):
        assert read["adapter"].tolist() == ["dora", "lora"]
        assert read["oracle_gain"].tolist() == pytest.approx([0.1, -0.05])
    assert Image.open(tmp_path / "table.png").size[0] > 300


def test_values_are_text_and_nothing_else(tmp_path: Path) -> None:
    odd = '=HYPERLINK("http://x") | <b>\n[red]a$x^2$ \x1b[31m'
    put(tmp_path / "a", {"prompts.source": odd}, [entry(1, 0.5, 0.6, "$\\frac{mi}$|x")], 2, odd)
    write_sweep(tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert len(text.splitlines()) == 3
    for part in ("<b>", "\x1b", "[red]", "http://"):
        assert part not in text
    rows = text.splitlines()
    assert rows[0].count("|") == rows[2].count("|")
    cell = pd.read_csv(tmp_path / "table.csv")["prompts.source"][0]
    assert cell == "'" + odd
    assert Image.open(io.BytesIO(plot(collect(tmp_path)))).format == "PNG"


def test_runs_without_a_sweep_differ_by_their_configurations(tmp_path: Path) -> None:
    for name, overrides in (("one", ["seed=1"]), ("two", ["seed=2", "train.lr=0.5", "name=other"])):
        put(tmp_path / name, None, [entry(1, 0.5, 0.6)])
        (tmp_path / name / "config.yaml").write_text(OmegaConf.to_yaml(compose(overrides)))
    table = collect(tmp_path)
    assert list(table.columns)[:4] == ["job", "seed", "train.lr", "round"]
    assert table["seed"].tolist() == [1, 2]


def test_a_run_that_is_not_finished_shows_what_it_has(tmp_path: Path) -> None:
    put(tmp_path / "a", {"adapter": "dora"}, None)
    for stage, figures in (
        ("generate", {"forwards": 7, "seconds": 1.0}),
        ("train", {"loss": 0.5, "seconds": 1.0}),
    ):
        path = tmp_path / "a" / "round-1" / "done" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures))
    table = write_sweep(tmp_path)
    assert table[["round", "loss", "forwards"]].iloc[0].tolist() == [1, 0.5, 7]
    assert not (tmp_path / "table.png").exists()


def test_what_is_no_sweep_is_refused(tmp_path: Path, refused: Any) -> None:
    assert "no folder" in refused(["sweep-table", str(tmp_path / "nowhere")])
    assert "holds no run" in refused(["sweep-table", str(tmp_path)])
    assert "give the folder" in refused(["sweep-table"])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "summary.json").write_text("[]")
    assert "no summary" in refused(["sweep-table", str(tmp_path)])
    (tmp_path / "a" / "summary.json").write_text('{"rounds": [{"evaluate": {}}]}')
    assert "not made by this version" in refused(["sweep-table", str(tmp_path)])
