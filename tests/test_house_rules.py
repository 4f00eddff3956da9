"""Rules of the house that a reader relies on: short functions, one home for every list, docstrings that say it."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any

from mitune.config.keys import keys
from mitune.parts import Catalogue
from tests.tree import FUNCTIONS, File, files, is_text, public

Function = ast.FunctionDef | ast.AsyncFunctionDef


LONGEST = 80


def length(node: Function) -> int:
    """Lines of a function's body, its docstring apart."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_is_longer_than_eighty_lines() -> None:
    assert not [
        file.at(node, f"{node.name}: {length(node)} lines")
        for file in [*files("mitune"), *files("benchmarks")]
        for node in file.nodes
        if isinstance(node, FUNCTIONS) and length(node) > LONGEST
    ]


# -- one home for every list and bound ---------------------------------------------------------------------------------


def catalogues() -> Iterator[Catalogue[Any]]:
    """Every catalogue of parts."""
    for file in files("mitune"):
        if file.module.endswith(".catalogue"):
            rows = vars(importlib.import_module(file.module)).values()
            yield from (row for row in rows if isinstance(row, Catalogue))


def literal(node: ast.AST) -> frozenset[str]:
    """The texts of a list, tuple or set of nothing else, or of such keys of a dictionary; empty for anything else.

    A text that comes more than once makes it an order of turns, and no list of choices.
    """
    items = (
        node.elts
        if isinstance(node, (ast.List, ast.Tuple, ast.Set))
        else node.keys
        if isinstance(node, ast.Dict)
        else []
    )
    texts = [item.value for item in items] if all(map(is_text, items)) else []
    return frozenset(texts) if len({*texts}) == len(texts) else frozenset()


def test_no_list_of_choices_stands_twice() -> None:
    """Not even once where a catalogue's rows say it."""
    once = {frozenset(one.limits.choices) for one in keys().values()}
    never = {frozenset(one.names) for one in catalogues()}
    places: dict[frozenset[str], list[str]] = {}
    for file in files("mitune"):
        for node in file.nodes:
            texts = literal(node)
            if len(texts) >= 3 and texts in once | never:
                places.setdefault(texts, []).append(file.at(node, "|".join(sorted(texts))))
    found = [place for texts, own in places.items() if texts in never or len(own) > 1 for place in own]
    assert not sorted(found)


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def of_settings() -> set[str]:
    """The names of the classes whose fields are keys."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for file in files("mitune")
        for node in file.nodes
        if isinstance(node, ast.ClassDef)
    }
    found = {"Settings"}
    while more := {name for name, own in bases.items() if own & found} - found:
        found |= more
    return found


def fields(node: ast.ClassDef) -> Iterator[tuple[str, Any, ast.AST]]:
    """(name, default, node) of the fields of a dataclass with a plain default that is not null, nothing or false."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            try:
                value = ast.literal_eval(item.value)
            except ValueError:
                continue
            if value:
                yield item.target.id, value, item


def test_no_default_of_a_key_stands_twice() -> None:
    declared = {(name.split(".")[-1], repr(key.default)) for name, key in keys().items()}
    own = of_settings()
    found = [
        file.at(item, f"{node.name}.{name} = {value!r}")
        for file in files("mitune")
        for node in file.nodes
        if isinstance(node, ast.ClassDef) and is_dataclass(node) and node.name not in own
        for name, value, item in fields(node)
        if (name, repr(value)) in declared
    ]
    assert not found


def bounds_of(name: str) -> set[float]:
    """The bounds of the keys that a dotted name ends as: ``sampler.steps`` is one key's, ``steps`` may be many's."""
    ends = [key for full, key in keys().items() if f".{full}".endswith(f".{name}")]
    ends = ends or [key for full, key in keys().items() if full.split(".")[-1] == name.split(".")[-1]]
    limits = [key.limits for key in ends]
    return {
        bound for one in limits for bound in (one.low, one.above, one.high, one.below) if bound is not None
    }


def compared(node: ast.AST) -> Iterator[tuple[str, float]]:
    """(name, number) of the comparisons of one name with numbers alone; with another name it is a relation."""
    for one in ast.walk(node):
        if isinstance(one, ast.Compare):
            sides = [one.left, *one.comparators]
            numbers = [side.value for side in sides if isinstance(side, ast.Constant)]
            names = [ast.unparse(side) for side in sides if not isinstance(side, ast.Constant)]
            if len(names) == 1:
                yield from ((names[0], number) for number in numbers if isinstance(number, (int, float)))


def relates(node: ast.AST) -> bool:
    """Whether a test joins conditions on several keys: what they may be together is no bound of any of them."""
    joined = node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) else []
    return len({name.id for one in joined for name in ast.walk(one) if isinstance(name, ast.Name)}) > 1


def refuses(node: ast.If) -> bool:
    """Whether a branch does nothing but raise UserError."""
    first = node.body[0]
    return isinstance(first, ast.Raise) and "UserError" in ast.unparse(first)


def test_no_bound_of_a_key_stands_twice() -> None:
    """No ``if size < 1: raise UserError`` where the declaration of ``size`` says ``low=1``."""
    found = [
        file.at(node, ast.unparse(node.test))
        for file in files("mitune")
        for node in file.nodes
        if isinstance(node, ast.If) and refuses(node) and not relates(node.test)
        if any(number in bounds_of(name) for name, number in compared(node.test))
    ]
    assert not found


def test_the_meaning_of_a_key_does_not_list_its_choices_again() -> None:
    """They are shown beside it: all of them, or three, is a list."""
    found = []
    for name, key in keys().items():
        choices = [one for one in key.limits.choices if one]
        said = [one for one in choices if re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", key.meaning)]
        if len(choices) >= 2 and len(said) >= min(3, len(choices)):
            found.append(f"{name}: {key.meaning}")
    assert not found


# -- types and docstrings ----------------------------------------------------------------------------------------------

IGNORED = "type: ignore[" + "attr-defined"


def test_no_attribute_is_unknown_to_the_types() -> None:
    found = [
        f"{file.name}:{number}"
        for file in files("mitune")
        for number, line in enumerate(file.text.splitlines(), 1)
        if IGNORED in line
    ]
    assert not found


OPENERS = ("What", "Whether", "Who", "Where", "How", "Which", "Those", "Of")  # of a clause, not of a sentence


def documented(file: File) -> Iterator[tuple[str, ast.AST, str]]:
    """(name, node, docstring) of its public classes and functions; a module's is a title."""
    for name, node in public(file):
        yield name, node, ast.get_docstring(node) or ""


def test_docstrings_begin_with_a_sentence() -> None:
    found = [
        file.at(node, f"{name}: {text.splitlines()[0]}")
        for file in files("mitune")
        for name, node, text in documented(file)
        if re.match(rf"({'|'.join(OPENERS)})\b", text)
    ]
    assert not found


MANY = 5


def parameters(node: Function) -> list[str]:
    """The names of a function's parameters, ``self`` apart."""
    own = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return [name for name in own if name not in ("self", "cls")]


def code_of_rows() -> set[str]:
    """``module:name`` of the code that catalogues name; a catalogue says once what all its rows are called with."""
    return {
        code for one in catalogues() for row in one.values() for code in (row.make, getattr(row, "opens", ""))
    }


def many_parameters(file: File) -> Iterator[tuple[str, Function, str]]:
    """(name, function, where its parameters are described) of the public functions that take five or more."""
    for name, node in public(file):
        text = ast.get_docstring(node) or ""
        if isinstance(node, FUNCTIONS) and len(parameters(node)) >= MANY:
            yield name, node, text
        elif isinstance(node, ast.ClassDef):
            for own in node.body:
                if isinstance(own, FUNCTIONS) and own.name == "__init__" and len(parameters(own)) >= MANY:
                    yield name, own, text + (ast.get_docstring(own) or "")


def test_five_parameters_are_described_one_by_one() -> None:
    rows = code_of_rows()
    found = [
        file.at(node, f"{name}({', '.join(parameters(node))})")
        for file in files("mitune")
        for name, node, text in many_parameters(file)
        if f"{file.module}:{name}" not in rows
        if not re.search(r"^\s*(Args|Attributes):$", text, re.MULTILINE)
    ]
    assert not found
