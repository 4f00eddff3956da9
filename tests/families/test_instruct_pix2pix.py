"""A model that edits pictures: three branches, the picture as part of the task, from the table to a trained adapter."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from mitune.data.prompts import load_prompts
from mitune.data.store import CandidateStore
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.finetune.batches import Texts, TrainingSet
from mitune.information.elbo import elbo
from mitune.information.llr import PathLLR
from mitune.information.noising import Noising
from mitune.runs import RunFolder
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.sampling.seeds import candidate_noise, candidate_seed
from mitune.stages.select import select_stage
from mitune.tasks import Task
from tests.cli import compose, main
from tests.families import solvers, tiny
from tests.families.checks import CLOSE

PROMPTS = ["make it red", "a blue square on a green star", "make it red"]
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a tiny model and a table of prompts and pictures."""
    folder = tmp_path_factory.mktemp("pix2pix")
    tiny.instruct_pix2pix(folder)
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    with (folder / "edits.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "source"])
        for number, prompt in enumerate(PROMPTS):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
            rows.writerow([prompt, f"pictures/{number}.png"])
    return folder


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[Task]:
    return load_prompts(folder / "edits.csv", picture_column="source")


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> Any:
    return load(folder)


def load(folder: Path, **more: Any) -> Any:
    return load_denoiser({"path": str(folder / "model"), "device": "cpu", **more})


def pictures(folder: Path) -> Tensor:
    shown = [np.array(Image.open(folder / "pictures" / f"{number}.png")) for number in range(3)]
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 255


def theirs(folder: Path, guidance: float, picture_guidance: float, solver: str = "") -> Tensor:
    """Latents of the plain pipeline, with its own scheduler or that of one of our solvers."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        str(folder / "model"), safety_checker=None, feature_extractor=None, image_encoder=None
    )
    pipeline.set_progress_bar_config(disable=True)
    if solver:
        pipeline.scheduler = solvers.scheduler_of(solver, pipeline, load(folder))
    noise = torch.stack([candidate_noise(seed, (4, 8, 8), 0)[0] for seed in SEEDS])
    return pipeline(
        PROMPTS,
        image=pictures(folder),
        num_inference_steps=6,
        guidance_scale=guidance,
        image_guidance_scale=picture_guidance,
        latents=noise,
        output_type="latent",
    ).images


def ddim(guidance: float) -> SamplerConfig:
    return SamplerConfig("ddim", steps=6, eta=0.0, spacing="leading", steps_offset=1, guidance=guidance)


@pytest.mark.parametrize(("guidance", "picture_guidance"), [(7.5, 1.5), (3.0, 1.0), (2.0, 4.0)])
def test_three_branches_draw_what_the_plain_pipeline_draws(folder, tasks, guidance, picture_guidance):
    model = load(folder, picture_guidance=picture_guidance)
    ours = sample(model, model.encode(tasks), SEEDS, ddim(guidance))
    assert (ours - theirs(folder, guidance, picture_guidance)).abs().max() <= CLOSE
    assert model.forwards == 3 * 6 * len(SEEDS)
    other = sample(model, model.encode(tasks[::-1]), SEEDS, ddim(guidance))
    assert (ours - other).abs().max() > 10 * CLOSE  # the picture matters


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "heun"])
def test_so_they_do_by_every_solver(folder, tasks, name):
    model = load(folder, picture_guidance=1.5)
    ours = sample(model, model.encode(tasks), SEEDS, replace(ddim(3.0), name=name))
    expected = theirs(folder, 3.0, 1.5, name)
    assert (ours - expected).abs().max() <= CLOSE * expected.abs().max()


def test_without_any_guidance_only_the_branch_with_both_is_evaluated(folder, tasks):
    model = load(folder, picture_guidance=1.0)
    given = model.encode(tasks)
    alone = sample(model, given, SEEDS, ddim(1.0))
    assert model.forwards == 6 * len(SEEDS)
    watched = sample(model, given, SEEDS, ddim(1.0), [PathLLR()])
    assert (alone - watched).abs().max() <= CLOSE
    assert load(folder).needs_branches(1.0)  # 1.5 towards the picture


def test_the_reference_keeps_the_picture_and_drops_the_text(denoiser, tasks):
    given = denoiser.encode(tasks)
    silent, nothing = denoiser.reference(given), denoiser.null(3)
    assert torch.equal(silent.tensors["picture"], given.tensors["picture"])
    assert torch.equal(silent.tensors["text"], nothing.tensors["text"])
    assert not nothing.tensors["picture"].any()
    z = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        cond, reference, _ = denoiser.outputs(z, 500, denoiser.widened(given), 7.5)
        assert (reference - denoiser.predict(z, 500, silent)).abs().max() <= 1e-5
        assert (cond - denoiser.predict(z, 500, given)).abs().max() <= 1e-5


def test_what_is_left_out_is_told_by_name(denoiser, tasks):
    given, nothing = denoiser.encode(tasks), denoiser.null(3)
    for parts in ((), ("text",), ("picture",), ("picture", "text")):
        left = denoiser.without(given, *parts)
        for name, value in left.tensors.items():
            assert torch.equal(value, (nothing if name in parts else given).tensors[name])


@pytest.mark.parametrize("trains", [False, True])
def test_training_drops_text_picture_and_both_as_often(denoiser, tasks, trains):
    n, zeros = len(tasks), torch.zeros(3, dtype=torch.long)
    data = TrainingSet(
        torch.zeros(n, 4, 8, 8), tasks, torch.arange(n), torch.arange(n), zeros, zeros, zeros, torch.ones(n), None,
        None, "",
    )  # fmt: skip
    chance = torch.tensor([0.04, 0.06, 0.14, 0.16])  # of dropout 0.1: the text, both, the picture, nothing
    index = data.told(torch.tensor([1, 2, 0, 1]), chance, 0.1)
    given, nothing = Texts(denoiser, tasks, trains).condition(index), denoiser.null(1)
    told = denoiser.encode([tasks[row] for row in (1, 2, 0, 1)])
    for row, (text, picture) in enumerate([(False, True), (False, False), (True, False), (True, True)]):
        for name, there in (("text", text), ("picture", picture)):
            expected = told.tensors[name][row] if there else nothing.tensors[name][0]
            assert torch.allclose(given.tensors[name][row], expected, atol=1e-6)
    shares = (
        torch.bincount(data.told(torch.zeros(60_000, dtype=torch.long), torch.rand(60_000), 0.3) // n)
        / 60_000
    )
    assert (shares - torch.tensor([0.55, 0.15, 0.15, 0.15])).abs().max() < 4 * (0.25 / 60_000) ** 0.5


def test_information_is_about_the_text_beyond_the_picture(denoiser, tasks):
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noising = Noising(torch.tensor([200, 500, 800]), torch.ones(3) / 3, SEEDS)
    silent = denoiser.reference(denoiser.encode(tasks))
    assert elbo(denoiser, z, silent, noising).abs().max() < 1e-3
    assert elbo(denoiser, z, denoiser.encode(tasks), noising).abs().min() > 1e-3


def test_the_path_ratio_counts_the_pull_of_the_picture(folder, tasks):
    """Σ (‖z' − μ_ref‖² − ‖z' − μ_c‖²) / 2s², by the means themselves."""

    class ByHand(PathLLR):
        name = "by_hand"

        def observe(self, step: Any) -> None:
            if step.noise is None:
                return
            a = step.z_prev - step.b * step.eps - step.std * step.noise  # what all means share
            gaps = [
                (step.z_prev - a - step.b * eps).flatten(1).square().sum(1)
                for eps in (step.eps_null, step.eps_cond)
            ]
            self._total += (gaps[0] - gaps[1]).double() / (2 * step.wide**2)

    model = load(folder, picture_guidance=3.0)
    given, observers = model.encode(tasks), [PathLLR(), ByHand()]
    sample(model, given, SEEDS, SamplerConfig("ddpm", steps=6, guidance=4.0), observers)
    torch.testing.assert_close(observers[0].result(), observers[1].result(), rtol=1e-3, atol=1e-3)


def test_two_pictures_with_one_instruction_are_two_tasks(folder, tasks):
    assert len({task.id for task in tasks}) == 3
    assert candidate_seed(0, tasks[0].key, 0) != candidate_seed(0, tasks[2].key, 0)
    assert Task.of("make it red").key == "make it red"
    copied = load_prompts(folder / "edits.csv", picture_column="source", limit=2)
    assert [task.id for task in copied] == [task.id for task in tasks[:2]]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("../outside.png", "lies outside"),
        ("https://x/y.png", "web address"),
        ("", "not a picture's file"),
        ("none.png", "does not exist|no such"),
    ],
)
def test_a_picture_that_is_no_file_beside_the_table_is_refused(tmp_path, cell, words):
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "table").mkdir()
    table = tmp_path / "table" / "edits.csv"
    table.write_text(f'prompt,source\nmake it red,"{cell}"\n')
    with pytest.raises(UserError, match=words):
        load_prompts(table, picture_column="source")


def test_what_does_not_go_together_is_refused(folder, tasks, denoiser, tmp_path):
    with pytest.raises(UserError, match=r"names none.*prompts.picture_column="):
        denoiser.encode([Task.of("make it red")])
    plain = load_denoiser({"path": str(tiny.stable_diffusion(tmp_path)), "device": "cpu"})
    with pytest.raises(UserError, match=r"takes a text alone.*picture_column"):
        plain.encode(tasks)
    with pytest.raises(UserError, match="edits no pictures"):
        load_denoiser({"path": str(tmp_path / "model"), "device": "cpu", "picture_guidance": 2.0})
    with pytest.raises(UserError, match=r"no column 'sorce' .*did you mean 'source'"):
        load_prompts(folder / "edits.csv", picture_column="sorce")
    lines = [{"text": "make it red", "source": "pictures/0.png"}, {"text": "make it blue"}]
    (folder / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"column 'source' holds NoneType, not a picture's file"):
        load_prompts(folder / "edits.jsonl", picture_column="source")
    Path(tmp_path / "moved.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    moved = tasks[0].picture.of(tmp_path / "moved.png")
    (tmp_path / "moved.png").write_bytes((folder / "pictures" / "1.png").read_bytes())
    with pytest.raises(UserError, match="is another picture"):
        moved.read()


def test_a_run_draws_scores_selects_trains_and_evaluates(folder, tmp_path):
    words = [
        "run", f"run={tmp_path / 'run'}", f"model.path={folder / 'model'}", "model.device=cpu",
        f"prompts.source={folder / 'edits.csv'}", "prompts.picture_column=source",
        f"evaluate.prompts.source={folder / 'edits.csv'}", "evaluate.prompts.picture_column=source",
        "evaluate.prompts.split=null", "scorers=[mi,elbo,llr,contrast]", "evaluate.scorers=[mi]",
        "scorer.elbo.times=2", "scorer.contrast.times=2", "scorer.contrast.negatives=pool",
        "generate.candidates=3", "evaluate.candidates=2", "sampler.name=ddpm", "sampler.steps=3", "select.k=1",
        "select.by=mi", "train.steps=2", "train.batch_size=2", "train.caption_dropout=0.5", "adapter.rank=2",
    ]  # fmt: skip
    assert main(words) == 0
    first = tmp_path / "run" / "round-1"
    table = CandidateStore(first / "candidates").table()
    assert table["prompt_id"].nunique() == 3
    assert np.isfinite(table[["mi", "elbo", "llr", "contrast"]].to_numpy()).all()
    assert table["picture"].str.endswith(".png").all()
    assert (first / "adapter").is_dir()
    evaluation = json.loads((first / "evaluation.json").read_text())
    assert evaluation["before"]
    scored = [
        "score",
        f"score.source={first / 'candidates'}",
        f"score.out={tmp_path / 'scored.parquet'}",
        *words[2:4],
    ]
    assert main([*scored, "score.scorers=[elbo]", "scorer.elbo.times=2"]) == 0
    again = pd.read_parquet(tmp_path / "scored.parquet")
    kept = table[table["kept"]].reset_index(drop=True)
    assert np.allclose(again["elbo"], kept["elbo"], rtol=1e-3)


def test_a_race_saves_the_rows_of_three_branches(folder, tmp_path, capsys):
    words = [
        "generate", f"run={tmp_path / 'run'}", f"model.path={folder / 'model'}", "model.device=cpu",
        f"prompts.source={folder / 'edits.csv'}", "prompts.picture_column=source", "scorers=[mi]", "select.by=mi",
        "select.k=1", "generate.candidates=4", "sampler.name=ddpm", "sampler.steps=3", "sampler.racing.by=elbo",
        "sampler.racing.times=1", "sampler.racing.at=[1]", "sampler.racing.speedup=1.3",
    ]  # fmt: skip
    assert main(words) == 0
    # Of 108 rows one survivor of each prompt leaves 54, and the looks take 24; with two branches it were 72, 36 and 24.
    assert "78 forwards); racing by elbo dropped 9: drawing took 1.38 times less" in capsys.readouterr().out


Words = Callable[..., list[str]]


@pytest.fixture
def command(folder: Path, tmp_path: Path) -> Words:
    """``command(stage, *words)``: a command on the model that edits, without held-out prompts."""

    def make(stage: str, *more: str) -> list[str]:
        return [
            stage, f"run={tmp_path / 'run'}", f"model.path={folder / 'model'}", "model.device=cpu",
            f"prompts.source={folder / 'edits.csv'}", "scorers=[mi]", "select.by=mi", "select.k=1",
            "generate.candidates=2", "sampler.name=ddpm", "sampler.steps=2", "evaluate.scorers=[mi]",
            f"evaluate.prompts.source={folder / 'edits.csv'}", "evaluate.prompts.split=null", *more,
        ]  # fmt: skip

    return make


PAIRS = "prompts.picture_column=source"
HELD_OUT = "evaluate.prompts.picture_column=source"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([PAIRS], r"evaluate\.prompts: .* names none.*evaluate\.prompts\.picture_column="),
        ([HELD_OUT], r"prompts: .* names none.*say prompts\.picture_column="),
        ([PAIRS, HELD_OUT, "select.real=shapes", "select.real_fraction=0.5"], "leave select.real out"),
        ([PAIRS, HELD_OUT, "evaluate.scorers=[rfmi]"], r"evaluate\.scorers: rfmi is defined on rectified flows"),
        ([PAIRS, HELD_OUT, "train.keep_best_by=rfmi"], r"train\.keep_best_by: rfmi is defined on"),
        ([PAIRS, HELD_OUT, "sampler=das", "sampler.name=ddim", "reward=jpeg"], "say search.by=null"),
    ],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_refused_before_anything_is_drawn(
    words, line, command, refused, tmp_path
):
    assert re.search(line, refused(command("run", *words)))
    assert not list((tmp_path / "run").glob("round-*/candidates"))


def test_a_column_of_pictures_is_refused_where_the_model_reads_texts(command, refused, tmp_path):
    plain = f"model.path={tiny.stable_diffusion(tmp_path)}"
    line = refused(command("run", plain, HELD_OUT))
    assert re.search(r"evaluate\.prompts: .* text alone.*leave evaluate\.prompts\.picture_column out", line)
    assert not list((tmp_path / "run").glob("round-*/candidates"))
    assert "leave prompts.picture_column out" in refused(command("generate", plain, PAIRS))


def test_pictures_without_what_they_were_made_from_are_refused_with_what_can_be_done(
    folder, command, refused, tmp_path
):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    (tmp_path / "real" / "a.txt").write_text("make it red")
    words = ["score", f"run={tmp_path / 'run'}", f"model.path={folder / 'model'}", "model.device=cpu"]
    line = refused(
        [*words, f"score.source={tmp_path / 'real'}", "score.scorers=[elbo]", "scorer.elbo.times=2"]
    )
    assert "names none; score candidates that such a model drew" in line
    assert "prompts.picture_column" not in line
    assert "leave select.real out" in refused(command("generate", PAIRS, "select.real=shapes"))
    assert main(command("generate", PAIRS)) == 0
    store = tmp_path / "run" / "round-1" / "candidates"
    plain = f"model.path={tiny.stable_diffusion(tmp_path)}"
    line = refused([*words, plain, f"score.source={store}", "score.scorers=[elbo]", "scorer.elbo.times=2"])
    assert "text alone" in line
    assert "say model= of the one that edits pictures" in line
    with pytest.raises(UserError, match=r"leave select\.real out"):
        select_stage(compose(command("", PAIRS, "select.real=shapes")[1:]), RunFolder(tmp_path / "run"), 1)


def test_a_refused_sample_binds_nothing(command, refused, tmp_path):
    line = refused(command("sample", "sample.prompt=make it red"))
    assert "sample.prompt: " in line
    assert "leave it out, and give a table" in line
    assert "say prompts.picture_column=" in refused(command("sample"))
    assert main(command("sample", PAIRS, "sample.pictures=1", "sampler.steps=3")) == 0


def test_a_refused_generate_binds_nothing(folder, command, refused, tmp_path, monkeypatch):
    (tmp_path / "edits.csv").write_text("prompt,source\nmake it red,a.png\n")
    (tmp_path / "a.png").write_bytes(b"no picture")
    own = (f"prompts.source={tmp_path / 'edits.csv'}", PAIRS)
    line = refused(command("generate", *own))
    assert "a.png does not decode" in line
    assert "leave its row out of the table of prompts" in line
    (tmp_path / "a.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    with monkeypatch.context() as patch:

        def refuse(*_: Any) -> Any:
            raise UserError("this cannot be drawn")

        patch.setattr("mitune.stages.candidates.draw_unit", refuse)
        assert "this cannot be drawn" in refused(command("generate", *own))
    assert main(command("generate", *own, "sampler.steps=3", "seed=1")) == 0
    # What has been drawn binds.
    assert "made with another configuration" in refused(
        command("generate", *own, "sampler.steps=4", "seed=1")
    )


def test_candidates_of_a_picture_that_changed_are_not_done(folder, command, refused, tmp_path, capsys):
    (tmp_path / "edits.csv").write_text("prompt,source\nmake it red,a.png\n")
    (tmp_path / "a.png").write_bytes((folder / "pictures" / "0.png").read_bytes())
    words = command("generate", f"prompts.source={tmp_path / 'edits.csv'}", PAIRS)
    assert main(words) == 0
    assert main(words) == 0
    assert "(done before)" in capsys.readouterr().out
    (tmp_path / "a.png").write_bytes((folder / "pictures" / "1.png").read_bytes())
    assert "a.png is another picture than when the run began" in refused(words)
