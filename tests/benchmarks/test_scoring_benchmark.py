"""The benchmark of the score stage runs, on a handful of pictures, and writes its record; nothing is timed here."""

from __future__ import annotations

from pathlib import Path

from benchmarks.scoring import main
from mitune.files import read_json


def test_the_record_names_every_arm(tmp_path: Path) -> None:
    main(["--pictures", "3", "--batch", "2", "--repeats", "1", "--out", str(tmp_path)])
    record = read_json(tmp_path / "scoring.json")
    against = [entry["against"] for entry in record["comparisons"]]
    assert against == ["network and encoders", "network alone", "elbo alone"]
    assert record["settings"]["rows a picture"] == 16
    assert record["figures"][0]["value"] > 0
