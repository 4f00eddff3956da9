"""The house keeps its floors: nobody imports from above, pipelines stay in ``families``, pickles stay out."""

from __future__ import annotations

import ast
import fnmatch
import re

from tests.tree import File, files

# DESIGN §2. A module may import its own floor and those below.
FLOORS = {
    "errors": 0,
    "english": 0,
    "reading": 0,
    "settings": 0,
    "parts": 0,
    "versions": 0,
    "files": 0,
    "digests": 0,
    "threads": 0,
    "noise": 0,
    "scheduler_config": 0,
    "denoiser": 0,
    "maps": 0,
    "analytic": 0,
    "tasks": 0,
    "out_of_memory": 0,
    "track": 0,
    "charts": 0,
    "config": 0,
    "scores": 0,
    "distributed": 0,
    "leaving": 0,
    "pace": 0,
    "launcher": 0,
    "families": 1,
    "referees": 1,
    "sampling": 1,
    "data": 1,
    "worlds": 1,
    "information": 2,
    "pixels": 2,
    "search": 2,
    "finetune": 2,
    "evaluate": 2,
    "hub": 2,
    "report": 3,
    "runs": 3,
    "survey": 3,
    "stages": 4,
    "command": 4,
    "manual": 4,
    "completion": 4,
    "sweep": 5,
    "verbs": 5,
    "cli": 6,
    "__main__": 6,
    "api": 4,
    "__init__": 6,
}
BOTH = [*files("mitune"), *files("benchmarks")]


PLAIN = ("catalogue", "settings")  # modules of a package without torch: the configuration imports them


def floor(part: str) -> int:
    assert part in FLOORS, f"{part} has no floor yet: give it one here and in DESIGN §2"
    return FLOORS[part]


def floor_of(name: str) -> int:
    """The floor of a dotted name; catalogues and settings are plain data without torch, wherever they lie: floor 0."""
    parts = [*name.split("."), "__init__", ""]
    return 0 if parts[2] in PLAIN else floor(parts[1])


def own_imports(file: File) -> list[str]:
    """The names in the package that a file imports."""
    return sorted(
        name for name in file.imports if name.startswith("mitune.") and name != "mitune.__version__"
    )


def test_imports_come_from_the_same_floor_or_below() -> None:
    assert not [
        f"{file.name} imports {name} from above"
        for file in files("mitune")
        for name in own_imports(file)
        if floor_of(name) > floor_of(file.module)
    ]


# Who else names a pipeline class: the world's model is built as one, and benchmarks measure against the plain one.
PIPELINES = (
    "mitune/families/*",
    "benchmarks/world/architecture.py",
    "benchmarks/memory_units.py",
    "benchmarks/plain.py",
    "benchmarks/speed.py",
    "benchmarks/gpu.py",
)


def test_only_families_know_pipelines() -> None:
    found = []
    for file in BOTH:
        if not any(fnmatch.fnmatch(file.name, pattern) for pattern in PIPELINES):
            found += [f"{file.name} imports {name}" for name in file.imports if "Pipeline" in name]
            found += [f"{file.name} names {text}" for text in file.strings if text.endswith("Pipeline")]
    assert not found


# Words that tell models apart by their names.
NAMES = re.compile(r"\b(sd|sd-?[123][\w.]*|sdxl|xl|flux|pixart|sana|stable[-_ ]?diffusion|turbo|spright)\b")
ASKS = {"startswith", "endswith", "find", "index", "count", "match", "search", "fullmatch"}


def asked(node: ast.AST) -> list[ast.expr]:
    """The expressions that a comparison, a search in a text or a case asks about."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS:
        return node.args
    if isinstance(node, ast.match_case):
        return [part.value for part in ast.walk(node.pattern) if isinstance(part, ast.MatchValue)]
    return []


def test_nobody_tests_a_models_name() -> None:
    found = []
    for file in BOTH:
        for node in file.nodes:
            words = [
                part.value for one in asked(node) for part in ast.walk(one) if isinstance(part, ast.Constant)
            ]
            named = [word for word in words if isinstance(word, str) and NAMES.search(word.lower())]
            found += [file.at(node, f"asks for {named}")] if named else []
    assert not found


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
LOADS = {"torch.load", "torch.save", "np.load", "pd.read_pickle"}


def test_nothing_reads_or_writes_a_pickle() -> None:
    found = []
    for file in files("mitune"):
        found += [f"{file.name} imports {name}" for name in file.imports & PICKLES]
        found += [f"{file.name} trusts remote code"] if "trust_remote_code" in file.text else []
        for node in file.nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                whole = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
                found += [file.at(node, f"calls {whole}")] if whole in LOADS else []
    assert not found


def node_of(name: str) -> str:
    """The top package or module of a dotted name; catalogues and settings stand for themselves."""
    parts = [*name.split("."), "__init__", ""]
    return f"{parts[1]}.{parts[2]}" if parts[2] in PLAIN else parts[1]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Every set of two nodes or more that reach each other."""
    reached = {}
    for start in edges:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = edges.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    found = {frozenset(n for n in reached if n in reached[m] and m in reached.get(n, ())) for m in reached}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "a"}, "b": set()}) == []


def test_no_packages_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: a circle is one, whenever it is walked."""
    edges: dict[str, set[str]] = {}
    for file in files("mitune"):
        own = node_of(file.module)
        edges.setdefault(own, set()).update({node_of(name) for name in own_imports(file)} - {own})
    assert circles(edges) == []
