"""No module imports another that imports it, lazily inside functions included."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "mitune"


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ["mitune", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports when it runs: what only type checkers read is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        yield from imported(node, known)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach one another (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            at = stack.index(node)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1 or node in graph[node]:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


@functools.cache
def module_graph() -> dict[str, set[str]]:
    known = modules()
    return {
        name: {
            other
            for other in imported(ast.parse(path.read_text(encoding="utf-8")), known)
            if other in known and other != name
        }
        for name, path in known.items()
    }


def package(name: str) -> str:
    """The package, or module beside the packages, that a module belongs to; catalogues and settings, which everybody
    may read, are their own."""
    parts = name.split(".")
    return name if parts[2:3] in (["catalogue"], ["settings"]) else ".".join(parts[:2])


def test_no_module_is_in_a_circle_of_imports() -> None:
    assert circles(module_graph()) == []


def test_no_package_is_in_a_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {}
    for name, others in module_graph().items():
        own = graph.setdefault(package(name), set())
        own |= {package(other) for other in others} - {package(name)}
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == [["b", "c"], ["e"]]
    assert "mitune.sweep.sweep" in module_graph()["mitune.cli"]  # inside a function
    assert "mitune.command" in module_graph()["mitune.sweep.jobs"]
