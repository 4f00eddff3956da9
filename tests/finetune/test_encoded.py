"""Latents and texts from files: the same numbers as from memory, by one process and by two, and nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mitune.data import dataset as datasets
from mitune.denoiser import Condition
from mitune.errors import UserError
from mitune.finetune import batches, checkpoint, encoded, trainer
from mitune.finetune.adapters import trainable_parameters
from mitune.finetune.catalogue import AdapterConfig
from mitune.finetune.encoded import FileConditions, FileLatents, Scratch, packed
from tests.finetune.conftest import make_dataset
from tests.finetune.test_trainer import SMALL, _model, _run, _same

CHUNK = 2


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held in memory."""
    monkeypatch.setattr(encoded, "HELD", 0)


@pytest.mark.parametrize("source", ["saved", "changed", "pictures"])
def test_training_from_files_is_training_from_memory(
    source: str, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: Any = make_dataset(losers=1, rows=12, latents=source != "pictures")
    if source == "saved":
        datasets.save(data, tmp_path / "set")
        data = datasets.load(tmp_path / "set")
    monkeypatch.setattr(encoded, "CHUNK", CHUNK)
    ends = []
    for held in (2**40, 0):
        monkeypatch.setattr(encoded, "HELD", held)
        ends.append(_run(tiny_pipeline_folder, tmp_path / str(held), data, SMALL, AdapterConfig(rank=4)))
    assert _same(ends[0][1], ends[1][1])
    assert ends[0][0].loss == ends[1][0].loss
    assert not list(tmp_path.rglob(".partial-*"))
    signatures = [checkpoint.steps(tmp_path / str(held) / "checkpoints") for held in (2**40, 0)]
    assert signatures[0] == signatures[1]


def test_a_training_goes_on_from_files_where_memory_began(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the data, which a checkpoint is bound to, does not say where they lie."""
    data = make_dataset()
    held = trainer._Run(_model(tiny_pipeline_folder, AdapterConfig(rank=4)), data, SMALL, tmp_path / "held")
    monkeypatch.setattr(encoded, "HELD", 0)
    filed = trainer._Run(_model(tiny_pipeline_folder, AdapterConfig(rank=4)), data, SMALL, tmp_path / "filed")
    assert isinstance(held.data.latents, torch.Tensor)
    assert isinstance(filed.data.latents, FileLatents)
    assert held.data.digest == filed.data.digest
    index = torch.tensor([held.texts.null, 2, 0, held.texts.null, 3])
    for name, value in held.texts.condition(index).tensors.items():
        assert torch.equal(value, filed.texts.condition(index).tensors[name])


def test_latents_of_a_saved_set_are_read_where_they_lie(
    filed: None, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    datasets.save(make_dataset(), tmp_path / "set")
    data = datasets.load(tmp_path / "set")
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4, text_encoder=True))  # no texts in files
    run = trainer._Run(denoiser, data, SMALL, tmp_path / "run")
    index = torch.tensor([5, 0, 5, 7])
    assert torch.equal(run.data.latents[index], datasets.latents(data)[index])
    assert not (tmp_path / "run").exists()  # not a copy of them


def test_a_file_that_was_cut_is_named(filed: None, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    datasets.save(make_dataset(), tmp_path / "set")
    run = trainer._Run(
        _model(tiny_pipeline_folder, AdapterConfig(rank=4)), datasets.load(tmp_path / "set"), SMALL, tmp_path
    )
    (path,) = (tmp_path / "set").glob("*.arrow")
    os.truncate(path, 1000)
    with pytest.raises(UserError, match="was cut short while it was read"):
        run.data.latents[torch.tensor([7])]


def test_a_disk_that_is_full_is_said_in_a_line(tmp_path: Path) -> None:
    def full(_: slice) -> torch.Tensor:
        raise OSError(28, "No space left on device")

    scratch = Scratch(tmp_path / "run")
    with pytest.raises(UserError, match="the disk is full"):
        scratch.write(3, full)
    assert not list((tmp_path / "run").iterdir())


def test_what_was_encoded_goes_where_the_training_does_not_begin(
    filed: None, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several machines its files are read by name, and so are there for longer than they are written."""
    monkeypatch.setattr(encoded, "_one_machine", lambda processes: False)
    monkeypatch.setattr(batches, "_check_finite", lambda *_: 1 / 0)
    denoiser = _model(tiny_pipeline_folder, AdapterConfig(rank=4))
    with pytest.raises(ZeroDivisionError):
        trainer._Run(denoiser, make_dataset(), SMALL, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_a_picture_is_named_by_its_row_of_the_whole_set(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "CHUNK", CHUNK)
    data: Any = make_dataset(rows=6, latents=False)
    data = data.map(lambda row, number: {"image": None} if number == 5 else {}, with_indices=True)
    with pytest.raises(UserError, match="the picture of row 5 "):
        trainer._Run(_model(tiny_pipeline_folder, AdapterConfig(rank=4)), data, SMALL, tmp_path)


def test_conditions_of_any_type_come_back_bit_for_bit_whatever_is_left_out(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = Condition(
        {
            "text": torch.randn(150, 3, 5, generator=generator).bfloat16(),
            "picture": torch.randn(150, 2, generator=generator),
            "mask": torch.randint(0, 2, (150, 3), generator=generator).bool(),
            "size": torch.randint(0, 999, (150,), generator=generator),
        }
    )
    nothing = Condition({name: torch.zeros_like(value[:1]) for name, value in whole.tensors.items()})

    def retold(given: Condition, told: Condition) -> Condition:
        return Condition({**told.tensors, "picture": given.tensors["picture"]})

    rows = Scratch(tmp_path).write(150, lambda part: packed(whole[part]))
    dropped = ((), ("text",), ("picture",), ("text", "picture"))
    found = FileConditions(rows, whole[:1], nothing, retold, dropped)[
        torch.tensor([149, 0, 150 + 64, 2 * 150 + 65, 3 * 150 + 1])
    ]
    blank = {name: value[0] for name, value in nothing.tensors.items()}
    for name, value in found.tensors.items():
        own, picture = whole.tensors[name], name == "picture"
        expected = [
            own[149], own[0], own[64] if picture else blank[name], blank[name] if picture else own[65], blank[name],
        ]  # fmt: skip
        assert value.dtype == own.dtype
        assert torch.equal(value, torch.stack(expected))


_TWO_PROCESSES = """
import sys
from pathlib import Path
from mitune.finetune import encoded
from tests.finetune.test_encoded import CHUNK
from tests.finetune.test_trainer import SMALL, AdapterConfig, _run
from tests.finetune.conftest import make_dataset
model, folder = sys.argv[1:]
encoded.CHUNK = CHUNK
data = make_dataset(rows=12, latents=False)
for name, held in (("held", 2**40), ("filed", 0)):
    encoded.HELD = held
    _run(Path(model), Path(folder) / name, data, SMALL, AdapterConfig(rank=4))
"""


@pytest.mark.slow
def test_two_processes_share_what_they_encode(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(_TWO_PROCESSES)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    subprocess.run(
        [*command, str(script), str(tiny_pipeline_folder), str(tmp_path)],
        check=True, cwd=root, timeout=300, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ends = []
    for name in ("held", "filed"):
        names = trainable_parameters(_model(tiny_pipeline_folder, AdapterConfig(rank=4)))
        checkpoint.restore_adapter(tmp_path / name / "adapter", names)
        ends.append({name: value.detach().clone() for name, value in names.items()})
    assert _same(*ends)
    assert not list(tmp_path.rglob(".partial-*"))
