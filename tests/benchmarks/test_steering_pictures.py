"""The benchmark of steered pictures runs, small, by every method; nothing is judged by so few pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.steering_pictures import ARMS, Arm, main
from mitune.files import read_json


def test_every_method_spends_the_same_rows(tmp_path: Path) -> None:
    arms = ["base:1", "best:2", "guidance:2@0.1", "das:2@0.1", "bootstrap:2@0.1", "llr:2@1"]
    small = ["--limit", "2", "--pictures", "2", "--steps", "3", "--batch", "8", "--out", str(tmp_path)]
    assert main([*small, "--arms", *arms]) == 0
    record = read_json(tmp_path / "steering_pictures.json")
    found = {row["method"]: row for row in record["methods"]}
    assert list(found) == arms
    assert {row["rows"] for name, row in found.items() if name != "base:1"} == {2 * 2 * 3}
    assert [name for name, row in found.items() if row["backward"]] == ["guidance:2@0.1", "das:2@0.1"]
    # Of two paths the better one by the CLIP is never below the first.
    assert found["best:2"]["clip"]["mean"] >= found["base:1"]["clip"]["mean"]
    assert found["best:2"]["oracle_over_best"]["mean"] == 0
    assert (tmp_path / "steering_pictures.png").read_bytes().startswith(b"\x89PNG")
    assert "| llr:2@1 |" in (tmp_path / "steering_pictures.md").read_text()


@pytest.mark.parametrize("text", ["das:8", "best:8@0.1", "magic:4@1", "das:@1", ""])
def test_what_is_no_method_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--arms", text])
    assert stopped.value.code == 2
    assert "a method is base:1" in capsys.readouterr().err
    assert [Arm.read(arm).name for arm in ARMS] == list(ARMS)
