"""Mistakes of a user, through the command line: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from tests.cli import main
from tests.families.tiny import make_guidance_distilled, make_overflow

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]


@pytest.fixture
def model_copy(tiny_pipeline_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may spoil."""
    return Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (["select.k=4"], ["select.k=4", "generate.candidates=3"]),
        (["generate.candidatess=3"], ["generate.candidates"]),
        (["sampler=ddmp"], ["ddpm"]),
        (["scorers=[mi,oracle]"], ["oracle", "not 'a green star on a red square'", "scorers=[mi]"]),
        (["sampler.steps=2000"], ["sampler.steps=2000", "1000"]),
        (["sampler.steps=1", "sampler.spacing=leading"], ["t_min"]),
        (["model.device=gpu"], ["model.device=gpu"]),
        (["model.path=nowhere/at/all"], ["nowhere/at/all"]),
        (["model.dtype=float8"], ["model.dtype=float8", "bfloat16"]),
        (["model.quantization=4bit"], ["model.quantization=4bit", "CUDA"]),
        (["model.resolution=9"], ["model.resolution=9", "divide by 2"]),
        (["sampler=euler", "scorers=[mi]"], ["sampler.name=euler", "ddim"]),
        (["train.density=lognormal"], ["logit_normal"]),
        (["prompts.limit=0"], ["prompts.limit"]),
    ],
)
def test_settings_that_cannot_work(
    overrides: list[str], hints: list[str], arguments: Arguments, refused: Refused
) -> None:
    line = refused(arguments("generate", *overrides))
    for hint in hints:
        assert hint in line


def test_a_missing_prompt_file_is_named_with_its_neighbour(
    arguments: Arguments, tmp_path: Path, refused: Refused
) -> None:
    line = refused(arguments("generate", f"prompts.source={tmp_path / 'promts.txt'}"))
    assert "promts.txt" in line
    assert "did you mean 'prompts.txt'" in line


@pytest.mark.parametrize("data", [b"", b"\n  \n", b"\xff\xfe\x00\xd8bad"])
def test_a_prompt_file_with_nothing_to_read(
    data: bytes, arguments: Arguments, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(data)
    assert "empty.txt" in refused(arguments("generate", f"prompts.source={path}"))


def test_a_column_that_is_not_there(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "table.csv"
    path.write_text("caption,kind\na red circle,color\n")
    line = refused(arguments("generate", f"prompts.source={path}", "prompts.column=captoin"))
    assert "caption" in line


def test_a_prompt_too_long_is_warned_of_with_what_is_cut(
    arguments: Arguments, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.txt"
    path.write_text(
        "a red circle and a blue square and a green star and a yellow dog and a small cat\na red dog\n"
    )
    command = arguments("generate", f"prompts.source={path}")
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("mitune: warning: prompts: the prompt")
    assert "cut off" in shown
    assert "small cat" in shown
    line = refused([*command, f"run={tmp_path / 'other'}", "prompts.strict=true"])
    assert "small cat" in line
    assert "prompts.strict=false" in line


def test_both_lists_of_prompts_are_read_before_anything_is_drawn(
    arguments: Arguments, tmp_path: Path, refused: Refused
) -> None:
    line = refused(arguments("run", "evaluate.prompts.source=missing.txt"))
    assert "missing.txt" in line
    assert not (tmp_path / "run" / "round-1").exists()


def test_another_model_in_the_middle_of_a_unit(
    arguments: Arguments, model_copy: Path, tmp_path: Path, refused: Refused
) -> None:
    assert main(arguments("generate", f"model.path={model_copy}")) == 0
    shutil.rmtree(tmp_path / "run" / "round-1" / "done")
    path = next((model_copy / "unet").glob("*.safetensors"))
    weights = safetensors.torch.load_file(path)
    safetensors.torch.save_file(weights | {"conv_out.bias": weights["conv_out.bias"] + 1}, path)
    assert "holds pictures of the model" in refused(arguments("generate", f"model.path={model_copy}"))


def test_a_model_without_a_null_prompt(arguments: Arguments, model_copy: Path, refused: Refused) -> None:
    make_guidance_distilled(model_copy)
    line = refused(arguments("generate", f"model.path={model_copy}"))
    assert "guidance-distilled" in line
    assert "null prompt" in line


def test_a_folder_that_is_no_pipeline(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "nothing").mkdir()
    line = refused(arguments("generate", f"model.path={tmp_path / 'nothing'}"))
    assert "nothing" in line


def test_checkpoint_files(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"")
    assert "pickled" in refused(arguments("generate", f"model.path={tmp_path / 'old.ckpt'}"))
    (tmp_path / "cut.safetensors").write_bytes(b"")
    assert "damaged" in refused(arguments("generate", f"model.path={tmp_path / 'cut.safetensors'}"))


def test_a_missing_text_encoder(arguments: Arguments, model_copy: Path, refused: Refused) -> None:
    shutil.rmtree(model_copy / "text_encoder")
    line = refused(arguments("generate", f"model.path={model_copy}"))
    assert "text_encoder" in line
    assert "incomplete" in line


def test_a_pipeline_of_another_kind(arguments: Arguments, model_copy: Path, refused: Refused) -> None:
    path = model_copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "KandinskyPipeline"}))
    line = refused(arguments("generate", f"model.path={model_copy}"))
    assert "KandinskyPipeline" in line
    assert "StableDiffusionPipeline" in line


def test_a_score_that_is_no_number_names_prompt_and_candidate(
    arguments: Arguments, model_copy: Path, tmp_path: Path, refused: Refused
) -> None:
    make_overflow(model_copy)
    line = refused(arguments("generate", f"model.path={model_copy}"))
    assert "'mi' is nan" in line
    assert "candidate 0" in line
    assert "a red circle and a blue square" in line
    assert not list((tmp_path / "run").rglob("unit-*.parquet"))


def test_another_configuration_in_the_same_folder(
    arguments: Arguments, tmp_path: Path, refused: Refused
) -> None:
    assert main(arguments("generate", "sampler.guidance=2.0")) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    line = refused(arguments("generate", "sampler.guidance=3.5", "seed=9"))
    assert "sampler.guidance (2.0 there, 3.5 now)" in line
    assert "seed (0 there, 9 now)" in line
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_other_prompts_under_the_same_name(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    assert main(arguments("generate")) == 0
    (tmp_path / "prompts.txt").write_text("a green dog\n")
    shutil.rmtree(tmp_path / "run" / "round-1" / "done")
    assert "other prompts" in refused(arguments("generate"))


@pytest.mark.parametrize(
    ("stage", "missing"), [("select", "generate"), ("train", "select"), ("evaluate", "train")]
)
def test_a_stage_before_its_time(stage: str, missing: str, arguments: Arguments, refused: Refused) -> None:
    assert f"mitune {missing}" in refused(arguments(stage))


def test_a_round_before_its_time(arguments: Arguments, refused: Refused) -> None:
    line = refused(arguments("generate", "round=2"))
    assert "mitune train" in line
    assert "round=1" in line


def test_an_adapter_that_fits_no_layer(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    for stage in ("generate", "select"):
        assert main(arguments(stage)) == 0
    line = refused(arguments("train", "adapter.targets=[to_qq]"))
    assert "to_qq" in line
    # Nothing is lost: the same folder goes on with the right name.
    assert main(arguments("train")) == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_a_disk_that_refuses_costs_nothing(
    number: int,
    words: str,
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Refused,
) -> None:
    make, writes = tempfile.mkstemp, []

    def full(*rest: Any, **options: Any) -> Any:
        writes.append(1)
        if len(writes) > 8:
            raise OSError(number, os.strerror(number))
        return make(*rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", full)
        line = refused(arguments("generate"))
    assert words in line
    assert str(tmp_path / "run") in line
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("unit-*.parquet")}
    assert done
    assert main(arguments("generate")) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_run_folder_under_a_file(arguments: Arguments, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    line = refused(arguments("generate", f"run={tmp_path / 'file' / 'run'}"))
    assert "not a folder" in line


def test_a_damaged_unit_is_made_again(arguments: Arguments, tmp_path: Path) -> None:
    assert main(arguments("generate")) == 0
    folder = tmp_path / "run" / "round-1"
    paths = [folder / "candidates" / "unit-000001.parquet", folder / "candidates" / "unit-000002.safetensors"]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-9])
    shutil.rmtree(folder / "done")
    assert main(arguments("generate")) == 0
    assert [path.read_bytes() for path in paths] == whole
