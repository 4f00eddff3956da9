"""``import mitune`` offers its names, each imported when it is used; the examples and the notebook run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mitune
from tests.tree import ROOT

LIGHT = """
import sys
import mitune
assert {*mitune.__all__} <= {*dir(mitune)}
mitune.TrainConfig(steps=3), mitune.ModelConfig, mitune.UserError, mitune.Task.of("a"), mitune.ScorerConfig
assert "torch" not in sys.modules
"""


def test_import_is_light() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_every_name_is_said_once_to_all_who_read_them() -> None:
    """``__all__``, what type checkers see, and what is imported on use."""
    tree = ast.parse((ROOT / "mitune/__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(home, name) for home, names in mitune._HOMES.items() for name in names}
    assert sorted({*mitune.__all__} - {"__version__"}) == sorted(name for _, name in seen)
    for name in mitune.__all__:
        assert getattr(mitune, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        mitune.laod  # noqa: B018


def test_no_name_is_a_modules() -> None:
    """A module of the package takes the place of a name when it is imported."""
    modules = {path.stem for path in (ROOT / "mitune").iterdir()}
    assert not modules & {*mitune.__all__}


def test_types_travel_with_the_package() -> None:
    assert (ROOT / "mitune/py.typed").is_file()


@pytest.mark.parametrize("name", ["quickstart", "own_score"])
def test_the_examples_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / f"examples/{name}.py").read_text(encoding="utf-8")
    exec(compile(text, f"{name}.py", "exec"), {"__name__": "__main__"})
    shown = capsys.readouterr().out
    assert "Evaluation(" in shown
    if name == "quickstart":
        assert (tmp_path / "adapter/pytorch_lora_weights.safetensors").is_file()
        assert len([line for line in text.splitlines()[3:] if line.strip()]) <= 10


# -- the notebook ------------------------------------------------------------------------------------------------------

NOTEBOOK = ROOT / "examples/quickstart.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_stored_without_what_it_showed(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(cell["metadata"] == {} for cell in cells)
    assert [*json.loads(NOTEBOOK.read_text(encoding="utf-8"))["metadata"]] == ["kernelspec", "language_info"]


def test_the_notebook_runs(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell in one namespace, the last expression of each shown, as a notebook does.

    Without a kernel: nbclient and ipykernel bring thirty packages to every developer, for cells of plain Python.
    """
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: list[Any] = []
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            shown.append(value)
            assert repr(value)
            if hasattr(value, "_repr_html_"):
                assert value._repr_html_()
    assert len(shown) >= 4


# -- the page ----------------------------------------------------------------------------------------------------------

SMALLER = {
    '"path/to/a/diffusers/folder", dtype="bfloat16"': 'tiny, device="cpu"',
    "candidates=8": "candidates=2, sampler=mitune.SamplerConfig(steps=2)",
    "losers=2": "losers=1",
    "k=2": "k=1",
    "steps=300, batch_size=48": "steps=2, batch_size=2",
    'scores=["mi", brightness]': 'candidates=2, scores=["mi", brightness], sampler=mitune.SamplerConfig(steps=2)',
    '"z(mi)+z(brightness)")': '"z(mi)+z(brightness)"), mitune.TrainConfig(steps=1, batch_size=1)',
    "progress=True": "progress=False",
}


def test_the_page_shows_code_that_runs(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny model and with small numbers in place of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", "held-out.txt"):
        Path(name).write_text("a red circle and a blue square\na blue circle and a red square\n")
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    code = "\n".join(part.partition("```")[0] for part in text.split("```python\n")[1:])
    for shown, small in SMALLER.items():
        assert shown in code
        code = code.replace(shown, small)
    exec(compile(code, "api.md", "exec"), {"tiny": tiny_pipeline_folder})
    assert (tmp_path / "adapter/pytorch_lora_weights.safetensors").is_file()
    assert not [
        name for name in mitune.__all__ if name not in text and name not in ("__version__", "Score", "Task")
    ]
