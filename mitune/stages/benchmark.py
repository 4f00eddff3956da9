"""``benchmark``: pictures of a public benchmark, drawn by base and tuned model or brought by the user, and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from mitune.distributed import broadcast
from mitune.errors import UserError, check_known, printable
from mitune.evaluate.benchmarks.lines import Answer, Asked, Files, Line, Shown
from mitune.evaluate.benchmarks.table import (
    BASE,
    PICTURES,
    TUNED,
    beside,
    differences,
    markdown,
    model_figures,
    notes_of,
    rows_of,
)
from mitune.evaluate.catalogue import BENCHMARKS
from mitune.evaluate.judged import judges_of
from mitune.evaluate.tables import plain_table
from mitune.evaluate.watch import watched
from mitune.families.options import find_device
from mitune.files import read_json, write_json, write_text
from mitune.reading import home, is_folder
from mitune.report.benchmark import write_benchmark
from mitune.runs import RunFolder
from mitune.stages.benchmark_drawing import Drawn
from mitune.stages.benchmark_judges import Chosen, chosen_judges
from mitune.stages.benchmark_units import WORK, JudgedPictures
from mitune.stages.evaluate import choosers
from mitune.stages.first_look import beside_pictures
from mitune.stages.inputs import round_adapter
from mitune.stages.made import made
from mitune.stages.progress import say, warn
from mitune.stages.sample import last_round, numbered_folder

SCHEMA = 1
RESULTS = "benchmark.json"


def benchmark_folder(config: DictConfig) -> Path:
    """Name the folder of a benchmark: ``benchmark.out``; beside the pictures that it judges; or a numbered one in
    ``benchmarks`` of the run folder."""
    if config.benchmark.pictures is not None:
        return beside_pictures(config.benchmark)
    return numbered_folder(config, "benchmark", "benchmarks")


def settled(config: DictConfig) -> dict[str, Any]:
    """Tell what ``benchmark.round`` stands for where it is not given, as that of ``sample``."""
    return {} if config.benchmark.pictures is not None else last_round(config, "benchmark")


def check_place(folder: Path) -> None:
    """Raise UserError if ``folder`` holds what a benchmark would replace and did not write. Main process only."""
    if (folder / WORK).exists():
        return
    for path in (folder / name for name in (BASE, TUNED, RESULTS, "benchmark.md", "benchmark.html")):
        if path.exists():
            raise UserError(
                f"{path} exists and was not written by mitune evaluate benchmark=; move it away, or choose another"
                " benchmark.out="
            )


def benchmark(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write the pictures in the benchmark's own folders, its own result files, ``benchmark.json``, ``.md`` and
    ``.html``; gives what the first says. ``run``: the folder of :func:`benchmark_folder`.

    Raises UserError: prompt files of another form or version, pictures that are missing, doubled or of other prompts, a
    judge that is not there.
    """
    own = config.benchmark
    asked = _asked(config)
    files: Files = asked.benchmark.load()(asked)
    lines = None if own.source is None else files.lines(_place(own.source, "benchmark.source"))
    if own.pictures is not None:
        sides = {PICTURES: files.find(_folder(own.pictures), lines)}
        drawn: dict[str, Drawn] = {}
    else:
        if lines is None:
            raise UserError(f"benchmark.source: say where its prompts are: {asked.benchmark.home}")
        drawn = _plans(config, run, files, lines)
        sides = {side: one.shown for side, one in drawn.items()}
    everything = [one.line for shown in sides.values() for one in shown]
    chosen = chosen_judges(config, asked, everything, find_device(config.model.device))
    for one in drawn.values():
        one.draw(config)
    work = {side: JudgedPictures(run.root, side, shown, own.rows_per_unit) for side, shown in sides.items()}
    for side in work.values():
        side.judge(chosen, own.batch_size)

    def finish() -> dict[str, Any]:
        answers = {side: one.answers() for side, one in work.items()}
        for side, shown in sides.items():
            root = _folder(own.pictures) if side == PICTURES else run.root / side
            files.write(run.root if side == PICTURES else root, root, shown, answers[side])
        figures = _figures(config, asked, sides, answers, work, chosen)
        figures |= {"forwards": sum(one.cost.forwards for one in drawn.values())}
        figures["seconds"] = round(
            sum(one.cost.seconds for one in drawn.values()) + sum(one.seconds for one in work.values()), 3
        )
        figures["made"] = made(config, run.root / RESULTS, figures)
        write_json(run.root / RESULTS, figures)
        write_text(run.root / "benchmark.md", markdown(figures, _escaped))
        page = write_benchmark(run.root, figures, _examples(sides))
        _say(figures, page)
        return figures

    return broadcast(finish)


def _asked(config: DictConfig) -> Asked:
    """Which part of which benchmark is meant. Raises UserError for a split or category that it has not."""
    own = config.benchmark
    which = BENCHMARKS.find(str(own.name), "benchmark")
    split = own.split or which.splits[0]
    check_known("benchmark.split", split, which.splits)
    names = [one.name for one in which.categories if split in one.prompts]
    for name in own.categories:
        check_known("benchmark.categories", name, names)
    return Asked(
        which, split, tuple(own.categories), own.limit, own.per_prompt or which.per_prompt, own.whole
    )


def _place(path: str, key: str) -> Path:
    place = home(path)
    if not place.exists():
        raise UserError(f"{key}={path} does not exist; check the path")
    return place


def _folder(path: str) -> Path:
    folder = _place(path, "benchmark.pictures")
    if not is_folder(folder):
        raise UserError(f"benchmark.pictures={path} is not a folder; give that of the benchmark's pictures")
    return folder


def _plans(config: DictConfig, run: RunFolder, files: Files, lines: Sequence[Line]) -> dict[str, Drawn]:
    """What is to be drawn: by the base model, and by the tuned one where a round has an adapter."""
    number = config.benchmark.round or 0
    plans = {BASE: Drawn(run.root, BASE, files, lines, None)}
    if number:
        plans[TUNED] = Drawn(run.root, TUNED, files, lines, round_adapter(RunFolder(config.run), number))
    return plans


def _present(asked: Asked, sides: Mapping[str, Sequence[Shown]]) -> list[str]:
    there = {one.line.category for shown in sides.values() for one in shown}
    return [one.name for one in asked.benchmark.categories if one.name in there]


def _figures(
    config: DictConfig,
    asked: Asked,
    sides: Mapping[str, Sequence[Shown]],
    answers: Mapping[str, Sequence[Answer]],
    work: Mapping[str, JudgedPictures],
    chosen: Mapping[str, Chosen],
) -> dict[str, Any]:
    """What ``benchmark.json`` says, without what it took."""
    own, which, seed = config.benchmark, asked.benchmark, config.evaluate.seed
    tables = {side: _table(shown, answers[side]) for side, shown in sides.items()}
    models = {side: model_figures(table, which, seed) for side, table in tables.items()}
    for side, one in models.items():
        if (path := work[side].root / WORK / side / "candidates" / "model.json").is_file():
            one["model"] = read_json(path)["model"]
    both = BASE in tables and TUNED in tables
    difference = differences(tables[BASE], tables[TUNED], which, seed) if both else {}
    present = _present(asked, sides)
    judges = {name: chosen[name].name for name in present}
    chose = choosers(RunFolder(config.run), range(1, own.round + 1)) if both else []
    picked = judges_of(chose, config.scorer.combined)
    entries = {
        name: {
            "name": judges[name],
            "judge": next(iter(work.values())).identity(name),
            "form": chosen[name].form,
            "selected": bool(judges_of([chosen[name].scores]) & picked),
        }
        for name in present
    }
    original = {name: chosen[name].original for name in present}
    rows, notes = beside(which, original, judges, _why_not(asked))
    if which.overall and len(present) < len(which.categories):
        notes.append(
            f"overall: of {', '.join(present)} alone, not of all {len(which.categories)} categories."
        )
    figures: dict[str, Any] = {
        "schema": SCHEMA,
        "benchmark": which.name,
        "title": which.title,
        "split": asked.split,
        "per_prompt": asked.per_prompt,
        "has_overall": which.overall,
        "round": own.round or 0,
        "models": models,
        "difference": difference,
        "judged_by": entries,
        "published": rows,
        "notes": notes,
    }
    if both:
        # Each category is told by its own name.
        cells = {name: difference[name] for name in present}
        scores = {name: chosen[name].scores for name in present}
        for name, cell in _choosers_gain(config, own.round, picked).items():
            cells[f"{name} of the held-out prompts"], scores[f"{name} of the held-out prompts"] = cell, name
        figures["watch"] = watched(cells, chose, config.scorer.combined, judges=scores)
    return figures


def _choosers_gain(config: DictConfig, number: int, choosers: set[str]) -> dict[str, Any]:
    """What the scores that chose have gained by the round's own evaluation, where there is one."""
    path = RunFolder(config.run).round(number) / "evaluation.json"
    told = read_json(path)["difference"]["all"] if path.is_file() else {}
    return {
        name: cell
        for name, cell in told.items()
        if isinstance(cell, dict) and judges_of([name], config.scorer.combined) & choosers
    }


def _why_not(asked: Asked) -> str:
    """Why nothing can stand beside what was published; "" where it can."""
    which = asked.benchmark
    if asked.split != which.splits[0]:
        return f"they are of the prompts of {which.splits[0]}, not {asked.split}"
    if asked.limit is not None or not asked.whole:
        return "these are not all of the benchmark's prompts"
    if asked.per_prompt != which.per_prompt:
        return f"they are of {which.per_prompt} pictures a prompt, not {asked.per_prompt}"
    return ""


def _table(shown: Sequence[Shown], answers: Sequence[Answer]) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "category": [one.line.category for one in shown],
            "line": [one.line.number for one in shown],
            "picture": [one.number for one in shown],
            "text": [one.line.text for one in shown],
            "value": [answer.value for answer in answers],
        }
    )
    if all("correct" in answer.more for answer in answers):
        table["correct"] = [bool(answer.more["correct"]) for answer in answers]
    return table


def _examples(sides: Mapping[str, Sequence[Shown]], most: int = 8) -> list[dict[str, Any]]:
    """A prompt of each category in turn, with its first picture of every model: never chosen by score."""
    first: dict[tuple[str, int], dict[str, Any]] = {}
    turns: dict[str, int] = {}
    order: list[tuple[int, int, tuple[str, int]]] = []
    for side, shown in sides.items():
        for one in shown:
            place = (one.line.category, one.line.number)
            if one.number == 0 and place not in first:
                first[place] = {"prompt": one.line.text, "category": one.line.category, "pictures": {}}
                order.append((turns.get(one.line.category, 0), len(order), place))
                turns[one.line.category] = turns.get(one.line.category, 0) + 1
            if one.number == 0:
                first[place]["pictures"][side] = one.path
    return [first[place] for _, _, place in sorted(order)[:most]]


def _escaped(text: str) -> str:
    """A text as Markdown shows it: nothing in it is a mark."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in printable(text))


def _say(figures: Mapping[str, Any], page: Path) -> None:
    heads, rows = rows_of(figures)
    say(plain_table(heads, rows, f"{figures['title']}, {figures['per_prompt']} pictures a prompt"))
    for note in notes_of(figures):
        say(note)
    if figures.get("watch", {}).get("hacked"):
        warn(figures["watch"]["said"])
    say(f"results and page: {page.resolve()}")
