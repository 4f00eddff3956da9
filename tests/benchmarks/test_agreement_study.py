"""The agreement study, on a tiny random model: through the command line, with a record that stands alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.agreement.__main__ import PRESETS, main
from mitune.files import read_json
from tests.cli import compose


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset: str) -> None:
    config = compose(list(PRESETS[preset]))
    assert config.agree.scorers[-1] == "oracle"


def test_the_study_leaves_figures_table_and_plot(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\na blue square\na green star\n")
    main(
        [
            *("unguided", "--prompts", "3", "--candidates", "3"),
            *("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")),
            *(
                f"model.path={tiny_pipeline_folder}",
                "model.device=cpu",
                "prompts=file",
                f"prompts.source={prompts}",
            ),
            *("agree.scorers=[mi,elbo]", "scorer.elbo.times=1", "sampler.steps=2"),
        ]
    )
    record = read_json(tmp_path / "results" / "unguided.json")
    assert record["guidance"] == 1.0
    assert record["prompts"] == record["candidates"] == 3
    assert record["scores"]["mi"]["forwards"] == 0
    assert record["scores"]["elbo"]["forwards"] == 2
    assert {"machine", "versions", "git", "command"} <= record.keys()
    assert (tmp_path / "results" / "unguided.png").read_bytes().startswith(b"\x89PNG")
    assert "| `elbo` | 2 |" in (tmp_path / "results" / "unguided.md").read_text()


def test_an_unknown_preset_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gided"])
    assert "no preset gided" in capsys.readouterr().err
