"""``mitune init``: a preset that runs, from a model and a file of prompts; nothing is written over."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mitune.config import compose, groups
from mitune.config.keys import keys
from mitune.families import families
from mitune.families.usual import known_of
from mitune.manual import options
from tests import cli as tests_cli
from tests.end_to_end.conftest import HELD_OUT, TRAIN

Shown = Callable[[list[str]], str]
Refused = Callable[[list[str]], str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of prompts and one of held-out prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(TRAIN)
    (tmp_path / "held out.txt").write_text(HELD_OUT)
    return tmp_path


def test_a_model_and_two_files_make_a_preset_that_says_what_it_was_told(
    place: Path, tiny_pipeline_folder: Path, shown: Shown
) -> None:
    text = shown(["init", str(tiny_pipeline_folder), "prompts.txt", "held out.txt", "out=mine.yaml"])
    assert "4 to train on, 2 held out" in text
    assert "mitune run experiment=mine.yaml" in text
    assert {path.name for path in place.iterdir()} == {"prompts.txt", "held out.txt", "mine.yaml"}
    config = compose(["experiment=mine.yaml"], "run")
    assert config.name == "mine"
    assert config.run == "runs/mine"
    assert config.model.path == str(tiny_pipeline_folder)
    assert config.prompts.source == str(place / "prompts.txt")
    assert config.evaluate.prompts.source == str(place / "held out.txt")
    base = compose(["experiment=mitune", "prompts.source=x.txt", "evaluate.prompts.source=y.txt"])
    assert config.select == base.select
    assert config.train == base.train


def test_key_words_say_the_same_as_places(place: Path, tiny_pipeline_folder: Path, shown: Shown) -> None:
    model = str(tiny_pipeline_folder)
    shown(["init", model, "prompts.txt", "held out.txt", "out=a.yaml"])
    shown(
        [
            "init",
            "out=b.yaml",
            f"model.path={model}",
            "prompts.source=prompts.txt",
            "evaluate.prompts.source=held out.txt",
        ]
    )
    a, b = (
        Path(name).read_text().replace("b.yaml", "a.yaml").replace('"b"', '"a"')
        for name in ("a.yaml", "b.yaml")
    )
    assert a == b


def test_steps_and_guidance_are_those_of_the_models_kind(
    place: Path, tiny_pipeline_folder: Path, shown: Shown
) -> None:
    shown(["init", str(tiny_pipeline_folder), "prompts.txt", "out=mine.yaml", "sampler.steps=7"])
    config = compose(["experiment=mine.yaml"])
    assert config.sampler.guidance == options()["model", "sd15"]["sampler.guidance"]
    assert config.sampler.steps == 7  # a word of one's own counts
    # The guidance of the pool is the recipe's: only who names one on the command line means both.
    assert config.generate.guidance == compose(["experiment=mitune"]).generate.guidance
    assert compose(["experiment=mine.yaml", "sampler.guidance=3"]).generate.guidance is None
    shown(["init", "stabilityai/stable-diffusion-xl-base-1.0", "prompts.txt", "held out.txt", "out=xl.yaml"])
    assert compose(["experiment=xl.yaml"]).sampler.guidance == options()["model", "sdxl"]["sampler.guidance"]


def test_every_kind_of_pipeline_has_its_usual_steps_and_guidance(tmp_path: Path) -> None:
    for name in families():
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        known = known_of(str(tmp_path))
        assert known.pipeline == name
        assert known.option in groups()["model"], name
        assert {"sampler.steps", "sampler.guidance"} <= options()["model", known.option].keys()
    distilled = {"_class_name": name, "scheduler": ["diffusers", "LCMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(distilled))
    assert known_of(str(tmp_path)).option == ""


def test_the_sizes_are_the_models(tiny_pipeline_folder: Path) -> None:
    known = known_of(str(tiny_pipeline_folder))
    assert known.side == 16
    assert known.weights == sum(path.stat().st_size for path in tiny_pipeline_folder.rglob("*.safetensors"))


def test_of_one_file_a_fifth_is_held_out_whatever_its_order(place: Path, shown: Shown) -> None:
    texts = [f"a picture of {number}" for number in range(23)]
    held = []
    for name, order in (("one", texts), ("two", texts[::-1])):
        Path(f"{name}.txt").write_text("\n".join(order) + "\n")
        shown(["init", "shapes", f"{name}.txt", f"out={name}.yaml"])
        training = Path(f"{name}-training.txt").read_text().splitlines()
        held.append(Path(f"{name}-held-out.txt").read_text().splitlines())
        assert sorted([*training, *held[-1]]) == sorted(texts)
        config = compose([f"experiment={name}.yaml"])
        assert config.prompts.source == str(place / f"{name}-training.txt")
        assert config.evaluate.prompts.source == str(place / f"{name}-held-out.txt")
    assert len(held[0]) == 4
    assert set(held[0]) == set(held[1])


def test_categories_are_kept_and_each_gives_its_share(place: Path, shown: Shown) -> None:
    rows = [
        (f"{category}, number {number}", category) for category in ("small", "large") for number in range(10)
    ]
    with Path("table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "category"), *rows])
    shown(["init", "shapes", "table.csv", "out=mine.yaml"])
    with Path("table-held-out.csv").open() as file:
        assert sorted(row["category"] for row in csv.DictReader(file)) == ["large", "large", "small", "small"]


def test_columns_that_are_named_are_read_and_pictures_not_parted(
    place: Path, shown: Shown, refused: Refused
) -> None:
    with Path("table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "said"), *((number, f"a picture of {number}") for number in range(9))]
        )
    assert "8 to train on, 1 held out" in shown(
        ["init", "shapes", "table.csv", "out=a.yaml", "prompts.column=said"]
    )
    config = compose(["experiment=a.yaml"])
    assert config.prompts.column is None  # the new files hold nothing but prompts
    assert len(Path("table-training.txt").read_text().splitlines()) == 8
    Path("edits.csv").write_text("prompt,from\nmake it red,a.png\nmake it blue,a.png\n")
    Path("a.png").write_bytes(b"no matter")
    words = ["init", "timbrooks/instruct-pix2pix", "edits.csv", "out=b.yaml", "prompts.picture_column=from"]
    assert "give a file of them as a third word" in refused(words)


def test_a_limit_of_the_recipe_is_told(place: Path, shown: Shown) -> None:
    Path("many.txt").write_text("".join(f"a picture of {number}\n" for number in range(50)))
    text = shown(["init", "shapes", "many.txt", "out=mine.yaml", "prompts.limit=20"])
    assert "40 to train on (prompts.limit takes 20), 10 held out" in text


def test_a_table_that_says_its_splits_is_left_whole(place: Path, shown: Shown) -> None:
    Path("table.csv").write_text("prompt,split\na,train\nb,train\nc,test\n")
    assert "2 to train on, 1 held out" in shown(["init", "shapes", "table.csv", "out=mine.yaml"])
    config = compose(["experiment=mine.yaml"])
    assert config.prompts.source == config.evaluate.prompts.source == str(place / "table.csv")
    assert {path.name for path in place.iterdir()} >= {"mine.yaml", "table.csv"}
    assert not list(place.glob("*-held-out*"))


def test_every_line_behind_a_sign_is_a_key_that_can_be_uncommented(
    place: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(["init", "shapes", "prompts.txt", "out=mine.yaml"])
    head, _, body = Path("mine.yaml").read_text().partition("\n\n")
    assert all(line.startswith("# ") for line in head.splitlines())
    lines = [
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in body.splitlines()
    ]
    Path("whole.yaml").write_text("\n".join(line for line in lines if not line.startswith("card:")))
    whole, mine = compose(["experiment=whole.yaml"]), compose(["experiment=mine.yaml"])
    assert whole == mine
    meanings = [key.meaning for key in keys().values()]
    assert all(
        any(meaning in line for meaning in meanings) for line in lines if "# " in line and "card" not in line
    )


def test_nothing_is_written_over(place: Path, refused: Refused) -> None:
    for taken in ("mine.yaml", "prompts-training.txt", "prompts-held-out.txt"):
        before = {path.name for path in place.iterdir()}
        Path(taken).write_text("mine")
        assert f"{taken} is there already" in refused(["init", "shapes", "prompts.txt", "out=mine.yaml"])
        assert Path(taken).read_text() == "mine"
        Path(taken).unlink()
        assert {path.name for path in place.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "a model is missing"),
        (["shapes"], "a file of prompts is missing"),
        (["shapes", "promts.txt"], "did you mean 'prompts.txt'?"),
        (["shapes", "prompts.txt", "held out.txt", "more"], "one word too many"),
        (["no/such/folder", "prompts.txt"], "neither a folder nor a Hub id"),
        (["prompts.txt", "prompts.txt"], "no safetensors file"),
        ([".", "prompts.txt"], "no model_index.json"),
        (["shapes", "prompts.txt", "out=mine.txt"], "ends in .yaml"),
        (["shapes", "prompts.txt", "train.stps=3"], "did you mean 'train.steps'?"),
        (["shapes", "prompts.txt", "train.steps=0"], "train.steps=0: must be at least 1"),
        (["shapes", "prompts.txt", "select.k=99999"], "select.k"),
        (["shapes", "prompts.txt", "experiment=nope"], "there is no such option"),
        (["shapes", "prompts.txt", "experiment=own.yaml"], "one that is shipped"),
        (["shapes", "one.txt"], "has one prompt"),
        (["shapes", "empty.txt"], "no prompt in"),
    ],
)
def test_a_mistake_is_a_line_and_leaves_nothing(
    words: list[str], line: str, place: Path, refused: Refused
) -> None:
    Path("one.txt").write_text("a red circle\n")
    Path("empty.txt").write_text("")
    before = {path.name for path in place.iterdir()}
    assert line in refused(["init", *words])
    assert {path.name for path in place.iterdir()} == before


def test_the_preset_runs_the_model_from_any_folder(
    place: Path, tiny_pipeline_folder: Path, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = "scorers=[mi] select=mi sampler.steps=2 generate.candidates=3 generate.keep=null select.k=1 train.steps=2"
    more = "train.objective=mse train.soft_labels=null select.losers=0 train.batch_size=2 train.micro_batch=2 rounds=1"
    tiny = "train.mixed_precision=no adapter.targets=[] adapter.rank=2 evaluate.candidates=2 evaluate.scorers=[mi]"
    words = f"{quick} {more} {tiny} model.device=cpu".split()
    shown(["init", str(tiny_pipeline_folder), "prompts.txt", "held out.txt", "out=mine.yaml", *words])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "evaluated 4 held-out pictures" in shown(["run", "experiment=../mine.yaml"])
    assert Path("runs/mine/report.html").is_file()
    assert "runs/mine" in shown(["ls"])
    assert tests_cli.main(["export", "run=runs/mine"]) == 0
