"""What a caption of the shapes world states, and how a text encoder should say it: for training the models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mitune.worlds.shapes.grammar import MAX_OBJECTS, parse_prompt
from mitune.worlds.shapes.vocabulary import COLOURS, DIRECTIONS, RELATIONS, SHAPES, SIZES, TEXTURES

# What a description says of one object, a class each; the last class of each is "not stated".
_ROLES = tuple(f"{role} {relation}" for role in ("subject", "object") for relation in RELATIONS)
FACTS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": tuple(SIZES),
    "role": _ROLES,
    "place": ("first", "second", "third"),
}
IGNORED = -100  # of a place that cannot know it
FACT_SCALE = 3.0  # six facts of this length: the length CLIP's last layer norm gives a state by itself


def class_numbers(text: str) -> list[list[int]]:
    """Class numbers [MAX_OBJECTS][len(FACTS)] of what a caption says of its first, second and third object."""
    spec = parse_prompt(text)
    rows = []
    for index in range(MAX_OBJECTS):
        said: dict[str, str] = {}
        if index < len(spec.objects):
            said = {**spec.objects[index].stated(), "place": FACTS["place"][index]}
            if spec.relation and index < 2:
                said["role"] = f"{('subject', 'object')[index]} {spec.relation}"
        rows.append(
            [words.index(said[name]) if name in said else len(words) for name, words in FACTS.items()]
        )
    return rows


def readings(tokens: Tensor, labels: Tensor, shapes: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Find where the facts of a caption are read: position and expected classes, [n, 2 MAX_OBJECTS] (× facts).

    `tokens` [n, PROMPT_TOKENS], `labels` [n, MAX_OBJECTS, facts]; `shapes`: token ids of the shape words; `end`: id of
    the end and of the padding. An object's own facts are read at its shape word (CLIP's encoder looks back only, so
    the first object knows nothing of its relation there), and all facts at the end token and the two after it.
    """
    n = len(tokens)
    nouns = torch.isin(tokens, shapes)
    # Positions of the shape words in order; a missing one sorts last.
    order = torch.where(nouns, torch.arange(tokens.shape[1]), tokens.shape[1]).sort(1).values[:, :MAX_OBJECTS]
    there = order < tokens.shape[1]
    ends = (tokens == end).int().argmax(1, keepdim=True) + torch.arange(MAX_OBJECTS)
    at_noun = labels.clone()
    at_noun[:, 0, list(FACTS).index("role")] = IGNORED
    at_noun[~there] = IGNORED
    position = torch.cat([order.where(there, torch.zeros(n, 1, dtype=order.dtype)), ends], dim=1)
    return position.clamp(max=tokens.shape[1] - 1), torch.cat([at_noun, labels], dim=1)


def fact_codes(n: int, width: int) -> Tensor:
    """`n` orthonormal vectors [n, width], always the same. ValueError if they do not fit."""
    if n > width:
        raise ValueError(f"{n} facts do not fit {width} dimensions")
    return torch.linalg.qr(torch.randn(width, n, generator=torch.Generator().manual_seed(0))).Q.T.contiguous()


def fact_error(states: Tensor, expected: Tensor, codes: Tensor) -> Tensor:
    """Squared distance of text states from what they should say, a scalar, in units of `FACT_SCALE`².

    `states` [n, places, width] should be `FACT_SCALE` times the sum of the codes [classes, width] of the
    `expected` classes [n, places, facts]; a fact marked `IGNORED` may be anything.
    """
    sizes = [len(words) + 1 for words in FACTS.values()]
    along = states @ codes.T / FACT_SCALE
    error = (states / FACT_SCALE - along @ codes).square().sum(-1).mean()
    for i, part in enumerate(along.split(sizes, dim=-1)):
        said = expected[..., i]
        target = nn.functional.one_hot(said.clamp(min=0), sizes[i])
        counts = (said != IGNORED).float()
        error = error + ((part - target).square().sum(-1) * counts).sum() / counts.sum()
    return error


def stated_facts(text: str) -> set[str]:
    """List what a caption states: names of attributes, ``direction`` or ``contact``, a ``third`` object."""
    spec = parse_prompt(text)
    facts = {name for thing in spec.objects for name in thing.stated()}
    if len(spec.objects) == MAX_OBJECTS:
        facts.add("third")
    if spec.relation:
        facts.add("direction" if spec.relation in DIRECTIONS else "contact")
    return facts


def caption_weights(texts: list[str], favour: dict[str, float]) -> Tensor:
    """Weigh captions by how often to draw them, [n], relative: the largest `favour` of what it states, else 1."""
    return torch.tensor([max([favour.get(fact, 1.0) for fact in stated_facts(text)]) for text in texts])
