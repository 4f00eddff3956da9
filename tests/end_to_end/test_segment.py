"""``mitune segment`` as a user runs it: a picture, a table, a data set, mistakes, a kill and the same command again."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from mitune.files import read_json
from mitune.maps import Sums
from mitune.pixels import rle
from mitune.pixels.drawings import mask_png
from mitune.stages import segment as stage
from mitune.stages.inputs import load_model
from tests.cli import main

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
PROMPTS = [
    "a red circle and a blue square",
    "a green star on a red square",
    "a red cat on the left of a blue dog",
]
PHRASES = [["a red circle", "a blue square"], ["a green star", "a red square"], ["cat", "a blue dog"]]
QUICK = ("pixels.times=1", "pixels.loss_times=1", "segment.rows_per_unit=2")


def photo(path: Path, seed: int, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)


def label(size: tuple[int, int] = (16, 16), most: int = 2) -> np.ndarray:
    """Bands from left to right: nobody judged, background, phrase 1, phrase 2."""
    values = np.array([255, 0, *range(1, most + 1)])
    return np.repeat(values[np.arange(size[1]) * len(values) // size[1]][None], size[0], axis=0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures of which one is not square, three of them with labels."""
    folder = tmp_path / "pictures"
    rows = []
    for number in range(5):
        size = (20, 28) if number == 4 else (16, 16)
        photo(folder / f"{number}.png", number, size)
        row: dict[str, Any] = {
            "file_name": f"{number}.png",
            "text": PROMPTS[number % 3],
            "phrases": PHRASES[number % 3],
        }
        if number != 1:
            (folder / f"label {number}.png").write_bytes(mask_png(label(size)))
            row["label"] = f"label {number}.png"
        rows.append(row)
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def segment(tiny_pipeline_folder: Path, pictures: Path) -> Arguments:
    """``segment(*overrides)``: the command on those pictures, two a unit."""

    def make(*overrides: str) -> list[str]:
        source = () if any(word.startswith("segment.source=") for word in overrides) else (pictures,)
        return [
            *("segment", f"model.path={tiny_pipeline_folder}", "model.device=cpu", *QUICK),
            f"run={pictures.parent / 'run'}",
            *(f"segment.source={one}" for one in source),
            *overrides,
        ]

    return make


def found(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = read_json(folder / "segmentation.json")
    return figures


def files(folder: Path) -> dict[str, str]:
    """What a command leaves but its clock: {name: digest}."""
    left = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix == ".png":
            left[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    rows = json.dumps(found(folder)["rows"], sort_keys=True)
    return left | {"rows": hashlib.sha256(rows.encode()).hexdigest()}


def test_heatmaps_masks_figures_and_a_page(
    segment: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(segment("pixels.threshold=0.4")) == 0
    shown = capsys.readouterr()
    assert "segmented 5 pictures" in shown.out
    assert "threshold 0.4, given" in shown.out
    assert "This is not open-vocabulary mIoU: what is in each picture is given" in shown.out
    folder = tmp_path / "pictures-segmented"
    figures = found(folder)
    assert (figures["schema"], figures["pictures"], figures["phrases"], figures["method"]) == (
        1,
        5,
        10,
        "ours",
    )
    assert figures["forwards"] > 0
    last = figures["rows"][4]
    assert (last["size"], last["prompt"]) == ([20, 28], PROMPTS[1])
    mask = np.asarray(Image.open(folder / last["mask"]))
    assert Image.open(folder / last["mask"]).mode == "P"
    greys = [np.asarray(Image.open(folder / one["heatmap"])) for one in last["phrases"]]
    # The masks can be made again from the heatmaps on the disk: the hottest, where it is hot enough.
    stack = np.stack(greys).astype(float) / 255
    again = np.where(stack.max(0) < 0.4, 0, stack.argmax(0) + 1)
    assert (mask == again).all()
    for number, one in enumerate(last["phrases"], start=1):
        assert (rle.decode(one["rle"]) == (mask == number)).all()
        assert one["area"] == pytest.approx((mask == number).mean())
        assert Image.open(folder / one["overlay"]).size == (28, 20)
        assert 0 < one["S"] <= 1
    truth = label((20, 28))
    judged = truth != 255
    one = (mask == 1) & judged
    assert last["phrases"][0]["iou"] == pytest.approx((one & (truth == 1)).sum() / (one | (truth == 1)).sum())
    assert figures["rows"][1]["pixels"] is None
    assert figures["rows"][1]["phrases"][0]["iou"] is None
    right = figures["right"]
    assert right["pictures"] == 4
    # Every class is a phrase in small letters, the background among them.
    assert {*right["classes"]} == {"(background)", *(text for own in PHRASES for text in own)}
    page = (folder / "segmentation.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert "<link" not in page
    assert "a green star" in page


def test_one_picture_and_its_phrases(segment: Arguments, pictures: Path, tmp_path: Path) -> None:
    alone = segment(
        f"segment.source={pictures / '0.png'}",
        "segment.phrases=[a red circle,a blue square]",
        f"segment.caption={PROMPTS[0]}",
    )
    assert main(alone) == 0
    (place,) = (tmp_path / "run" / "segmented").iterdir()
    figures = found(place)
    assert [one["text"] for one in figures["rows"][0]["phrases"]] == PHRASES[0]
    assert figures["right"] is None
    assert figures["threshold"]["origin"] == "the default of pixels.method=ours"
    # Other phrases have a folder of their own, the same ones go on in theirs.
    for phrases, count in (("[a red circle,a blue square]", 1), ("[a blue square]", 2)):
        assert main([*alone, f"segment.phrases={phrases}"]) == 0
        assert len([*place.parent.iterdir()]) == count
    # The same picture in a folder has the same heatmaps: the noise is of the prompt, not of the place.
    assert main(segment("segment.limit=1")) == 0
    heatmaps = ["heatmaps/000000-1.png", "heatmaps/000000-2.png"]
    for name in heatmaps:
        both = [(one / name).read_bytes() for one in (place, Path(f"{pictures}-segmented"))]
        assert both[0] == both[1]


def test_a_caption_is_made_of_phrases_or_its_phrases_are_found(segment: Arguments, pictures: Path) -> None:
    place = f"segment.source={pictures / '0.png'}"
    assert main(segment(place, "segment.phrases=[a circle,a square]", f"segment.out={pictures}-1")) == 0
    assert found(Path(f"{pictures}-1"))["rows"][0]["prompt"] == "a photo of a circle, a square"
    assert main(segment(place, f"segment.caption={PROMPTS[0]}", f"segment.out={pictures}-2")) == 0
    assert [one["text"] for one in found(Path(f"{pictures}-2"))["rows"][0]["phrases"]] == PHRASES[0]


@pytest.mark.parametrize("method", ["daam", "diffsegmenter", "diffpng", "elbo"])
def test_every_method_gives_masks(method: str, segment: Arguments, tmp_path: Path) -> None:
    assert main(segment(f"pixels.method={method}", "segment.limit=1")) == 0
    figures = found(tmp_path / "pictures-segmented")
    assert figures["method"] == method
    assert figures["threshold"]["origin"] == f"the default of pixels.method={method}"


def data_set(folder: Path) -> Path:
    """Three pictures in the layout of PASCAL VOC."""
    place = folder / "VOC2012"
    for number in range(3):
        photo(place / "JPEGImages" / f"{number}.jpg", number, (16, 20))
        path = place / "SegmentationClass" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mask_png(np.where(label((16, 20)) == 2, 8 + number, label((16, 20)))))
    (place / "ImageSets" / "Segmentation").mkdir(parents=True)
    (place / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n1\n2\n")
    return place


def test_a_data_set_and_a_threshold_that_is_fitted_elsewhere_or_by_an_oracle(
    segment: Arguments, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = data_set(tmp_path)
    command = segment(f"segment.source={place}", f"segment.tune={pictures}")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"fitted on 4 pictures of {pictures}" in said
    assert "the classes of each picture are taken from its label" in said
    folder = tmp_path / "VOC2012-segmented"
    figures = found(folder)
    assert figures["threshold"]["oracle"] is False
    assert figures["tune"]["pictures"] == 5
    assert figures["tune"]["forwards"] > 0
    assert [one["class"] for one in figures["rows"][2]["phrases"]] == ["plane", "cow"]
    heat = (folder / "heatmaps" / "000000-1.png").stat().st_mtime_ns
    assert main(segment(f"segment.source={place}", "segment.tune=oracle")) == 0
    said = capsys.readouterr().out
    assert "oracle: fitted on the labels of these very pictures" in said
    assert "with an oracle threshold" in said
    best = found(folder)["right"]["miou"]
    # No other threshold is better on the pictures that it was fitted on; and heatmaps are not made again for one.
    for threshold in (0.2, 0.5, 0.8):
        assert main(segment(f"segment.source={place}", f"pixels.threshold={threshold}")) == 0
        assert found(folder)["right"]["miou"] <= best + 1e-12
    assert (folder / "heatmaps" / "000000-1.png").stat().st_mtime_ns == heat
    page = (folder / "segmentation.html").read_text()
    assert "not open-vocabulary mIoU" in page


@pytest.mark.parametrize(
    "place",
    [
        ["unit-000001.json", 1],
        *(
            pytest.param(place, marks=pytest.mark.exhaustive)
            for place in (
                ["plan.json", 1],
                ["heatmaps/", 2],
                ["heatmaps/", 8],
                ["masks/", 3],
                ["tation.json", 1],
            )
        ),
    ],
)
def test_a_killed_command_goes_on_and_ends_with_the_same_bits(
    place: list[Any], segment: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "pictures", tmp_path / "others")
    photo(tmp_path / "others" / "0.png", 77)
    command = segment(f"segment.tune={tmp_path / 'others'}", "segment.limit=3")
    whole = run_command(command)
    assert whole.code == 0, whole.err
    folder = tmp_path / "pictures-segmented"
    bits = files(folder)
    shutil.rmtree(folder)
    killed = run_command(command, kill=place)
    assert killed.code == -signal.SIGKILL, killed.err
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("unit-*.json")}
    again = run_command(command)
    assert again.code == 0, again.err
    made = {path: path.stat().st_mtime_ns for path in finished if path.parent.name != "masks"}
    assert made == {path: finished[path] for path in made}
    assert files(folder) == bits
    assert not list(folder.rglob(".partial-*"))


def test_two_processes_share_the_pictures(
    segment: Arguments, run_ranks: Callable[..., Any], tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(segment(f"segment.out={one}")) == 0
    done = run_ranks(2, segment(f"segment.out={two}"))
    assert [process.code for process in done] == [0, 0], done[0].err
    assert sum(process.out.count("segmented 5 pictures") for process in done) == 1
    assert files(one) == files(two)


def test_pictures_that_are_others_by_now_are_measured_again(
    segment: Arguments, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(segment()) == 0
    before = files(tmp_path / "pictures-segmented")
    photo(pictures / "3.png", 99)
    assert main(segment()) == 0
    assert "those of 2 pictures are made again" in capsys.readouterr().err
    after = files(tmp_path / "pictures-segmented")
    changed = {name.partition("/")[2][:6] for name in before if before[name] != after[name] and "/" in name}
    assert changed == {"000003"}


def test_pictures_that_do_not_decode_are_refused_or_left_out(
    segment: Arguments, pictures: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "1.png").write_bytes(b"no picture")
    assert "the picture 1.png" in (said := refused(segment()))
    assert "score.skip=true" in said
    assert main(segment("score.skip=true")) == 0
    assert "1 pictures are left out" in capsys.readouterr().err
    figures = found(tmp_path / "pictures-segmented")
    assert (figures["pictures"], figures["left_out"]) == (4, 1)
    assert [row["number"] for row in figures["rows"]] == [0, 2, 3, 4]


def test_file_names_and_pages_take_nothing_from_words(segment: Arguments, tmp_path: Path) -> None:
    folder = tmp_path / "words"
    photo(folder / "a.png", 1)
    text = "<b>cat ../dog"
    row = {"file_name": "a.png", "text": text, "phrases": ["<b>cat", "../dog"]}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert main(segment(f"segment.source={folder}", "pixels.method=daam", "pixels.columns=phrase")) == 0
    left = Path(f"{folder}-segmented")
    names = {path.name for path in left.rglob("*.png")}
    assert names == {"000000.png", "000000-1.png", "000000-2.png"}
    page = (left / "segmentation.html").read_text()
    assert "<b>cat" not in page
    assert "&lt;b&gt;cat" in page


def lone(text: str, phrases: str, pictures: Path) -> list[str]:
    return [f"segment.source={pictures / '0.png'}", f"segment.caption={text}", f"segment.phrases={phrases}"]


def test_phrases_that_cannot_be_looked_for_are_refused_in_a_line(
    segment: Arguments, pictures: Path, refused: Refused
) -> None:
    def said(text: str, phrases: str, *more: str) -> str:
        return refused(segment(*lone(text, phrases, pictures), *more))

    assert "the phrase 'a dog' is not in the prompt 'a cat'" in said("a cat", "[a dog]")
    assert "the phrase 'a cat' is not 2 times in the prompt" in said("a cat and a dog", "[a cat,a cat]")
    twice = said("a cat and a cat", "[a cat]")
    assert "the phrase 'a cat' is 2 times in the prompt" in twice
    assert "give it as often" in twice
    long = "a red cat " * 12 + "and a dog"
    assert "a dog" in (cut := said(long, "[a dog]"))
    assert "cut" in cut
    nothing = refused(segment(f"segment.source={pictures / '0.png'}"))
    assert "say what is looked for in the picture" in nothing


def test_one_phrase_only_is_said_and_held_against_none(
    segment: Arguments, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        ((), "pressed down only where the network does better without it"),
        (("pixels.normalise=minmax",), "not calibrated"),
    ):
        out = tmp_path / f"out{len(words)}"
        alone = lone("a red circle", "[a red circle]", pictures)
        assert main(segment(*alone, *words, f"segment.out={out}")) == 0
        said = capsys.readouterr().err
        assert "1 of 1 pictures have one phrase only" in said
        assert told in said
        (only,) = found(out)["rows"][0]["phrases"]
        # A single time has no standard error: the loss's sign alone says which it is.
        assert only["S"] == (1 if words or only["loss"] <= 0 else pytest.approx(1 / 3))


def table(folder: Path, **changes: Any) -> list[str]:
    """A table of one picture, with other cells; the source that it is."""
    photo(folder / "a.png", 0)
    row = {"file_name": "a.png", "text": PROMPTS[0], "phrases": PHRASES[0], **changes}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    return [f"segment.source={folder}"]


def test_tables_and_labels_that_do_not_fit_are_refused_in_a_line(
    segment: Arguments, tmp_path: Path, refused: Refused
) -> None:
    def said(name: str, *words: str, **changes: Any) -> str:
        return refused(segment(*table(tmp_path / name, **changes), "pixels.method=daam", *words))

    assert "has an empty list of phrases" in said("a", phrases=[])
    assert "are no list of texts" in said("b", phrases=[1, 2])
    assert "the phrase 'a dog' is not in the prompt" in said("c", phrases=["a dog"])
    for name, numbers, told in (
        ("d", label((8, 16)), "has 16 x 8 pixels, its picture 16 x 16"),
        ("e", label(most=3), "has the number 3 in 48 pixels; it is 0 for the background, 1 to 2, or 255"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "l.png").write_bytes(mask_png(numbers))
        assert told in said(name, label="l.png")
    (tmp_path / "f").mkdir()
    photo(tmp_path / "f" / "l.png", 0)
    assert "has colours (mode RGB), not a number a pixel" in said("f", label="l.png")
    assert "lies outside" in said("g", label="../f/l.png")
    assert "has no labels to fit a threshold on" in said("h", "segment.tune=oracle")
    labelled = {"label": "l.png"}
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "l.png").write_bytes(mask_png(label()))
    same = said("i", f"segment.tune={tmp_path / 'i'}", **labelled)
    assert "is what is segmented" in same
    assert "segment.tune=oracle" in same
    assert "segment.caption is of one picture" in said("j", "segment.caption=a cat")
    for name in "def":  # and before a model has looked at anything
        assert not list(tmp_path.rglob(f"{name}-segmented/**/*.png"))
    many = {"text": ", ".join(["a cat"] * 255), "phrases": ["a cat"] * 255}
    assert "255 phrases, and a mask has numbers for 254" in said("k", **many)


def test_a_place_that_cannot_be_written_is_called_by_the_key_that_names_it(
    segment: Arguments, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "file").write_text("mine")
    assert "choose another folder with segment.out=" in refused(segment(f"segment.out={tmp_path / 'file'}"))
    own = ["edit.source=a red circle", "edit.target=a blue circle"]
    line = refused(["edit", "experiment=shapes", *own, f"edit.out={tmp_path / 'file'}"])
    assert "choose another folder with edit.out=" in line
    few = ["sample", "experiment=shapes", "sample.prompt=a circle", "sample.pictures=1"]
    line = refused([*few, f"sample.out={tmp_path / 'file'}"])
    assert "choose another folder with sample.out=" in line
    line = refused(["generate", "experiment=shapes", f"run={tmp_path / 'file'}"])
    assert "choose another folder with run=" in line


def test_models_that_show_no_attention_are_refused_in_a_line(
    segment: Arguments, pictures: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "model.compile" in refused(segment("model.compile=true"))

    def load(*arguments: Any) -> Any:
        """A model whose attention is computed by plain products, of which torch's function sees nothing."""
        denoiser = load_model(*arguments)
        denoiser.network.set_attn_processor(AttnProcessor())
        return denoiser

    monkeypatch.setattr(stage, "load_model", load)
    assert "attention" in refused(segment())
    # What was refused has bound the folder to nothing.
    monkeypatch.undo()
    assert main(segment("pixels.method=daam")) == 0


def test_maps_that_no_self_attention_refines_are_told_of(
    segment: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(segment("segment.limit=1", f"segment.out={tmp_path / 'a'}")) == 0
    assert "not refined" not in " ".join(capsys.readouterr().err.split())
    assert found(tmp_path / "a")["rows"][0]["refined"] is True
    monkeypatch.setattr(Sums, "_target", lambda *_: None)  # as of linear attention
    assert main(segment("segment.limit=1", f"segment.out={tmp_path / 'b'}")) == 0
    assert "not refined, though pixels.refine=mutual" in " ".join(capsys.readouterr().err.split())
    assert found(tmp_path / "b")["rows"][0]["refined"] is False


def test_other_phrases_need_another_folder(segment: Arguments, pictures: Path, refused: Refused) -> None:
    assert main(segment()) == 0
    assert "holds heatmaps of other pictures or phrases" in refused(segment("segment.limit=2"))
