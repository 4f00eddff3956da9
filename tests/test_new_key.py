"""A key is one field where the code reads it: one is added here, to a copy of the package, and is there everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tests.extended import ask, extend

FIELD = """class MIConfig(Settings):
    gain: float = key(1.0, "what mi is multiplied with", above=0, high=8, unit="times")
"""
RETURN = '    return PathMI(schedule, "paper", settings.t_min, settings.form or "square", "mi")\n'
READ = """    def scaled(result: Any) -> Any:
        return lambda: settings.gain * result()

    observer = PathMI(schedule, "paper", settings.t_min, settings.form or "square", "mi")
    observer.result = scaled(observer.result)  # type: ignore[method-assign]
    return observer
"""
SMALL = [
    "prompts.limit=1",
    "generate.candidates=2",
    "select.k=1",
    "sampler.steps=2",
    "scorers=[mi]",
    "select.by=mi",
]


def test_a_key_is_one_field_and_the_code_that_reads_it(tmp_path: Path) -> None:
    extend(
        tmp_path,
        {},
        {
            "information/catalogue.py": {"class MIConfig(Settings):\n": FIELD},
            "information/mi.py": {RETURN: READ},
        },
    )
    page, one, wrong, typo, schema, completed, plain, scaled = ask(
        tmp_path,
        [
            ["generate", "--help", "--all"], ["help", "scorer.mi.gain"], ["generate", "scorer.mi.gain=9"],
            ["generate", "scorer.mi.gian=2"], ["schema"], ["complete", "generate", "scorer.mi.g"],
            ["generate", *SMALL, "run=plain"], ["generate", *SMALL, "run=scaled", "scorer.mi.gain=4"],
        ],
    )  # fmt: skip
    (line,) = [line for line in page.out.splitlines() if "scorer.mi.gain" in line]
    assert (
        " ".join(line.split()) == "scorer.mi.gain=1.0 what mi is multiplied with (above 0, at most 8 times)"
    )
    assert "default: 1.0\n  allowed: above 0, at most 8 times\n" in one.out
    assert (wrong.code, wrong.err) == (2, "mitune: scorer.mi.gain=9.0: must be at most 8\n")
    assert typo.code == 2
    assert "scorer.mi.gain" in typo.err
    said = json.loads(schema.out)["properties"]["scorer"]["properties"]["mi"]["properties"]["gain"]
    assert (said["type"], said["exclusiveMinimum"], said["maximum"]) == ("number", 0, 8)
    assert completed.out == "scorer.mi.gain=\n"
    assert (plain.code, scaled.code) == (0, 0), (plain.err, scaled.err)
    first, second = (
        pd.concat(map(pd.read_parquet, sorted((tmp_path / name).rglob("*.parquet"))))["mi"]
        for name in ("plain", "scaled")
    )
    assert np.allclose(second, 4 * first)
