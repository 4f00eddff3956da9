"""T2I-CompBench's rule of 2D placement, against a plain write-out of its own; what it reads out of prompts."""

from __future__ import annotations

import numpy as np
import pytest

from mitune.english import Word
from mitune.referees.detection import Detection
from mitune.referees.placement import (
    RELATIONS,
    Asked,
    complex_objects,
    framed,
    fulfilled,
    placement_score,
    relation_of,
    simple_objects,
)

CASES = 1000


def plain_position(relation, a, b):
    """The table of the benchmark, case by case: boxes a and b, y downwards."""
    ax, ay, bx, by = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2, (b[0] + b[2]) / 2, (b[1] + b[3]) / 2
    dx, dy = bx - ax, by - ay
    ow = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    oh = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    iou = ow * oh / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - ow * oh)
    soft = 1 if iou < 0.1 else 0.1 / iou
    if relation in ("on side of", "next to", "near"):
        if abs(dx) < 150 or abs(dy) < 150:
            return 1
        return 150 / abs(dx) if abs(dx) > abs(dy) else 150 / abs(dy)
    if relation == "on the left of":
        return soft if dx > 0 and abs(dx) > abs(dy) else 0
    if relation == "on the right of":
        return soft if dx < 0 and abs(dx) > abs(dy) else 0
    if relation == "on the top of":
        return soft if dy > 0 and abs(dy) > abs(dx) else 0
    if relation == "on the bottom of":
        return soft if dy < 0 and abs(dy) > abs(dx) else 0
    return 0


def plain_score(relation, first, second, labels, confidences, boxes):
    """The score from parallel lists, as the benchmark keeps them."""
    score = 0
    if first in labels and second in labels:
        i, j = labels.index(first), labels.index(second)
        score = (
            0.25 * confidences[i] + 0.25 * confidences[j] + plain_position(relation, boxes[i], boxes[j]) / 2
        )
    elif first in labels:
        score = 0.25 * confidences[labels.index(first)]
    elif second in labels:
        score = 0.25 * confidences[labels.index(second)]
    return 0 if score < 0.5 else score


def random_picture(rng, names=("dog", "cat", "bench", "kite")):
    """Detections of one picture, the most confident first, in a frame of 479 px; boxes overlap in about half of it."""
    n = int(rng.integers(0, 7))
    corner = rng.uniform(0, 400, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 250, (n, 2))], 1)
    sure = np.sort(rng.random(n))[::-1]
    return [str(rng.choice(names)) for _ in range(n)], sure.tolist(), boxes.tolist()


def test_scores_are_those_of_the_plain_rule_to_the_last_digit():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(CASES):
        relation = str(rng.choice(RELATIONS))
        first, second = (str(name) for name in rng.choice(["dog", "cat", "person"], 2))
        labels, sure, boxes = random_picture(rng, ("dog", "cat", "person"))
        found = [Detection(*one) for one in zip(labels, sure, map(tuple, boxes), strict=True)]
        wanted = plain_score(relation, first, second, labels, sure, boxes)
        assert repr(placement_score(Asked(relation, first, second), found)) == repr(float(wanted))
        seen.add((relation, wanted > 0))
    assert {(relation, True) for relation in RELATIONS[:-1]} <= seen


@pytest.mark.parametrize(
    ("relation", "other", "wanted"),
    [
        ("on the left of", (200, 0, 300, 100), 1.0),
        ("on the right of", (200, 0, 300, 100), 0.0),
        ("on the top of", (0, 200, 100, 300), 1.0),
        ("on the bottom of", (0, 200, 100, 300), 0.0),
        ("on the left of", (200, 200, 300, 300), 0.0),  # as far across as along
        ("on the left of", (50, 0, 150, 100), 0.1 / (5000 / 15000)),
        ("near", (300, 300, 400, 400), 0.5),
        ("near", (300, 100, 400, 200), 1.0),
        ("on top of", (0, 200, 100, 300), 0.0),
        (None, (0, 200, 100, 300), 0.0),
    ],
)
def test_relations_hold_as_the_benchmark_says(relation, other, wanted):
    assert fulfilled(relation, (0, 0, 100, 100), other) == pytest.approx(wanted, abs=1e-15)


def test_a_score_below_one_half_is_nothing():
    there = Detection("dog", 0.9, (0, 0, 10, 10))
    right = Detection("cat", 0.9, (300, 0, 310, 10))
    assert placement_score(Asked("on the right of", "dog", "cat"), [there, right]) == 0
    assert placement_score(Asked("on the left of", "dog", "cat"), [there, right]) == 0.25 * 0.9 * 2 + 0.5
    assert placement_score(Asked("near", "dog", "bird"), [there]) == 0


def test_boxes_are_measured_in_pictures_of_479_pixels():
    assert framed((0, 0, 512, 256), 512, 512) == (0, 0, 479, 239.5)
    # 479 × 958 is longer than 480: the longer side becomes 480, the shorter 240.
    assert framed((0, 0, 200, 100), 100, 200) == (0, 0, 480, 240)
    assert framed((0, 0, 100, 200), 200, 100) == (0, 0, 240, 480)


def test_the_first_relation_of_the_list_that_stands_in_a_prompt_counts():
    assert relation_of("a cat near a dog on the left of a box") == "near"
    assert relation_of("a linear clock on the top of a desk") == "near"  # as a substring, wherever it stands
    assert relation_of("a cat on top of a box") == "on top of"
    assert relation_of("a cat above a box") is None


def sentence(*pairs):
    """A prompt and its words of ``text/KIND``."""
    told = [pair.rsplit("/", 1) for pair in " ".join(pairs).split()]
    prompt, words = "", []
    for text, kind in told:
        prompt += " " * bool(prompt) + text
        words.append(Word(text, len(prompt) - len(text), len(prompt), kind))
    return prompt, words


def test_a_simple_prompts_objects_are_its_first_and_last_noun():
    _, words = sentence("a/DET boy/NOUN on/ADP the/DET left/NOUN of/ADP Paris/PROPN")
    assert simple_objects(words) == ("person", "left")
    assert simple_objects(words[-1:]) == (None, None)


def plain_complex(prompt, words):
    """The benchmark's search, word by word."""
    around = ["on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near"]

    def said(i, n):
        part = words[i : i + n]
        return prompt[part[0].start : part[-1].stop]

    objects = []
    for i in range(len(words)):
        k = 3 if said(i, 3) in around else 2 if said(i, 2) in around else 1 if said(i, 1) in around else 0
        if not k:
            continue
        j = i - 1
        while j >= 0:
            if words[j].kind in ("NOUN", "PROPN"):
                objects.append(words[j].text)
                break
            j -= 1
        nouns = [word for word in words[i + k :] if word.kind == "NOUN"]
        if nouns:
            objects.append(nouns[0].text)
            continue
        for j in range(i + k, len(words) - 1):
            if words[j].kind == "PROPN" and words[j + 1].kind != "PROPN":
                objects.append(words[j].text)
                break
    if len(objects) != 2:
        return None, None
    return tuple("person" if name in ("girl", "boy", "man", "woman") else name for name in objects)


def test_a_complex_prompts_objects_stand_around_its_preposition():
    rng = np.random.default_rng(2)
    words = ["dog/NOUN", "girl/NOUN", "Rex/PROPN", "Bo/PROPN", "red/ADJ", "the/DET", "runs/VERB", "./PUNCT"]
    prepositions = [
        "on/ADP top/NOUN of/ADP",
        "on/ADP the/DET left/NOUN",
        "next/ADV to/ADP",
        "near/ADP",
        "of/ADP",
    ]
    found = 0
    for _ in range(CASES):
        parts = [str(word) for word in rng.choice(words, int(rng.integers(1, 7)))]
        for _ in range(int(rng.integers(0, 3))):
            parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.choice(prepositions)))
        prompt, told = sentence(*parts)
        wanted = plain_complex(prompt, told)
        assert complex_objects(prompt, told) == wanted, prompt
        found += wanted != (None, None)
    assert found > CASES / 10
