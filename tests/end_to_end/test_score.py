"""``mitune score`` as a user runs it: pictures of any kind, mistakes, a kill and the same command again."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mitune.data.pictures.loading import load_pictures
from mitune.files import read_json
from tests.cli import main
from tests.families.tiny import make_guidance_distilled, make_overflow

Arguments = Callable[..., list[str]]
Refused = Callable[[list[str]], str]
CAPTIONS = [
    "a red circle and a blue square",
    "a blue circle and a red square",
    "a green star on a red square",
]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Seven pictures with three captions; the last one is of another size."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file_name,text"]
    for number in range(7):
        size = (20, 24, 3) if number == 6 else (16, 16, 3)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{CAPTIONS[number % 3]}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def score(tiny_pipeline_folder: Path, pictures: Path) -> Arguments:
    """``score(*overrides)``: the command on those pictures, three a unit."""

    def make(*overrides: str) -> list[str]:
        return [
            *("score", f"score.source={pictures}", f"model.path={tiny_pipeline_folder}", "model.device=cpu"),
            *("score.scorers=[elbo,mi_image]", "scorer.elbo.times=2", "scorer.mi_image.times=2"),
            *("score.rows_per_unit=3", *overrides),
        ]

    return make


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "pictures-scores.parquet")


def test_a_table_beside_the_pictures_and_the_best_of_them(
    score: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = "score.scorers=[elbo,mi_image,elbo-0.1*mi_image]"
    assert main(score(scores, "score.top_fraction=0.4", "score.by=mi_image")) == 0
    shown = capsys.readouterr()
    assert "1 pictures of another size" in shown.err
    assert "scored 7 pictures" in shown.out
    rows = table(tmp_path)
    assert rows.columns.tolist() == ["row", "image", "text", "elbo", "mi_image", "elbo-0.1*mi_image"]
    assert rows["image"].tolist() == [f"{number}.png" for number in range(7)]
    assert np.allclose(rows["elbo-0.1*mi_image"], rows["elbo"] - 0.1 * rows["mi_image"])
    assert (rows["mi_image"] > 0).all()
    figures = read_json(tmp_path / "pictures-scores" / "score.json")
    assert figures["pictures"] == 7
    assert figures["resized"] == 1
    assert figures["forwards"] == 7 * 4  # one pass for both scores: two times, two branches
    assert figures["scorers"] == {"elbo": 28, "mi_image": 28}
    assert figures["scores"]["elbo"]["mean"] == pytest.approx(rows["elbo"].mean())
    assert figures["judged_by"]["mi_image"]["judge"] == figures["model"]
    assert "judged by elbo, mi_image, elbo-0.1*mi_image: the model itself" in shown.out
    assert figures["top"]["pictures"] == 3
    best = load_pictures(tmp_path / "pictures-top-0.4")
    order = rows.sort_values("mi_image", ascending=False)["image"].tolist()[:3]
    assert best.read is not None
    assert [best.read(row) for row in range(3)] == [
        (tmp_path / "pictures" / name).read_bytes() for name in order
    ]
    # Another share of a finished table costs no forward, and needs no model.
    assert main(score(scores, "score.top_fraction=0.2")) == 0
    assert len(load_pictures(tmp_path / "pictures-top-0.2")) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".partial")]


def test_the_table_of_scores_is_what_a_whole_one_would_be(
    score: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written three rows at a time, and held to one table put together in memory from the units."""
    monkeypatch.setattr("mitune.stages.score.PORTION", 3)
    scores = "score.scorers=[elbo,mi_image,z(elbo)+0.5*mi_image]"
    assert main(score(scores, "score.top_fraction=0.5")) == 0
    units = sorted((tmp_path / "pictures-scores").glob("unit-*.parquet"))
    assert len(units) == 3
    whole = pd.concat([pd.read_parquet(unit) for unit in units], ignore_index=True).drop(columns="resized")
    z = (
        whole.groupby("text")["elbo"]
        .transform(lambda rows: (rows - rows.mean()) / rows.std(ddof=0))
        .fillna(0)
    )
    found = table(tmp_path)
    assert found.drop(columns="z(elbo)+0.5*mi_image").equals(whole)
    assert np.allclose(found["z(elbo)+0.5*mi_image"], z + 0.5 * whole["mi_image"])
    assert pq.read_metadata(tmp_path / "pictures-scores.parquet").num_row_groups == 3
    best = whole.sort_values("elbo", ascending=False, kind="stable").head(4)
    top = pd.read_parquet(tmp_path / "pictures-top-0.5")
    assert top["name"].tolist() == best["image"].tolist()
    assert top["text"].tolist() == best["text"].tolist()
    assert [cell["bytes"] for cell in top["image"]] == [
        (tmp_path / "pictures" / name).read_bytes() for name in top["name"]
    ]


def test_batches_and_order_change_nothing(score: Arguments, tmp_path: Path) -> None:
    assert main(score()) == 0
    one = table(tmp_path)
    assert (
        main(score(f"score.out={tmp_path / 'other.parquet'}", "score.rows_per_unit=7", "score.batch_size=2"))
        == 0
    )
    other = pd.read_parquet(tmp_path / "other.parquet")
    for name in ("elbo", "mi_image"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-4)
    # Three pictures of one caption see noise of their own.
    assert one["elbo"].nunique() == 7


def test_every_form_of_source_gives_the_same_scores(score: Arguments, pictures: Path, tmp_path: Path) -> None:
    import datasets

    assert main(score()) == 0
    rows = [{"image": str(pictures / f"{n}.png"), "caption": CAPTIONS[n % 3]} for n in range(7)]
    saved = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    saved.to_parquet(str(tmp_path / "p.parquet"))
    (pictures / "metadata.csv").unlink()
    (pictures / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{n}.png", "prompt": CAPTIONS[n % 3]}) + "\n" for n in range(7))
    )
    before = table(tmp_path)
    for source, out in (
        (tmp_path / "p.parquet", tmp_path / "p-scores.parquet"),
        (pictures, tmp_path / "o.parquet"),
    ):
        more = [f"score.out={out}"] if out.name == "o.parquet" else []
        assert main(score(f"score.source={source}", *more)) == 0
        np.testing.assert_array_equal(pd.read_parquet(out)["elbo"], before["elbo"])


def test_candidates_are_scored_by_their_latents(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mitune.families.stable_diffusion import StableDiffusionDenoiser

    generate = arguments("generate", "scorers=[mi,elbo]", "generate.keep=3", "scorer.elbo.times=2")
    assert main(generate) == 0

    def encode(self: Any, pictures: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a candidate was encoded again")

    monkeypatch.setattr(StableDiffusionDenoiser, "encode_image", encode)
    candidates = tmp_path / "run" / "round-1" / "candidates"
    model = next(word for word in generate if word.startswith("model.path="))
    own = ["scorer.elbo.times=2", "scorer.mi_image.times=2", "model.device=cpu", "score.top_fraction=0.5"]
    scores = "score.scorers=[elbo,mi,mi_image,z(mi)+z(elbo)]"
    assert main(["score", f"score.source={candidates}", model, scores, *own]) == 0
    rows = pd.read_parquet(candidates.parent / "candidates-scores.parquet")
    units = [pd.read_parquet(path) for path in sorted(candidates.glob("*.parquet"))]
    drawn = pd.concat(units, ignore_index=True)
    assert len(rows) == 12
    assert rows["seed"].tolist() == drawn["seed"].tolist()
    assert rows["mi"].tolist() == drawn["mi"].tolist()
    np.testing.assert_allclose(rows["elbo"], drawn["elbo"], rtol=1e-4, atol=1e-4)
    assert abs(rows.groupby("prompt_id")["z(mi)+z(elbo)"].mean()).max() < 1e-9
    assert len(load_pictures(candidates.parent / "candidates-top-0.5")) == 6


def test_a_killed_command_goes_on_and_ends_with_the_same_bits(
    score: Arguments, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    whole = run_command(score("score.top_fraction=0.5"))
    assert whole.code == 0, whole.err
    made = [tmp_path / name for name in ("pictures-scores.parquet", "pictures-top-0.5/train-00000.parquet")]
    bits = [hashlib.sha256(path.read_bytes()).hexdigest() for path in made]
    work = tmp_path / "pictures-scores"
    for place in (["plan.json", 1], ["unit-000001.parquet", 1], ["pictures-top-0.5", 1]):
        shutil.rmtree(work)
        shutil.rmtree(made[1].parent)
        made[0].unlink()
        killed = run_command(score("score.top_fraction=0.5"), kill=place)
        assert killed.code == -signal.SIGKILL, killed.err
        finished = {path: path.stat().st_mtime_ns for path in work.glob("unit-*.parquet")}
        again = run_command(score("score.top_fraction=0.5"))
        assert again.code == 0, again.err
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in made] == bits
        assert read_json(work / "score.json")["forwards"] == 28
        assert not list(tmp_path.rglob(".partial-*"))


def test_a_damaged_unit_is_scored_again(score: Arguments, tmp_path: Path) -> None:
    assert main(score()) == 0
    before = table(tmp_path)
    path = tmp_path / "pictures-scores" / "unit-000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert main(score()) == 0
    pd.testing.assert_frame_equal(table(tmp_path), before)


def test_two_processes_share_the_pictures(
    score: Arguments, run_command: Callable[..., Any], run_by_two: Callable[..., Any], tmp_path: Path
) -> None:
    two = run_by_two(score(f"score.out={tmp_path / 'two.parquet'}"))
    assert two.code == 0, two.err
    assert two.out.count("scored 7 pictures") == 1
    assert run_command(score()).code == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "two.parquet"), table(tmp_path))
    assert read_json(tmp_path / "two" / "score.json")["forwards"] == 28


def test_the_embedded_worlds_own_pictures_and_their_oracle(tmp_path: Path) -> None:
    """Of its captions 30 % are wrong; the oracle, which reads pictures as they are, finds the others right."""
    words = [
        "score.source=shapes",
        "score.limit=60",
        "score.scorers=[oracle,exact]",
        "score.top_fraction=0.5",
    ]
    assert main(["score", f"run={tmp_path}", "model.device=cpu", *words]) == 0
    rows = pd.read_parquet(tmp_path / "shapes-scores.parquet")
    # Binomial: 0.7 with a standard deviation of 0.06.
    assert 0.46 < rows["exact"].mean() < 0.94
    assert read_json(tmp_path / "shapes-scores" / "score.json")["forwards"] == 0
    best = load_pictures(tmp_path / "shapes-top-0.5")
    assert len(best) == 30
    assert set(best.texts) <= set(rows.loc[rows["oracle"] == 1.0, "text"])


def test_a_measured_profile_weighs_and_places_the_times(score: Arguments, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    assert main(score(f"score.profile={path}")) == 0
    profile = read_json(path)
    assert profile["pictures"] == 7
    assert len(profile["t"]) == len(profile["value"]) > 2
    assert all(value >= 0 for value in profile["value"])
    assert read_json(tmp_path / "pictures-scores" / "score.json")["profile"] == str(path)
    even = table(tmp_path)
    # Measured again from scores that are there, and written over: the same profile.
    assert main(score(f"score.profile={path}")) == 0
    assert read_json(path) == profile
    for name, words in (
        ("weighted", ["elbo.weighting=profile", "mi_image.weighting=profile"]),
        ("placed", ["elbo.strategy=importance", "mi_image.strategy=importance"]),
        ("path", ["elbo.noise=coupled", "elbo.weighting=profile", "elbo.strategy=importance"]),
    ):
        own = [f"scorer.{word}" for word in words]
        out = tmp_path / f"{name}.parquet"
        assert main(score(f"scorer.profile={path}", f"score.out={out}", *own)) == 0
        rows = pd.read_parquet(out)
        assert np.isfinite(rows["elbo"]).all()
        assert not np.allclose(rows["elbo"], even["elbo"], rtol=1e-3)
        assert (rows["mi_image"] > 0).all()


def test_a_profile_that_is_none(score: Arguments, tmp_path: Path, refused: Refused) -> None:
    for overrides, hint in (
        (["scorer.elbo.weighting=profile"], "scorer.elbo.weighting=profile needs a measured profile"),
        (["scorer.contrast.strategy=importance"], "scorer.contrast.strategy=importance needs a measured"),
        (["score.profile=profile.txt"], "score.profile=profile.txt: the profile is a JSON file"),
        ([f"scorer.profile={tmp_path / 'none.json'}"], "none.json: there is no such file"),
    ):
        assert hint in refused(score(*overrides))
    path = tmp_path / "profile.json"
    for text in ("no JSON", "[1, 2]", "{}", '{"t": [1], "value": [1]}', '{"t": [1, 2], "value": [0, 0]}'):
        path.write_text(text)
        assert "profile.json is no profile" in refused(score(f"scorer.profile={path}"))
        # Nor is a file of something else written over.
        assert "profile.json is no profile" in refused(score(f"score.profile={path}"))
        assert path.read_text() == text
    path.write_text('{"t": [10, 20, 30, 1000], "value": [1, 0, 0, 0]}')
    out_of_range = ["scorer.elbo.weighting=profile", "scorer.elbo.t_min=50"]
    assert "the profile is 0" in refused(score(f"scorer.profile={path}", *out_of_range))


def test_cas_as_published(score: Arguments, tmp_path: Path) -> None:
    own = ["score.scorers=[cas]", "scorer.cas.steps=3", "scorer.cas.probes=1", "score.limit=2"]
    assert main(score(*own)) == 0
    before = table(tmp_path)["cas"]
    for word in ("inversion=ddim", "end=normal", "spacing=time"):
        out = tmp_path / f"{word}.parquet"
        assert main(score(*own, f"score.out={out}", f"scorer.cas.{word}")) == 0
        after = pd.read_parquet(out)["cas"]
        assert np.isfinite(after).all()
        assert (after != before).all()


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (
            ["score.text_column=txt"],
            ["'txt' (score.text_column)", "did you mean 'text'", "it has file_name, text"],
        ),
        (["score.image_column=file"], ["'file' (score.image_column)", "did you mean 'file_name'"]),
        (["score.scorers=[llr]"], ["score.scorers: llr", "sampler's own path", "use llr_image"]),
        (["score.scorers=[oracle]"], ["score.scorers: the oracle judges prompts of the embedded world only"]),
        (["score.scorers=[blip]"], ["there is no score 'blip'", "did you mean 'clip'"]),
        (["score.scorers=[clip]", "scorer.clip.path=./nowhere"], ["scorer.clip.path=./nowhere"]),
        (["score.by=contrast"], ["score.by=contrast", "score.scorers=[elbo,mi_image,contrast]"]),
        (["score.top_fraction=25"], ["score.top_fraction=25", "at most 1"]),
        (["score.top_fraction=0"], ["score.top_fraction=0", "above 0"]),
        (["score.out=table.csv"], ["score.out=table.csv", ".parquet"]),
        (["score.adapter=nowhere"], ["nowhere"]),
        (["scorer.cas.inversion=ddmi"], ["scorer.cas.inversion=ddmi", "did you mean 'ddim'"]),
        (["scorer.cas.end=noise"], ["scorer.cas.end=noise", "denoised, normal"]),
        (["scorer.cas.spacing=log"], ["scorer.cas.spacing=log", "angle, time"]),
        (
            ["scorer.elbo.weighting=flat"],
            ["scorer.elbo.weighting=flat", "continuous, paper, uniform, profile"],
        ),
        (["scorer.mi_image.strategy=odd"], ["scorer.mi_image.strategy=odd", "importance"]),
        (
            ["scorer.elbo.noise=coupled", "scorer.elbo.strategy=random", "scorer.elbo.times=100"],
            ["scorer.elbo: strategy=random names a time twice", "scorer.elbo.times=100"],
        ),
        (["score.scorers=[contrast]", "score.limit=1"], ["contrast finds no edit", "score.pool"]),
    ],
)
def test_settings_that_cannot_work(
    overrides: list[str], hints: list[str], score: Arguments, refused: Refused
) -> None:
    line = refused(score(*overrides))
    for hint in hints:
        assert hint in line


def test_a_source_that_is_not_there(score: Arguments, tmp_path: Path, refused: Refused) -> None:
    line = refused(score(f"score.source={tmp_path / 'picturs'}"))
    assert "did you mean 'pictures'" in line
    without = [word for word in score() if not word.startswith("score.source=")]
    assert "score.source=FOLDER" in refused(without)


def test_a_picture_that_does_not_decode(
    score: Arguments, pictures: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (pictures / "4.png").read_bytes()
    (pictures / "4.png").write_bytes(whole[:100])
    line = refused(score())
    assert "4.png" in line
    assert "a blue circle and a red square" in line
    assert "does not decode" in line
    assert "score.skip=true" in line
    # Nothing is lost: the first unit stays; the rest follows without the picture, or with it mended.
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures-scores").glob("unit-*.parquet")}
    assert [path.name for path in done] == ["unit-000000.parquet"]
    capsys.readouterr()
    assert main(score("score.skip=true")) == 0
    assert "1 pictures that do not decode are left out" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert table(tmp_path)["row"].tolist() == [0, 1, 2, 3, 5, 6]
    assert read_json(tmp_path / "pictures-scores" / "score.json")["left_out"] == 1


def test_no_picture_decodes(score: Arguments, pictures: Path, refused: Refused) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(b"nothing")
    assert "none of its 7 pictures decodes" in refused(score("score.skip=true"))


def test_a_caption_that_is_missing(
    score: Arguments, pictures: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pictures / "metadata.csv"
    path.write_text(path.read_text().replace(f"2.png,{CAPTIONS[2]}", "2.png,"))
    line = refused(score())
    assert "2.png has no caption" in line
    assert main(score("score.skip=true")) == 0
    assert "1 pictures without a caption are left out" in capsys.readouterr().err
    assert table(tmp_path)["image"].tolist() == [f"{number}.png" for number in (0, 1, 3, 4, 5, 6)]


def test_no_rows(score: Arguments, pictures: Path, refused: Refused) -> None:
    (pictures / "metadata.csv").write_text("file_name,text\n")
    assert "has no rows" in refused(score())


@pytest.mark.parametrize("form", ["metadata.jsonl", "a parquet file", "a saved dataset", "captions alone"])
def test_sources_with_nothing_to_score(
    form: str, score: Arguments, pictures: Path, tmp_path: Path, refused: Refused
) -> None:
    import datasets

    source, hint = tmp_path / "none.parquet", "has no rows"
    if form == "metadata.jsonl":
        (pictures / "metadata.csv").unlink()
        (pictures / "metadata.jsonl").write_text("\n")
        source = pictures
    elif form == "a parquet file":
        pd.DataFrame({"image": pd.Series(dtype=bytes), "text": pd.Series(dtype=str)}).to_parquet(source)
    elif form == "a saved dataset":
        source = tmp_path / "saved"
        datasets.Dataset.from_dict({"image": [], "text": []}).save_to_disk(str(source))
    else:
        pd.DataFrame({"picture": [""], "words": ["a red dog"]}).to_parquet(source)
        hint = "which column holds the captions? Set score.text_column to one of picture, words"
    assert hint in refused(score(f"score.source={source}"))
    assert not list(tmp_path.rglob("unit-*.parquet"))


def test_a_network_that_gives_nan(
    score: Arguments, tiny_pipeline_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    model = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    make_overflow(model)
    line = refused(score(f"model.path={model}"))
    assert "score 'elbo' is nan for the picture 0.png" in line
    assert "a red circle and a blue square" in line
    assert not list((tmp_path / "pictures-scores").glob("unit-*.parquet"))


def test_a_model_without_a_null_prompt(
    score: Arguments, tiny_pipeline_folder: Path, tmp_path: Path, refused: Refused
) -> None:
    model = Path(shutil.copytree(tiny_pipeline_folder, tmp_path / "model"))
    make_guidance_distilled(model)
    assert "no null prompt" in refused(score(f"model.path={model}"))


def test_the_folder_remembers(
    score: Arguments,
    pictures: Path,
    tiny_v_pipeline_folder: Path,
    tmp_path: Path,
    refused: Refused,
) -> None:
    assert main(score()) == 0
    before = table(tmp_path)
    line = refused(score("scorer.elbo.times=3", "seed=4"))
    assert "scorer.elbo.times (2 there, 3 now)" in line
    assert "seed (0 there, 4 now)" in line
    (tmp_path / "pictures-scores" / "unit-000002.parquet").unlink()
    moved = Path(shutil.copytree(tiny_v_pipeline_folder, tmp_path / "elsewhere"))
    line = refused(score(f"model.path={moved}"))
    assert "model.path" in line
    (pictures / "metadata.csv").write_text("file_name,text\n0.png,another caption\n")
    assert "holds scores of other pictures" in refused(score())
    pd.testing.assert_frame_equal(table(tmp_path), before)


def test_what_is_the_users_own_is_not_written_over(
    score: Arguments, tmp_path: Path, refused: Refused
) -> None:
    own = tmp_path / "pictures-scores.parquet"
    own.write_text("mine")
    assert "was not written by mitune score" in refused(score())
    assert own.read_text() == "mine"
    own.unlink()
    (tmp_path / "pictures-scores" / "config.yaml").unlink(missing_ok=True)
    (tmp_path / "pictures-scores" / "top").mkdir(exist_ok=True)
    assert "top is there, but no config.yaml beside it" in refused(score())
    (tmp_path / "pictures-scores" / "top").rmdir()
    (tmp_path / "pictures-top-0.5").mkdir()
    (tmp_path / "pictures-top-0.5" / "mine.txt").write_text("mine")
    assert "was not written by mitune score" in refused(score("score.top_fraction=0.5"))
    assert (tmp_path / "pictures-top-0.5" / "mine.txt").read_text() == "mine"


def test_a_caption_too_long_is_warned_of(
    score: Arguments, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a red circle and a blue square and a green star and a yellow dog and a small cat"
    (pictures / "metadata.csv").write_text(f"file_name,text\n0.png,{long}\n1.png,a red dog\n")
    assert main(score()) == 0
    shown = capsys.readouterr().err
    assert "too long" in shown
    assert "small cat" in shown
