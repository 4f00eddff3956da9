"""The folder that ``score`` works in is never the user's own."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mitune.stages.score import score_folder


def config(source: Path, out: Path | None = None, column: str | None = None) -> DictConfig:
    settings = {
        "source": str(source),
        "out": out and str(out),
        "split": None,
        "image_column": column,
        "text_column": None,
    }
    return OmegaConf.create({"score": settings, "run": "runs/x"})


def test_a_table_named_like_the_source_is_worked_on_beside_it(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert score_folder(config(tmp_path / "set")) == tmp_path / "set-scores"
    assert score_folder(config(tmp_path / "set", tmp_path / "b.parquet")) == tmp_path / "b"
    own = tmp_path / "set.parquet"
    first, other = (score_folder(config(tmp_path / "set", own, column)) for column in (None, "jpg_1"))
    assert first != other
    assert first.parent == other.parent == tmp_path / "set-work"
    assert score_folder(config(tmp_path / "link", own)).parent == tmp_path / "set-work"
