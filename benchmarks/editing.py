"""How well ``mitune edit`` changes what was asked and nothing else: ``python -m benchmarks.editing``.

A picture of the embedded world that shows its prompt is edited: another colour, shape, texture, size or relation of
one object. The world's oracle says whether the new word is right and whether every other object still reads the same;
beside it stands how much pixels outside of the edited object moved. Plain Prompt-to-Prompt (no local blend) and a
redraw from the same noise, which is what one does without editing, edit the same pictures. Settings were chosen with
``--part train`` (prompts that the model was trained on); the record is of held-out prompts and other seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from mitune.denoiser import Denoiser
from mitune.pixels.editing import edit
from mitune.pixels.plans import Wanted, plan
from mitune.pixels.settings import EditConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_seed
from mitune.worlds.shapes.grammar import CATEGORIES, ObjectSpec, PromptSpec, parse_prompt, split
from mitune.worlds.shapes.parsing import ParsedObject, oracle_score, parse_picture
from mitune.worlds.shapes.vocabulary import COLOURS, DIRECTIONS, SHAPES, SIZES, TEXTURES, size_word

KINDS = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": tuple(SIZES)}
TRIES = 8  # pictures drawn for a prompt, of which the first that shows it is edited
NEAR = 3  # pixels around the edited object that may move with it
SAME = 0.4  # overlap (IoU) from which an object is where it was

ARMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain Prompt-to-Prompt": {"blend": False},
    "redrawn from the same noise": {"blend": False, "cross_share": 0.0, "self_share": 0.0},
}


@dataclass(frozen=True)
class Case:
    """One edit: the source's and the target's specification, which object, and what of it."""

    kind: str
    source: PromptSpec
    target: PromptSpec
    place: int
    seed: int = 0


def cases(part: str, each: int, seed: int) -> list[Case]:
    """Make ``each`` edits of every kind, of prompts of ``part``; no two of one prompt."""
    rng = np.random.default_rng([seed, 20])
    texts = [text for category in CATEGORIES for text in split(category, part)]
    found: list[Case] = []
    order = iter(rng.permutation(len(texts)))
    for kind in (*KINDS, "relation"):
        own: list[Case] = []
        while len(own) < each:
            case = _case(kind, parse_prompt(texts[next(order)]), rng)
            if case is not None:
                own.append(case)
        found += own
    return found


def _case(kind: str, spec: PromptSpec, rng: np.random.Generator) -> Case | None:
    """An edit of a kind; None where the prompt does not say that of an object, or the result is not of the grammar."""
    if kind == "relation":
        if spec.relation not in DIRECTIONS:
            return None
        other = str(rng.choice([word for word in DIRECTIONS if word != spec.relation]))
        return Case(kind, spec, dataclasses.replace(spec, relation=other), 0)
    places = [i for i, thing in enumerate(spec.objects) if getattr(thing, kind) is not None]
    if not places or len(spec.objects) < 2:
        return None
    place = int(rng.choice(places))
    thing = spec.objects[place]
    word = str(rng.choice([word for word in KINDS[kind] if word != getattr(thing, kind)]))
    objects = list(spec.objects)
    objects[place] = dataclasses.replace(thing, **{kind: word})
    if len(set(objects)) < len(objects) or len(set(map(_seen, objects))) < len(objects):
        return None
    try:
        return Case(kind, spec, PromptSpec(tuple(objects), spec.relation), place)
    except ValueError:
        return None


def _seen(thing: ObjectSpec) -> tuple[str, str | None]:
    return thing.shape, thing.colour


def shown(
    denoiser: Denoiser, every: Sequence[Case], sampler: SamplerConfig, seed: int, batch: int = 128
) -> tuple[list[Case], int]:
    """Give each case the seed of the first of ``TRIES`` pictures that shows its source; and how many have none."""
    left, done = list(every), []
    for number in range(TRIES):
        seeds = [candidate_seed(seed, str(case.source), number) for case in left]
        texts = [str(case.source) for case in left]
        right: list[bool] = []
        for start in range(0, len(left), batch):
            own = slice(start, start + batch)
            z = sample(denoiser, denoiser.encode_prompts(texts[own]), seeds[own], sampler)
            pictures = denoiser.decode(z)
            right += [oracle_score(p, t) == 1 for p, t in zip(pictures, texts[own], strict=True)]
        done += [dataclasses.replace(c, seed=s) for c, s, ok in zip(left, seeds, right, strict=True) if ok]
        left = [case for case, ok in zip(left, right, strict=True) if not ok]
        if not left:
            break
    order = {str(case.source): place for place, case in enumerate(every)}
    return sorted(done, key=lambda case: order[str(case.source)]), len(left)


def judged(case: Case, before: Tensor, after: Tensor) -> dict[str, float]:
    """Tell what became of one edit.

    ``right``: the edited object has all that the target says of it, where it was (of a relation: the whole target
    holds); ``kept``: share of the other objects that read the same in their place; ``outside``: mean absolute
    difference of pixels further than ``NEAR`` from the edited object, in levels of 255; ``all``: right, and all kept.
    """
    old, new = parse_picture(before), parse_picture(after)
    owners = _assign(case.source, old)
    mine = old[owners[case.place]]
    others = [old[i] for i in range(len(old)) if i != owners[case.place]]
    kept = float(np.mean([any(_same(one, thing) for thing in new) for one in others])) if others else 1.0
    if case.kind == "relation":
        right = float(oracle_score(after, case.target) == 1)
        near = mine.mask
    else:
        wanted = case.target.objects[case.place].stated()
        at = [
            thing
            for thing in new
            if (thing.mask & mine.mask).any() and not any(_same(o, thing) for o in others)
        ]
        right = float(any(_has(thing, wanted) for thing in at))
        near = np.logical_or.reduce([mine.mask, *(thing.mask for thing in at)])
    outside = ~ndimage.binary_dilation(near, np.ones((3, 3), bool), iterations=NEAR)
    moved = (after - before).abs().mean(0).cpu().numpy()
    return {
        "right": right,
        "kept": kept,
        "all": right * float(kept == 1),
        "outside": 255 * float(moved[outside].mean()),
        "oracle": oracle_score(after, case.target),
        "size": float(near.mean()),
    }


def _assign(spec: PromptSpec, found: Sequence[ParsedObject]) -> list[int]:
    """Which object is which of the prompt's, of a picture that shows it."""
    import itertools

    from mitune.worlds.shapes.geometry import relation_holds
    from mitune.worlds.shapes.parsing import mask_gap

    for order in itertools.permutations(range(len(found)), len(spec.objects)):
        if not all(_has(found[i], thing.stated()) for i, thing in zip(order, spec.objects, strict=True)):
            continue
        if spec.relation is None or relation_holds(spec.relation, found[order[0]], found[order[1]], mask_gap):
            return list(order)
    raise ValueError(f"the picture does not show {spec}")


def _has(thing: ParsedObject, stated: dict[str, str]) -> bool:
    return all(
        value == (size_word(thing.radius) if name == "size" else getattr(thing, name))
        for name, value in stated.items()
    )


def _same(one: ParsedObject, other: ParsedObject) -> bool:
    """Whether an object still reads the same, where it was."""
    if (one.shape, one.colour, one.texture) != (other.shape, other.colour, other.texture):
        return False
    return bool((one.mask & other.mask).sum() >= SAME * (one.mask | other.mask).sum())


def arm(
    denoiser: Denoiser, every: Sequence[Case], sampler: SamplerConfig, settings: EditConfig, batch: int = 128
) -> list[dict[str, float]]:
    """Edit every case one way; gives what became of each."""
    rows: list[dict[str, float]] = []
    for start in range(0, len(every), batch):
        own = every[start : start + batch]
        plans = [plan(denoiser, Wanted(str(case.source), str(case.target), settings.mode)) for case in own]
        found = edit(denoiser, plans, [case.seed for case in own], sampler, settings)
        before, after = denoiser.decode(found.before), denoiser.decode(found.after)
        rows += [judged(*one) for one in zip(own, before, after, strict=True)]
    return rows
