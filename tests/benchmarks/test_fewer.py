"""The benchmark of fewer evaluations: its settings, its figures by hand; what is drawn once is not drawn again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.fewer import pools
from benchmarks.fewer.__main__ import main
from benchmarks.fewer.figures import chosen, difference, ranks
from benchmarks.fewer.pools import Pools, Setting, Where
from mitune.errors import UserError
from mitune.files import read_json


def test_settings_are_read_from_words() -> None:
    assert Setting.read("ddim:20").words == ("sampler=ddim", "sampler.steps=20")
    assert Setting.read("ddim0:9").words == ("sampler=ddim", "sampler.steps=9", "sampler.eta=0")
    assert Setting.read("dpmpp_2m:9:trailing@100-800^2.5").words == (
        "sampler=dpmpp_2m", "sampler.steps=9", "sampler.spacing=trailing", "sampler.guidance_interval=[100,800]",
        "generate.guidance=2.5",
    )  # fmt: skip
    found = {name: Setting.read(f"{name}:9").deterministic for name in ("ddim", "ddim0", "ddpm", "dpmpp_2m")}
    assert found == {"ddim": False, "ddim0": True, "ddpm": False, "dpmpp_2m": True}
    for text in ("ddim", "nope:9", "ddim:9@100", "ddim:nine"):
        with pytest.raises(UserError, match="a setting is SAMPLER:STEPS"):
            Setting.read(text)


def test_differences_winners_and_ranks_by_hand() -> None:
    base = pd.DataFrame(
        {
            "prompt_id": [*"aabb"], "candidate": [0, 1, 0, 1], "oracle": [0.0, 1.0, 0.5, 0.5],
            "elbo": [1.0, 2.0, 2.0, 1.0],
        }
    )  # fmt: skip
    own = base.assign(oracle=[0.5, 1.0, 0.5, 1.0])
    assert difference(own, base)["mean"] == pytest.approx(0.25)
    assert difference(base, base) == {"mean": 0.0, "ci95": [0.0, 0.0]}
    assert chosen(base, "elbo", 1)["oracle"].tolist() == [1.0, 0.5]
    # Of b the oracle tells no two candidates apart, so it has no rank there.
    assert ranks(base, ["elbo"])["elbo"]["mean"] == 1.0
    assert ranks(own, ["elbo"])["elbo"]["mean"] == 0.0


def test_a_pool_is_drawn_once_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [Setting.read("ddim:2"), Setting.read("dpmpp_2m:1")]
    where = Where("shapes", 2, 2, 2)

    def tables() -> dict[str, tuple[pd.DataFrame, float, float]]:
        own = Pools(where, ["llr", "oracle"], tmp_path, batch=2)
        return own.tables(settings, None, lambda _: None)

    first = tables()
    assert {name: (rows, scored) for name, (_, rows, scored) in first.items()} == {
        "ddim:2": (4.0, 0.0), "dpmpp_2m:1": (2.0, 0.0),
    }  # fmt: skip
    assert "llr" in first["ddim:2"][0]
    assert "llr" not in first["dpmpp_2m:1"][0]
    assert first["ddim:2"][0]["seed"].tolist() == first["dpmpp_2m:1"][0]["seed"].tolist()
    assert len(set(first["ddim:2"][0]["prompt_id"])) == 2

    for file in tmp_path.iterdir():  # the last line of each is half written
        file.write_text(file.read_text()[:-40])
    drawn = []
    real = pools.draw_unit
    monkeypatch.setattr(pools, "draw_unit", lambda unit, how: drawn.append(unit.index) or real(unit, how))  # type: ignore[func-returns-value]
    again = tables()
    assert drawn == [1, 1]
    for name, (table, *_) in again.items():
        pd.testing.assert_frame_equal(table, first[name][0])
    drawn.clear()
    tables()
    own = Pools(where, ["llr", "oracle"], tmp_path, batch=2)
    there = own.tables([*settings, Setting.read("ddim:3")], 0, lambda _: None)  # what is there, and no more
    assert [*there] == [*first]
    assert not drawn


def test_the_record_keeps_the_parts_that_are_left_out(tmp_path: Path) -> None:
    words = [
        "--prompts",
        "2",
        "--candidates",
        "2",
        "--guidance",
        "2",
        "--model",
        "shapes",
        "--setting",
        "dpmpp_2m:1",
    ]
    words += ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--pictures", "8"]
    assert main(["--only", "candidates", *words]) == 0
    before = read_json(tmp_path / "fewer.json")
    assert [row["setting"] for row in before["candidates"]] == ["ddim:20", "dpmpp_2m:1"]
    assert before["candidates"][1]["ratio"] == pytest.approx(1 / 20)
    assert main(["--only", "llr", *words]) == 0
    after = read_json(tmp_path / "fewer.json")
    assert after["candidates"] == before["candidates"]
    assert len(after["llr"]) > 0
    assert set(after["parts"]) == {"candidates", "llr"}
