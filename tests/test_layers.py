"""The house keeps its floors: nobody imports from above, pipelines stay in ``families``, pickles stay out."""

from __future__ import annotations

import ast
import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mitune"

# DESIGN §2. A module may import its own floor and those below.
FLOORS = {
    "errors": 0,
    "reading": 0,
    "settings": 0,
    "parts": 0,
    "versions": 0,
    "files": 0,
    "digests": 0,
    "noise": 0,
    "scheduler_config": 0,
    "denoiser": 0,
    "analytic": 0,
    "tasks": 0,
    "out_of_memory": 0,
    "track": 0,
    "config": 0,
    "scores": 0,
    "distributed": 0,
    "leaving": 0,
    "launcher": 0,
    "families": 1,
    "referees": 1,
    "sampling": 1,
    "data": 1,
    "worlds": 1,
    "information": 2,
    "search": 2,
    "finetune": 2,
    "evaluate": 2,
    "hub": 2,
    "report": 3,
    "runs": 3,
    "stages": 4,
    "sweep": 5,
    "cli": 5,
    "__main__": 6,
    "__init__": 0,
}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(part: str) -> int:
    assert part in FLOORS, f"{part} has no floor yet: give it one here and in DESIGN §2"
    return FLOORS[part]


def floor_of(name: str) -> int:
    """The floor of a dotted name; catalogues and settings are plain data without torch, wherever they lie: floor 0."""
    parts = name.split(".")
    return 0 if parts[2:3] in (["catalogue"], ["settings"]) else floor(parts[1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_the_same_floor_or_below(path: Path) -> None:
    own = ".".join(["mitune", *path.relative_to(ROOT).with_suffix("").parts])
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mitune" and len(parts) > 1 and parts[1] != "__version__":
            assert floor_of(name) <= floor_of(own), f"{path.relative_to(ROOT)} imports {name} from above"


# These name a pipeline class too: the world's model is built as one, two benchmarks measure against the plain one.
PIPELINES = (
    "mitune/families/*",
    "benchmarks/world/architecture.py",
    "benchmarks/speed.py",
    "benchmarks/gpu.py",
)
TREE = sorted([*FILES, *(ROOT.parent / "benchmarks").rglob("*.py")])


@pytest.mark.parametrize("path", TREE, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_only_families_know_pipelines(path: Path) -> None:
    name = path.relative_to(ROOT.parent).as_posix()
    if any(fnmatch.fnmatch(name, pattern) for pattern in PIPELINES):
        return
    assert not [name for name in imports(path) if "Pipeline" in name]
    assert not [text for text in strings(path) if text.endswith("Pipeline")]


# Words that tell models apart by their names.
NAMES = re.compile(r"\b(sd|sd-?[123][\w.]*|sdxl|xl|flux|pixart|sana|stable[-_ ]?diffusion|turbo|spright)\b")
ASKS = {"startswith", "endswith", "find", "index", "count", "match", "search", "fullmatch"}


@pytest.mark.parametrize("path", TREE, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_nobody_tests_a_models_name(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS:
            asked = node.args
        elif isinstance(node, ast.match_case):
            asked = [part.value for part in ast.walk(node.pattern) if isinstance(part, ast.MatchValue)]
        words = [part.value for one in asked for part in ast.walk(one) if isinstance(part, ast.Constant)]
        named = [word for word in words if isinstance(word, str) and NAMES.search(word.lower())]
        assert not named, f"line {getattr(node, 'lineno', '?')} asks for {named}"


def strings(path: Path) -> set[str]:
    """All string constants of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_or_writes_a_pickle(path: Path) -> None:
    assert not imports(path) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    calls = {
        f"{node.func.value.id}.{node.func.attr}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
    }
    assert not calls & {"torch.load", "torch.save", "np.load", "pd.read_pickle"}
    assert "trust_remote_code" not in path.read_text(encoding="utf-8")
