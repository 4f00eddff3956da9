from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import mitune
from mitune.files import write_json
from mitune.stages.made import COMMAND, device_name, made, spelled

CONFIG = SimpleNamespace(model=SimpleNamespace(device="cpu"))


def test_a_command_is_spelled_as_a_shell_takes_it_without_its_secrets() -> None:
    words = ["run", "prompts.source=my prompts.txt", "tracker.api_key=abc", f"name=hf_{'x' * 34}"]
    assert spelled(words) == "mitune run 'prompts.source=my prompts.txt' 'tracker.api_key=***' 'name=***'"
    assert spelled([]) is None


def test_the_same_figures_keep_what_was_said_of_them(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    token = COMMAND.set(("run", "rounds=2"))
    try:
        first = made(CONFIG, path, {"seed": 1, "range": (0, 1)})
        write_json(path, {"seed": 1, "range": [0, 1], "made": first | {"date": "long ago"}})
        assert made(CONFIG, path, {"seed": 1, "range": (0, 1)})["date"] == "long ago"
        assert made(CONFIG, path, {"seed": 2, "range": (0, 1)})["date"] != "long ago"
    finally:
        COMMAND.reset(token)
    assert first["command"] == "mitune run rounds=2"
    assert first["version"] == mitune.__version__
    assert first["date"].endswith("+00:00")
    path.write_text("{")  # damaged: said anew
    assert made(CONFIG, path, {})["device"] == first["device"]


def test_a_figure_that_is_not_a_number_is_the_same_figure(tmp_path: Path) -> None:
    path, figures = tmp_path / "summary.json", {"mean": float("nan"), "n": 1}
    path.write_text(json.dumps({**figures, "made": {"date": "long ago"}}))
    assert made(CONFIG, path, figures) == {"date": "long ago"}


def test_a_device_is_named_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mitune import distributed

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert device_name("cpu") == "CPU, one thread"
    monkeypatch.setattr(distributed, "state", lambda: SimpleNamespace(num_processes=4))
    assert device_name("cpu") == "4 × CPU, one thread"
