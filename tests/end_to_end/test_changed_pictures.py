"""Scores are of the pictures that are there now: under the same names and captions, others are scored again."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mitune.data.pictures.cells import Place
from mitune.data.pictures.loading import load_pictures
from mitune.digests import seal
from mitune.files import read_json
from mitune.verbs.demo import PRESET
from tests.cli import main

Arguments = Callable[..., list[str]]
AGAIN = "are made again"


def png(shade: int) -> bytes:
    """A picture of noise, another for each ``shade``."""
    pixels = np.random.default_rng(shade).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def parquet(path: Path, *first: int) -> Path:
    """Five rows with as many columns of pictures as shades are given."""
    columns = {f"image{number or ''}": shade for number, shade in enumerate(first)}
    rows = [
        {"caption": f"a red circle {row}", **{name: png(shade + row) for name, shade in columns.items()}}
        for row in range(5)
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures: two units of two, one of one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for row in range(5):
        (folder / f"{row}.png").write_bytes(png(row))
    lines = [f"{row}.png,a blue square {row}" for row in range(5)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    return folder


@pytest.fixture
def score(tiny_pipeline_folder: Path) -> Arguments:
    """``score(source, out, *overrides)``: the command, two pictures a unit."""

    def make(source: Path, out: Path, *overrides: str) -> list[str]:
        return [
            *(
                "score",
                PRESET,
                f"score.source={source}",
                f"score.out={out}",
                f"model.path={tiny_pipeline_folder}",
            ),
            *("model.device=cpu", "score.scorers=[elbo]", "scorer.elbo.times=2", "score.rows_per_unit=2"),
            *overrides,
        ]

    return make


def times(out: Path) -> dict[str, int]:
    """When each unit was written."""
    units = out.with_suffix("").glob("unit-*.parquet")
    return {path.name: path.stat().st_mtime_ns for path in sorted(units)}


def same(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other), rtol=tolerance)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read as pictures."""
    names: list[str] = []
    read = Place.read

    def counted(self: Place, path: Path, what: str) -> bytes:
        names.append(path.name)
        return read(self, path, what)

    monkeypatch.setattr(Place, "read", counted)
    return names


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, whoever opens a model fails."""

    def refuse(*_: Any) -> Any:
        raise AssertionError("the model was opened")

    return lambda: monkeypatch.setattr("mitune.stages.score.load_model", refuse)


def test_a_picture_replaced_under_its_name_is_scored_again(
    score: Arguments,
    folder: Path,
    tmp_path: Path,
    reads: list[str],
    no_model: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    assert main(score(folder, out)) == 0
    assert sorted(reads) == [f"{row}.png" for row in range(5)]  # once each
    before, made = pd.read_parquet(out), times(out)
    (folder / "2.png").write_bytes(png(77))
    capsys.readouterr()
    assert main(score(folder, out, "score.top_fraction=1")) == 0
    shown = capsys.readouterr().err
    assert shown.count(AGAIN) == 1
    assert "scores of 2 pictures are made again" in shown
    assert main(score(folder, fresh)) == 0
    same(out, fresh)
    assert (pd.read_parquet(out)["elbo"] != before["elbo"]).tolist() == [row == 2 for row in range(5)]
    assert [name for name, at in times(out).items() if at != made[name]] == ["unit-000001.parquet"]
    top = load_pictures(tmp_path / "out-top-1")
    assert top.read is not None
    assert png(77) in [top.read(row) for row in range(5)]
    # What is there now is known now.
    no_model()
    assert main(score(folder, out)) == 0
    assert AGAIN not in capsys.readouterr().err


def test_a_moved_source_goes_on_without_the_model(
    score: Arguments,
    folder: Path,
    tmp_path: Path,
    no_model: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.parquet"
    assert main(score(folder, out)) == 0
    before, made = out.read_bytes(), times(out)
    folder.rename(tmp_path / "elsewhere")
    no_model()
    capsys.readouterr()
    assert main(score(tmp_path / "elsewhere", out)) == 0
    assert capsys.readouterr().err == ""
    assert (out.read_bytes(), times(out)) == (before, made)


@pytest.mark.parametrize("how", ["another column", "another file", "the file written over"])
def test_other_pictures_with_the_same_captions_are_scored_again(
    how: str, score: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    source, more = parquet(tmp_path / "a.parquet", 0, 50), ["score.image_column=image"]
    assert main(score(source, out, *more)) == 0
    before = pd.read_parquet(out)
    if how == "another column":
        more = ["score.image_column=image1"]
    elif how == "another file":
        source = parquet(tmp_path / "b.parquet", 60, 70)
    else:
        parquet(source, 60, 70)
    capsys.readouterr()
    assert main(score(source, out, *more)) == 0
    assert capsys.readouterr().err.count(AGAIN) == 1
    assert main(score(source, fresh, *more)) == 0
    same(out, fresh)
    assert (pd.read_parquet(out)["elbo"] != before["elbo"]).all()


def test_what_does_not_decode_is_known_by_its_bytes(
    score: Arguments, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    (folder / "1.png").write_bytes(b"no picture")
    (folder / "4.png").unlink()
    assert main(score(folder, out, "score.skip=true")) == 0
    made = times(out)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mitune.stages.score.load_model", None)
        assert main(score(folder, out, "score.skip=true")) == 0
    assert (AGAIN in capsys.readouterr().err, times(out)) == (False, made)
    (folder / "1.png").write_bytes(png(1))
    assert main(score(folder, out, "score.skip=true")) == 0
    (folder / "4.png").write_bytes(png(4))
    assert main(score(folder, out)) == 0
    assert capsys.readouterr().err.count(AGAIN) == 2
    assert main(score(folder, fresh)) == 0
    same(out, fresh)
    assert len(pd.read_parquet(out)) == 5


def test_units_of_earlier_versions_are_taken_as_they_are(
    score: Arguments,
    folder: Path,
    tmp_path: Path,
    no_model: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.parquet"
    assert main(score(folder, out)) == 0
    for path in out.with_suffix("").glob("unit-*.json"):
        note = read_json(path)
        del note["pictures_sha256"]
        path.write_text(json.dumps(seal(note)))
    (folder / "2.png").write_bytes(png(77))
    no_model()
    capsys.readouterr()
    assert main(score(folder, out)) == 0
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "from before digests of pictures were kept; they are taken as they are" in shown


def test_two_processes_see_the_same_changes(
    score: Arguments, folder: Path, run_ranks: Callable[..., Any], tmp_path: Path
) -> None:
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    assert main(score(folder, out)) == 0
    for row in (1, 4):
        (folder / f"{row}.png").write_bytes(png(70 + row))
    done = run_ranks(2, score(folder, out))
    assert [one.code for one in done] == [0, 0], done
    assert "".join(one.err for one in done).count(AGAIN) == 1
    assert main(score(folder, fresh)) == 0
    same(out, fresh, tolerance=1e-3)  # the processes have one thread each


def test_other_candidates_of_the_same_prompts_are_scored_again(
    score: Arguments, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = []
    for seed in (0, 1):
        words = [f"seed={seed}", f"run={tmp_path / f'run{seed}'}", "generate.candidates=2"]
        assert main(arguments("generate", *words)) == 0
        places.append(tmp_path / f"run{seed}" / "round-1" / "candidates")
    out, fresh = tmp_path / "out.parquet", tmp_path / "fresh.parquet"
    for place in places:
        assert main(score(place, out)) == 0
    assert capsys.readouterr().err.count(AGAIN) == 1
    assert main(score(places[1], fresh)) == 0
    same(out, fresh)
    made = times(out)
    shutil.move(places[1], tmp_path / "candidates")
    assert main(score(tmp_path / "candidates", out)) == 0
    assert times(out) == made


def test_real_pictures_written_over_are_scored_again(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = parquet(tmp_path / "real.parquet", 0)
    words = [f"select.real={source}", "select.real_fraction=1", "scorer.mi_image.times=2"]
    folder = tmp_path / "run" / "round-1"

    def select() -> list[tuple[str, float]]:
        (folder / "done" / "select.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "dataset", ignore_errors=True)
        assert main(arguments("select", *words)) == 0
        rows = datasets.load_from_disk(str(folder / "dataset"))
        return list(zip(rows["text"], rows["score"], strict=True))

    assert main(arguments("generate", *words)) == 0
    before = select()
    capsys.readouterr()
    assert select() == before
    assert AGAIN not in capsys.readouterr().err
    parquet(source, 60)
    after = select()
    assert capsys.readouterr().err.count(AGAIN) == 1
    shutil.rmtree(folder / "real")
    assert select() == after
    assert after != before


def test_sources_with_the_same_captions_share_no_scores(arguments: Arguments, tmp_path: Path) -> None:
    for number in range(2):
        source = parquet(tmp_path / f"{number}.parquet", 60 * number)
        words = [f"select.real={source}", "scorer.mi_image.times=2", f"sweep.share={tmp_path / 'share'}"]
        for stage in ("generate", "select"):
            assert main(arguments(stage, *words, f"run={tmp_path / f'run{number}'}")) == 0
    assert len(list((tmp_path / "share").glob("candidates-*"))) == 1
    assert len(list((tmp_path / "share").glob("real-*"))) == 2
