"""A set written as it comes has the files of one that was built whole, and little of it is held meanwhile."""

from __future__ import annotations

from pathlib import Path

import datasets
import pandas as pd
import pytest
import torch

from mitune.data import dataset, dataset_writer
from mitune.data.pieces import Pieces
from mitune.errors import UserError
from tests.data.test_dataset import built, latents, pictures, rows

PIECE = 3


def spread(folder: Path, shown: torch.Tensor, z: torch.Tensor) -> tuple[Pieces, list[tuple[int, int]]]:
    """Pieces of three rows each, and where each row lies in them."""
    pieces = Pieces(folder)
    for at in range(0, len(shown), PIECE):
        part = slice(at, at + PIECE)
        pieces.write(
            at // PIECE,
            (
                {"image": dataset.encode_png(picture), "latent": latent.float().numpy().tobytes()}
                for picture, latent in zip(shown[part], z[part], strict=True)
            ),
        )
    return pieces, [divmod(row, PIECE) for row in range(len(shown))]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("flat", [False, True])
def test_the_files_are_those_of_the_whole_set(tmp_path: Path, flat: bool) -> None:
    z = latents().flatten(1) if flat else latents()
    dataset.save(dataset.build(rows(), pictures(), z, round=2, model="shapes@abc"), tmp_path / "whole")
    pieces, places = spread(tmp_path / "pieces", pictures(), z)
    (tmp_path / "set").mkdir()
    dataset_writer.write_set(tmp_path / "set", rows(), pieces, places, tuple(z.shape[1:]), 2, "shapes@abc")
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_a_large_set_is_cut_as_the_library_cuts_it_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of real size it would be files of 500 MB; here they are a thousand times smaller."""
    monkeypatch.setattr(datasets.config, "MAX_SHARD_SIZE", 500_000)
    monkeypatch.setattr(datasets.config, "MAX_ROW_GROUP_SIZE", 100_000, raising=False)
    monkeypatch.setattr(dataset_writer, "FILE", 500_000)
    monkeypatch.setattr(dataset_writer, "BATCH", 100_000)
    many = pd.concat([rows()] * 20, ignore_index=True)
    generator = torch.Generator().manual_seed(2)
    shown, z = (
        torch.rand(80, 3, 64, 64, generator=generator),
        torch.randn(80, 4, 8, 8, generator=generator),
    )
    dataset.save(dataset.build(many, shown, z), tmp_path / "whole")
    pieces, places = spread(tmp_path / "pieces", shown, z)
    held, heavy = [], dataset_writer._heavy
    monkeypatch.setattr(
        dataset_writer, "_heavy", lambda own, shape: held.append(len(own)) or heavy(own, shape)
    )
    (tmp_path / "set").mkdir()
    dataset_writer.write_set(tmp_path / "set", many, pieces, places, tuple(z.shape[1:]))
    found, expected = files(tmp_path / "set"), files(tmp_path / "whole")
    assert len(found) == 5  # three files, and what describes them
    assert max(held) <= 10  # of 80
    if hasattr(
        datasets.config, "MAX_ROW_GROUP_SIZE"
    ):  # datasets 5 cuts record batches by bytes, 4 by rows alone
        assert found == expected
    read = dataset.load(tmp_path / "set")
    assert torch.equal(dataset.latents(read), z)
    assert read.features == dataset.load(tmp_path / "whole").features


def test_rows_of_pieces_come_in_any_order(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "pieces")
    for number in range(3):
        pieces.write(number, [{"a": b"%d" % number, "b": bytes(row)} for row in range(4)])
    wanted = [(2, 1), (0, 3), (0, 0), (2, 1)]
    found = [(row["a"], len(row["b"])) for row in pieces.read(wanted)]
    assert found == [(b"2", 1), (b"0", 3), (b"0", 0), (b"2", 1)]
    assert pieces.size([(0, 0), (2, 3)], "b") == 2 * (0 + 1 + 2 + 3)
    pieces.remove()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        Pieces(tmp_path / "pieces").write(0, ({"a": full()} for _ in range(1)))
    with pytest.raises(UserError, match="no candidate was chosen"):
        dataset_writer.write_set(tmp_path, rows().iloc[:0], Pieces(tmp_path), [], (1,))


def test_where_latents_lie_is_known_of_a_set_that_was_not_changed(tmp_path: Path) -> None:
    assert dataset.latent_places(built()) is None
    dataset.save(built(), tmp_path / "set")
    loaded = dataset.load(tmp_path / "set")
    places = dataset.latent_places(loaded)
    assert places is not None
    ((path, offset, count),) = places
    data = path.read_bytes()[offset : offset + 4 * latents().numel()]
    assert (count, data) == (4, latents().numpy().tobytes())
    for changed in (
        loaded.select([2, 0]),
        loaded.select(range(2)),
        loaded.rename_column("latent", "other").rename_column("text", "latent"),
        loaded.map(lambda row: {"text": row["text"]}, keep_in_memory=True),
        datasets.concatenate_datasets([loaded, loaded]),
    ):
        assert dataset.latent_places(changed) is None
