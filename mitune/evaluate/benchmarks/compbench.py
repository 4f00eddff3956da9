"""T2I-CompBench (Huang et al. 2023): its prompt files as they are, pictures and results in its own folders.

A category is a folder: ``samples/PROMPT_000000.png``, ten a prompt, numbered through, prompt by prompt; the number is
the ``question_id`` of the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mitune.errors import UserError, complain, listed, printable, short
from mitune.evaluate.benchmarks.lines import Answer, Asked, Line, Shown, counted, numbered
from mitune.files import write_text
from mitune.reading import is_file, is_folder, lines, read_text
from mitune.referees.phrases import MOST

_FOLDER = ("examples", "dataset")  # of the repository
_FILE = re.compile(r"(?P<category>.+?)_(?P<split>train|val|val_seen|val_unseen)")
_PICTURE = re.compile(r"(?P<prompt>[^_]*)_(?P<number>\d{6,})\.png")
_SAMPLES = "samples"
_LONGEST = 255  # bytes of a name that file systems take
SEEN = 200
"""Lines at the head of a held-out file whose attributes are seen in training; the rest are not."""
# How a prompt of ``complex`` is judged follows from the list that it stands in.
_LISTS = ("spatial", "action")


class CompBench:
    """Knows the files of T2I-CompBench."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    # -- prompts -------------------------------------------------------------------------------------------------------

    def lines(self, source: Path) -> list[Line]:
        """Read the prompts of the categories asked for: of a folder of its files, or of one of them."""
        found: list[Line] = []
        for category, path in self._files(source):
            own = self._texts(category, path)
            self.asked.check_count(category, len(own), path)
            notes = _complex(path, own) if category == "complex" else [{}] * len(own)
            rows = list(zip(own, notes, strict=True))[: self.asked.limit]
            for number, (text, note) in enumerate(rows):
                check_name(text, f"{path}, line {number + 1}")
                found.append(Line(category, number, text, note))
        return counted(found)

    def _files(self, source: Path) -> list[tuple[str, Path]]:
        """(category, file) of what is asked for."""
        names = [one.name for one in self.asked.benchmark.categories]
        if is_file(source):
            named = _FILE.fullmatch(source.stem)
            if named is None or named["category"] not in names or source.suffix != ".txt":
                raise UserError(
                    f"benchmark.source={source} is no prompt file of T2I-CompBench: they are called color_val.txt and"
                    f" so on, of {', '.join(names)}"
                )
            if named["split"] != self.asked.split:
                raise UserError(
                    f"benchmark.source={source} has the prompts of {named['split']}; say"
                    f" benchmark.split={named['split']}"
                )
            return [(named["category"], source)]
        folder = next(
            (place for place in (source, source.joinpath(*_FOLDER)) if any(place.glob("*_*.txt"))), source
        )
        split = "val" if self.asked.split.startswith("val") else self.asked.split
        found = [
            (one.name, path)
            for one in self.asked.benchmark.categories
            if self.asked.takes(one.name) and self.asked.split in one.prompts
            if is_file(path := folder / f"{one.name}_{split}.txt")
        ]
        missing = [name for name in self.asked.categories if name not in dict(found)]
        if missing or not found:
            wanted = (missing or ["color"])[0]
            raise UserError(
                f"benchmark.source={source}: there is no {wanted}_{split}.txt for split {self.asked.split}; give"
                f" {self.asked.benchmark.home}"
            )
        return found

    def _texts(self, category: str, path: Path) -> list[str]:
        """The lines of a file as the benchmark's scripts draw them, which take what is before a tab."""
        found = lines(read_text(path))
        while found and not found[-1].strip():
            found.pop()
        for number, text in enumerate(found, start=1):
            if not text.strip():
                raise UserError(
                    f"{path}, line {number} is empty: the numbers of the pictures go by lines; mend it"
                )
        texts = [text.split("\t")[0] for text in found]
        if path.stem.endswith("_val"):  # of color, color_val_unseen.txt is another list
            first = self.asked.split == "val_seen"
            if first or self.asked.split == "val_unseen":
                whole = self.asked.benchmark.category(category).prompts["val"]
                if self.asked.whole and len(texts) != whole:
                    raise UserError(
                        f"{path}: {len(texts)} prompts of {category}, {self.asked.benchmark.title} has {whole}; give"
                        f" its own ({self.asked.benchmark.home}), or say benchmark.whole=false"
                    )
                return texts[:SEEN] if first else texts[SEEN:]
        elif category == "color" and path.stem.endswith("_unseen"):
            complain(
                f"warning: {path} is not the end of color_val.txt, as those of shape and texture are; give the folder"
                " to take the last 100 lines of color_val.txt"
            )
        return texts

    # -- pictures ------------------------------------------------------------------------------------------------------

    def place(self, line: Line, number: int) -> str:
        """Name a picture by its prompt and its number in the category."""
        return (
            f"{line.category}/{_SAMPLES}/{line.text}_{line.number * self.asked.per_prompt + number:06d}.png"
        )

    def beside(self, line: Line) -> dict[str, str]:
        """Give nothing: the names say all."""
        return {}

    def sheet(self, line: Line) -> str | None:
        """Give none: its scripts take whatever is in the folder for a picture."""
        return None

    def find(self, folder: Path, lines: Sequence[Line] | None) -> list[Shown]:
        """Find pictures in ``folder/CATEGORY/samples``, or of one category in ``folder/samples`` or ``folder``."""
        found: list[Shown] = []
        for category, place in self._folders(folder, lines):
            own = None if lines is None else [line for line in lines if line.category == category]
            found += self._shown(category, place, own)
        return found

    def _folders(self, folder: Path, lines: Sequence[Line] | None) -> list[tuple[str, Path]]:
        names = [one.name for one in self.asked.benchmark.categories if self.asked.takes(one.name)]
        several = [(name, folder / name / _SAMPLES) for name in names if is_folder(folder / name / _SAMPLES)]
        if several:
            missing = [name for name in self.asked.categories if name not in dict(several)]
            if missing:
                raise UserError(
                    f"{folder}: there is no {missing[0]}/{_SAMPLES}; leave it out of benchmark.categories"
                )
            return several
        place = folder / _SAMPLES if is_folder(folder / _SAMPLES) else folder
        if not any(_PICTURE.fullmatch(path.name) for path in place.iterdir()):
            raise UserError(
                f"{folder} is no folder of T2I-CompBench's pictures: they lie in samples/PROMPT_000000.png, or of"
                " several categories in color/samples and so on"
            )
        there = list(dict.fromkeys(line.category for line in lines)) if lines is not None else names
        if len(there) > 1 and lines is not None:
            told = {match["prompt"] for path in place.iterdir() if (match := _PICTURE.fullmatch(path.name))}
            there = [
                name for name in there if any(line.text in told for line in lines if line.category == name)
            ]
        if len(there) != 1:
            raise UserError(
                f"{place}: which category these pictures are of is not told; say benchmark.categories=[color]"
            )
        return [(there[0], place)]

    def _shown(self, category: str, place: Path, lines: Sequence[Line] | None) -> list[Shown]:
        per = self.asked.per_prompt
        matched = []
        for path in sorted(place.iterdir()):
            match = _PICTURE.fullmatch(path.name)
            if match is None and not path.name.startswith("."):
                raise UserError(
                    f"{place}: {printable(short(path.name))} is not called PROMPT_000000.png; the benchmark's scripts"
                    " would take it for a picture; move it away"
                )
            if match is not None:
                matched.append((int(match["number"]), path))
        files = numbered(matched, place, "picture")
        if len(files) % per:
            raise UserError(
                f"{place}: {len(files)} pictures are not {per} of each prompt; draw the rest, or say"
                " benchmark.per_prompt="
            )
        texts = [path.name.partition("_")[0] for path in files.values()]
        for number, text in enumerate(texts):
            if text != texts[number - number % per]:
                raise UserError(
                    f"{place}: picture {number} is of {short(text)!r}, and picture {number - number % per} of"
                    f" {short(texts[number - number % per])!r}: they are numbered {per} a prompt; say"
                    " benchmark.per_prompt= if there are fewer"
                )
        told = [Line(category, number, text, {}) for number, text in enumerate(texts[::per])]
        if lines is None:
            self.asked.check_count(category, len(told), place)
        else:
            _check_same(place, told[: self.asked.limit], lines)
            told = list(lines)
        told = told[: self.asked.limit]
        return [Shown(line, n, files[line.number * per + n]) for line in counted(told) for n in range(per)]

    # -- results -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path, root: Path, shown: Sequence[Shown], answers: Sequence[Answer]) -> None:
        """Write the JSON files and the mean that the scripts leave, at their places, category by category."""
        for category in dict.fromkeys(one.line.category for one in shown):
            rows = [row for row, one in enumerate(shown) if one.line.category == category]
            self._write(
                folder / category, category, [shown[row] for row in rows], [answers[row] for row in rows]
            )

    def _write(self, place: Path, category: str, shown: Sequence[Shown], answers: Sequence[Answer]) -> None:
        ids = [one.line.number * self.asked.per_prompt + one.number for one in shown]
        kind = self.asked.benchmark.category(category).kind
        for part in PARTS if kind == "complex" else ():
            if all(part in answer.more for answer in answers):
                _write_kind(place, part, ids, shown, [float(answer.more[part]) for answer in answers])
        if kind == "attribute" and all("answers" in answer.more for answer in answers):
            _write_phrases(place, ids, shown, answers)
        _write_kind(place, kind, ids, shown, [answer.value for answer in answers])


PARTS = ("attribute", "spatial", "action")
"""Of what a prompt of ``complex`` is judged by."""
ABOUT = "about"
"""Of such a prompt's note: spatial, action or both."""
# Of each kind of judge: its folder, the file of the mean, and what stands in it before the number.
_RESULTS = {
    "attribute": ("annotation_blip", "blip_vqa_score.txt", "BLIP-VQA score:"),
    "spatial": ("labels/annotation_obj_detection_2d", "avg_score.txt", "score avg:"),
    "depth": ("labels/annotation_obj_detection_3d", "avg_result.txt", "avg score is "),
    "numeracy": ("annotation_num", "score.txt", None),
    "action": ("annotation_clip", "score_avg.txt", "score avg:"),
    "complex": ("annotation_3_in_1", "vqa_score.txt", "score avg:"),
}


def _write_kind(
    root: Path, kind: str, ids: Sequence[int], shown: Sequence[Shown], values: Sequence[float]
) -> None:
    place, mean_file, said = _RESULTS[kind]
    answers: list[Any] = [f"{value:.4f}" for value in values] if kind == "attribute" else list(values)
    told = [float(answer) for answer in answers]
    mean = sum(told) / len(told)
    rows = [{"question_id": number, "answer": answer} for number, answer in zip(ids, answers, strict=True)]
    _json(root / place / "vqa_result.json", rows)
    text = f"total:{sum(told)} num:{len(told)} avg:{mean}" if said is None else f"{said}{mean}"
    write_text(root / place / mean_file, text)
    if kind == "spatial":
        names = [
            {"image": one.path.name, "question_id": number} for number, one in zip(ids, shown, strict=True)
        ]
        _json(root / place / "mapping.json", names)


def _write_phrases(root: Path, ids: Sequence[int], shown: Sequence[Shown], answers: Sequence[Answer]) -> None:
    """The questions about each noun phrase, and their answers; a prompt without an i-th phrase has an empty question,
    whose answer counts as 1."""
    for place in range(MOST):
        questions, said = [], []
        for number, one, answer in zip(ids, shown, answers, strict=True):
            told, own = answer.more["questions"], answer.more["answers"]
            asked = place < len(told)
            questions.append(
                {
                    "image": f"{_SAMPLES}/{one.path.name}",
                    "question_id": number,
                    "question": told[place] if asked else "",
                    "dataset": "color",
                }
            )
            said.append({"question_id": number, "answer": own[place] if asked else "1.0000"})
        folder = root / f"annotation{place + 1}_blip"
        _json(folder / "vqa_test.json", questions)
        _json(folder / "VQA" / "result" / "vqa_result.json", said)


def _json(path: Path, rows: list[dict[str, Any]]) -> None:
    """A list on one line, as ``json.dump`` writes it."""
    write_text(path, json.dumps(rows, allow_nan=False))


def check_name(prompt: str, where: object) -> None:
    """Raise UserError for a prompt that cannot be the name of its pictures, as the benchmark's folders want it."""
    wrong = ""
    if found := next((sign for sign in ("/", "\\", "_", "\0") if sign in prompt), None):
        wrong = f"it holds {found!r}"
    elif not prompt.isprintable():
        wrong = "it holds characters that are not printed"
    elif prompt.startswith((".", "-", "~")):
        wrong = f"it begins with {prompt[0]!r}"
    elif len(f"{prompt}_000000.png".encode(errors="replace")) > _LONGEST:
        wrong = "it is too long"
    if wrong:
        raise UserError(
            f"{where}: the prompt {short(printable(prompt))!r} cannot name its pictures, as T2I-CompBench's folders"
            f" want it ({wrong}); draw it by mitune sample, or leave it out"
        )


def _complex(path: Path, texts: Sequence[str]) -> list[dict[str, str]]:
    """Say of each prompt of ``complex`` in which list it stands: those of places, of actions, or of both."""
    known = {}
    for name in _LISTS:
        place = path.with_name(f"{path.stem}_{name}.txt")
        if not is_file(place):
            raise UserError(
                f"{place} is not there: it says which prompts of {path.name} are judged by what; give the whole folder"
            )
        known[name] = {_cut(text) for text in lines(read_text(place))}
    return [{ABOUT: next((name for name in _LISTS if _cut(text) in known[name]), "both")} for text in texts]


def _cut(text: str) -> str:
    """A prompt as the benchmark's 3-in-1 compares it: up to its first full stop, in small letters."""
    return text.split(".")[0].lower()


def _check_same(place: Path, told: Sequence[Line], lines: Iterable[Line]) -> None:
    """Raise UserError where pictures are of other prompts than the file has."""
    wanted = list(lines)
    if len(told) < len(wanted):
        raise UserError(
            f"{place}: it has pictures of {len(told)} prompts, the prompt file has {len(wanted)}; picture"
            f" {len(told)} × its number a prompt and on are missing: draw them, or say benchmark.limit={len(told)}"
        )
    different = [line for line, other in zip(told, wanted, strict=False) if line.text != other.text]
    if different or len(told) > len(wanted):
        first = different[0] if different else told[len(wanted)]
        meant = wanted[first.number].text if first.number < len(wanted) else "nothing"
        raise UserError(
            f"{place}: prompt {first.number} is {listed([first.text])} there and {listed([meant])} in the prompt file:"
            " these pictures were drawn from another version of it; give that one as benchmark.source"
        )
