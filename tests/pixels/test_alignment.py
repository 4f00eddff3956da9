"""Two prompts side by side, by hand: which column of the target takes which of the source."""

from __future__ import annotations

import pytest

from mitune.denoiser import Span
from mitune.errors import UserError
from mitune.pixels.alignment import alike, check_whole, columns_of, matched
from mitune.pixels.plans import Wanted, mode_of


def words(text: str, sizes: dict[str, int] | None = None, first: int = 1, name: str = "clip") -> list[Span]:
    """The words of a text; each has one token, or as many as ``sizes`` says, and a comma has one too."""
    found, column, at = [], first, 0
    for part in text.split():
        word = part.rstrip(",")
        count = (sizes or {}).get(word, 1)
        start = text.index(word, at)
        at = start + len(word)
        found.append(Span(word, start, at, {name: tuple(range(column, column + count))}))
        column += count + part.count(",")
    return found


def test_new_words_keep_their_own_and_the_rest_moves_along() -> None:
    source, target = words("a red circle"), words("a big red circle")
    found = columns_of(source, target, matched(source, target), 8)
    # begin, a, (big), red, circle, end, and what fills up
    assert found.take == (0, 1, 2, 2, 3, 4, 5, 6)
    assert found.use == (True, True, False, True, True, True, True, True)


def test_words_that_are_gone_are_passed_over() -> None:
    source, target = words("a big red circle"), words("a circle")
    found = columns_of(source, target, matched(source, target), 8)
    assert found.take == (0, 1, 4, 5, 6, 7, 7, 7)
    assert all(found.use)


def test_a_word_of_more_tokens_keeps_its_own() -> None:
    source, target = words("a red cat"), words("a turquoise cat", {"turquoise": 3})
    assert not alike(source, target)
    found = columns_of(source, target, matched(source, target), 9)
    assert found.take == (0, 1, 2, 3, 4, 3, 4, 5, 6)
    assert found.use == (True, True, False, False, False, True, True, True, True)


def test_replacing_goes_word_by_word() -> None:
    source, target = words("a red circle"), words("a green star")
    assert alike(source, target)
    found = columns_of(source, target, matched(source, target, replace=True), 7)
    assert found.take == tuple(range(7))
    assert all(found.use)


def test_a_comma_goes_with_its_neighbours() -> None:
    source, target = words("a cat, a dog"), words("a cat, a big dog")
    found = columns_of(source, target, matched(source, target), 9)
    # begin a cat , a (big) dog end fill
    assert found.take == (0, 1, 2, 3, 4, 5, 5, 6, 7)
    assert found.use == (*[True] * 5, False, True, True, True)


def test_two_encoders_are_aligned_each_for_itself() -> None:
    def both(text: str) -> list[Span]:
        one, two = words(text), words(text, first=8, name="t5")
        return [
            Span(a.word, a.start, a.stop, {**a.columns, **b.columns}) for a, b in zip(one, two, strict=True)
        ]

    source, target = both("a red cat"), both("a cat")
    found = columns_of(source, target, matched(source, target), 14)
    assert found.take[:8] == (0, 1, 3, 4, 5, 6, 7, 7)
    assert found.take[8:] == (8, 10, 11, 12, 13, 13)


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [
        (Wanted("a red cat", "a green cat"), "replace"),
        (Wanted("a red cat", "a big cat on a mat"), "refine"),
        (Wanted("a red cat", "a red cat", phrase="red", weight=2.0), "reweight"),
        (Wanted("a red cat", "a green cat", "refine"), "refine"),
    ],
)
def test_auto_takes_what_fits(wanted: Wanted, mode: str) -> None:
    assert mode_of(wanted, words(wanted.source), words(wanted.target)) == mode


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        (Wanted("a red cat", "a Red  cat"), "have the same words"),
        (Wanted("a red cat", "a cat", "replace"), "edit.mode=refine"),
        (Wanted("a red cat", "a cat", "reweight"), "edit.phrase= and edit.weight="),
        (Wanted("a red cat", "a green cat", "replace", "green", 2.0), "edit.mode=reweight"),
    ],
)
def test_what_cannot_be_is_refused(wanted: Wanted, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        mode_of(wanted, words(wanted.source), words(wanted.target))


def test_a_prompt_that_is_cut_off_is_refused() -> None:
    with pytest.raises(UserError, match="cuts it off at 'cat'"):
        check_whole("a cat", [Span("a", 0, 1, {"clip": (1,)}), Span("cat", 2, 5, {"clip": ()})])
    with pytest.raises(UserError, match="has no words"):
        check_whole("!", [])
