"""Tables of the documentation that come from the catalogues, the keys and the records of measurements:
``python -m benchmarks.docs`` writes them again.

A file marks the place of a table by two lines, and what stands between them is replaced:

    <!-- table: stages -->
    <!-- end of table -->
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results_tables
from mitune.config import compose, conf_folder, groups
from mitune.config.keys import keys
from mitune.finetune.catalogue import OBJECTIVES, Objective
from mitune.information.catalogue import Score
from mitune.manual import allowed
from mitune.manual import written as value_written
from mitune.parts import Part
from mitune.sampling.catalogue import SAMPLERS
from mitune.scores import SCORES
from mitune.settings import Key
from mitune.stages.catalogue import STAGES
from mitune.verbs.catalogue import VERBS

ROOT = Path(__file__).resolve().parents[1]
_CONF = conf_folder()
_PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FILES = tuple(name for name in PAGES if _PLACE.search((ROOT / name).read_text(encoding="utf-8")))


def table(
    catalogue: Mapping[str, Part], what: str = "", columns: Mapping[str, Callable[[Any], str]] | None = None
) -> str:
    """Give a Markdown table with a row for each part: its name, its meaning, and what ``columns`` say of it.

    ``what``: the heading of the names; ``columns``: heading -> what is said of a part.
    """
    more = dict(columns or {})
    rows = [[what, "meaning", *more], *([["---"] * (2 + len(more))])]
    for name, part in catalogue.items():
        rows.append([f"`{name}`", part.meaning, *(say(part) for say in more.values())])
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _rows(score: Score) -> str:
    """How many network rows a candidate costs by default, in words."""
    return str(score.rows(score.own({})) or "none")


def _data(objective: Objective) -> str:
    return "pairs" if objective.pairs else "winners and losers" if objective.unpaired else "winners"


def _cells(one: Key) -> list[str]:
    limits = allowed(one)
    cells = [f"`{one.name}`", f"`{value_written(one.default)}`", one.meaning, limits]
    return [cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells]


def key_tables() -> str:
    """Write every key, a table for each group of them: name, default, meaning, bounds with their unit."""
    parts: dict[str, list[Key]] = {}
    for one in keys().values():
        parts.setdefault(one.name.partition(".")[0] if "." in one.name else "", []).append(one)
    heading = ["key", "default", "meaning", "allowed, and unit"]
    return "".join(
        f"\n### {f'`{name}.*`' if name else 'On top'}\n\n{results_tables.markdown(heading, map(_cells, own))}"
        for name, own in parts.items()
    )


def _comment(path: Path) -> str:
    """Give what a configuration file says of itself: its comment, in one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    said = itertools.takewhile(lambda line: line.startswith("#"), lines)
    prose = [
        line.lstrip("# ") for line in said if not line.startswith(("# @", "#  "))
    ]  # what is indented is a command
    return " ".join(prose).replace("|", "\\|")


def options(group: str) -> str:
    """Write every option of a group with what its file says of itself."""
    rows = [
        [f"`{group}={name}`", _comment(_CONF / group / f"{name}.yaml")] for name in groups().get(group, [])
    ]
    return results_tables.markdown(["setting", "meaning"], rows)


def models() -> str:
    """Write every model preset with the model, the steps and the guidance that it brings."""
    rows = []
    for name in groups()["model"]:
        own = compose([f"model={name}"])
        path = f"`{own.model.path}`" if own.model.path else "yours: `model.path=`"
        rows.append([f"`model={name}`", path, str(own.sampler.steps), f"{own.sampler.guidance:g}"])
    return results_tables.markdown(["preset", "model", "steps", "guidance"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "stages": lambda: table(STAGES, "stage"),
    "samplers": lambda: table(
        SAMPLERS,
        "sampler",
        {
            "noise": lambda part: "as `sampler.eta` says" if part.noise == "eta" else part.noise,
            "models": lambda part: "flows" if part.flow_only else "all",
        },
    ),
    "scores": lambda: table(
        SCORES,
        "score",
        {"measured on": lambda score: f"the {score.where}", "network evaluations by default": _rows},
    ),
    "objectives": lambda: table(
        OBJECTIVES,
        "`train.objective`",
        {"learns from": _data, "strength": lambda row: row.strength and f"`train.{row.strength}`"},
    ),
    "verbs": lambda: table(VERBS, "command", {"takes": lambda verb: verb.takes and f"`{verb.takes}`"}),
    "experiments": lambda: options("experiment"),
    "cards": lambda: options("card"),
    "models": models,
    "keys": key_tables,
    "gain": results_tables.short_presets,
    "presets": results_tables.presets,
    "other-presets": results_tables.other_presets,
    "study": results_tables.study,
    "agreement": results_tables.agreement,
    "grounding": results_tables.grounding,
    "pixels": results_tables.pixels,
    "steering": results_tables.steering,
    "inversion": results_tables.inversion,
    "balance": results_tables.balance,
    "balance-categories": results_tables.balance_categories,
    "speed": lambda: results_tables.ratios("speed"),
    "training-objectives": lambda: results_tables.ratios("objectives"),
    "racing": lambda: results_tables.ratios("racing"),
    "scale-files": results_tables.scale_files,
    "scale-works": results_tables.scale_works,
}


def written(text: str) -> str:
    """Give ``text`` with every table in it as the catalogues say now. KeyError for a table that there is not."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def main() -> None:
    """Write the files again."""
    for name in FILES:
        path = ROOT / name
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
