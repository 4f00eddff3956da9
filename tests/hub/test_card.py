"""The model card: its prose says what the figures say, and its code draws a picture."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from omegaconf import OmegaConf
from PIL import Image

from mitune.hub.base import BaseModel
from mitune.hub.card import Example, Facts, outcomes, write_card
from mitune.hub.usage import Drawn, usage, usage_here
from mitune.pixels.balance import Uniform
from mitune.pixels.settings import BalancingConfig
from mitune.sampling.catalogue import SamplerConfig
from tests.hub.conftest import HOSTILE

HUB = BaseModel("small", "someone/small", {"license": "mit"}, True, False)


def facts(**more: Any) -> Facts:
    known: dict[str, Any] = {
        "name": "mine",
        "base": HUB,
        "kind": "lora",
        "rank": 4,
        "round": 1,
        "selected_by": "z(contrast)+z(elbo)",
        "candidates": 8,
        "steps": 100,
    }
    return Facts(**known | more)


def evaluation(**ends: tuple[float, float] | None) -> dict[str, Any]:
    """An evaluation in which each score has the difference's interval given."""
    rows = {
        side: {"all": dict.fromkeys(ends, value) | {"n": 16, "prompts": 8}}
        for side, value in (("before", 1.0), ("after", 2.0))
    }
    change = {
        name: {"before": 1.0, "after": 2.0, "difference": 1.0, "ci95": None if pair is None else [*pair]}
        for name, pair in ends.items()
    }
    judged = {
        "clip": {"judge": "some/clip@2", "itself": False, "selected": False},
        "elbo": {"judge": f"small#1 {HOSTILE}", "itself": True, "selected": True},
    }
    judged = {name: entry for name, entry in judged.items() if name in ends}
    return {**rows, "difference": {"all": change}, "judged_by": judged}


def read(card: str) -> str:
    """The card's text as a reader sees it, on one line."""
    text = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), ModelCard(card).text)
    return " ".join(text.split())


def test_the_prose_says_what_rose_what_fell_and_what_is_open() -> None:
    found = facts(evaluation=evaluation(clip=(0.2, 1.8), elbo=(-2.0, -0.1), mi=(-0.5, 2.5), llr=None))
    assert outcomes(found) == {"rose": ["clip"], "fell": ["elbo"], "open": ["mi", "llr"]}
    text = read(write_card(found))
    assert "On held-out prompts: clip (1 to 2) rose, by an interval above zero; elbo (1 to 2) fell" in text
    assert "mi (1 to 2), llr (1 to 2) did not change by more than these pictures can tell." in text
    assert "16 pictures of 8 held-out prompts" in text
    assert "(8 prompts: the interval is wide)" in text


def test_who_judged_and_who_chose_are_named() -> None:
    card = write_card(facts(evaluation=evaluation(clip=(0.2, 1.8), elbo=(0.1, 0.2))))
    text = read(card)
    assert "clip: some/clip@2" in text
    assert "elbo (it also selected): the model itself (small#1" in text
    assert "elbo also chose what was trained on, so a rise there is no independent witness." in text
    assert "<script" not in ModelCard(card).text
    alone = read(write_card(facts(evaluation=evaluation(elbo=(0.1, 0.2)))))
    assert "no independent witness: no score here is one." in alone


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ("combined", "as the model itself measures it: no labels, no reward model"),
        ("mi", "as the model itself measures it: no labels, no reward model"),
        ("random", "chosen at random (a control)"),
        ("oracle", "chosen by the embedded world's oracle (a control"),
        ("contrast+0.5*clip", "chosen by the score contrast+0.5*clip, which judges from outside"),
    ],
)
def test_a_card_claims_no_more_than_who_chose_allows(by: str, says: str) -> None:
    text = read(write_card(facts(selected_by=by, combined="z(contrast)+z(elbo)")))
    assert says in text
    assert ("no reward model" in text) == ("itself measures" in says)


def test_of_real_pictures_alone_the_models_own_are_not_named() -> None:
    text = read(write_card(facts(own=False, real=2100, real_source="photos")))
    assert (
        "on 2100 real pictures with their captions (photos), chosen by the information that prompt and"
        in text
    )
    assert "2100 real pictures chosen by z(contrast)+z(elbo), 100 optimizer steps." in text
    assert "own pictures" not in text
    assert "candidates" not in text
    mixed = read(write_card(facts(real=4, real_source="photos")))
    assert "on the model's own pictures and 4 real ones with their captions (photos), chosen by" in mixed
    assert "8 candidates a prompt, the best chosen by z(contrast)+z(elbo), 100 optimizer steps." in mixed


def test_of_a_data_set_of_the_users_own_nobody_is_said_to_have_chosen() -> None:
    text = read(write_card(facts(selected_by="", candidates=0)))
    assert "on a data set of the user's own. It was not evaluated" in text
    assert "A data set of the user's own, 100 optimizer steps." in text
    assert not [word for word in ("chosen", "candidates", "own pictures", "judges") if word in text]


def test_what_was_not_evaluated_claims_nothing() -> None:
    text = read(write_card(facts()))
    assert "nothing is known of what it brings" in text
    assert "## Evaluation" not in text
    old = evaluation(mi=(0.1, 0.2))  # of a version that did not say who judged
    del old["judged_by"]
    assert "Who judged" not in read(write_card(facts(evaluation=old)))


def test_base_and_licence_that_are_not_known_are_said_not_to_be() -> None:
    unknown = BaseModel("a folder", None, {}, True)
    card = write_card(facts(base=unknown))
    assert "Base model: not stated. Licence: not stated." in read(card)
    assert ModelCard(card).data.to_dict().get("license") is None
    shipped = write_card(facts(base=BaseModel("shapes", None, {"license": "apache-2.0"}, True, shipped=True)))
    assert "Base model: shapes of the package mitune. Licence: apache-2.0." in read(shipped)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("My own: 'x'\n# y", {"license": "other", "license_name": "My own: 'x' # y"}),
    ],
)
def test_a_licence_is_an_identifier_or_has_a_name(given: str, kept: dict[str, str]) -> None:
    data = ModelCard(write_card(facts(license=given))).data.to_dict()
    assert {name: value for name, value in data.items() if name.startswith("license")} == kept


# -- the code ----------------------------------------------------------------------------------------------------------


def code_of(card: str) -> str:
    """The code on a card."""
    return card.split("```python\n")[1].split("```")[0]


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the code leaves, and the picture it draws in ``folder``."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    left: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), left)
    with Image.open(folder / "picture.png") as picture:
        picture.load()
    return left


def test_the_code_on_the_card_draws_as_the_evaluation_did(
    finished_run: Path, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cli import main

    out = tmp_path / "out"
    assert main(["export", f"run={finished_run}", f"export.out={out}"]) == 0
    code = code_of((out / "README.md").read_text())
    assert "'a yellow star'" not in code
    assert '"a yellow star"' in code  # the first prompt is hostile, and stays out of code
    code = code.replace("path/to/the/base/model", str(tiny_pipeline_folder)).replace(
        "path/to/this/folder", str(out)
    )
    left = run(code, tmp_path / "work", monkeypatch)
    pipeline = left["pipeline"]
    assert type(pipeline.scheduler).__name__ == "DDIMScheduler"
    config = OmegaConf.load(finished_run / "config.yaml")
    evaluated = (config.sampler.steps, config.evaluate.guidance or config.sampler.guidance)
    assert (pipeline.num_timesteps, pipeline.guidance_scale) == evaluated
    assert pipeline.get_active_adapters()


def test_the_code_for_the_models_in_the_package_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(SamplerConfig("dpmpp_2m", steps=2, guidance=3.0, spacing="trailing"))
    lines = usage("shapes", "nowhere", ["a red circle"], drawn, False, shipped=True)
    code = "\n".join(line for line in lines if "load_lora_weights" not in line)
    left = run(code, tmp_path / "work", monkeypatch)
    assert type(left["pipeline"].scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert left["pipeline"].scheduler.config.timestep_spacing == "trailing"
    for name, kind in {"unipc": "UniPCMultistepScheduler", "heun": "HeunDiscreteScheduler"}.items():
        told = Drawn(SamplerConfig(name, steps=2, guidance=3.0, spacing="karras"))
        code = "\n".join(usage("shapes", "nowhere", ["a red circle"], told, False, shipped=True))
        assert f"{kind}.from_config(pipeline.scheduler.config, use_karras_sigmas=True)" in code
    noisy = usage(
        "shapes", "nowhere", ["x"], Drawn(SamplerConfig("dpmpp_2m_sde", steps=2)), False, shipped=True
    )
    assert any('algorithm_type="sde-dpmsolver++"' in line for line in noisy)
    flow = usage(
        "shapes_flow", "nowhere", ["a red circle"], Drawn(SamplerConfig("euler", steps=2)), True, True
    )
    assert not [line for line in flow if "scheduler" in line]


def test_the_scheduler_is_the_evaluation_s_whatever_the_model_brings() -> None:
    """A model may bring an SDE solver on the grid of Karras et al., and be evaluated by another on another."""
    from diffusers import DPMSolverMultistepScheduler

    brought = DPMSolverMultistepScheduler(use_karras_sigmas=True, algorithm_type="sde-dpmsolver++")
    for name in ("dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun"):
        drawn = Drawn(SamplerConfig(name, steps=2, spacing="trailing"))
        (line,) = [line for line in usage("a/b", "c/d", ["x"], drawn, False) if "from_config" in line]
        left: dict[str, Any] = {"pipeline": SimpleNamespace(scheduler=brought)}
        exec(f"import diffusers\n{line}", left)
        made = left["pipeline"].scheduler.config
        assert (made.timestep_spacing, made.use_karras_sigmas) == ("trailing", False)
        kinds = {"dpmpp_2m": "dpmsolver++", "dpmpp_2m_sde": "sde-dpmsolver++"}
        assert name not in kinds or made.algorithm_type == kinds[name]


@pytest.mark.parametrize(
    ("sampler", "flow", "said"),
    [
        (SamplerConfig("ddim", 2, spacing="karras"), False, "laid its steps by karras"),
        (SamplerConfig("unipc", 2), True, "drew with unipc"),
        (SamplerConfig("unipc", 2, guidance_interval=[1, 800]), False, "guided between times 1 and 800 only"),
        (SamplerConfig("unipc", 2, spacing="karras"), False, None),
    ],
)
def test_what_the_pipeline_does_otherwise_is_said(
    sampler: SamplerConfig, flow: bool, said: str | None
) -> None:
    code = usage("a/b", "c/d", ["x"], Drawn(sampler), flow)
    lines = [line for line in code if line.startswith("# The evaluation")]
    assert len(lines) == (said is not None)
    assert all(str(said) in line for line in lines)


def test_the_code_for_models_that_diffusers_cannot_adapt_runs_with_mitune(
    finished_run: Path, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(SamplerConfig("ddpm", steps=2, guidance=2.0, variance="large", spacing="leading"))
    adapter = finished_run / "round-1/adapter"
    code = usage_here(str(tiny_pipeline_folder), str(adapter), ["a red circle"], drawn)
    left = run("\n".join(code), tmp_path / "work", monkeypatch)
    assert dataclasses.replace(drawn.sampler) == left["sampler"]


def test_the_code_for_such_models_balances_phrases_as_the_evaluation_did(
    finished_run: Path, tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = BalancingConfig(share=0.5, phrases="world")
    drawn = Drawn(SamplerConfig(steps=2, balance="uniform", balancing=own))
    assert "balanced the phrases of its prompts by uniform" in "\n".join(
        usage("a/b", "c/d", ["x"], drawn, False)
    )
    adapter = finished_run / "round-1/adapter"
    prompts = ["a red circle and a blue square"]
    code = usage_here(str(tiny_pipeline_folder), str(adapter), prompts, drawn)
    left = run("\n".join(code), tmp_path / "work", monkeypatch)
    assert left["sampler"] == drawn.sampler
    assert isinstance(left["denoiser"], Uniform)


@pytest.mark.parametrize("hostile", [HOSTILE, '"); import os  # ', "a\nb", "```"])
def test_no_prompt_gets_into_the_code_that_is_not_plain(hostile: str) -> None:
    code = code_of(write_card(facts(examples=[Example(hostile, "a.png", "b.png")])))
    assert '"your prompt"' in code
    compile(code, "card", "exec")


def test_every_sampler_s_code_compiles_and_names_what_diffusers_has() -> None:
    import diffusers

    for name in ("ddim", "ddpm", "lcm", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "heun", "euler"):
        for flow in (True, False, None):
            drawn = Drawn(SamplerConfig(name, steps=3, eta=0.5), "bfloat16", edits=True, picture_guidance=1.5)
            code = "\n".join(usage("a/b", "c/d", ["x"], drawn, flow))
            compile(code, "card", "exec")
            assert "torch_dtype=torch.bfloat16" in code
            assert "image_guidance_scale=1.5" in code
            for scheduler in re.findall(r"(\w+Scheduler)\.from_config", code):
                assert hasattr(diffusers, scheduler)
            assert ("from_config" in code) == (flow is False and name != "euler")


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_hub")
def test_nothing_is_published_without_base_model_and_licence(
    run_copy: Path, refused: Callable[[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.cli import main

    push = ["export", f"run={run_copy}", "export.push=someone/mine"]
    line = refused(push)
    assert "export.base_model=owner/name" in line
    assert "export.license=" in line
    assert not (run_copy / "export").exists()
    line = refused([*push, "export.base_model=someone/small"])
    assert "base_model=owner" not in line
    assert "export.license=" in line
    capsys.readouterr()
    assert main(["export", f"run={run_copy}"]) == 0  # to a folder it goes, and the card says so
    shown = capsys.readouterr().err
    assert "not stated" in shown
    assert "export.base_model=" in shown
    assert "Licence: not stated" in read((run_copy / "export/README.md").read_text())
    shutil.rmtree(run_copy / "export")
    told = ["export.base_model=someone/small", "export.license=mit"]
    assert main(["export", f"run={run_copy}", *told]) == 0
    assert capsys.readouterr().err == ""
