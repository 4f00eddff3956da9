"""Two prompts side by side: which words they share, and from which column of the source each of the target's comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from mitune.denoiser import Span
from mitune.errors import UserError, short


@dataclass(frozen=True)
class Columns:
    """Says for every column of the target's text from which column of the source's its map comes.

    Attributes:
        take: that column.
        use: whether it comes from there at all: a new word keeps its own.
    """

    take: tuple[int, ...]
    use: tuple[bool, ...]


def matched(source: Sequence[Span], target: Sequence[Span], replace: bool = False) -> dict[int, int]:
    """Match words: target's number -> source's number, whatever their case; ``replace``: by their place.

    >>> def words(text): return [Span(word, 0, 0, {}) for word in text.split()]
    >>> matched(words("a red circle"), words("a small Red circle"))
    {0: 0, 2: 1, 3: 2}
    """
    if replace:
        return {number: number for number in range(len(target))}
    ours, theirs = ([span.word.casefold() for span in spans] for spans in (source, target))
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return {block.b + i: block.a + i for block in blocks for i in range(block.size)}


def alike(source: Sequence[Span], target: Sequence[Span]) -> bool:
    """Tell whether both have the same number of words, and each as many tokens as the other's at its place."""
    counts = [
        [{name: len(own) for name, own in span.columns.items()} for span in spans]
        for spans in (source, target)
    ]
    return counts[0] == counts[1]


def check_whole(text: str, spans: Sequence[Span]) -> None:
    """Raise UserError for a prompt of which an encoder reads no word, or not every one."""
    if not spans:
        raise UserError(f"the prompt {short(text)!r} has no words to edit; give one that has")
    cut = next((span for span in spans if not all(span.columns.values())), None)
    if cut is not None:
        raise UserError(
            f"the prompt {short(text)!r} is too long to edit: the text encoder cuts it off at {short(cut.word)!r};"
            " shorten it"
        )


def columns_of(source: Sequence[Span], target: Sequence[Span], words: dict[int, int], width: int) -> Columns:
    """Give the columns of a text of ``width`` columns: those of words as ``words`` match them, one by one where they
    have equally many; those between words, and after the last, by their place between the same neighbours.
    """
    take, use = [*range(width)], [True] * width
    names = sorted(target[0].columns, key=lambda name: target[0].columns[name][0])
    for place, name in enumerate(names):
        stop = width
        if place + 1 < len(names):
            following = names[place + 1]
            stop = min(spans[0].columns[following][0] for spans in (source, target))
        for number, span in enumerate(target):
            own = span.columns[name]
            theirs = source[words[number]].columns[name] if number in words else ()
            for i, column in enumerate(own):
                use[column] = len(theirs) == len(own)
                take[column] = theirs[i] if use[column] else column
            _between(take, use, source, target, words, number, name, stop)
    return Columns(tuple(take), tuple(use))


def _between(
    take: list[int],
    use: list[bool],
    source: Sequence[Span],
    target: Sequence[Span],
    words: dict[int, int],
    number: int,
    name: str,
    stop: int,
) -> None:
    """The columns between a word and the next (a comma, say), or after the last one (the end, and what fills up).

    Args:
        take, use: are written.
        source, target, words: as of :func:`columns_of`.
        number: of the word, in the target.
        name: of the encoder.
        stop: where the encoder's columns end.
    """
    last = number + 1 == len(target)
    begin = target[number].columns[name][-1] + 1
    end = stop if last else target[number + 1].columns[name][0]
    # After the last word both texts go on alike: what ends them, then what fills up.
    other = len(source) - 1 if last else words.get(number)
    first = None if other is None else source[other].columns[name][-1] + 1
    for column in range(begin, end):
        if last and first is not None:
            take[column] = min(first + column - begin, stop - 1)
        elif first is not None and other is not None and words.get(number + 1) == other + 1:
            there = source[other + 1].columns[name][0]
            use[column] = there - first == end - begin
            take[column] = first + column - begin if use[column] else column
        else:
            use[column] = False
