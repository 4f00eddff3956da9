"""The training set: what goes in comes out, whole or not at all, and nothing is written anywhere else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch
from PIL import Image

from mitune.data import dataset
from mitune.data.selection import select
from mitune.errors import UserError


def rows() -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "prompt_id": ["x", "x", "x", "y", "y", "y"],
            "prompt": ["a red cat"] * 3 + ["a/blue\\dog 'é'"] * 3,
            "category": ["color"] * 3 + ["shape"] * 3,
            "candidate": [0, 1, 2] * 2,
            "seed": [2**62 + i for i in range(6)],
            "kept": True,
            "mi": [1.0, 3.0, 2.0, 9.0, 8.0, 7.0],
            "oracle": [0.5] * 6,
        }
    )
    return select(table, "mi", 1, losers=1)


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 6, 5), generator=torch.Generator().manual_seed(0)) / 255


def latents() -> torch.Tensor:
    return torch.randn(4, 4, 3, 2, generator=torch.Generator().manual_seed(1))


def built() -> datasets.Dataset:
    return dataset.build(rows(), iter(pictures()), latents(), round=2, model="shapes@abc")


def test_all_that_is_known_of_a_candidate_is_kept(tmp_path: Path) -> None:
    dataset.save(built(), tmp_path / "set")
    loaded = dataset.load(tmp_path / "set")
    assert set(loaded.column_names) == {
        "image", "text", "latent", "score", "scores", "seed", "candidate", "prompt_id", "category", "preferred",
        "weight", "real", "round", "model",
    }  # fmt: skip
    plain = loaded.remove_columns(["image", "latent"])[0]
    assert json.loads(plain.pop("scores")) == {"mi": 3.0, "oracle": 0.5}
    assert plain == {
        "text": "a red cat", "score": 3.0, "seed": 2**62 + 1, "candidate": 1, "prompt_id": "x", "category": "color",
        "preferred": True, "weight": 1.0, "real": False, "round": 2, "model": "shapes@abc",
    }  # fmt: skip
    assert list(loaded["preferred"]) == [True, False, True, False]
    assert loaded["text"][2] == "a/blue\\dog 'é'"
    assert torch.equal(dataset.latents(loaded), latents())
    torch.testing.assert_close(dataset.pictures(loaded), pictures(), rtol=0, atol=1e-6)
    # Anybody's `datasets` shows the pictures: they are PNG bytes in an Image column.
    assert isinstance(loaded[0]["image"], Image.Image)
    raw = loaded.cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert raw["bytes"].startswith(b"\x89PNG")


def test_flat_latents_and_none(tmp_path: Path) -> None:
    flat = dataset.build(rows(), pictures(), latents().flatten(1).double())
    dataset.save(flat, tmp_path / "flat")
    assert torch.equal(dataset.latents(dataset.load(tmp_path / "flat")), latents().flatten(1))
    without = dataset.build(rows(), pictures(), None)
    with pytest.raises(UserError, match="no column 'latent'"):
        dataset.latents(without)


def test_equal_sets_are_equal_files_and_others_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        dataset.save(built(), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = dataset.build(rows(), pictures().flip(0), latents(), round=2, model="shapes@abc")
    assert other._fingerprint != built()._fingerprint


def test_saving_again_replaces_and_a_failure_leaves_the_old_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.save(built(), tmp_path / "set")
    smaller = built().select([0])
    dataset.save(smaller, tmp_path / "set")
    assert len(dataset.load(tmp_path / "set")) == 1

    def full(self: object, path: str) -> None:
        (Path(path) / "data.arrow").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", full)
    with pytest.raises(UserError, match="the disk is full"):
        dataset.save(built(), tmp_path / "set")
    assert len(dataset.load(tmp_path / "set")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_pictures_come_as_tensors_pil_images_or_bytes() -> None:
    tensor = pictures()[0]
    buffer = io.BytesIO()
    picture = Image.fromarray((tensor * 255).round().byte().permute(1, 2, 0).numpy())
    picture.save(buffer, format="PNG")
    expected = dataset.decode_png(buffer.getvalue())
    for given in (tensor, picture, buffer.getvalue()):
        assert torch.equal(dataset.decode_png(dataset.encode_png(given)), expected)
    bright = dataset.decode_png(dataset.encode_png(torch.tensor([-1.0, 2.0]).view(1, 1, 2).expand(3, 1, 2)))
    assert bright.unique().tolist() == [0.0, 1.0]


def test_too_few_pictures_are_noticed() -> None:
    with pytest.raises(UserError, match="no candidate was chosen"):
        dataset.build(rows().iloc[:0], [], None)
    with pytest.raises(ValueError, match=r"4 rows, but .*'image': 3"):
        dataset.build(rows(), pictures()[:3], latents())


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the select stage first"):
        dataset.load(tmp_path / "absent")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.txt").write_text("x")
    with pytest.raises(UserError, match="not a readable dataset"):
        dataset.load(tmp_path / "junk")
    built().rename_column("text", "texts").save_to_disk(str(tmp_path / "renamed"))
    with pytest.raises(UserError, match="no column 'text', did you mean 'texts'"):
        dataset.load(tmp_path / "renamed")
    datasets.DatasetDict({"train": built()}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(UserError, match=r"several splits .train.*splits/train"):
        dataset.load(tmp_path / "splits")
    built().select([]).save_to_disk(str(tmp_path / "empty"), num_shards=1)
    with pytest.raises(UserError, match="is empty"):
        dataset.load(tmp_path / "empty")


def test_a_picture_that_does_not_decode_is_named() -> None:
    bad = dataset.build(rows(), [*pictures()[:3], b"\x89PNG no"], latents())
    with pytest.raises(UserError, match=r"picture of row 3 .* does not decode"):
        dataset.pictures(bad)
    cut = dataset.build(rows(), [*pictures()[:3], dataset.encode_png(pictures()[3])[:60]], latents())
    with pytest.raises(UserError, match=r"picture of row 3 .* does not decode"):
        dataset.pictures(cut)
    odd = dataset.build(rows(), [*pictures()[:3], torch.zeros(3, 8, 8)], latents())
    with pytest.raises(UserError, match="is 8x8, the first one 5x6"):
        dataset.pictures(odd)


OUTSIDE = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network used")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
sys.path.insert(0, sys.argv[2])
from test_dataset import built
from mitune.data import dataset
dataset.save(built(), sys.argv[1])
loaded = dataset.load(sys.argv[1])
dataset.latents(loaded), dataset.pictures(loaded), loaded.select([1, 0]).shuffle(seed=0)[0]
"""


def test_nothing_is_written_outside_the_folder_and_no_network_is_used(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))},
        "HOME": str(home), "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", OUTSIDE, str(tmp_path / "run" / "set"), str(Path(__file__).parent)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["set"]
    assert "examples" not in run.stderr  # no progress bar of the library
