"""GenEval (Ghosh et al. 2023): its prompt file as it is, pictures and results in its own folders.

A prompt is a folder: ``00000/metadata.jsonl`` (its line), ``00000/samples/0000.png`` and on, ``00000/grid.png``;
``results.jsonl`` has a line a picture.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mitune.errors import UserError, short
from mitune.evaluate.benchmarks.lines import Answer, Asked, Line, Shown, counted, numbered
from mitune.files import write_text
from mitune.reading import is_file, is_folder, is_whole, lines, parse_json, read_text

FILE = "evaluation_metadata.jsonl"
METADATA, RESULTS = "metadata.jsonl", "results.jsonl"
_SAMPLES = "samples"
_PICTURE = re.compile(r"(\d+)\.png")
_OTHER = "these pictures were drawn from another version of it; give that one as benchmark.source"
RAW = "raw"  # of a line's note: the text that its metadata was read from


class GenEval:
    """Knows the files of GenEval."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    # -- prompts -------------------------------------------------------------------------------------------------------

    def lines(self, source: Path) -> list[Line]:
        """Read the prompts: of the file, or of a folder that has it."""
        path = source
        if is_folder(source):
            places = (source / FILE, source / "prompts" / FILE)
            path = next((place for place in places if is_file(place)), places[0])
            if not is_file(path):
                raise UserError(
                    f"benchmark.source={source}: there is no {FILE}; give {self.asked.benchmark.home}"
                )
        texts = [text for text in lines(read_text(path)) if text.strip()]
        found = [self._line(number, text, f"{path}, line {number + 1}") for number, text in enumerate(texts)]
        return self._taken(found, path)

    def _line(self, number: int, text: str, where: str) -> Line:
        metadata = parse_json(text, where)
        self._check(metadata, where)
        return Line(metadata["tag"], number, metadata["prompt"], {**metadata, RAW: text.strip()})

    def _check(self, metadata: Any, where: str) -> None:
        """Raise UserError for a line of another form."""
        names = [one.name for one in self.asked.benchmark.categories]
        wrong = ""
        if not isinstance(metadata, dict) or not isinstance(metadata.get("prompt"), str):
            wrong = "it has no prompt"
        elif metadata.get("tag") not in names:
            wrong = f"its tag is {short(str(metadata.get('tag')))!r}, not one of {', '.join(names)}"
        elif not isinstance(metadata.get("include"), list) or not isinstance(
            metadata.get("exclude", []), list
        ):
            wrong = "it has no list include"
        elif not all(map(_is_clause, (*metadata["include"], *metadata.get("exclude", [])))):
            wrong = "an object of include or exclude has no class with its count"
        elif not all(_points_back(one, place) for place, one in enumerate(metadata["include"])):
            wrong = "a position of include does not name an object before it"
        if wrong:
            raise UserError(
                f"{where} is no line of GenEval's {FILE}: {wrong}; give {self.asked.benchmark.home}"
            )

    def _taken(self, found: list[Line], where: object) -> list[Line]:
        """The lines of the categories asked for, so many of each."""
        counts = Counter(line.category for line in found)
        for one in self.asked.benchmark.categories:
            self.asked.check_count(one.name, counts[one.name], where)
        taken: Counter[str] = Counter()
        chosen = []
        for line in counted(found):
            taken[line.category] += 1
            if self.asked.takes(line.category) and taken[line.category] <= (self.asked.limit or len(found)):
                chosen.append(line)
        if not chosen:
            raise UserError(
                f"{where}: no prompt of {', '.join(self.asked.categories)}; see benchmark.categories"
            )
        return chosen

    # -- pictures ------------------------------------------------------------------------------------------------------

    def place(self, line: Line, number: int) -> str:
        """Name a picture by the numbers of its line and among those of its line."""
        return f"{line.number:05d}/{_SAMPLES}/{number:04d}.png"

    def beside(self, line: Line) -> dict[str, str]:
        """Give the prompt's own line."""
        return {f"{line.number:05d}/{METADATA}": line.note[RAW]}

    def sheet(self, line: Line) -> str | None:
        """Name the sheet of a prompt's pictures."""
        return f"{line.number:05d}/grid.png"

    def find(self, folder: Path, lines: Sequence[Line] | None) -> list[Shown]:
        """Find the pictures of the folders that are called by a number."""
        named = [
            (int(path.name), path) for path in folder.iterdir() if path.name.isdecimal() and is_folder(path)
        ]
        if not named:
            raise UserError(
                f"{folder} is no folder of GenEval's pictures: they lie in 00000/{_SAMPLES}/0000.png, with"
                f" 00000/{METADATA}"
            )
        drawn_part = lines is not None and (self.asked.limit is not None or bool(self.asked.categories))
        places = (
            dict(sorted(named))
            if drawn_part and len(dict(named)) == len(named)
            else numbered(named, folder, "prompt")
        )
        told = {number: self._told(number, path) for number, path in places.items()}
        if lines is None:
            chosen = self._taken(list(told.values()), folder)
        else:
            chosen = list(lines)
            self._check_same(folder, told, chosen, drawn_part)
        return [one for line in chosen for one in self._pictures(line, places[line.number])]

    def _told(self, number: int, place: Path) -> Line:
        path = place / METADATA
        if not is_file(path):
            raise UserError(
                f"{path} is not there: it says what the pictures were drawn for; each folder has one"
            )
        return self._line(number, read_text(path), str(path))

    def _check_same(
        self, folder: Path, told: Mapping[int, Line], lines: Sequence[Line], drawn_part: bool
    ) -> None:
        """Raise UserError where the pictures are of other prompts than the file has."""
        for line in lines:
            if line.number not in told:
                raise UserError(f"{folder}: prompt {line.number} ({short(line.text)!r}) is missing; draw it")
            if _bare(told[line.number]) != _bare(line):
                raise UserError(
                    f"{folder / f'{line.number:05d}' / METADATA} says {short(told[line.number].text)!r}, the prompt"
                    f" file says {short(line.text)!r}: {_OTHER}"
                )
        extra = sorted(told.keys() - {line.number for line in lines})
        if extra and not drawn_part:
            raise UserError(f"{folder}: prompt {extra[0]} is not in the prompt file: {_OTHER}")

    def _pictures(self, line: Line, place: Path) -> list[Shown]:
        folder = place / _SAMPLES
        inside = sorted(folder.iterdir()) if is_folder(folder) else []
        found = [(int(match[1]), path) for path in inside if (match := _PICTURE.fullmatch(path.name))]
        files = numbered(found, folder, "picture")
        if len(files) != self.asked.per_prompt:
            raise UserError(
                f"{folder}: {len(files)} pictures, and {self.asked.per_prompt} of each prompt are wanted; draw the"
                " rest, or say benchmark.per_prompt="
            )
        return [Shown(line, number, path) for number, path in files.items()]

    # -- results -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path, root: Path, shown: Sequence[Shown], answers: Sequence[Answer]) -> None:
        """Write ``results.jsonl``, a line a picture, where the judge says of each whether it is correct."""
        if not all("correct" in answer.more for answer in answers):
            return
        rows = (
            {
                "filename": one.path.relative_to(root).as_posix(),
                "tag": one.line.category,
                "prompt": one.line.text,
                "correct": bool(answer.more["correct"]),
                "reason": answer.more.get("reason", ""),
                "metadata": json.dumps(_bare(one.line)),
                "details": json.dumps(answer.more.get("details", {})),
            }
            for one, answer in zip(shown, answers, strict=True)
        )
        write_text(folder / RESULTS, "".join(f"{json.dumps(row)}\n" for row in rows))


def _bare(line: Line) -> dict[str, Any]:
    """What GenEval's file says of a line."""
    return {name: value for name, value in line.note.items() if name != RAW}


def _is_clause(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("class"), str) and is_whole(one.get("count"))


def _points_back(one: Mapping[str, Any], place: int) -> bool:
    """Whether the position that is asked of an object, if any is, is relative to one before it."""
    position = one.get("position")
    if position is None:
        return True
    return (
        isinstance(position, list)
        and len(position) == 2
        and isinstance(position[0], str)
        and is_whole(position[1])
        and 0 <= position[1] < place
    )
