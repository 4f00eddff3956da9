"""What an edit does to attention: which columns come from the source, how much they weigh, which words tell where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mitune.denoiser import Denoiser, Span
from mitune.errors import UserError, short
from mitune.pixels.alignment import Columns, alike, check_whole, columns_of, matched
from mitune.pixels.phrases import Phrase, find, phrases_of
from mitune.pixels.settings import EditConfig


@dataclass(frozen=True)
class Wanted:
    """Says what one edit shall be.

    Attributes:
        source, target: the two prompts.
        mode: one of ``settings.MODES``.
        phrase: of either prompt; whose part of the picture changes, and what ``weight`` is of.
        weight: how much the phrase is looked at; None: as it is.
    """

    source: str
    target: str
    mode: str = EditConfig.mode
    phrase: str | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Plan:
    """Says how an edit is done.

    Attributes:
        source, target: the prompts.
        mode: replace, refine or reweight.
        columns: where each column of the target's text takes its map from.
        weights: of each column.
        source_words, target_words: columns whose maps tell where the picture changes; none at all: everywhere.
        others: columns of each thing of the source that stays.
        region: what changes, in words.
    """

    source: str
    target: str
    mode: str
    columns: Columns
    weights: tuple[float, ...]
    source_words: tuple[int, ...]
    target_words: tuple[int, ...]
    others: tuple[tuple[int, ...], ...]
    region: tuple[str, ...]


def plan(denoiser: Denoiser, wanted: Wanted) -> Plan:
    """Settle how an edit is done.

    Raises UserError: prompts alike, cut off by the encoder or without words; mode replace with other tokens; a phrase
    that is in neither prompt; a weight without a phrase or the other way round; a model that reads no tokens.
    """
    source, target = denoiser.spans(wanted.source), denoiser.spans(wanted.target)
    for text, spans in ((wanted.source, source), (wanted.target, target)):
        check_whole(text, spans)
    mode = mode_of(wanted, source, target)
    words = matched(source, target, mode == "replace")
    width = denoiser.encode_prompts([wanted.target]).tensors["text"].shape[1]
    weights = [1.0] * width
    if wanted.phrase is not None and wanted.weight is not None:
        (told,) = find(wanted.target, [wanted.phrase])
        for span in _within(target, told):
            for own in span.columns.values():
                for column in own:
                    weights[column] = wanted.weight
    ours, theirs, region = _region(wanted, source, target)
    rest = [
        [source[number] for number in _nouns(source, [phrase])]
        for phrase in _phrases(wanted.source, ())
        if not any(phrase.start < span.stop and phrase.stop > span.start for span in ours)
    ]
    return Plan(
        wanted.source,
        wanted.target,
        mode,
        columns_of(source, target, words, width),
        tuple(weights),
        _columns(ours),
        _columns(theirs),
        tuple(_columns(own) for own in rest if own),
        region,
    )


def mode_of(wanted: Wanted, source: Sequence[Span], target: Sequence[Span]) -> str:
    """Settle the mode. Raises UserError for one that cannot be."""
    same = [span.word.casefold() for span in source] == [span.word.casefold() for span in target]
    mode, weight = wanted.mode, wanted.weight
    if mode == "auto":
        mode = "reweight" if weight is not None else "replace" if alike(source, target) else "refine"
    if mode == "reweight":
        if wanted.phrase is None or weight is None:
            raise UserError(
                f"edit.mode=reweight of {short(wanted.target)!r}: say which words weigh how much: edit.phrase= and"
                " edit.weight="
            )
        return mode
    if weight is not None:
        raise UserError(f"edit.weight={weight:g}: edit.mode={mode} weighs nothing; say edit.mode=reweight")
    if same:
        raise UserError(
            f"the source and the target prompt have the same words, {short(wanted.source)!r}: change one, or say"
            " edit.mode=reweight edit.phrase= edit.weight="
        )
    if mode == "replace" and not alike(source, target):
        raise UserError(
            f"edit.mode=replace: {short(wanted.source)!r} and {short(wanted.target)!r} differ in the number of words or"
            " of their tokens; say edit.mode=refine"
        )
    return mode


def _region(
    wanted: Wanted, source: Sequence[Span], target: Sequence[Span]
) -> tuple[list[Span], list[Span], tuple[str, ...]]:
    """The words of either prompt whose maps tell where the picture changes, and the phrases that they are of."""
    if wanted.phrase is not None:
        return _asked(wanted, source, target)
    words = matched(source, target, alike(source, target))
    same = {
        there: here
        for there, here in words.items()
        if source[here].word.casefold() == target[there].word.casefold()
    }
    changed = [span for number, span in enumerate(source) if number not in same.values()]
    added = [span for number, span in enumerate(target) if number not in same]
    before, after = (
        [phrase for phrase in _phrases(text, spans) if _within(spans, phrase)]
        for text, spans in ((wanted.source, changed), (wanted.target, added))
    )
    ours, theirs = ({*_nouns(spans, own)} for spans, own in ((source, before), (target, after)))
    # A phrase that grew or shrank ("a circle", "a red circle") has its noun in both.
    ours |= {same[number] for number in theirs if number in same}
    theirs |= {there for there, here in same.items() if here in ours}
    texts = tuple(dict.fromkeys(phrase.text for phrase in (*before, *after)))
    return [source[i] for i in sorted(ours)], [target[i] for i in sorted(theirs)], texts


def _asked(
    wanted: Wanted, source: Sequence[Span], target: Sequence[Span]
) -> tuple[list[Span], list[Span], tuple[str, ...]]:
    """The words of the phrase that the user named, in the prompts that hold it."""
    assert wanted.phrase is not None
    found: list[list[Span]] = []
    refused: UserError | None = None
    for text, spans in ((wanted.source, source), (wanted.target, target)):
        try:
            (phrase,) = find(text, [wanted.phrase])
        except UserError as error:
            refused = error
            found.append([])
        else:
            found.append([spans[number] for number in _nouns(spans, [phrase])])
    if refused is not None and not any(found):
        raise refused
    return found[0], found[1], (wanted.phrase,)


def _phrases(text: str, changed: Sequence[Span]) -> tuple[Phrase, ...]:
    """The phrases of a prompt; where nothing finds them (no spaCy), the changed words themselves."""
    try:
        return phrases_of(text)
    except UserError:
        return tuple(Phrase(span.word, span.start, span.stop, (span.start, span.stop)) for span in changed)


def _columns(spans: Sequence[Span]) -> tuple[int, ...]:
    return tuple(sorted({column for span in spans for own in span.columns.values() for column in own}))


def _within(spans: Sequence[Span], phrase: Phrase) -> list[Span]:
    return [span for span in spans if span.start < phrase.stop and span.stop > phrase.start]


def _nouns(spans: Sequence[Span], phrases: Sequence[Phrase]) -> list[int]:
    """The numbers of the words that are the phrases' nouns."""
    return [
        number
        for number, span in enumerate(spans)
        if any(span.start < phrase.noun[1] and span.stop > phrase.noun[0] for phrase in phrases)
    ]
