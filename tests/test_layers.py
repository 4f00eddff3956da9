"""The house keeps its floors: nobody imports from above, pipelines stay in ``families``, pickles stay out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mitune"

# DESIGN §2. A module may import its own floor and those below.
FLOORS = {
    "errors": 0,
    "files": 0,
    "noise": 0,
    "denoiser": 0,
    "out_of_memory": 0,
    "track": 0,
    "config": 0,
    "scores": 0,
    "distributed": 0,
    "families": 1,
    "sampling": 1,
    "data": 1,
    "worlds": 1,
    "information": 2,
    "finetune": 2,
    "evaluate": 2,
    "report": 3,
    "runs": 3,
    "stages": 4,
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_come_from_the_same_floor_or_below(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mitune" and len(parts) > 1 and parts[1] != "__version__":
            assert floor(parts[1]) <= floor(own), f"{path.relative_to(ROOT)} imports {name} from above"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_families_know_pipelines(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] in ("families", "worlds"):  # the world builds its own pipeline folder
        return
    assert not [name for name in imports(path) if "Pipeline" in name]


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
