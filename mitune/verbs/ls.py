"""``mitune ls [FOLDER]``: the presets, and the runs with what they reached."""

from __future__ import annotations

import itertools
import re
import textwrap
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mitune.config import conf_folder
from mitune.config.own_preset import GROUP
from mitune.errors import UserError, printable, short
from mitune.evaluate.tables import bounds, figure
from mitune.files import at_work
from mitune.manual import named
from mitune.reading import home, is_folder, lines, read_text
from mitune.verbs.looking import Look, chose, gain, runs_below
from mitune.verbs.status import moment

PLACES = ("runs", "sweeps")  # where runs lie if nobody says otherwise
_WIDE = 1000  # columns where no terminal says how many there are: a path on one line can be found and copied
_LINE = 110  # letters of a preset's line


def ls(words: list[str]) -> int:
    """``mitune ls [FOLDER]``."""
    if len(words) > 1:
        raise UserError("ls: give one folder, or none")
    places = [home(word) for word in words] or [Path(name) for name in PLACES]
    if words and not is_folder(places[0]):
        raise UserError(f"ls: there is no folder {printable(words[0])}; check the path")
    console = Console(width=None if Console().is_terminal else _WIDE, highlight=False)
    if not words:
        console.print(_presets())
    found = [run for place in places for run in runs_below(place)]
    if found:
        console.print(_runs(found))
    else:
        console.print(Text(f"no runs in {' or '.join(printable(str(place)) for place in places)}"))
    return 0


def _presets() -> Table:
    table = _table(f"presets ({GROUP}=NAME)", ("name", "what it is"))
    for name in named(GROUP):
        table.add_row(Text(name), Text(header(conf_folder() / GROUP / f"{name}.yaml")))
    return table


def header(path: Path) -> str:
    """Give the first sentence that a preset's file says of itself, as far as it fits on a line."""
    begun = [line for line in lines(read_text(path)) if not line.startswith("# @package")]
    comments = itertools.takewhile(lambda line: line.startswith("#"), begun)
    said = " ".join(line.strip("# ") for line in comments)
    first = re.split(r"(?<=\.) (?=[A-Z])|: (?=mitune )", said)[0]  # a command of an example is no part of it
    return textwrap.shorten(first, _LINE, placeholder=" …")


def _runs(found: list[Path]) -> Table:
    table = _table("runs", ("run", "model", "reached", "rounds", "gain", "last written"))
    for run in found:
        look = Look(run)
        evaluated = {
            number: marks["evaluate"] for number, marks in look.rounds.items() if "evaluate" in marks
        }
        cells = [
            str(run),
            _end(look.model),
            _reached(look),
            f"{len(evaluated)}/{look.planned}",
            _gain(look, evaluated[max(evaluated)]) if evaluated else "–",
            "–" if look.written is None else moment(look.written),
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _end(model: str) -> str:
    """The last two parts of a path tell the model."""
    return short("/".join(Path(model).parts[-2:]) or model, 60)


def _reached(look: Look) -> str:
    last = f"{look.last[1]} of round {look.last[0]}" if look.last else ""
    if at_work(look.root):
        return f"at work{last and f', after {last}'}"
    if look.last is None:
        studies = {path.relative_to(look.root).parts[0] for path in look.studies() if path != look.root}
        return ", ".join(sorted(studies)) or "begun"
    return "done" if look.present is None else last


def _gain(look: Look, evaluated: dict[str, object]) -> str:
    by = look.value("select.by")
    found = gain(evaluated, by)
    if found is None:
        return "–"
    name, value, interval = found
    told = [name, figure(value, True), *([bounds(interval, True)] if interval else [])]
    return " ".join([*told, *(["(it chose)"] if chose(name, by) else [])])
