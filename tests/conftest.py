"""Fixtures every test may use: tiny random pipelines in the standard diffusers layout, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families import tiny


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion folder that predicts the noise."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_v_pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v-prediction."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("tiny_v"), prediction_type="v_prediction", seed=1)
