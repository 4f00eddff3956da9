"""What a stage has marked done is checked when it is used: made again to the bit, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune import digests
from mitune.files import read_json, write_json
from tests.cli import main
from tests.end_to_end.conftest import Arguments, commands
from tests.end_to_end.test_resume import contents

Refused = Callable[[list[str]], str]
UNIT = "round-1/candidates/unit-000001.parquet"
NOTE = "round-1/candidates/unit-000001.json"
LATENTS = "round-1/candidates/unit-000002.safetensors"
ARROW = "round-1/dataset/data-00000-of-00001.arrow"
ADAPTER = "round-1/adapter/pytorch_lora_weights.safetensors"
# A file of every kind that the stages leave.
FILES = {
    "generate": [UNIT, LATENTS, "round-1/candidates/plan.json", "round-1/candidates/model.json"],
    "select": [
        ARROW,
        "round-1/dataset/state.json",
        "round-1/dataset/dataset_info.json",
        "round-1/candidates_examples.json",
        "round-1/pictures/candidate-best-000.png",
    ],
    "train": [ADAPTER],
    "evaluate": [
        "round-1/evaluation.json",
        "round-1/evaluation.parquet",
        "round-1/pictures/after-000.png",
        "round-1/pictures/before-after.png",
        "round-1/pictures/mi-histogram.png",
        "round-1/after/unit-000001.parquet",
        "baseline-*/unit-000000.safetensors",
    ],
}
ALL = [name for names in FILES.values() for name in names]
HARMS = ("deleted", "cut", "flipped", "another run's")


class Made:
    """A finished run, one of another seed, and commands that go with them."""

    def __init__(self, pipeline: Path, folder: Path) -> None:
        self.whole, self.other = folder / "whole", folder / "other"
        self.command: Arguments = commands(pipeline, folder)
        assert main(self.command("run", f"run={self.whole}")) == 0
        assert main(self.command("run", f"run={self.other}", "seed=5", "evaluate.seed=6")) == 0
        self.contents = contents(self.whole)


@pytest.fixture(scope="module")
def made(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The runs of this module."""
    return Made(tiny_pipeline_folder, tmp_path_factory.mktemp("artefacts"))


@pytest.fixture
def run(made: Made, tmp_path: Path) -> Path:
    """A copy of the finished run, to harm."""
    return shutil.copytree(made.whole, tmp_path / "run")


def file(folder: Path, name: str) -> Path:
    """The file of that name in a run."""
    return next(folder.glob(name))


def harm(path: Path, how: str, other: Path | None = None) -> None:
    """Do to a file what happens to files."""
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        place = len(data) * 2 // 3
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        assert other is not None
        if other.read_bytes() == data and not path.name.startswith("unit-"):  # what every run has alike
            path.write_bytes(data + b"\n")
        elif path.name.startswith("unit-"):  # a whole unit of another run is in itself in order
            for own in path.parent.glob(f"{path.stem}.*"):
                shutil.copy(other.with_name(own.name), own)
        else:
            shutil.copy(other, path)


@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.exhaustive) for how in HARMS[:3]), HARMS[3], "all of these"]
)
def test_whatever_was_harmed_is_made_again_as_it_was(
    how: str, made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(ALL):
        one = HARMS[number % len(HARMS)] if how == "all of these" else how
        harm(file(run, name), one, next(made.other.glob(name)))
    marks = {path: path.read_bytes() for path in run.rglob("done/*.json")}
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert [line.split("round 1: ")[1] for line in lines] == [f"{stage} makes it again" for stage in FILES]
    words = {"deleted": ("is gone",), "all of these": ("is gone", "is not what was written there")}
    told = words.get(how, ("is not what was written there",))
    assert all(any(word in line for word in told) and str(run) in line for line in lines)
    assert "done before" not in shown.out
    assert contents(run) == made.contents
    assert {path: path.read_bytes() for path in marks} == marks
    # Then all is as it was.
    assert main(made.command("run", f"run={run}")) == 0
    assert capsys.readouterr().err == ""


# Each file is harmed in one way, and in the other three on request.
@pytest.mark.parametrize(
    "way", [0, *(pytest.param(way, marks=pytest.mark.exhaustive) for way in range(1, len(HARMS)))]
)
@pytest.mark.parametrize(
    ("stage", "used", "names", "first"),
    [
        ("select", "generate", FILES["generate"], 0),
        ("train", "select", FILES["select"], 0),
        ("evaluate", "train", FILES["train"], 1),
        ("sample", "train", FILES["train"], 2),
        ("export", "train", FILES["train"], 3),
        ("export", "evaluate", FILES["evaluate"][:4], 1),
    ],
)
def test_a_stage_refuses_what_an_earlier_one_did_not_leave_so(
    stage: str,
    used: str,
    names: list[str],
    first: int,
    way: int,
    made: Made,
    run: Path,
    refused: Refused,
    tmp_path: Path,
) -> None:
    if stage in FILES:
        (run / "round-1" / "done" / f"{stage}.json").unlink()
    more = {"sample": ["sample.round=1", "sample.prompt='a cat'", f"sample.out={tmp_path / 'out'}"]}
    command = [stage, f"run={run}"] if stage == "export" else made.command(stage, f"run={run}")
    for number, name in enumerate(names):
        path = file(run, name)
        kept = {own: own.read_bytes() for own in path.parent.iterdir() if own.is_file()}
        harm(path, HARMS[(first + number + way) % len(HARMS)], next(made.other.glob(name)))
        line = refused([*command, *more.get(stage, [])])
        assert str(path.parent) in line
        assert f"run mitune {used} run={run} round=1 to make it again" in line
        for own, data in kept.items():
            own.write_bytes(data)


@pytest.mark.parametrize(
    ("stage", "used", "name", "how"),
    [
        ("select", "generate", UNIT, "deleted"),
        ("select", "generate", LATENTS, "flipped"),
        ("select", "generate", NOTE, "deleted"),
        ("train", "select", ARROW, "flipped"),
        ("evaluate", "train", ADAPTER, "deleted"),
        ("evaluate", "train", ADAPTER, "flipped"),
    ],
)
def test_a_stage_that_is_done_refuses_what_it_went_on_from_too(
    stage: str, used: str, name: str, how: str, made: Made, run: Path, refused: Refused
) -> None:
    harm(run / name, how)
    line = refused(made.command(stage, f"run={run}"))
    assert str(run / name) in line
    assert f"run mitune {used} run={run} round=1 to make it again" in line


@pytest.mark.parametrize("how", ["deleted", "flipped"])
@pytest.mark.parametrize("name", [NOTE, "round-1/after/unit-000001.json", "baseline-*/unit-000000.json"])
def test_a_unit_without_its_note_is_made_again(
    name: str, how: str, made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(run, name)
    harm(path, how)
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} {'is gone' if how == 'deleted' else 'is not what was written there'}: round 1: " in line
    assert digests.whole_unit(path.with_suffix(".parquet"))
    assert contents(run) == made.contents


def test_a_folder_in_a_files_place_is_one_line(
    made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ADAPTER).unlink()
    (run / ADAPTER).mkdir()
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / ADAPTER} is a folder" in line


def test_metrics_that_are_gone_are_told(made: Made, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "round-1" / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("round-1/metrics.jsonl is gone; the report has no curve of the training")


def test_a_deleted_folder_is_made_again(made: Made, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("candidates", "dataset", "adapter", "after", "checkpoints"):
        shutil.rmtree(run / "round-1" / name)
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    assert (
        f"{run}/round-1/adapter is gone, and 1 more: round 1: train makes it again" in capsys.readouterr().err
    )
    assert contents(run) == made.contents


def test_a_stage_alone_makes_its_own_again(made: Made, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(run / UNIT, "flipped")
    assert main(made.command("generate", f"run={run}")) == 0
    assert f"{run / UNIT} is not what was written there: round 1: generate" in capsys.readouterr().err
    assert contents(run) == made.contents


def test_what_comes_out_different_is_refused_where_it_was_used(
    made: Made, run: Path, refused: Refused
) -> None:
    """As on another machine: the seeds are the same, the bits are not."""
    mark = run / "round-1" / "done" / "generate.json"
    noted = read_json(mark)
    noted["sha256"][UNIT] = "0" * 64
    write_json(mark, digests.seal(noted))
    for _ in range(2):
        line = refused(made.command("run", f"run={run}"))
        assert f"{run / UNIT} came out different" in line
        assert "done/select.json rests on that" in line
    shutil.rmtree(run / "round-1" / "done")
    assert main(made.command("run", f"run={run}")) == 0
    assert contents(run) == made.contents


def test_a_flipped_bit_in_a_mark_is_seen(made: Made, run: Path, refused: Refused) -> None:
    for stage in FILES:
        mark = run / "round-1" / "done" / f"{stage}.json"
        text = mark.read_text()
        place = text.index('_sha256"') - 60  # in the last of the digests
        mark.write_text(text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :])
        assert f"{mark} is damaged" in refused(made.command("run", f"run={run}"))
        mark.unlink()
        assert main(made.command(stage, f"run={run}")) == 0
    assert contents(run) == made.contents


def test_a_mark_names_no_file_outside(made: Made, run: Path, refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    mark = run / "round-1" / "done" / "train.json"
    for name in ("../mine.txt", str(mine)):
        noted = read_json(mark)
        write_json(mark, digests.seal(noted | {"sha256": {name: "0" * 64}}))
        assert "is damaged" in refused(made.command("run", f"run={run}"))
    assert mine.read_text() == "mine"


def forget(run: Path) -> None:
    """Make the run one of a version that kept no digests."""
    notes = [*run.rglob("done/*.json"), *run.rglob("unit-*.json"), *run.rglob("state.json")]
    for path in notes:
        if path.parent.name == "dataset":
            continue
        noted = read_json(path)
        write_json(path, {key: value for key, value in noted.items() if not key.endswith("sha256")})


def test_marks_without_digests_are_taken_as_they_are(
    made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(run)
    harm(run / ARROW, "flipped")
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.endswith(f"{run} was made before digests were kept; it is taken as it is")
    assert shown.out.count("(done before)") == 4


def test_without_digests_too_what_is_gone_is_made_again(
    made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(run)
    shutil.rmtree(run / "round-1" / "adapter")
    (run / LATENTS).unlink()
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 3
    assert "round 1: train makes it again" in shown.err
    again = contents(run)
    for name in (LATENTS, ADAPTER):
        assert again[name] == made.contents[name]


CHECKPOINT = [
    "optimizer.safetensors",
    "history.safetensors",
    "adapter/pytorch_lora_weights.safetensors",
    "state.json",
]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "flipped") for name in CHECKPOINT),
        *(pytest.param(name, "deleted", marks=pytest.mark.exhaustive) for name in CHECKPOINT[1:3]),
        (CHECKPOINT[0], "deleted"),  # a folder without its state is no checkpoint
    ],
)
def test_a_harmed_checkpoint_is_seen_and_the_one_before_gone_on_from(
    name: str, how: str, made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "round-1" / "checkpoints"
    (run / "round-1" / "done" / "train.json").unlink()
    (run / ADAPTER).unlink()
    harm(folder / "step-000004" / name, how)
    capsys.readouterr()
    assert main(made.command("train", f"run={run}")) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / "step-000004" / name) in line
    assert line.endswith("training goes on from step-000003")
    assert contents(run)[ADAPTER] == made.contents[ADAPTER]


def test_where_no_checkpoint_is_whole_training_begins_again(
    made: Made, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ADAPTER).unlink()
    for path in (run / "round-1" / "checkpoints").rglob("optimizer.safetensors"):
        harm(path, "cut")
    capsys.readouterr()
    assert main(made.command("run", f"run={run}")) == 0
    assert "training goes from the beginning" in capsys.readouterr().err
    assert contents(run) == made.contents


@pytest.mark.parametrize("command", ["sample", "agree", "calibrate"])
def test_units_without_a_mark_are_compared_too(
    command: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "sample": ["sample.scorers=[mi]"],
        "agree": ["agree.prompts=2", "agree.candidates=3", "agree.scorers=[mi,llr]"],
        "calibrate": ["calibrate.prompts=2", "calibrate.candidates=3", "calibrate.k=1", "calibrate.by=[llr]"],
    }[command]
    arguments = made.command(command, f"run={tmp_path / 'run'}", *words)
    assert main(arguments) == 0
    before = contents(tmp_path / "run")
    unit = next((tmp_path / "run").rglob("unit-000000.parquet"))
    harm(unit, "flipped")
    capsys.readouterr()
    assert main(arguments) == 0
    assert (
        f"{unit}, or what lies beside it, is not what was written there: made again"
        in capsys.readouterr().err
    )
    assert contents(tmp_path / "run") == before


def test_units_of_pictures_are_compared_too(made: Made, run: Path, tmp_path: Path) -> None:
    arguments = made.command(
        "score", f"score.source={run / 'round-1' / 'candidates'}", "score.scorers=[elbo]",
        f"score.out={tmp_path / 'table.parquet'}",
    )  # fmt: skip
    assert main(arguments) == 0
    unit = tmp_path / "table" / "unit-000000.parquet"
    before = unit.read_bytes(), (tmp_path / "table.parquet").read_bytes()
    harm(unit, "flipped")
    assert main(arguments) == 0
    assert (unit.read_bytes(), (tmp_path / "table.parquet").read_bytes()) == before


def test_candidates_with_a_unit_missing_are_read_by_nobody(
    made: Made, run: Path, refused: Refused, tmp_path: Path
) -> None:
    source = run / "round-1" / "candidates"
    commands = [
        made.command("score", f"score.source={source}", "score.scorers=[elbo]", f"score.out={tmp_path / 'x.parquet'}"),
        made.command("agree", f"agree.source={source}", "agree.scorers=[mi,llr]"),
    ]  # fmt: skip
    for how in ("cut", "flipped", "deleted"):
        harm(run / UNIT, how)
        for command in commands:
            assert str(run / UNIT) in refused(command)


def test_real_pictures_and_a_second_round_are_checked(made: Made, tmp_path: Path) -> None:
    words = (
        "rounds=2", f"run={tmp_path / 'run'}", "evaluate.candidates=1", "train.steps=1", "select.real=shapes",
        "select.real_fraction=0.5", "select.real_limit=8",
    )  # fmt: skip
    assert main(made.command("run", *words)) == 0
    before = contents(tmp_path / "run")
    for name in ("round-1/real/unit-000000.parquet", "round-2/candidates/unit-000001.safetensors", ADAPTER):
        harm(tmp_path / "run" / name, "flipped")
    assert main(made.command("run", *words)) == 0
    assert contents(tmp_path / "run") == before
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"][1]["round"] == 2
