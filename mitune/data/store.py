"""The candidate store: what ``generate`` made, unit by unit, so that a killed run loses one unit at most.

A unit is a parquet table of all its candidates (seeds and scores), a safetensors file with the latents of those kept,
and a note of what it took and of the digests of both (:mod:`mitune.digests`). Tensors are written first, the table
last: the table is the commit mark. Files are named by the unit's number, never by a prompt. A unit whose files are not
as they were written counts as not made, and readers get all units of the plan or none.

Where candidates raced (:mod:`mitune.sampling.racing`), the files hold those that were dropped too: ``dropped_at`` is
the number of steps such a one had taken, ``race`` what it was last ranked by, and its scores are null, as what it had
by then cannot be compared with a finished one's. Readers of the store get finished candidates, unless they ask for
all: one that was dropped is never selected.

Where scores were measured in passes (:mod:`mitune.information.in_passes`), ``left_after`` is the number of passes
after which a candidate had left the race. What it had by then is no score either, so its scores by passes are null; all
else of it is there, and readers get it. It is never selected by a score that it has not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
from torch import Tensor

from mitune.digests import note, units_as_noted, whole_unit, write_unit
from mitune.errors import UserError
from mitune.files import clean_partial, read_json, user_errors, write_json, write_tensors
from mitune.reading import reading
from mitune.tasks import Task
from mitune.threads import side_by_side

KEYS = ("prompt_id", "prompt", "category", "candidate", "seed", "kept")
_TYPES = {
    "prompt_id": pa.string(),
    "prompt": pa.string(),
    "category": pa.string(),
    "candidate": pa.int64(),
    "seed": pa.int64(),
    "kept": pa.bool_(),
}
_TEXTS = [name for name, kind in _TYPES.items() if kind == pa.string()]
# Of candidates that raced: steps taken by one that was dropped (null: it finished), and what it was last ranked by.
RACE = ("dropped_at", "race")
_RACE_TYPES = {"dropped_at": pa.int64(), "race": pa.float64()}
# Of candidates scored in passes: after how many of them one left the race (null: it has its scores).
LEFT = "left_after"
# Of candidates that were steered as one population: which of its first particles each descends from.
ROOT = "root"
# Of candidates that were made from a picture: that picture (``PictureRef``).
PICTURE = "picture"
# Where a candidate lies: the number of its unit, and its place among the latents that this kept (-1: none).
UNIT, LATENT_ROW = "unit", "latent_row"
_SIZE = b"mitune.latents_bytes"
_AGAIN = "delete it, and the command that drew these candidates makes it again"
MOST = 10_000_000  # pictures of one plan: beyond that a number was mistyped


@dataclass(frozen=True)
class Unit:
    """A unit holds the prompts whose candidates are made together and committed together.

    >>> [unit.rows for unit in plan_units([Task.of(text) for text in "abc"], 4, rows_per_unit=8)]
    [8, 4]
    """

    index: int
    prompts: tuple[Task, ...]
    candidates_per_prompt: int

    @property
    def rows(self) -> int:
        return len(self.prompts) * self.candidates_per_prompt

    def candidates(self) -> list[tuple[Task, int]]:
        """Give every (prompt, candidate number) of the unit, prompt by prompt."""
        return [(prompt, number) for prompt in self.prompts for number in range(self.candidates_per_prompt)]


def plan_units(prompts: Sequence[Task], candidates: int, rows_per_unit: int) -> list[Unit]:
    """Cut ``prompts`` into units of whole prompts, about ``rows_per_unit`` rows each (at least one prompt).

    The plan knows nothing of processes: the same units come out on one machine and on sixty-four.
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: at least one candidate a prompt is needed")
    if len(prompts) * candidates > MOST:
        raise UserError(
            f"{len(prompts)} prompts with {candidates} candidates each are {len(prompts) * candidates} pictures, more"
            f" than the {MOST} of one run; lower the candidates, or the prompts by prompts.limit="
        )
    size = max(1, rows_per_unit // candidates)
    chunks = [tuple(prompts[start : start + size]) for start in range(0, len(prompts), size)]
    return [Unit(index, chunk, candidates) for index, chunk in enumerate(chunks)]


@dataclass(frozen=True)
class Look:
    """Says what was seen of the units that have a table: which are ``whole``, which are ``harmed``, and whether any is
    of a version that kept no digests (``old``)."""

    whole: frozenset[int]
    harmed: frozenset[int]
    old: bool


def find_store(folder: Path) -> CandidateStore | None:
    """Find the candidates in ``folder``, or in its ``candidates``: of a round, or of a study. None where there are
    none.
    """
    places = (folder, folder / "candidates")
    return next((CandidateStore(place) for place in places if (place / "plan.json").exists()), None)


def _plan(units: Sequence[Unit]) -> dict[str, Any]:
    """What ``plan.json`` says of a plan."""
    digest = hashlib.sha256()
    for unit in units:
        digest.update(f"{unit.index} {unit.candidates_per_prompt} {[p.id for p in unit.prompts]}\n".encode())
    return {"units": len(units), "rows": sum(unit.rows for unit in units), "sha256": digest.hexdigest()}


class CandidateStore:
    """A store keeps the candidates of a generate stage in ``folder``. Many processes may write, each its own units.

    >>> store, units = CandidateStore(folder), plan_units([Task.of("a red circle")], 4, 8)
    >>> store.bind(units)
    >>> store.todo(units) == units
    True
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def table_path(self, index: int) -> Path:
        return self.folder / f"unit-{index:06d}.parquet"

    def latents_path(self, index: int) -> Path:
        return self.folder / f"unit-{index:06d}.safetensors"

    def begun_path(self, index: int) -> Path:
        """Name the file of the finished batches of a unit that is not finished (:mod:`mitune.stages.begun`)."""
        return self.folder / f"begun-{index:06d}.safetensors"

    def clean(self) -> None:
        """Remove what killed processes left half-written. Call it on one process, before any writes."""
        clean_partial(self.folder)

    def bind(self, units: Sequence[Unit]) -> None:
        """Bind the folder to this plan, so that units of another plan are never mixed in.

        Raises UserError if candidates of other prompts, or another number of them, are already there.
        """
        plan = _plan(units)
        path = self.folder / "plan.json"
        if not path.exists():
            self._forget_begun()  # of another plan, or of settings that nothing fixes any more
            write_json(path, plan)
        elif read_json(path) != plan:
            raise UserError(
                f"{self.folder} holds candidates of other prompts or of another number of candidates;"
                " choose another run= folder, or delete this one"
            )

    def holds(self, units: Sequence[Unit]) -> bool:
        """Tell whether the folder is bound to this plan. Raises UserError for a plan that cannot be read."""
        found: bool = read_json(self.folder / "plan.json") == _plan(units)
        return found

    def unbind(self) -> None:
        """Let go of a plan of which no unit was made. Call it on one process, while no other writes."""
        if not self._tables():
            self._forget_begun()
            # The plan fixes the settings that the rest was made with: it goes last, whatever comes between.
            for name in ("model.json", "plan.json"):
                (self.folder / name).unlink(missing_ok=True)

    def begun(self) -> bool:
        """Tell whether there are finished batches of a unit that is not finished."""
        return any(self.folder.glob("begun-*"))

    def _forget_begun(self) -> None:
        for path in self.folder.glob("begun-*"):
            with user_errors(path):
                path.unlink(missing_ok=True)

    def _tables(self) -> set[int]:
        found = (self._index(path) for path in self.folder.glob("unit-*.parquet"))
        return {index for index in found if index is not None}

    def look(self) -> Look:
        """Look at all units that have a table, once: their files are read, a shared folder's side by side."""
        indices = sorted(self._tables())
        found = side_by_side(self._state, indices)
        states = dict(zip(indices, found, strict=True))
        return Look(
            frozenset(index for index, (whole, _) in states.items() if whole),
            frozenset(index for index, (whole, _) in states.items() if not whole),
            any(old for _, old in found),
        )

    def done(self) -> set[int]:
        """Give the units that are wholly on disk. One of which a file is missing, cut or changed is not."""
        return set(self.look().whole)

    def planned(self) -> set[int]:
        """Give the units of the plan; those there are where there is no plan. Raises UserError if that is damaged."""
        path = self.folder / "plan.json"
        if not path.exists():
            return self._tables()
        plan = read_json(path)
        plan = plan if isinstance(plan, dict) else {}
        units, rows = plan.get("units"), plan.get("rows")
        # No unit is without a row: a number of units that cannot be is seen before as many are looked for.
        if type(units) is not int or type(rows) is not int or not 0 <= units <= rows:
            raise UserError(f"{path} is damaged; delete it and run the stage again")
        return set(range(units))

    def missing(self) -> list[Path]:
        """Give the tables of planned units that are not wholly on disk."""
        return [self.table_path(index) for index in sorted(self.planned() - self.done())]

    def notes(self) -> list[dict[str, Any]]:
        """Give what the units of the plan took, as they noted it, in their order. Raises UserError for one without."""
        paths = [self.table_path(index).with_suffix(".json") for index in sorted(self.planned())]
        return side_by_side(read_json, paths)

    def digests(self, root: Path, notes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """{path below ``root``: digest} of what makes up the store: the plan, the model's identity, the tables and
        latents. ``notes``: of all units, which say theirs."""
        tables = [self.table_path(index) for index in sorted(self.planned())]
        own = note([self.folder / "plan.json", self.folder / "model.json"], root)
        return own | units_as_noted(tables, notes, root)

    def todo(self, units: Iterable[Unit]) -> list[Unit]:
        """Give the units that are yet to be made."""
        done = self.done()
        return [unit for unit in units if unit.index not in done]

    @staticmethod
    def _index(path: Path) -> int | None:
        number = path.stem.removeprefix("unit-")
        return int(number) if number.isdigit() else None

    def _state(self, index: int) -> tuple[bool, bool]:
        """Whether a unit is as it was written, and whether it is of a version that noted its size alone."""
        whole = whole_unit(self.table_path(index))
        if whole is not None:
            return whole, False
        try:
            metadata = pq.read_schema(self.table_path(index)).metadata or {}
            size = int(metadata[_SIZE])
            return size == 0 or self.latents_path(index).stat().st_size == size, True
        except (OSError, ValueError, KeyError):
            return False, True

    def write_unit(
        self,
        unit: Unit,
        table: Mapping[str, Sequence[Any]],
        latents: Tensor | None,
        cost: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit a unit.

        Args:
            unit: what the rows belong to; a candidate may be absent (a particle that died), a prompt may not.
            table: columns of equal length: those of ``KEYS`` and one of floats per scorer, higher = better; where they
                raced those of ``RACE`` too, and None for every score of a candidate that was dropped; where they were
                scored in passes ``LEFT``, and None for some scores of one that left.
            latents: [number of rows with ``kept``, ...] in row order, or None when none is kept.
            cost: what the unit took, for its note.

        Raises:
            UserError: a score is not finite (names scorer, prompt and candidate), or the disk refuses.
            ValueError: columns or latents do not fit the unit, or a candidate that was dropped has a score or a latent.
        """
        self._check(unit, table, latents)
        scorers = [name for name in table if name not in KEYS]
        types = _TYPES | _RACE_TYPES | {ROOT: pa.int64(), PICTURE: pa.string(), LEFT: pa.int64()}
        arrays = {
            name: pa.array(_plain(table[name]), type=types.get(name, pa.float64()))
            for name in (*KEYS, *scorers)
        }
        size, beside = 0, {}
        if latents is not None and len(latents):
            path = self.latents_path(unit.index)
            data = write_tensors(path, {"latents": latents})
            size, beside = len(data), {path.name: hashlib.sha256(data).hexdigest()}
        metadata = {_SIZE: str(size).encode()}
        write_unit(
            self.table_path(unit.index),
            pa.table(arrays).replace_schema_metadata(metadata),
            cost or {},
            beside,
        )

    @staticmethod
    def _check(unit: Unit, table: Mapping[str, Sequence[Any]], latents: Tensor | None) -> None:
        missing = [name for name in KEYS if name not in table]
        if missing:
            raise ValueError(f"unit {unit.index}: no column {', '.join(missing)}")
        lengths = {name: len(column) for name, column in table.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"unit {unit.index}: columns of different lengths {lengths}")
        rows = list(zip(table["prompt_id"], (int(number) for number in table["candidate"]), strict=True))
        allowed = {(prompt.id, number) for prompt, number in unit.candidates()}
        if (
            len(set(rows)) != len(rows)
            or not set(rows) <= allowed
            or {row[0] for row in rows} != {p.id for p in unit.prompts}
        ):
            raise ValueError(f"unit {unit.index}: the rows are not those of its prompts")
        kept = sum(map(bool, table["kept"]))
        given = 0 if latents is None else len(latents)
        if kept != given:
            raise ValueError(f"unit {unit.index}: {kept} rows are kept, but {given} latents given")
        dropped = [step is not None for step in table.get("dropped_at", [None] * len(rows))]
        if any(gone and keep for gone, keep in zip(dropped, table["kept"], strict=True)):
            raise ValueError(f"unit {unit.index}: a candidate that was dropped has no latent to keep")
        left = [passes is not None for passes in table.get(LEFT, [None] * len(rows))]
        for name in table:
            if name in (*KEYS, "dropped_at", PICTURE, LEFT):
                continue
            for row, value in enumerate(_plain(table[name])):
                if left[row] and value is None:
                    continue
                if dropped[row] and name not in RACE:
                    if value is not None:
                        raise ValueError(
                            f"unit {unit.index}: a candidate that was dropped has the score {name}"
                        )
                elif not math.isfinite(value):
                    raise UserError(
                        f"score '{name}' is {value} for candidate {rows[row][1]} of prompt"
                        f" {table['prompt'][row]!r};"
                        " try model.dtype=float32, or fewer extreme settings of the scorer"
                    )

    def table(
        self,
        dropped: bool = False,
        partial: bool = False,
        columns: Collection[str] | None = None,
        kept: bool = False,
        coded: bool = False,
    ) -> pd.DataFrame:
        """Give all rows in unit order, with ``unit`` and ``latent_row`` (-1: not kept) added.

        Args:
            dropped: give those that a race dropped too, with NaN for their scores and the columns ``RACE``, which are
                left out otherwise.
            partial: give those that are there so far.
            columns: of these alone (None: of all), as far as any unit has them; nothing else is read or held.
            kept: give the rows whose latent was kept alone.
            coded: give texts as categories: a row holds the number of a text, which is held once.

        Raises UserError when there are no rows, or not all.
        """
        indices = sorted(self._readable(partial))
        if not indices:
            raise UserError(f"no candidates in {self.folder}; run the generate stage first")
        wanted = None if columns is None else {*columns}
        if wanted is not None and (kept or LATENT_ROW in wanted):
            wanted.add("kept")
        parts = side_by_side(lambda index: self._read(index, wanted, dropped, kept, coded), indices)
        sizes = np.array([len(part) for part in parts])
        found = pa.concat_tables(parts, promote_options="default")
        del parts
        added = dict(_places(found, indices, sizes, wanted))
        found = found.drop_columns([name for name in found.column_names if not _asked(name, columns)])
        frame = found.unify_dictionaries().to_pandas()
        del found
        return frame.assign(**added) if len(frame.columns) else pd.DataFrame(added)

    def whole(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Give all columns of some rows of :meth:`table`, in their order, told by ``unit``, ``prompt_id`` and
        ``candidate``. Only those rows are held.

        Raises UserError where one is there no more.
        """
        if not len(rows):
            return rows
        units = rows[UNIT].to_numpy()
        keys = _keys(pa.Table.from_pandas(rows[["prompt_id", "candidate"]], preserve_index=False))
        order = np.argsort(units, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(units[order])) + 1)

        def read(places: np.ndarray) -> pa.Table:
            index = int(units[places[0]])
            part = self._read(index, None, False, False)
            for name, values in _places(part, [index], np.array([len(part)]), None):
                part = part.append_column(name, pa.array(values))
            there = pc.index_in(keys.take(places), value_set=_keys(part))
            if there.null_count:
                raise UserError(f"{self.table_path(index)} was changed meanwhile; {_AGAIN}")
            return part.take(there)

        found = pa.concat_tables(side_by_side(read, groups), promote_options="default")
        return found.take(np.argsort(order)).to_pandas()

    def _read(
        self, index: int, wanted: Collection[str] | None, dropped: bool, kept: bool, coded: bool = False
    ) -> pa.Table:
        """The columns of one unit, without what a race dropped unless that is asked for. One open of its file."""
        path, texts = self.table_path(index), _TEXTS if coded else None
        with reading(path, _AGAIN), pq.ParquetFile(path, read_dictionary=texts) as file:
            there = file.schema_arrow.names
            race = "dropped_at" in there and not dropped
            names = [
                name for name in there if wanted is None or name in wanted or (race and name == "dropped_at")
            ]
            # A column is read to count the rows where none is asked for.
            part = file.read(names or there[:1], use_threads=False).replace_schema_metadata(None)
        if race:
            part = part.filter(pc.is_null(part.column("dropped_at")))
            part = part.drop_columns([name for name in RACE if name in part.column_names])
        return part.filter(part.column("kept")) if kept else part

    def columns(self) -> list[str]:
        """Give the names of the columns that :meth:`table` gives of all candidates, as the first unit has them. Raises
        UserError where there is none."""
        first = min(self._tables(), default=None)
        if first is None:
            raise UserError(f"no candidates in {self.folder}; run the generate stage first")
        with reading(self.table_path(first), _AGAIN):
            names = pq.read_schema(self.table_path(first)).names
        return [name for name in names if name not in RACE] + [UNIT, LATENT_ROW]

    def _readable(self, partial: bool) -> set[int]:
        done = self.done()
        begun = bool(done) or bool(self._tables())
        absent = sorted(self.planned() - done) if begun and not partial else []
        if absent:
            path = self.table_path(absent[0])
            harm = "is damaged, or what lies beside it" if path.exists() else "is missing"
            more = f", and {len(absent) - 1} more of {len(self.planned())}" if absent[1:] else ""
            raise UserError(
                f"{path} {harm}{more}: the command that drew these candidates makes it again; run it first"
            )
        return done

    def latents(self, rows: pd.DataFrame) -> Tensor:
        """Give the latents [len(rows), ...] of rows of :meth:`table`, in their order: those rows alone are read.

        Raises UserError for one not kept.
        """
        self.check_kept(rows)
        units, positions = rows[UNIT].to_numpy(), rows[LATENT_ROW].to_numpy()
        result: Tensor | None = None
        order = np.argsort(units, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(units[order])) + 1):
            path = self.latents_path(int(units[places[0]]))
            with reading(path, _AGAIN), safetensors.safe_open(path, framework="pt") as file:
                slices = file.get_slice("latents")
                for place, position in zip(places.tolist(), positions[places].tolist(), strict=True):
                    latent = slices[position : position + 1]
                    if result is None:
                        result = latent.new_empty((len(rows), *latent.shape[1:]))
                    result[place] = latent[0]
        assert result is not None
        return result

    def check_kept(self, rows: pd.DataFrame) -> None:
        """Raise UserError for no rows, and for one whose latent was not kept."""
        if not len(rows):
            raise UserError(f"no candidate chosen from {self.folder}")
        lost = rows[rows[LATENT_ROW] < 0]
        if len(lost):
            first = lost.iloc[0]
            raise UserError(
                f"the latent of candidate {first['candidate']} of prompt {first['prompt']!r} was not kept in"
                f" {self.folder}; keep more candidates when generating, or draw it again from its seed"
            )


def _asked(name: str, columns: Collection[str] | None) -> bool:
    return columns is None or name in columns


def _keys(rows: pa.Table) -> pa.Array:
    """What tells each row from all others: prompt and number."""
    texts = [rows.column(name).combine_chunks().cast(pa.string()) for name in ("prompt_id", "candidate")]
    return pc.binary_join_element_wise(*texts, " ")


def _places(
    table: pa.Table, indices: Sequence[int], sizes: np.ndarray, wanted: Collection[str] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The columns that say where the latent of a row lies: its unit, and its place among those kept (-1: not kept)."""
    if _asked(UNIT, wanted):
        yield UNIT, np.repeat(np.array(indices, dtype=np.int64), sizes)
    if _asked(LATENT_ROW, wanted):
        kept = table.column("kept").to_numpy().astype(bool)
        count = np.cumsum(kept)
        before = np.concatenate([[0], count])[np.cumsum(sizes) - sizes]
        yield LATENT_ROW, np.where(kept, count - 1 - np.repeat(before, sizes), -1)


def _plain(values: Sequence[Any]) -> list[Any]:
    """A list of plain Python values from a list, array or tensor."""
    return values.tolist() if hasattr(values, "tolist") else list(values)
