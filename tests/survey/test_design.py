"""What a survey asks: it is read as it was written, and what a person sees depends on the seed and the number alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mitune.errors import UserError
from mitune.survey.blocks import blocks
from mitune.survey.design import PRACTICE, SURVEY, Round, Rules, Survey, plan_of, read_survey, write_survey
from mitune.survey.simulated import made_up


def methods(**settings: Any) -> Survey:
    return made_up("methods", ("a", "b", "c"), prompts=6, rounds=4, participants=9, **settings)


def test_a_survey_is_read_as_it_was_written(tmp_path: Path) -> None:
    survey = dataclasses.replace(
        methods(groups=("x", "y"), attention=True), rules=Rules(0.9, 0.8, 2.5), plan={"power": 0.8}
    )
    write_survey(tmp_path, survey)
    assert read_survey(tmp_path) == survey


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (["schema"], 2, "schema"),
        (["kind"], "quiz", "kind is not known"),
        (["seed"], "0", "seed"),
        (["names"], ["a", "a", "b", "c"], "given twice"),
        (["blocks"], [], "no blocks"),
        (["blocks", 0, 0], "00000000", "a round that there is not"),
        (["rounds", 0, "pictures", 0, "file"], "pictures/../../secret.png", "no place of a picture"),
        (["rounds", 0, "pictures", 0, "id"], "../etc", "no place of a picture"),
        (["rounds", 0, "pictures", 0, "shows"], ["z"], "not compared"),
        (["rounds", 0, "right"], ["0123456789abcdef"], "right picture"),
        (["rounds", 0, "pictures"], [], "no picture"),
        (["rules"], {"attention": "much"}, "rule"),
        (["rounds"], None, "no survey"),
    ],
)
def test_a_survey_that_does_not_fit_together_is_refused(
    tmp_path: Path, at: list[Any], value: object, said: str
) -> None:
    write_survey(tmp_path, methods())
    found = json.loads((tmp_path / SURVEY).read_text())
    part = found
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    (tmp_path / SURVEY).write_text(json.dumps(found))
    with pytest.raises(UserError, match=said):
        read_survey(tmp_path)


def test_a_folder_without_a_survey_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mitune survey build"):
        read_survey(tmp_path)


def seen(survey: Survey, number: int) -> list[tuple[str, list[str]]]:
    return [(one.id, [own.id for own in pictures]) for one, pictures in plan_of(survey, number)]


def test_a_person_sees_the_same_again_and_another_person_another_order(tmp_path: Path) -> None:
    survey = methods(attention=True)
    write_survey(tmp_path, survey)
    assert [seen(survey, number) for number in range(12)] == [
        seen(read_survey(tmp_path), number) for number in range(12)
    ]
    assert len({str(seen(survey, number)) for number in range(0, 90, 9)}) == 10  # all of one block
    assert seen(dataclasses.replace(survey, seed=1), 0) != seen(survey, 0)


def test_each_picture_is_at_each_place_equally_often() -> None:
    survey = methods()
    places: dict[str, Counter[tuple[int, str]]] = {}
    asked: Counter[str] = Counter()
    for number in range(27):
        for one, pictures in plan_of(survey, number):
            asked[one.id] += 1
            places.setdefault(one.id, Counter()).update((place, own.id) for place, own in enumerate(pictures))
    for name, own in places.items():
        assert (
            max(own.values())
            - min(own.get(key, 0) for key in itertools.product(range(3), {i for _, i in own}))
            <= 1
        )
        assert sum(own.values()) == 3 * asked[name]
    assert {*asked.values()} == {18}  # 27 persons of 4 rounds, 6 prompts


def test_practice_comes_first_and_everyone_sees_it() -> None:
    survey = methods(attention=True)
    own = dataclasses.replace(survey.rounds[0], id="abcdef01", kind=PRACTICE)
    survey = dataclasses.replace(survey, rounds=(*survey.rounds, own))
    for number in range(10):
        first, *rest = (one for one, _ in plan_of(survey, number))
        assert first is own
        assert {one.id for one in rest} == {*survey.blocks[number % 9]}


@pytest.mark.parametrize(
    ("prompts", "methods", "shown", "rounds", "people"),
    [
        (12, 3, 3, 12, 5),
        (40, 4, 2, 10, 30),
        (7, 5, 2, 3, 50),
        (5, 8, 4, 5, 9),
        (60, 8, 8, 10, 33),
        (3, 3, 1, 2, 20),
    ],
)
def test_blocks_are_balanced_at_every_participant(
    prompts: int, methods: int, shown: int, rounds: int, people: int
) -> None:
    """Within one whenever it stops, and exact where the numbers allow."""
    found = blocks(prompts, methods, shown, rounds, people, seed=3)
    asked, often = Counter(dict.fromkeys(range(prompts), 0)), Counter(dict.fromkeys(range(methods), 0))
    for number, own in enumerate(found, 1):
        assert len({prompt for prompt, _ in own}) == rounds
        asked.update(prompt for prompt, _ in own)
        often.update(name for _, names in own for name in names)
        for counts, total in ((asked, number * rounds), (often, number * rounds * shown)):
            assert max(counts.values()) - min(counts.values()) <= (1 if total % len(counts) else 0)


def test_methods_meet_each_other_about_equally_often_and_each_prompt_has_them_all() -> None:
    found = blocks(12, 4, 2, 6, 24, seed=0)
    together = Counter(names for own in found for _, names in own)
    assert {*together.values()} == {24}  # 144 rounds, 6 pairs
    of_prompt = Counter((prompt, name) for own in found for prompt, names in own for name in names)
    assert max(of_prompt.values()) - min(of_prompt[p, m] for p in range(12) for m in range(4)) <= 2


def test_a_round_of_the_contract_has_all_that_a_page_needs() -> None:
    assert [one.name for one in dataclasses.fields(Round)] == [
        "id", "prompt", "category", "pictures", "kind", "right",
    ]  # fmt: skip
