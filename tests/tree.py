"""The source files of the package and the benchmarks, each read and parsed once for all rules about them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class File:
    """One file: its place from the root (``mitune/noise.py``), its text and what that parses to."""

    name: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """Its dotted name."""
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def at(self, node: ast.AST, words: str = "") -> str:
        """How an offender is listed: place, line and what it is."""
        return f"{self.name}:{getattr(node, 'lineno', '?')} {words}".rstrip()

    @functools.cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Everything in it."""
        return tuple(ast.walk(self.tree))

    @functools.cached_property
    def imports(self) -> frozenset[str]:
        """Dotted names of everything it imports, inside functions too."""
        names: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        return frozenset(names)

    @functools.cached_property
    def strings(self) -> frozenset[str]:
        """All string constants."""
        return frozenset(node.value for node in self.nodes if is_text(node))


@functools.cache
def files(folder: str) -> tuple[File, ...]:
    """Every Python file under a folder of the repository, such as ``mitune``."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(File(path.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    return tuple(found)


def is_text(node: ast.AST | None) -> bool:
    """Whether a node is a string constant."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def public(file: File) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """(dotted name, node) of the functions and classes that others may use, and of these classes' methods."""

    def within(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
        for node in body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from within(node.body, f"{prefix}{node.name}.")

    return within(file.tree.body, "")
