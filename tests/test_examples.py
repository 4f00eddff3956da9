from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from tests.analytic import three_clouds
from tests.tree import files

SHOWN = [file.module for file in files("mitune") if ">>> " in file.text]


@pytest.mark.parametrize("module", SHOWN)
def test_what_a_docstring_shows_comes_out(module: str, tmp_path: Path) -> None:
    """``folder`` is an empty folder, ``denoiser`` the exact one of the prompts "a" and "b", ``sample`` the loop's; a
    traceback's frames may be left out."""
    result = doctest.testmod(
        importlib.import_module(module),
        extraglobs={
            "folder": tmp_path,
            "denoiser": three_clouds(),
            "sample": sample,
            "SamplerConfig": SamplerConfig,
        },
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.attempted > 0
    assert result.failed == 0
