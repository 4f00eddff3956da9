"""Minimal edits of a prompt, found in a pool of prompts: the negatives of `contrast`.

A good negative is a prompt that differs in one thing and *contradicts* the original: attributes exchanged between two
objects, a word replaced by another of its kind, a relation by another. Nothing here knows a language: word kinds are
distributional classes (Harris 1954; Bullinaria & Levy 2007), the cosine of positive-PMI vectors over the words that
stand just before and just after. Grammaticality is judged by neighbours: a new pair of neighbours should have been seen
in the pool. Words that stand side by side somewhere ("striped red") can be true together, so exchanging one for the
other contradicts nothing; such exchanges come last.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mitune.information.catalogue import EDITS

# The kinds in turn, each while it lasts. One in eight is a drop: a right picture satisfies that prompt too.
_TURNS = ("swap", "substitute", "substitute", "swap", "substitute", "substitute", "substitute", "drop")

# Words (with inner apostrophes and hyphens), single Han and kana characters, punctuation marks.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])\w)+(?:['’-]\w+)*|[^\w\s]"
)

_START, _END = "<s>", "</s>"  # the ends of a prompt; no token is so written
_PEER = 0.4  # cosine from which two words count as of one kind
_ALIKE = 0.25  # cosine needed to exchange two words
# Geometric mean of P(second|first) and P(first|second) from which two words are one unit ("left of").
_UNIT = 0.5
_CLOSE = 0.5  # cosine from which a word lends another what it has been seen beside

_REACH = 200  # nearest spans that are looked at

Span = tuple[str, ...]
Changes = tuple[tuple[int, int, Span], ...]  # (start, stop, new words) of each place


@dataclass(frozen=True)
class Edit:
    """A changed prompt; ``kind`` is swap, substitute or drop, or ``pool`` for another prompt of the pool."""

    text: str
    kind: str


@dataclass(frozen=True)
class _Text:
    """A prompt in tokens; ``gaps[i]`` is the white space before token i."""

    words: Span
    gaps: Span

    @classmethod
    def of(cls, text: str) -> _Text:
        words: list[str] = []
        gaps: list[str] = []
        end = 0
        for match in _TOKEN.finditer(text):
            gaps.append(" " if match.start() > end and words else "")
            words.append(match.group())
            end = match.end()
        return cls(tuple(words), tuple(gaps))

    @property
    def keys(self) -> Span:
        return tuple(word.lower() for word in self.words)

    def replaced(self, changes: Changes) -> str:
        """The text with tokens [start, stop) replaced by other words, for each of ``changes``."""
        by_start = {start: (stop, new) for start, stop, new in changes}
        pieces: list[str] = []
        place = 0
        while place < len(self.words):
            stop, new = by_start.get(place, (place + 1, (self.words[place],)))
            for number, word in enumerate(new):
                pieces.append((" " if number else self.gaps[place]) + word)
            place = stop
        text = "".join(pieces).strip()
        # The first letter keeps its case, whichever word now comes first.
        if text and self.words and self.words[0][0].isupper():
            text = text[0].upper() + text[1:]
        return text


@dataclass(frozen=True)
class _Candidate:
    changes: Changes
    score: float


class EditMiner:
    """Finds minimal edits of prompts in ``pool``: any prompts, any vocabulary, no parser, no word list, no model.

    Deterministic in (pool, seed, prompt); the order of the pool does not matter. The prompt need not be of the pool.
    Building costs about a second for 10,000 prompts; the edits of a prompt cost milliseconds (tens of them in a pool of
    thousands of rare words).

    >>> EditMiner(["a red circle", "a blue circle", "a red square", "a blue square"]).edits("a red circle", 1)
    [Edit(text='a red square', kind='substitute')]
    """

    def __init__(self, pool: Sequence[str], seed: int = 0) -> None:
        self.seed = seed
        self.pool = distinct(pool)
        texts = [_Text.of(text) for text in self.pool]
        self._prompts = max(1, len(texts))
        self._frequency: Counter[str] = Counter()  # prompts a word is in
        self._words: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        surface: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            keys = (_START, *text.keys, _END)
            self._frequency.update(set(text.keys))
            self._words.update(keys)
            self._pairs.update(itertools.pairwise(keys))
            for place, word in enumerate(text.words):
                # The first word's capital is the sentence's, not its own.
                surface[word.lower()].update({word: 2 if place else 1})
        self._surface = {key: _commonest(forms) for key, forms in surface.items()}
        self._contexts([text.keys for text in texts])
        self._near: dict[Span, list[tuple[Span, float]]] = {}
        self._close: dict[str, list[tuple[str, float]]] = {}
        self._kinds: dict[str, tuple[Span, int]] = {}
        self._against: dict[tuple[str, str], float] = {}
        self._fit: dict[tuple[str, str], float] = {}
        self._cosines: dict[tuple[Span, Span], float] = {}
        self._total = max(1, sum(self._words.values()))
        self._function = self._function_words()

    def edits(self, prompt: str, k: int, kinds: Sequence[str] = tuple(EDITS)) -> list[Edit]:
        """Up to ``k`` distinct texts other than ``prompt``, those that contradict it first.

        They are spread over ``kinds`` and over the places of the prompt. Where no edit of any kind is found
        (a prompt of one unknown word, say) up to k other prompts of the pool stand in, as kind ``pool``:
        weak negatives, but negatives. Only for a pool with no other prompt is the list empty.

        Raises ValueError for an unknown kind.
        """
        unknown = set(kinds) - set(EDITS)
        if unknown:
            raise ValueError(
                f"unknown kind of edit {', '.join(sorted(unknown))}; there are {', '.join(EDITS)}"
            )
        text = _Text.of(prompt)
        found = {
            kind: (text.replaced(changes) for changes in _spread(self._candidates(kind, text, prompt)))
            for kind in kinds
        }
        taken = {plain_text(prompt)}
        result: list[Edit] = []
        while found and len(result) < k:
            for kind in _TURNS:
                if kind not in found or len(result) == k:
                    continue
                edit = next((edit for edit in found[kind] if self._same(edit).isdisjoint(taken)), None)
                if edit is None:
                    del found[kind]
                else:
                    taken |= self._same(edit)
                    result.append(Edit(edit, kind))
        if not result:
            others = [other for other in self.pool if plain_text(other) not in taken]
            others.sort(key=lambda other: self._hash(prompt, other))
            result = [Edit(other, "pool") for other in others[:k]]
        return result

    # -- word kinds ------------------------------------------------------------------------------------------

    def _contexts(self, prompts: Sequence[Span]) -> None:
        """Positive-PMI context vectors, rows of unit length, of every word and every two-word unit of the pool."""
        counts: Counter[tuple[Span, str]] = Counter()
        for keys in prompts:
            padded = (_START, *keys, _END)
            for start in range(1, len(padded) - 1):
                for length in (1, 2):
                    stop = start + length
                    span = padded[start:stop]
                    if stop < len(padded) and (self._is_word(span) if length == 1 else self._is_unit(span)):
                        counts[span, "<" + padded[start - 1]] += 1
                        counts[span, ">" + padded[stop]] += 1
        self._spans = sorted({span for span, _ in counts})
        self._features = {name: i for i, name in enumerate(sorted({feature for _, feature in counts}))}
        self._rows = {span: i for i, span in enumerate(self._spans)}
        self._feature_weight = np.zeros(len(self._features))
        if not counts:
            self._vectors = sparse.csr_matrix((0, 0))
            return
        row = np.array([self._rows[span] for span, _ in counts])
        column = np.array([self._features[feature] for _, feature in counts])
        count = np.array(list(counts.values()), dtype=np.float64)
        per_row, per_column = np.bincount(row, count), np.bincount(column, count)
        # Context counts to the power 0.75 (Levy et al. 2015) keep rare neighbours from ruling the vector.
        smooth = per_column**0.75 / (per_column**0.75).sum()
        pmi = np.log(count / (per_row[row] * smooth[column]))
        self._feature_weight = np.maximum(0.0, -np.log(smooth))
        vectors = sparse.csr_matrix(
            (np.maximum(pmi, 0.0), (row, column)), (len(self._rows), len(self._features))
        )
        norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
        self._vectors = sparse.diags(1 / np.maximum(norms, 1e-12)) @ vectors

    @staticmethod
    def _is_word(span: Span) -> bool:
        return all(word[0].isalnum() for word in span)

    def _is_unit(self, span: Span) -> bool:
        """Two words that go together so often that they are exchanged as one."""
        pair = self._pairs[span[0], span[1]]
        if pair < 2 or not self._is_word(span):
            return False
        return pair / math.sqrt(self._words[span[0]] * self._words[span[1]]) >= _UNIT

    def _neighbours(self, span: Span, before: str, after: str) -> list[tuple[Span, float]]:
        """Spans of the pool by cosine with ``span``; one the pool lacks is known by this one place alone."""
        row = self._rows.get(span)
        if row is not None and span in self._near:
            return self._near[span]
        if row is not None:
            vector = self._vectors[row]
        else:
            places = [self._features[name] for name in ("<" + before, ">" + after) if name in self._features]
            weights = self._feature_weight[places]
            vector = sparse.csr_matrix((weights, ([0] * len(places), places)), (1, len(self._features)))
            vector = vector / max(float(np.sqrt((weights**2).sum())), 1e-12)
        if not self._spans:
            return []
        cosines = np.asarray((self._vectors @ vector.T).todense()).ravel()
        order = np.argsort(-cosines, kind="stable")[: _REACH + 1]
        near = [
            (self._spans[i], float(cosines[i]))
            for i in order
            if cosines[i] >= _ALIKE and self._spans[i] != span
        ]
        if row is not None:
            self._near[span] = near
        return near

    def _cosine(self, first: Span, second: Span) -> float:
        if first not in self._rows or second not in self._rows:
            return 0.0
        pair = (first, second) if first <= second else (second, first)
        if pair not in self._cosines:
            vectors = [self._vectors[self._rows[span]] for span in pair]
            self._cosines[pair] = float((vectors[0] @ vectors[1].T).sum())
        return self._cosines[pair]

    def _share(self, word: str) -> float:
        """The share of the pool's prompts that contain ``word``; a new word counts as seen once."""
        return max(1, self._frequency[word]) / self._prompts

    def _information(self, span: Span) -> float:
        """How much a span says, in [0, 1]: the bits of its rarest word up to two (one prompt in four)."""
        return max(min(-math.log2(self._share(word)) / 2, 1.0) for word in span)

    def _function_words(self) -> set[str]:
        """Words that carry no choice.

        In most prompts, or in many with none of their kind nearly as common.
        """
        function = {word for word in self._frequency if self._share(word) > 0.85}
        for word in sorted(self._frequency, key=lambda word: (-self._frequency[word], word)):
            if word in function or self._share(word) < 0.3:
                continue
            if not self._has_peer(word, function):
                function.add(word)
        return function

    def _has_peer(self, word: str, function: set[str]) -> bool:
        """Whether another word of the same kind is at least 0.4 times as common."""
        return any(
            cosine >= _PEER
            and not function.intersection(span)
            and min(self._frequency[w] for w in span) >= 0.4 * self._frequency[word]
            for span, cosine in self._neighbours((word,), "", "")
        )

    # -- the three kinds of edit -----------------------------------------------------------------------------

    def _candidates(self, kind: str, text: _Text, prompt: str) -> list[_Candidate]:
        if kind == "swap":
            return self._swaps(text, prompt)
        return self._substitutes(text, prompt) if kind == "substitute" else self._drops(text, prompt)

    def _spans_of(self, keys: Span) -> Iterator[tuple[int, int]]:
        """[start, stop) of the words and units of a prompt that may be exchanged.

        None that is all function words.
        """
        for start in range(len(keys)):
            for stop in (start + 1, start + 2):
                span = keys[start:stop]
                if stop > len(keys) or not self._is_word(span) or self._function.intersection(span):
                    continue
                if stop == start + 1 or self._is_unit(span):
                    yield start, stop

    def _seen(self, before: str, span: Span, after: str, was: Span, blind: float) -> float:
        """How well ``span`` goes between two words in the place of ``was``, in [0, 1].

        By whether the pool has the two joints, or at least such joints with words of the same kind.
        """
        credit = 1.0
        for joint, old in (((before, span[0]), (before, was[0])), ((span[-1], after), (was[-1], after))):
            if joint in self._pairs:
                continue
            if self._is_unit(old):  # half of a unit exchanged: "far from" into "far above"
                return 0.0
            credit *= self._unseen(*joint, blind)
        return credit

    def _unseen(self, first: str, second: str, blind: float) -> float:
        """How well two words go together that the pool never shows together.

        Fairly well, if it shows such a pair with a word of the same kind; by ``blind``, if it has too few words of
        these kinds to show one; badly, if words of these kinds should have met by chance and have not.
        """
        if (known := self._fit.get((first, second))) is not None:
            return known if known >= 0 else max(-known * blind, 0.05)
        (starts, count), (ends, other_count) = self._kind(first), self._kind(second)
        if any((word, second) in self._pairs for word in starts) or any(
            (first, word) in self._pairs for word in ends
        ):
            self._fit[first, second] = 0.4
        else:  # by a negative number: a share of ``blind``
            self._fit[first, second] = -math.exp(-min(count * other_count / self._total, 50.0))
        return self._unseen(first, second, blind)

    def _kind(self, word: str) -> tuple[Span, int]:
        """The word and the single words of its kind, and how often they are there in all."""
        if word not in self._kinds:
            known = self._neighbours((word,), "", "") if (word,) in self._rows else []
            peers = [other[0] for other, cosine in known if cosine >= _PEER and len(other) == 1]
            self._kinds[word] = (word, *peers), sum(self._words[peer] for peer in (word, *peers))
        return self._kinds[word]

    def _substitutes(self, text: _Text, prompt: str) -> list[_Candidate]:
        keys = text.keys
        padded = (_START, *keys, _END)
        found = []
        for start, stop in self._spans_of(keys):
            old, before, after = keys[start:stop], padded[start], padded[stop + 1]
            for new, cosine in self._neighbours(old, before, after):
                if self._function.intersection(new) or (set(new) & set(old) and len(new) != len(old)):
                    continue
                if before in new or after in new:  # "left of of"
                    continue
                score = (
                    cosine
                    * self._seen(before, new, after, old, 0.1)
                    * min(self._information(old), self._information(new))
                )
                score *= self._contradiction(old, new)
                if score > 0.02:
                    words = tuple(self._surface[word] for word in new)
                    score *= 1 - 0.15 * self._hash(prompt, " ".join((str(start), *new)))
                    found.append(_Candidate(((start, stop, words),), score))
        return found

    def _contradiction(self, old: Span, new: Span) -> float:
        """1 where ``new`` excludes ``old`` as far as the pool shows; small where the two stand side by side.

        What close words do counts in part, as a small pool does not show every pair.
        """
        pair = old[-1], new[0]
        if pair not in self._against:
            beside = sum(
                weight * other_weight * (self._pairs[first, second] + self._pairs[second, first])
                for first, weight in self._closest(pair[0])
                for second, other_weight in self._closest(pair[1])
            )
            self._against[pair] = max(math.exp(-beside), 0.1)
        return self._against[pair]

    def _closest(self, word: str) -> list[tuple[str, float]]:
        """The word and the words most like it, with how much each says about it."""
        if word not in self._close:
            known = self._neighbours((word,), "", "") if (word,) in self._rows else []
            near = [(other[0], cosine**4) for other, cosine in known if cosine >= _CLOSE and len(other) == 1]
            self._close[word] = [(word, 1.0), *near[:20]]
        return self._close[word]

    def _swaps(self, text: _Text, prompt: str) -> list[_Candidate]:
        keys = text.keys
        padded = (_START, *keys, _END)
        spans = list(self._spans_of(keys))
        found = []
        for number, (start, stop) in enumerate(spans):
            for other, end in spans[number + 1 :]:
                first, second = keys[start:stop], keys[other:end]
                if other <= stop or first == second or set(first) & set(second):
                    continue
                # Parallel places ("a tall man and a short woman") speak for a kind of which the pool shows little.
                alike = self._cosine(first, second)
                if self._alike_joints(padded[start], padded[other]):
                    alike += 0.5 * self._cosine((padded[stop + 1],), (padded[end + 1],))
                    alike += 0.2 * (self._content(padded[stop + 1]) == self._content(padded[end + 1]))
                if self._alike_joints(padded[stop + 1], padded[end + 1]):
                    alike += 0.5 * self._cosine((padded[start],), (padded[other],))
                if alike < _ALIKE:
                    continue
                seen = self._seen(padded[start], second, padded[stop + 1], first, 0.4)
                seen *= self._seen(padded[other], first, padded[end + 1], second, 0.4)
                score = (
                    math.sqrt(min(alike, 1.0)) * seen * self._changes_meaning(keys, start, stop, other, end)
                )
                if score > 0.01:
                    score *= 1 - 0.05 * self._hash(prompt, f"{start} {other}")
                    changes = (
                        (start, stop, self._form(text, other, end)),
                        (other, end, self._form(text, start, stop)),
                    )
                    found.append(_Candidate(changes, score))
        return found

    def _alike_joints(self, first: str, second: str) -> bool:
        """Whether two words make places parallel: the same word, or both without a choice of their own (a, the)."""
        return first == second or {first, second} <= self._function

    def _form(self, text: _Text, start: int, stop: int) -> Span:
        """The words [start, stop) as they are written inside a sentence."""
        words = text.words[start:stop]
        return words if start else (self._surface.get(words[0].lower(), words[0]), *words[1:])

    def _changes_meaning(self, keys: Span, start: int, stop: int, other: int, end: int) -> float:
        """How surely exchanging two spans says something new.

        Surely, where the words they belong with differ ("red circle, blue square"). Where these are equal, or there
        are none ("a dog ... a cat"), only the order changes: that matters if the words between state a relation,
        and not if they only list ("and").
        """
        (left, right), (other_left, other_right) = (
            self._company(keys, start, stop),
            self._company(keys, other, end),
        )
        # A relation runs on from the words before it ("red cross far from"), so the longer run is cut.
        common = min(len(right), len(other_right))
        if left != other_left or right[:common] != other_right[:common]:
            return 1.0
        between = [word for word in keys[stop + common : other - len(other_left)] if self._content(word)]
        return 0.3 if any(self._is_choice(word) for word in between) else 0.0

    def _is_choice(self, word: str) -> bool:
        """Whether a word is one of several that could stand in its place.

        Rare, or with a peer of its kind.
        """
        share = self._share(word)
        return share < 0.1 or (share < 0.4 and self._has_peer(word, self._function))

    def _company(self, keys: Span, start: int, stop: int) -> tuple[Span, Span]:
        """The unbroken runs of other content words on both sides of a span."""
        left, right = start, stop
        while left > 0 and self._content(keys[left - 1]):
            left -= 1
        while right < len(keys) and self._content(keys[right]):
            right += 1
        return keys[left:start], keys[stop:right]

    def _content(self, word: str) -> bool:
        return word[0].isalnum() and word not in self._function

    def _drops(self, text: _Text, prompt: str) -> list[_Candidate]:
        keys = text.keys
        padded = (_START, *keys, _END)
        found = []
        for start in range(len(keys)):
            for stop in range(start + 1, min(len(keys), start + 10) + 1):
                gone = [word for word in keys[start:stop] if self._content(word)]
                rest = [word for word in (*keys[:start], *keys[stop:]) if self._content(word)]
                joint = (padded[start], padded[stop + 1])
                if not gone or not rest or joint not in self._pairs:
                    continue
                # How usual the new joint is, from either side; a cut of a third to a half of what is said is an object.
                usual = self._pairs[joint] / math.sqrt(self._words[joint[0]] * self._words[joint[1]])
                size = len(gone) / (len(gone) + len(rest))
                score = math.sqrt(usual) * (1.0 if 0.3 <= size <= 0.6 else 0.5)
                score *= 1 - 0.05 * self._hash(prompt, f"{start} {stop}")
                found.append(_Candidate(((start, stop, ()),), score))
        return found

    def _same(self, text: str) -> set[Any]:
        """What two texts share if they say the same: the words, or the described things in another order.

        "A blue circle and a red square" and "a red square and a blue circle" are one negative, not two.
        """
        runs: list[list[str]] = [[]]
        for key in _Text.of(text).keys:
            if self._content(key):
                runs[-1].append(key)
            elif runs[-1]:
                runs.append([])
        return {plain_text(text), tuple(sorted(tuple(run) for run in runs if run))}

    def _hash(self, prompt: str, what: str) -> float:
        """A number in [0, 1) that depends on (seed, prompt, what) alone."""
        digest = hashlib.sha256(f"{self.seed}\n{prompt}\n{what}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48


def _commonest(forms: Counter[str]) -> str:
    return min(forms, key=lambda form: (-forms[form], form))


def plain_text(text: str) -> str:
    """The text without what makes no prompt another one: case and white space."""
    return " ".join(text.lower().split())


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts sorted, without blank ones and those that differ from another in case or white space alone."""
    backwards = sorted(texts, reverse=True)
    return sorted({plain: text for text in backwards if (plain := plain_text(text))}.values())


def _spread(candidates: Sequence[_Candidate]) -> list[Changes]:
    """The best of each place first, then the second best of each; half as good waits one turn more."""
    turns: Counter[int] = Counter()
    order = []
    ranked = sorted(candidates, key=lambda c: (-c.score, c.changes))
    for candidate in ranked:
        place = candidate.changes[0][0]
        wait = math.log2(ranked[0].score / candidate.score)
        order.append((turns[place] + wait, candidate.changes))
        turns[place] += 1
    return [changes for _, changes in sorted(order)]
