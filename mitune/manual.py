"""What ``mitune --help``, ``mitune STAGE --help`` and ``mitune help NAME`` print, all of it from the declarations."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from mitune.config import compose, conf_folder, flatten, groups
from mitune.config.composition import SHORT, asked
from mitune.config.keys import keys
from mitune.errors import UserError, nearest, short
from mitune.scores import COLUMNS, SCORERS, SCORES, meaning
from mitune.settings import Key
from mitune.stages.catalogue import STAGES, Stage
from mitune.verbs.catalogue import VERBS, Verb

PAGE = 60  # lines of a stage's help
WIDTH = 120  # columns
_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def overview() -> str:
    """Write ``mitune --help``, in :data:`PAGE` lines at most."""
    lines = [
        "mitune: self-supervised alignment of text-to-image diffusion models",
        "",
        "usage: mitune STAGE [group=option ...] [key=value ...]      mitune COMMAND [...]",
        "",
        "stages",
        *(f"  {name:<12} {stage.meaning}" for name, stage in STAGES.items()),
        "",
        "other commands (mitune COMMAND --help)",
        *(_fitted(f"  {name:<12} {verb.meaning}", 15) for name, verb in VERBS.items()),
        "",
        _fitted(f"presets: experiment={', '.join(named('experiment'))}, or a FILE.yaml of your own", 20),
        f"         sweep={', '.join(groups()['sweep'])} (with -m)",
        "",
        "  mitune init stabilityai/stable-diffusion-2-1-base prompts.txt out=mine.yaml",
        "  mitune run experiment=mine.yaml                     go on with the same command after an interruption",
        "  mitune run run=runs/mine launch=multi_gpu           on every GPU of this machine (launch/ holds the others)",
        "  mitune sample run=runs/mine sample.prompt='a red circle' sample.of=16 sample.by=elbo",
        "  mitune score run=runs/mine score.source=pictures/ score.top_fraction=0.25",
        "  mitune export run=runs/mine export.push=user/name   the adapter with its card, on the Hub",
        "  mitune run --help [--all]                           the keys used most, or every key, with its default",
        "  mitune run experiment=mine.yaml --cfg               the resolved configuration",
        "  mitune run -m experiment=mine.yaml adapter=dora,lora select.k=1,3   four runs that share their candidates",
        "  accelerate launch --config_file launch/multi_gpu.yaml --num_processes 8 -m mitune run run=runs/mine",
        "",
        "Processes on several nodes need one shared run= folder. A process that is lost is noticed after",
        "MITUNE_PATIENCE seconds of silence at the latest (environment, default 300).",
        "",
        "exit codes: 0 done; 2 a mistake in the input, or a disk that refuses; 75 told to leave by SIGTERM or SIGUSR1:",
        "everything is saved, run it again (a launcher turns it into 1: RUN/.requeue tells; see mitune.leaving);",
        "130 interrupted; 1 anything else",
    ]
    return "\n".join(lines)


def usage(verb: Verb) -> str:
    """``mitune VERB --help``: how it is called, what it does, what options it has."""
    options = "".join(f" [{name}]" for name in verb.options)
    lines = [
        f"mitune {verb.name}: {verb.meaning}",
        "",
        f"usage: mitune {verb.name} {verb.takes}".rstrip() + options,
    ]
    lines += ["", *textwrap.wrap(verb.said, WIDTH)] if verb.said else []
    lines += (
        ["", *(_fitted(f"  {name:<10} {said}", 13) for name, said in verb.options.items())] if options else []
    )
    return "\n".join(lines)


def manual(stage: str, everything: bool = False, words: Sequence[str] = ()) -> str:
    """``mitune STAGE [WORDS] --help``: the groups and keys that the stage reads, those used most first, in :data:`PAGE`
    lines at most; ``everything``: all of them. Raises UserError for words that are none of a configuration."""
    own, values = STAGES[stage], asked(words)
    rows = [one for one in keys().values() if own.shows(one.name)]
    basic, more = [one for one in rows if one.basic], [one for one in rows if not one.basic]
    known = {} if own.inherits else {group: named(group) for group in groups() if uses(own, group)}
    whole = everything or len(rows) + len(known) + 10 <= PAGE
    lines = [f"  {one.name}={written(values[one.name])}" for one in basic + (more if whole else [])]
    width = min(46, max(map(len, lines)))
    said = [f"{one.meaning}{_brackets(one)}" for one in basic + more]
    if not whole:  # on the page a line says what it is for; what else it may be where there is room
        said = [
            text if width + 2 + len(text) <= WIDTH else one.meaning
            for one, text in zip(basic, said, strict=False)
        ]
    return "\n".join(
        [
            f"mitune {stage}: {own.meaning}",
            "",
            f"usage: mitune {stage}{' [group=option ...]' if known else ''} [key=value ...] [--cfg]"
            f"{' [-m, then values may be lists: a,b]' if own.swept else ''}",
            "",
            *(["groups (group=option)"] if known else []),
            *(_fitted(f"  {group:<11} {', '.join(options)}", 14) for group, options in known.items()),
            *([""] if known else []),
            f"keys, with the values of {' '.join(words) or 'experiment=shapes'}",
            *(
                _fitted(f"{left:<{width}}  {right}", width + 2)
                for left, right in zip(lines, said, strict=False)
            ),
            "",
            f"{'' if whole else f'mitune {stage} --help --all: all {len(rows)} keys; '}mitune help KEY: one in full",
        ]
    )


def named(group: str) -> list[str]:
    """List the options of a group but those that only give another one an earlier name."""
    return [option for option in groups()[group] if [*options()[group, option]] != ["name"]]


def _fitted(line: str, indent: int) -> str:
    """The line, folded where it is wider than :data:`WIDTH`; what goes over stands under column ``indent``."""
    if len(line) <= WIDTH:
        return line
    head, rest = line[:indent], line[indent:]
    shape = {"subsequent_indent": " " * indent, "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.wrap(rest, WIDTH, initial_indent=head, **shape))  # type: ignore[arg-type]


def uses(stage: Stage, group: str) -> bool:
    """Tell whether the options of a group set keys that the stage reads."""
    if group == "sweep":
        return stage.swept
    return group in ("experiment", "card") or any(
        stage.shows(one) for one in keys() if one.partition(".")[0] == group
    )


def allowed(key: Key) -> str:
    """Give what a key may be, in words: its choices, or its bounds and unit."""
    limits = key.limits
    if limits.choices:
        return f"{'some of ' if key.many else ''}{', '.join(limits.choices)}"
    low, high = limits.low, limits.high if limits.below is None else None
    if low is not None and high is not None:
        bounds = [f"{_plain(low)} to {_plain(high)}"]
    else:
        words = {"above": limits.above, "at least": low, "below": limits.below, "at most": high}
        bounds = [f"{word} {_plain(value)}" for word, value in words.items() if value is not None]
    return " ".join([", ".join(bounds), key.unit]).strip()


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _brackets(key: Key) -> str:
    return f" ({said})" if (said := allowed(key)) else ""


def explain(name: str) -> str:
    """``mitune help NAME``: a key, a group or section, a stage, or a part by its name, in full. Raises UserError for
    what is none of them."""
    name = SHORT.get(name, name)
    if name in STAGES and name not in groups():
        return "\n\n".join([manual(name), *([_key(keys()[name])] if name in keys() else [])])
    parts = [usage(VERBS[name])] if name in VERBS else []
    parts += [_key(keys()[name])] if name in keys() else []
    parts += [text for text in (_group(name), _section(name), *_part(name)) if text]
    if not parts:
        raise UserError(
            f"mitune help: there is no key, group or part '{short(name, 80)}'{nearest(name, topics())}; mitune run"
            " --help --all lists the keys"
        )
    return "\n\n".join(parts)


def topics() -> list[str]:
    """Every name that ``mitune help`` tells of."""
    sections = (key.rpartition(".")[0] for key in keys())
    choices = (one for key in keys().values() for one in key.limits.choices)
    found = [
        *keys(),
        *groups(),
        *STAGES,
        *VERBS,
        *SHORT,
        "scores",
        *SCORERS,
        *COLUMNS,
        *filter(None, sections),
        *choices,
    ]
    return list(dict.fromkeys([*found, *(option for _, option in options())]))


def _key(key: Key) -> str:
    """A key in full."""
    kind = f"list of {_KINDS[key.kind]}s" if key.many else _KINDS[key.kind]
    kind = kind.replace("true or falses", "true or false")
    limits, now = allowed(key), written(flatten(compose())[key.name])
    lines = [
        f"{key.name}: {key.meaning}",
        f"  type: {kind}{' or null' if key.optional else ''}",
        f"  default: {written(key.default)}{f'; with experiment=shapes: {now}' if now != written(key.default) else ''}",
    ]
    if key.limits.choices:
        lines += [
            "  choices:",
            *(f"    {one:<14} {key.said.get(one, '')}".rstrip() for one in key.limits.choices),
        ]
    elif limits:
        lines.append(f"  allowed: {limits}")
    lines += [f"  short: {one}=" for one, full in SHORT.items() if full == key.name]
    lines.append(f"  read by: {', '.join(STAGES.where(lambda stage: stage.shows(key.name))) or 'a sweep'}")
    setting = [f"{group}={option}" for (group, option), values in options().items() if key.name in values]
    return "\n".join([*lines, f"  set by: {', '.join(setting)}"] if setting else lines)


def _group(name: str) -> str:
    """A group with what its options set."""
    if name not in groups():
        return ""
    own = ", or FILE.yaml: a preset of your own (mitune init writes one)" if name == "experiment" else ""
    lines = [f"{name}= is a group of settings{own}; an option of it sets"]
    for option in groups()[name]:
        lines.append(_fitted(f"  {option:<20} {short(_set(name, option), 200)}", 23))
    return "\n".join(lines)


def _set(group: str, option: str) -> str:
    """What an option of a group sets, as a command line says it."""
    return " ".join(f"{key}={written(value)}" for key, value in options()[group, option].items()) or "nothing"


def _section(name: str) -> str:
    """The keys of a section."""
    own = [one for one in keys().values() if one.name.startswith(f"{name}.")]
    lines = [_fitted(f"  {one.name:<36} {one.meaning}{_brackets(one)}", 39) for one in own]
    return "\n".join([f"{name}.* are the keys", *lines]) if own else ""


def _part(name: str) -> Iterator[str]:
    """What goes by a name: a score, a choice of a key, an option of a group, the last part of a key or section."""
    if name == "scores":
        yield "\n".join(_fitted(f"  {one.name:<26} {one.meaning}", 29) for one in SCORES.values())
    if name in SCORERS or name in COLUMNS:
        yield f"score {name}: {meaning(name, OmegaConf.to_container(compose().scorer))}"  # type: ignore[arg-type]
    for one in keys().values():
        if name in one.limits.choices:
            yield f"{one.name}={name}: {one.said.get(name) or f'a choice of {one.name} ({one.meaning})'}"
    for group, option in options():
        if option == name:
            yield f"{group}={name} sets {_set(group, name)}"
    if name not in keys():
        yield from (_key(one) for one in keys().values() if one.name.rpartition(".")[2] == name)
    for section in dict.fromkeys(one.rpartition(".")[0] for one in keys()):
        if section.rpartition(".")[0] and section.rpartition(".")[2] == name:
            yield _section(section)


@functools.cache
def options() -> dict[tuple[str, str], dict[str, Any]]:
    """Give what the options of the groups set: (group, option) -> {key: value}."""
    found = {}
    for group, names in groups().items():
        for name in names:
            path = conf_folder() / group / f"{name}.yaml"
            text = path.read_text(encoding="utf-8")
            prefix = "" if text.startswith("# @package _global_") else f"{group}."
            tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
            found[group, name] = dict(_leaves(tree, prefix))
    return found


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if f"{prefix}{name}" in keys():
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")


def written(value: Any) -> str:
    """Give a value as a command line says it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, (list, tuple)) else str(value)
