"""The candidate store: what a reader sees after any accident is whole units, in order, and nothing else."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mitune import digests, files
from mitune.data.prompts import make_prompt
from mitune.data.store import CandidateStore, Unit, plan_units
from mitune.errors import UserError
from mitune.tasks import Task


def prompts(n: int) -> list[Task]:
    return [make_prompt(f"a prompt, number {i}", "even" if i % 2 == 0 else "odd") for i in range(n)]


def content(unit: Unit, kept: int = 2) -> tuple[dict[str, Any], Tensor]:
    """A table and latents that depend on the unit alone; the first ``kept`` candidates of each prompt are kept."""
    generator = torch.Generator().manual_seed(unit.index)
    rows = unit.candidates()
    table = {
        "prompt_id": [p.id for p, _ in rows],
        "prompt": [p.text for p, _ in rows],
        "category": [p.category for p, _ in rows],
        "candidate": [n for _, n in rows],
        "seed": [2**62 + 1000 * unit.index + i for i in range(len(rows))],
        "kept": [n < kept for _, n in rows],
        "mi": torch.randn(len(rows), generator=generator),
        "llr": torch.randn(len(rows), generator=generator, dtype=torch.float64).tolist(),
    }
    return table, torch.randn(sum(table["kept"]), 4, 2, 2, generator=generator)  # type: ignore[arg-type]


def filled(folder: Path, n: int = 5, candidates: int = 3) -> tuple[CandidateStore, list[Unit]]:
    store, units = CandidateStore(folder), plan_units(prompts(n), candidates, 6)
    for unit in units:
        store.write_unit(unit, *content(unit))
    return store, units


@settings(deadline=None)
@given(n=st.integers(0, 30), candidates=st.integers(1, 9), rows=st.integers(1, 40))
def test_a_plan_has_every_prompt_once_in_units_of_whole_prompts(n: int, candidates: int, rows: int) -> None:
    all_prompts = prompts(n)
    units = plan_units(all_prompts, candidates, rows)
    assert [p for unit in units for p in unit.prompts] == all_prompts
    assert [unit.index for unit in units] == list(range(len(units)))
    for unit in units:
        assert unit.rows == len(unit.candidates()) <= max(rows, candidates)


def test_what_was_written_is_read_back_in_unit_order(tmp_path: Path) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(5), 3, 6)
    for unit in reversed(units):
        store.write_unit(unit, *content(unit))
    assert store.done() == {0, 1, 2}
    assert store.todo(units) == []
    table = store.table()
    assert table["prompt"].tolist() == [p.text for unit in units for p, _ in unit.candidates()]
    assert table["unit"].tolist() == [0] * 6 + [1] * 6 + [2] * 3
    assert table["seed"].tolist()[0] == 2**62
    assert table["mi"].dtype == "float64"
    expected = torch.cat([content(unit)[1] for unit in units])
    kept = table[table["kept"]]
    assert torch.equal(store.latents(kept), expected)
    assert torch.equal(store.latents(kept[::-1]), expected.flip(0))
    assert torch.equal(store.latents(kept.iloc[[3, 3, 0]]), expected[[3, 3, 0]])
    with pytest.raises(UserError, match="candidate 2 of prompt 'a prompt, number 0' was not kept"):
        store.latents(table)


def test_columns_asked_for_are_those_of_the_whole_table(tmp_path: Path) -> None:
    """Held to a table that is read unit by unit and put together in plain Python."""
    store, units = CandidateStore(tmp_path), plan_units(prompts(90), 3, 6)  # more files than wait one by one
    expected: list[dict[str, Any]] = []
    for unit in units:
        table, latents = content(unit, kept=1 + unit.index % 2)
        for name in ("mi", "llr"):
            table[name] = [float(value) for value in table[name]]
        table |= {"dropped_at": [None] * unit.rows, "race": [0.5] * unit.rows}
        table["dropped_at"][-1], table["mi"][-1], table["llr"][-1] = 3, None, None
        store.write_unit(unit, table, latents)
        count = 0
        for row in range(unit.rows - 1):
            own = {name: table[name][row] for name in table if name not in ("dropped_at", "race")}
            expected.append(own | {"unit": unit.index, "latent_row": count if own["kept"] else -1})
            count += own["kept"]
    whole = store.table()
    assert whole.to_dict("records") == expected
    assert store.columns() == [*whole.columns]
    for asked in (
        ["llr", "prompt_id"],
        ["latent_row"],
        ["unit", "kept"],
        ["candidate", "unit", "latent_row"],
        ["unit"],
    ):
        found = store.table(columns=[*asked, "no such score"])
        assert found.equals(whole[[name for name in whole.columns if name in asked]]), asked
    kept = store.table(kept=True, columns=["seed", "unit", "latent_row"])
    assert kept.equals(whole[whole["kept"]].reset_index(drop=True)[["seed", "unit", "latent_row"]])
    everything = store.table(dropped=True, columns=["dropped_at"])
    assert everything["dropped_at"].notna().sum() == len(units)
    assert len(everything) == len(whole) + len(units)


def test_the_broken_one_of_many_files_is_named(tmp_path: Path) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(80), 3, 6)
    for unit in units:
        store.write_unit(unit, *content(unit))
        # Of a version without digests: nothing tells before it is read.
        files.write_json(store.table_path(unit.index).with_suffix(".json"), {"forwards": 1, "seconds": 1.0})
    harmed = store.table_path(33)
    data = harmed.read_bytes()
    harmed.write_bytes(data[:4] + b"\xff" * 400 + data[404:])
    with pytest.raises(UserError, match=rf"{harmed} cannot be read .* makes it again"):
        store.table(columns=["prompt_id", "kept"])


def test_a_mark_takes_the_digests_that_units_noted(tmp_path: Path) -> None:
    store, units = filled(tmp_path / "candidates")
    store.bind(units)
    as_read = digests.note(sorted({*store.folder.glob("*")} - {*store.folder.glob("unit-*.json")}), tmp_path)
    assert store.digests(tmp_path, store.notes()) == as_read
    # Of a version without digests: the files are read.
    files.write_json(store.table_path(1).with_suffix(".json"), {"forwards": 1, "seconds": 1.0})
    assert store.digests(tmp_path, store.notes()) == as_read


def test_a_unit_without_its_table_was_never_written(tmp_path: Path) -> None:
    store, units = filled(tmp_path)
    whole = store.table()
    store.table_path(1).unlink()
    assert store.done() == {0, 2}
    assert store.todo(units) == [units[1]]
    assert set(store.table()["unit"]) == {0, 2}
    store.write_unit(units[1], *content(units[1]))
    assert store.table().equals(whole)


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_latents_cut_short_without_a_table_do_not_matter(tmp_path: Path, cut: int) -> None:
    store, units = filled(tmp_path)
    store.table_path(1).unlink()
    path = store.latents_path(1)
    path.write_bytes(path.read_bytes()[:cut])
    assert store.done() == {0, 2}
    store.write_unit(units[1], *content(units[1]))
    table = store.table()
    assert torch.equal(store.latents(table[table["kept"] & (table["unit"] == 1)]), content(units[1])[1])


@pytest.mark.parametrize("harm", ["gone", "cut", "table cut", "table empty"])
def test_a_unit_that_was_harmed_later_is_made_again(tmp_path: Path, harm: str) -> None:
    store, _ = filled(tmp_path)
    path = store.table_path(1) if harm.startswith("table") else store.latents_path(1)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if harm.endswith("empty") else -7])
    assert store.done() == {0, 2}


def test_a_kill_between_the_two_files_leaves_the_unit_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(2), 3, 6)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mitune.data.store.write_unit", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write_unit(units[0], *content(units[0]))
    assert store.latents_path(0).exists()
    assert store.done() == set()
    with pytest.raises(UserError, match="run the generate stage first"):
        store.table()


def test_half_written_files_are_cleaned_and_never_read(tmp_path: Path) -> None:
    store, units = filled(tmp_path)
    before = store.table()
    for name in ("abc", "unit-000009.parquet"):
        (tmp_path / f"{files.PARTIAL}{name}").write_bytes(b"half")
    (tmp_path / "unit-copy.parquet").write_bytes(b"somebody's own")
    assert store.table().equals(before)
    store.clean()
    assert not list(tmp_path.glob(f"{files.PARTIAL}*"))
    assert store.table().equals(before)
    assert store.done() == {unit.index for unit in units}


def test_writing_a_unit_touches_no_other_file(tmp_path: Path) -> None:
    store, units = filled(tmp_path)
    others = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in tmp_path.iterdir()
        if "000001" not in path.name
    }
    store.write_unit(units[1], *content(units[1]))
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in others} == others


def test_nothing_kept_needs_no_latents(tmp_path: Path) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(2), 3, 6)
    table, _ = content(units[0], kept=0)
    store.write_unit(units[0], table, None)
    assert store.done() == {0}
    assert not store.latents_path(0).exists()
    assert (store.table()["latent_row"] == -1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_named_and_nothing_written(tmp_path: Path, value: float) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(2), 3, 6)
    table, latents = content(units[0])
    table["llr"][4] = value
    with pytest.raises(
        UserError, match=f"score 'llr' is {value} for candidate 1 of prompt 'a prompt, number 1'"
    ):
        store.write_unit(units[0], table, latents)
    assert store.done() == set()
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_does_not_fit_its_unit_is_refused(tmp_path: Path) -> None:
    store, units = CandidateStore(tmp_path), plan_units(prompts(4), 3, 6)
    table, latents = content(units[0])
    with pytest.raises(ValueError, match="3 latents given"):
        store.write_unit(units[0], table, latents[:3])
    with pytest.raises(ValueError, match="not those of its prompts"):
        store.write_unit(units[1], table, latents)
    with pytest.raises(ValueError, match="no column seed"):
        store.write_unit(
            units[0], {name: column for name, column in table.items() if name != "seed"}, latents
        )
    with pytest.raises(ValueError, match="different lengths"):
        store.write_unit(units[0], {**table, "mi": table["mi"][:2]}, latents)
    twice = {**table, "candidate": [0, 0, 2, 0, 1, 2]}
    with pytest.raises(ValueError, match="not those of its prompts"):
        store.write_unit(units[0], twice, latents)


def test_prompts_never_become_paths(tmp_path: Path) -> None:
    evil = [
        make_prompt(text) for text in ("../../etc/passwd", "a/b\x00c", "C:\\con", "'; rm -rf *", "é" * 400)
    ]
    store = CandidateStore(tmp_path / "store")
    for unit in plan_units(evil, 2, 4):
        store.write_unit(unit, *content(unit))
    assert store.table()["prompt"].tolist() == [p.text for p in evil for _ in range(2)]
    assert {path.name.split(".")[0] for path in store.folder.iterdir()} == {
        f"unit-00000{i}" for i in range(3)
    }
    assert list(tmp_path.iterdir()) == [store.folder]


def test_a_folder_belongs_to_one_plan(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.bind(plan_units(prompts(4), 3, 6))
    store.bind(plan_units(prompts(4), 3, 6))
    for other in (
        plan_units(prompts(5), 3, 6),
        plan_units(prompts(4), 2, 6),
        plan_units(prompts(4)[::-1], 3, 6),
    ):
        with pytest.raises(UserError, match="other prompts or of another number of candidates"):
            store.bind(other)


def test_no_candidates_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="candidates=0"):
        plan_units(prompts(2), 0, 6)
    with pytest.raises(UserError, match="run the generate stage first"):
        CandidateStore(tmp_path / "absent").table()


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors", ".json"])
def test_a_flipped_bit_anywhere_in_a_unit_is_seen(tmp_path: Path, suffix: str) -> None:
    store, units = filled(tmp_path)
    path = store.table_path(1).with_suffix(suffix)
    data = path.read_bytes()
    for place in sorted({*range(0, len(data), max(1, len(data) // 40)), len(data) - 2}):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert store.done() == {0, 2}, place
        assert store.look().harmed == {1}
    path.write_bytes(data)
    assert store.done() == {0, 1, 2}
    assert store.todo(units) == []


def test_readers_get_all_units_of_the_plan_or_none(tmp_path: Path) -> None:
    store, units = filled(tmp_path)
    store.bind(units)
    store.latents_path(2).unlink()
    for harmed in (2, 1):
        store.table_path(harmed).unlink()
        with pytest.raises(UserError, match=f"unit-00000{harmed}.parquet is missing"):
            store.table()
    assert set(store.table(partial=True)["unit"]) == {0}
    assert store.missing() == [store.table_path(1), store.table_path(2)]
    store.table_path(0).write_bytes(b"")
    with pytest.raises(UserError, match=r"unit-000000.parquet is damaged.*and 2 more of 3"):
        store.table()


@pytest.mark.parametrize(
    "plan", ["[]", "{}", '{"units": 3, "rows": 2}', '{"units": 1e999, "rows": 2}', '{"units": -1, "rows": 9}']
)
def test_a_damaged_plan_is_named(tmp_path: Path, plan: str) -> None:
    store, _ = filled(tmp_path)
    (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        store.table()


def test_units_of_a_version_without_digests_are_known_by_their_size(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    for index in range(3):
        files.write_json(store.table_path(index).with_suffix(".json"), {"forwards": 1, "seconds": 1.0})
    assert store.look().old
    assert store.done() == {0, 1, 2}
    path = store.latents_path(1)
    path.write_bytes(path.read_bytes()[:-1])
    assert store.done() == {0, 2}


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_what_cannot_be_read_of_a_unit_without_digests_is_named(tmp_path: Path, suffix: str) -> None:
    store, _ = filled(tmp_path, n=1)
    rows = store.table().head(1)
    path = store.table_path(0)
    path.with_suffix(".json").write_text('{"forwards": 1, "seconds": 1.0}')
    harmed = path.with_suffix(suffix)
    data = harmed.read_bytes()
    harmed.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    with pytest.raises(UserError, match=rf"{harmed} cannot be read .* makes it again"):
        store.latents(rows) if suffix == ".safetensors" else store.table()


@pytest.mark.parametrize("removed", range(4))
def test_batches_never_outlast_the_plan_that_fixed_their_settings(
    removed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while a plan is let go of, after so many files."""
    store, units = CandidateStore(tmp_path), plan_units(prompts(2), 3, 6)
    store.bind(units)
    (tmp_path / "model.json").write_text("{}")
    store.begun_path(0).write_bytes(b"of before")
    left, unlink = [removed], Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", dying)
    with contextlib.suppress(KeyboardInterrupt):
        store.unbind()
    monkeypatch.undo()
    assert (tmp_path / "plan.json").exists() or not [*tmp_path.iterdir()]


def test_a_new_plan_takes_up_no_batches_of_another(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path)
    store.begun_path(0).write_bytes(b"of before")
    store.bind(plan_units(prompts(2), 3, 6))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
