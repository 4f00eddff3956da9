"""How well ``mitune edit`` changes what was asked and nothing else: ``python -m benchmarks.editing``.

A picture of the embedded world that shows its prompt is edited: another colour, shape, texture, size or relation of
one object. The world's oracle says whether the new word is right and whether every other object still reads the same;
beside it stands how much pixels outside of the edited object moved. Plain Prompt-to-Prompt (no local blend) and a
redraw from the same noise, which is what one does without editing, edit the same pictures. Settings were chosen with
``--part train`` (prompts that the model was trained on); the record is of held-out prompts and other seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from benchmarks import common
from mitune.denoiser import Denoiser
from mitune.evaluate.bootstrap import cell
from mitune.families import load_denoiser
from mitune.pixels.editing import Given, edit
from mitune.pixels.plans import Wanted, plan
from mitune.pixels.settings import EditConfig
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.inversion import invert
from mitune.sampling.loop import sample, walk
from mitune.sampling.seeds import candidate_seed
from mitune.sampling.solver import solver_of
from mitune.worlds.shapes import render
from mitune.worlds.shapes.geometry import relation_holds
from mitune.worlds.shapes.grammar import CATEGORIES, ObjectSpec, PromptSpec, parse_prompt, split
from mitune.worlds.shapes.parsing import ParsedObject, mask_gap, oracle_score, parse_picture
from mitune.worlds.shapes.scenes import random_scene
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
    denoiser: Denoiser,
    every: Sequence[Case],
    sampler: SamplerConfig,
    settings: EditConfig,
    pictures: Tensor | None = None,
    batch: int = 64,
) -> list[dict[str, float]]:
    """Edit every case one way; gives what became of each.

    Args:
        denoiser, sampler, settings: what edits, and how.
        every: the cases.
        pictures: latents of pictures that show them; None: those of their seeds.
        batch: edits at once.
    """
    rows: list[dict[str, float]] = []
    for start in range(0, len(every), batch):
        own = slice(start, start + batch)
        part = every[own]
        plans = [plan(denoiser, Wanted(str(one.source), str(one.target), settings.mode)) for one in part]
        given = None if pictures is None else pictures[own]
        found = edit(denoiser, plans, [one.seed for one in part], sampler, settings, pictures=given)
        before, after = denoiser.decode(found.before), denoiser.decode(found.after)
        rows += [judged(*one) for one in zip(part, before, after, strict=True)]
    return rows


MEASURES = ("right", "kept", "all", "outside", "oracle")


def _table(every: Sequence[Case], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means with their intervals: of all, of those that change one object, and kind by kind."""
    kinds = {"all": (*KINDS, "relation"), "one object": tuple(KINDS)}
    kinds |= {kind: (kind,) for kind in kinds["all"]}
    found = {}
    for name, among in kinds.items():
        own = [row for case, row in zip(every, rows, strict=True) if case.kind in among]
        found[name] = {"edits": len(own)} | {key: cell([row[key] for row in own]) for key in MEASURES}
    return found


def _scenes(denoiser: Denoiser, every: Sequence[Case], seed: int) -> tuple[list[Case], Tensor]:
    """Pictures that nobody drew: the world's renderer shows each source; their latents, where the oracle still reads
    them after the autoencoder."""
    rng = np.random.default_rng([seed, 21])
    rendered = [torch.from_numpy(render(random_scene(rng, case.source))[0]) for case in every]
    pictures = torch.stack(rendered).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        latents = denoiser.encode_image(pictures.to(denoiser.device))
        again = denoiser.decode(latents)
    kept = [i for i, case in enumerate(every) if oracle_score(again[i], case.source) == 1]
    return [every[i] for i in kept], latents[kept]


def _drift(
    denoiser: Denoiser, every: Sequence[Case], z: Tensor, guidance: float, steps: int
) -> dict[str, Any]:
    """How far the pictures are missed, in levels of 255, by walking again from the noise that they were followed back
    to (told the prompt alone), with some guidance and no correction."""
    told = denoiser.encode_prompts([str(case.source) for case in every])
    sampler = SamplerConfig(steps=steps, eta=0.0, guidance=guidance)
    found = {}
    for name, recursion in (("as DDIM inversion is mostly done", 0), ("the step's own inverse", 8)):
        path = invert(denoiser, z, told, sampler, recursion=recursion)
        again = walk(denoiser, told, solver_of(denoiser, sampler), Given(path, 1), guidance).latents
        moved = (denoiser.decode(again) - denoiser.decode(z)).abs().flatten(1).mean(1)
        found[name] = cell((255 * moved).tolist())
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Give what ``common.write`` takes."""
    torch.set_num_threads(options.threads)
    denoiser = load_denoiser("shapes", device=options.device)
    sampler = SamplerConfig(guidance=options.guidance)
    every, left = shown(denoiser, cases(options.part, options.each, options.seed), sampler, options.seed)
    print(f"{len(every)} edits; {left} prompts were shown by none of {TRIES} pictures", flush=True)
    rows, forwards = {}, {}
    for name, own in ARMS.items():
        denoiser.forwards = 0
        rows[name] = arm(denoiser, every, sampler, EditConfig(**own))
        forwards[name] = denoiser.forwards / len(every)
        print(
            name,
            {key: round(float(np.mean([row[key] for row in rows[name]])), 3) for key in MEASURES},
            flush=True,
        )
    tables = {name: _table(every, own) for name, own in rows.items()}
    paired = {
        name: _table(
            every, [{key: a[key] - b[key] for key in a} for a, b in zip(rows["ours"], own, strict=True)]
        )
        for name, own in rows.items()
        if name != "ours"
    }
    scenes, z = _scenes(denoiser, every, options.seed)
    still = dataclasses.replace(sampler, eta=0.0)
    given = _table(scenes, arm(denoiser, scenes, still, EditConfig(), z))
    drift = {
        f"guidance {scale:g}": _drift(denoiser, scenes[:32], z[:32], scale, still.steps)
        for scale in (1.0, sampler.guidance)
    }
    more = {
        "arms": tables,
        "paired": paired,
        "given_pictures": given,
        "drift": drift,
        "forwards_an_edit": forwards,
    }
    settings = common.settings_of(options, "device") | {"not_shown": left, "tries": TRIES}
    return {"settings": settings, "comparisons": [], "figures": _figures(tables, paired, given), "more": more}


_SAID = {
    "right": ("the new word is right", "share", 0.7),
    "kept": ("other objects that read the same", "share", 0.9),
    "outside": ("pixels outside moved", "levels of 255", None),
}


def _figures(tables: dict[str, Any], paired: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the page, with what is to be reached."""

    def line(where: str, table: dict[str, Any], key: str, ours: bool = False) -> dict[str, Any]:
        text, unit, goal = _SAID[key]
        own = table[key]
        note = "95 % interval {:+.3f} to {:+.3f}".format(*own["ci95"]) if own["ci95"] else ""
        return common.figure(
            f"{where} ({table['edits']} edits): {text}", own["mean"], unit, goal if ours else None, note
        )

    found = [
        line(f"{name}, {among}", table[among], key, name == "ours")
        for name, table in tables.items()
        for among in ("all", "one object")
        for key in _SAID
    ]
    found += [line(f"ours less {name}", table["all"], key) for name, table in paired.items() for key in _SAID]
    found += [
        line(f"ours, {kind}", tables["ours"][kind], key) for kind in (*KINDS, "relation") for key in _SAID
    ]
    return found + [
        line(f"pictures that nobody drew, {among}", given[among], key)
        for among in ("all", "one object")
        for key in _SAID
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``results/editing.json`` and its table."""
    parser = common.parser(
        "editing",
        __doc__,
        "editing",
        each=(36, "edits of each kind"),
        seed=2026,
        threads=torch.get_num_threads(),
    )
    parser.add_argument("--part", default="test", choices=("train", "test"), help="of the world's prompts")
    parser.add_argument("--guidance", type=float, default=SamplerConfig.guidance)
    parser.set_defaults(device="cpu")
    options = parser.parse_args(arguments)
    return common.run(options, lambda: measure(options))


if __name__ == "__main__":
    sys.exit(main())
