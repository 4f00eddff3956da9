"""GenEval's rules against a plain write-out of their own, and what is read out of its prompts."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from mitune.errors import UserError
from mitune.referees.detection import Detection
from mitune.referees.geneval import COLOURS, NAMES, judged, kept, request_of, sides

CASES = 1500


def plain_sides(a, b):
    """Where a is, seen from b; from the two boxes' middles and sizes, number by number."""
    ax, ay, bx, by = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2, (b[0] + b[2]) / 2, (b[1] + b[3]) / 2
    dx, dy = ax - bx, ay - by
    sx = abs(dx) - 0.1 * (abs(a[2] - a[0]) + abs(b[2] - b[0]))
    sy = abs(dy) - 0.1 * (abs(a[3] - a[1]) + abs(b[3] - b[1]))
    rx, ry = math.copysign(max(sx, 0), dx), math.copysign(max(sy, 0), dy)
    if abs(rx) < 1e-3 and abs(ry) < 1e-3:
        return []
    rx, ry = rx / math.hypot(dx, dy), ry / math.hypot(dx, dy)
    names = []
    if rx < -0.5:
        names.append("left of")
    if rx > 0.5:
        names.append("right of")
    if ry < -0.5:
        names.append("above")
    if ry > 0.5:
        names.append("below")
    return names


def plain_verdict(metadata, objects, colour_of):
    """The benchmark's procedure on name -> boxes; ``colour_of``: (name, number in the list) -> colour."""
    correct, reason, groups = True, [], []
    for req in metadata["include"]:
        name, count, ok = req["class"], req["count"], True
        boxes = objects.get(name, [])[:count]
        if len(boxes) < count:
            ok = False
            reason.append(f"expected {name}>={count}, found {len(boxes)}")
        else:
            if "color" in req:
                colours = [colour_of[name, at] for at in range(count)]
                hits = colours.count(req["color"])
                if hits < count:
                    ok = False
                    others = [f"{colours.count(c)} {c}" for c in COLOURS if c in colours]
                    reason.append(
                        f"expected {req['color']} {name}>={count}, found {hits} {req['color']}; and {', '.join(others)}"
                    )
            if "position" in req and ok:
                relation, target = req["position"]
                if groups[target] is None:
                    ok = False
                    reason.append(f"no target for {name} to be {relation}")
                else:
                    for box in boxes:
                        for other in groups[target]:
                            true = plain_sides(box, other)
                            if relation not in true:
                                ok = False
                                reason.append(
                                    f"expected {name} {relation} target, found {' and '.join(true)} target"
                                )
                                break
                        if not ok:
                            break
        correct = correct and ok
        groups.append(boxes if ok else None)
    for req in metadata.get("exclude", []):
        if len(objects.get(req["class"], [])) >= req["count"]:
            correct = False
            reason.append(f"expected {req['class']}<{req['count']}, found {len(objects[req['class']])}")
    return correct, "\n".join(reason)


def colours(colour_of, name, count):
    return [colour_of[name, at] for at in range(count)]


def random_request(rng):
    names = [str(name) for name in rng.choice(["dog", "cat", "cow"], 2)]
    include = [{"class": name, "count": int(rng.integers(1, 4))} for name in names]
    for clause in include:
        if rng.random() < 0.4:
            clause["color"] = str(rng.choice(COLOURS[:3]))
    if rng.random() < 0.5:
        include[1]["position"] = [str(rng.choice(["left of", "right of", "above", "below"])), 0]
    exclude = [{"class": names[0], "count": int(rng.integers(1, 5))}] if rng.random() < 0.4 else []
    return {"tag": str(rng.choice(["counting", "position"])), "include": include, "exclude": exclude}


def random_picture(rng):
    found = []
    for _ in range(int(rng.integers(0, 30))):
        corner, size = rng.uniform(0, 400, 2), rng.uniform(1, 120, 2)
        box = (*corner.tolist(), *(corner + size).tolist())
        found.append(Detection(str(rng.choice(["dog", "cat", "cow"])), float(rng.random()), box))
    return found


def test_verdicts_are_those_of_the_plain_rule():
    rng = np.random.default_rng(4)
    seen = {True: 0, False: 0}
    reasons = set()
    for _ in range(CASES):
        request, picture = random_request(rng), random_picture(rng)
        least = 0.9 if request["tag"] == "counting" else 0.3
        ordered = sorted(picture, key=lambda one: one.confidence, reverse=True)
        objects: dict[str, list] = {}
        for one in ordered:
            if one.confidence > least and len(objects.get(one.label, [])) < 16:
                objects.setdefault(one.label, []).append(one.box)
        colour_of = {
            (name, at): str(rng.choice(COLOURS[:3])) for name in ("dog", "cat", "cow") for at in range(16)
        }
        wanted, why = plain_verdict(request, objects, colour_of)
        told = judged(request, kept(picture, least), functools.partial(colours, colour_of))
        assert (told.correct, told.reason) == (wanted, why)
        assert {name: [box[:4] for box in boxes] for name, boxes in told.details.items()} == {
            name: [list(box) for box in boxes] for name, boxes in objects.items()
        }
        seen[wanted] += 1
        reasons |= {line.split(",")[-1].split()[-1] for line in why.splitlines()}
    assert min(seen.values()) > CASES / 20
    assert {"target"} <= reasons


def test_sides_are_those_of_the_plain_rule():
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(CASES):
        a, b = (
            [*corner, *(corner + size)]
            for corner, size in zip(rng.uniform(0, 200, (2, 2)), rng.uniform(1, 150, (2, 2)), strict=True)
        )
        assert list(sides(a, b)) == plain_sides(a, b)
        seen.add(sides(a, b))
    assert {(), ("left of",), ("right of",), ("above",), ("below",), ("left of", "above")} <= seen


def test_both_halves_of_a_diagonal_hold():
    assert sides((100, 100, 110, 110), (0, 0, 10, 10)) == ("right of", "below")
    assert sides((0, 0, 10, 10), (0, 0, 10, 10)) == ()
    assert sides((10, 0, 60, 50), (0, 0, 50, 50)) == ()  # 10 px apart, reduced by 10


def test_at_most_sixteen_objects_of_a_class_count_and_only_surer_ones():
    found = [Detection("mouse", 0.3 + at / 100, (at, 0, at + 1, 1)) for at in range(20)]
    own = kept(found, 0.3)
    assert list(own) == ["computer mouse"]
    assert len(own["computer mouse"]) == 16
    assert own["computer mouse"][0].confidence == 0.3 + 19 / 100
    assert kept(found, 0.5) == {}


def one(name, **more):
    return {"class": name, "count": 1, **more}


FORMS = {
    "a photo of a bench": ("single_object", [one("bench")]),
    "a photo of a tv remote and an orange": ("two_object", [one("tv remote"), one("orange")]),
    "a photo of an orange orange": ("colors", [one("orange", color="orange")]),
    "a photo of a dog right of a teddy bear": (
        "position",
        [one("teddy bear"), one("dog", position=["right of", 0])],
    ),
    "a photo of a purple wine glass and a black apple": (
        "color_attr",
        [one("wine glass", color="purple"), one("apple", color="black")],
    ),
}


@pytest.mark.parametrize("prompt", FORMS)
def test_prompts_are_read_as_the_metadata_says_them(prompt):
    tag, include = FORMS[prompt]
    assert request_of(prompt) == {"tag": tag, "include": include, "prompt": prompt}


@pytest.mark.parametrize("plural", ["knifes", "knives"])
def test_of_what_is_counted_one_more_is_too_many(plural):
    prompt = f"a photo of three {plural}"
    assert request_of(prompt) == {
        "tag": "counting",
        "include": [{"class": "knife", "count": 3}],
        "exclude": [{"class": "knife", "count": 4}],
        "prompt": prompt,
    }


def test_every_object_is_read_alone_and_in_numbers():
    for name in NAMES:
        assert request_of(f"a photo of a {name}")["include"][0]["class"] == name
        assert (
            request_of(f"a photo of four {name}{'es' if name[-1] == 's' else 's'}")["include"][0]["class"]
            == name
        )


@pytest.mark.parametrize(
    "prompt", ["a dog", "a photo of a unicorn", "a photo of a teal dog", "a photo of a dog under a cat"]
)
def test_other_prompts_are_refused_in_a_line(prompt):
    with pytest.raises(UserError, match=r"none of its six forms") as caught:
        request_of(prompt)
    assert "\n" not in str(caught.value)
