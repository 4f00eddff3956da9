"""Pictures of a benchmark judged: a number each, and what the benchmark's own files say beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mitune.data.decoding import as_tensor, open_picture
from mitune.data.pictures.contents import Contents
from mitune.errors import UserError, short
from mitune.evaluate.benchmarks.lines import Answer, Line, Shown
from mitune.evaluate.catalogue import Category
from mitune.reading import read_bytes
from mitune.referees.blip_vqa import published_answer, published_score
from mitune.referees.catalogue import JUDGES
from mitune.referees.reward import Reward
from mitune.threads import side_by_side

_WAY = "mend it, or draw it anew"


def settings_for(category: Category, name: str, scorer: Mapping[str, Any]) -> dict[str, Any]:
    """Give section ``scorer`` with the keys of the judge ``name`` as the benchmark has them, where they have their
    defaults and the judge is the benchmark's own.
    """
    if name != category.original.judge or name not in JUDGES:
        return dict(scorer)
    own, kind = dict(scorer[name]), JUDGES[name].settings
    assert kind is not None
    defaults = kind()
    for key, value in category.original.settings.items():
        if own[key] == getattr(defaults, key):
            own[key] = value
    return {**scorer, name: own}


def is_original(category: Category, name: str, scorer: Mapping[str, Any]) -> bool:
    """Tell whether a judge is the one of the published numbers; ``scorer``: what :func:`settings_for` gives."""
    wanted = category.original
    return (
        bool(wanted.judge)
        and name == wanted.judge
        and all(scorer[name].get(key) == value for key, value in wanted.settings.items())
    )


def judge_all(
    reward: Reward, name: str, shown: Sequence[Shown], batch_size: int, contents: Contents
) -> Iterator[Answer]:
    """Judge pictures in their order, ``batch_size`` at a time, each in its own size.

    Args:
        reward, name: the judge, and the name of its row.
        shown: the pictures.
        batch_size: at once, where they are of one size.
        contents: takes what was read.

    Raises UserError: a picture that does not decode, an answer that is no finite number.
    """
    for start in range(0, len(shown), batch_size):
        part = shown[start : start + batch_size]
        files = [read_bytes(one.path) for one in part]
        for data in files:
            contents.picture(data)
        pictures = side_by_side(_decoded, zip(part, files, strict=True))
        found: dict[int, Answer] = {}
        for size in dict.fromkeys(picture.shape for picture in pictures):
            rows = [row for row, picture in enumerate(pictures) if picture.shape == size]
            batch = torch.stack([pictures[row] for row in rows])
            found |= zip(rows, _answers(reward, name, batch, [part[row].line for row in rows]), strict=True)
        for row, one in enumerate(part):
            if not math.isfinite(found[row].value):
                raise UserError(f"{one.path}: the judge {name} says {found[row].value}, no finite number")
            yield found[row]


def _decoded(given: tuple[Shown, bytes]) -> Tensor:
    one, data = given
    return as_tensor(open_picture(data, short(str(one.path), 300), _WAY))


def _of_verdicts(reward: Any, pictures: Tensor, lines: Sequence[Line]) -> list[Answer]:
    """The answers of a judge that knows GenEval's metadata."""
    found = reward.verdicts(pictures, [line.note for line in lines])
    return [
        Answer(float(one.correct), {"correct": one.correct, "reason": one.reason, "details": one.details})
        for one in found
    ]


def _of_phrases(reward: Any, pictures: Tensor, lines: Sequence[Line]) -> list[Answer]:
    """The answers of a judge that asks about each phrase of a prompt, as T2I-CompBench's BLIP-VQA does; set otherwise
    than the benchmark has it, its score alone."""
    texts = [line.text for line in lines]
    if reward.form != "published":
        return _scored(reward, pictures, texts)
    found = []
    for asked in reward.answers(pictures, texts):
        said = [published_answer(probability) for _, probability in asked]
        more = {"questions": [question for question, _ in asked], "answers": said}
        found.append(Answer(float(published_score(said)), more))
    return found


def _scored(reward: Any, pictures: Tensor, texts: list[str]) -> list[Answer]:
    return [Answer(float(value), {}) for value in reward.score(pictures, texts).double().cpu().tolist()]


def _of_details(reward: Any, pictures: Tensor, lines: Sequence[Line]) -> list[Answer]:
    """The answers of a judge that goes by what the file says of a prompt, and tells more than a number."""
    found = reward.detailed(pictures, [line.text for line in lines], [line.note for line in lines])
    return [
        Answer(float(one["value"]), {name: one[name] for name in one if name != "value"}) for one in found
    ]


# What some judges say beside a number, by the method that says it.
_DETAILED: dict[str, Callable[[Any, Tensor, Sequence[Line]], list[Answer]]] = {
    "verdicts": _of_verdicts,
    "answers": _of_phrases,
    "detailed": _of_details,
}


@torch.no_grad()
def _answers(reward: Any, name: str, pictures: Tensor, lines: Sequence[Line]) -> list[Answer]:
    """What a judge says of pictures of one size."""
    for method, told in _DETAILED.items():
        if hasattr(reward, method):
            return told(reward, pictures, lines)
    return _scored(reward, pictures, [line.text for line in lines])
