"""The quality benchmark, run whole on a handful of prompts of the embedded world: arms share one pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import common, quality
from mitune.files import read_json

SMALL = (
    "prompts.limit=4 generate.candidates=3 select.k=1 sampler.steps=2 train.steps=2 train.batch_size=4 adapter.rank=2 "
    "scorer.contrast.edits=2 scorer.contrast.times=1 evaluate.prompts.limit=3 evaluate.candidates=2"
)


@pytest.mark.slow
def test_the_arms_share_their_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    quality.main(["shapes", *SMALL.split(), "--runs", str(tmp_path / "runs"), "--controls", "oracle"])
    record = read_json(tmp_path / "results" / "quality-shapes.json")
    own, oracle = (record["arms"][name]["rounds"][0] for name in ("z(contrast)+z(elbo)", "oracle"))
    assert own["pool"] == oracle["pool"]
    assert own["before"] == oracle["before"]
    assert oracle["winners"] == oracle["best"] >= own["winners"]
    assert own["fidelity"]["before"] == oracle["fidelity"]["before"] != own["fidelity"]["after"]
    assert {"machine", "versions", "git"} <= record.keys()
    folders = [tmp_path / "runs" / name / "round-1" / "candidates" for name in ("shapes", "shapes-oracle")]
    one, two = (sorted(path.name for path in folder.iterdir()) for folder in folders)
    assert one == two
