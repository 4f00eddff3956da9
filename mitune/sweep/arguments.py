"""The words of ``mitune STAGE -m …``: what every job gets, what is swept, and what Hydra is told.

What is swept follows Hydra's grammar (``a,b``, ``range(1,4)``, ``interval(0,1)``, quotes for odd characters); what is
fixed goes to every job as it stands, as without ``-m``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mitune.config import groups
from mitune.config.own_preset import spelled_out
from mitune.errors import UserError, first_line, short

LONGEST = 120  # letters of a job's folder
JOBS = 10_000  # of one sweep, at most: a slip of the finger is refused in a line
_WORD = 10_000  # letters of a word: Hydra's grammar takes long to read


@dataclass(frozen=True)
class Words:
    """Holds the words after ``-m`` by what they are.

    >>> words = read(["seed=1", "select.k=1,3"])
    >>> words.fixed, words.swept, grid(words.swept)
    (('seed=1',), ('select.k=1,3',), [{'select.k': '1'}, {'select.k': '3'}])

    Attributes:
        fixed: overrides of every job, as mitune takes them.
        swept: as Hydra's sweeper takes them.
        hydra: of Hydra's own keys and groups.
    """

    fixed: tuple[str, ...]
    swept: tuple[str, ...]
    hydra: tuple[str, ...]

    @property
    def choices(self) -> tuple[str, ...]:
        """Options of groups among the fixed words: a preset may bring what is swept."""
        names = groups()
        words, _ = spelled_out(self.fixed, names)
        swept = {word.partition("=")[0] for word in self.swept}  # which an own preset may name too
        return tuple(
            word for word in words if (name := word.partition("=")[0]) in names and name not in swept
        )


def read(arguments: Sequence[str]) -> Words:
    """Part the words after ``-m``; of two words of one key the later counts, swept or not.

    Raises UserError for a list that Hydra cannot read.
    """
    ours: dict[str, tuple[bool, str]] = {}
    hydra = []
    for argument in arguments:
        name = argument.partition("=")[0].strip().lstrip("+~")
        if name.startswith(("hydra.", "hydra/")):
            hydra.append(argument)
            continue
        override = _parsed(argument)
        if override is None and "," in argument:
            raise UserError(
                f"{short(argument, 80)}: not a list that Hydra can read; put odd values in quotes:"
                f" '{short(name, 80)}=mi,\"z(mi)+z(elbo)\"'"
            )
        swept = override is not None and override.is_sweep_override()
        if swept and "${" in argument:
            raise UserError(
                f"{short(argument, 80)}: values are taken as they stand, and nothing in them is looked up; write out"
                " what is meant"
            )
        if override is not None and not swept and "=" in argument:
            argument = f"{name}={unquoted(override, argument)}"
        ours.pop(name, None)
        ours[name] = (swept, argument)
    fixed = tuple(word for swept, word in ours.values() if not swept)
    return Words(fixed, tuple(word for swept, word in ours.values() if swept), tuple(hydra))


def _parsed(argument: str) -> Any:
    """Hydra's reading of a word, or None where it has none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if len(argument) > _WORD:
        raise UserError(
            f"{short(argument, 80)}: {len(argument)} letters are too many for a sweep, of {_WORD}"
        )
    try:
        return OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError, OverflowError):
        return None
    except RecursionError as error:
        raise UserError(f"{short(argument, 80)}: nested too deeply to be read") from error


def unquoted(override: Any, argument: str) -> str:
    """The value of a word that is not swept, as mitune takes it: the text as it stands, or what the quotes hold."""
    value = override.value()
    given = argument.partition("=")[2]
    if isinstance(value, bool):  # Hydra's own way back to text is Python's True
        return str(value).lower()
    return value if isinstance(value, str) and given.strip()[:1] in ("'", '"') else given


def values_of(words: Sequence[str]) -> dict[str, str]:
    """{key: value} of one job's words as Hydra gives them, the values as mitune takes them."""
    found = {}
    for word in words:
        override = _parsed(word)
        key, _, text = word.partition("=")
        found[key.lstrip("+")] = text if override is None else unquoted(override, word)
    return found


def grid(words: Sequence[str], config_loader: Any = None) -> list[dict[str, str]] | None:
    """List the jobs that Hydra's own sweeper makes of ``words`` (a later word of the same key counts), in its order.

    None where a word is an interval, which only a search can draw from.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(list(words))
        choices: dict[str, list[str]] = {}
        for override in overrides:
            key = override.get_key_element()
            if override.is_interval_sweep():
                return None
            texts = (
                _texts(override) if override.is_sweep_override() else [override.get_value_element_as_str()]
            )
            choices[key] = [f"{key}={text}" for text in texts]
    except (HydraException, ValueError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"what is swept: {first_line(error)}") from error
    count = math.prod(map(len, choices.values()))
    if count > JOBS:
        raise UserError(
            f"what is swept: {count} jobs are more than the {JOBS} of one sweep; sweep fewer values"
        )
    return [values_of(job) for job in itertools.product(*choices.values())]


def _texts(override: Any) -> list[str]:
    """The values of a swept word as texts. Raises UserError where they are more than a sweep has jobs."""
    from hydra.core.override_parser.types import RangeSweep

    value = override.value()
    if isinstance(value, RangeSweep):  # what is shuffled is made as a whole, however long
        count = abs((float(value.stop or 0) - float(value.start or 0)) / (float(value.step) or 1e-300))
        if not count <= JOBS:
            raise UserError(
                f"what is swept: {short(override.input_line or '', 80)} is more than the {JOBS} jobs of one sweep"
            )
    return list(override.sweep_string_iterator())


def example(words: Sequence[str], config_loader: Any = None) -> dict[str, str]:
    """One job that a search over ``words`` may ask for: the first of each list, the low end of each interval."""
    found = {}
    for word in words:
        override = _parsed(word)
        if override is not None and override.is_interval_sweep():
            found[override.key_or_group] = str(override.value().start)
        else:
            found |= (grid([word], config_loader) or [{}])[0]
    return found


def folder_name(values: Mapping[str, str]) -> str:
    """Name a job's folder: its words where they are plain and short, else what is plain of them and their hash."""
    words = ",".join(f"{key}={value}" for key, value in values.items())
    safe = re.sub(r"[^A-Za-z0-9_.,=+-]", "-", words)
    if safe == words and len(safe) <= LONGEST:
        return safe
    return f"{safe[:LONGEST]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"
