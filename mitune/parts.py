"""Parts by name: a sampler, a score, a judge, an objective, a stage is one row of a catalogue beside its code.

A package lists its rows in ``catalogue.py``, as plain data without torch, so that the configuration, ``--help`` and the
documentation read the same rows as the code does. A row names its code as ``module:attribute``, imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mitune.errors import check_known
from mitune.settings import Settings


@dataclass(frozen=True)
class Part:
    """One row. Subclasses add the traits of their kind: what others may ask of a part without importing its code.

    Attributes:
        name: as a configuration names it.
        meaning: one line for help and tables, without a full stop.
        make: ``package.module:attribute`` of its code.
        settings: the section of keys that is its own, where it has one.
    """

    name: str
    meaning: str
    make: str = ""
    settings: type[Settings] | None = None

    def load(self) -> Any:
        """Import its code."""
        return self.load_from("make")

    def load_from(self, trait: str) -> Any:
        """Import what another trait names as ``make`` does."""
        module, _, attribute = getattr(self, trait).partition(":")
        return getattr(importlib.import_module(module), attribute)


P = TypeVar("P", bound=Part)


class Catalogue(Mapping[str, P], Generic[P]):
    """Holds the parts of one kind, by name, in their order.

    >>> SHAPES = Catalogue("shape", Part("circle", "round", "math:tau"), Part("square", "with four corners"))
    >>> SHAPES.names, SHAPES["circle"].load() > 6, SHAPES.where(lambda part: not part.make)
    (('circle', 'square'), True, ('square',))

    Args:
        what: what such a part is called, in messages.
        parts: the rows. ValueError where two have one name.
    """

    def __init__(self, what: str, *parts: P) -> None:
        self.what = what
        self._parts = {part.name: part for part in parts}
        if len(self._parts) < len(parts):
            raise ValueError(f"{what}: two parts have one name")

    def __getitem__(self, name: str) -> P:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in order."""
        return tuple(self._parts)

    @property
    def meanings(self) -> dict[str, str]:
        """name -> meaning: the choices of a key (:func:`mitune.settings.key`)."""
        return {name: part.meaning for name, part in self._parts.items()}

    def where(self, trait: Callable[[P], bool]) -> tuple[str, ...]:
        """Give the names of the parts that have a trait, in order."""
        return tuple(name for name, part in self._parts.items() if trait(part))

    def find(self, name: str, where: str = "") -> P:
        """Give the part called ``name``. Raises UserError, naming ``where`` (default: what such a part is called)."""
        check_known(where or self.what, name, self._parts)
        return self._parts[name]
