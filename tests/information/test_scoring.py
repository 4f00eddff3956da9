"""Scorers by name: every one gives finite columns, and what cannot be scored is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.edits import EditMiner
from mitune.information.scoring import Scoring, check_no_path, check_oracle
from mitune.sampling.catalogue import SamplerConfig
from mitune.sampling.loop import sample
from mitune.scores import COLUMNS, LATENT_SCORERS, PICTURE_SCORERS, SCORERS
from mitune.tasks import tasks_of
from tests.cli import compose

PROMPTS = ["a red circle and a blue square", "a blue circle and a red square", "a green star and a red dog"]


SMALL = [
    "scorer=quick", "scorer.elbo.times=2", "scorer.mi_image.times=2", "scorer.llr_image.times=2", "scorer.cas.steps=4",
    "scorer.cas.probes=2", "scorer.cas.recursion=1",
]  # fmt: skip


def scoring(names: list[str], folder: Path, pool: list[str] = PROMPTS, *overrides: str) -> Scoring:
    settings = OmegaConf.to_container(compose([*SMALL, *overrides]).scorer)
    return Scoring(names, settings, load_denoiser(str(folder)), pool=pool)  # type: ignore[arg-type]


def test_every_scorer_gives_one_finite_number_a_candidate(tiny_pipeline_folder: Path) -> None:
    texts = ["a red circle and a blue square", "a blue square and a green circle"]
    pool = [*PROMPTS, "a green circle and a blue square", "a red star and a blue circle", *texts]
    # Those who judge pictures are tried apart, and so is what only flows have.
    names = [name for name in SCORERS if name not in (*PICTURE_SCORERS, "rfmi")]
    judge = scoring(names, tiny_pipeline_folder, pool)
    observers = judge.observers(tasks_of(texts))
    z = sample(
        judge.denoiser,
        judge.denoiser.encode_prompts(texts),
        [1, 2],
        SamplerConfig("ddim", 3, eta=1.0, guidance=7.5, spacing="leading"),
        observers,
    )
    columns = {observer.name: observer.result() for observer in observers} | judge.on_latents(
        z, texts, [1, 2]
    )
    assert set(columns) == set(judge.names)
    for values in columns.values():
        assert values.shape == (2,)
        assert values.isfinite().all()


def test_a_latent_score_does_not_depend_on_its_neighbours(tiny_pipeline_folder: Path) -> None:
    judge = scoring(list(LATENT_SCORERS), tiny_pipeline_folder)
    z = torch.randn(3, *judge.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    texts = [*PROMPTS[:2], "a green circle and a red square"]  # grounding reads the world's own grammar
    together = judge.on_latents(z, texts, [5, 6, 7])
    alone = judge.on_latents(z[1:2], texts[1:2], [6])
    for name in LATENT_SCORERS:
        # CAS divides a float32 network's finite difference by epsilon.
        loose = 1e-2 if name == "cas" else 1e-4
        torch.testing.assert_close(together[name][1:2], alone[name], rtol=loose, atol=10 * loose)


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [
        ([], True),
        (["scorer.mi_image.t_min=50"], False),
        (["scorer.mi_image.noise=coupled", "scorer.elbo.noise=coupled"], True),
        (
            [
                f"scorer.{name}.{key}"
                for name in ("mi_image", "elbo")
                for key in ("noise=coupled", "weighting=paper")
            ],
            True,
        ),
    ],
)
def test_mi_image_and_elbo_share_a_pass_where_they_can(
    overrides: list[str], shared: bool, tiny_pipeline_folder: Path
) -> None:
    both = scoring(["mi_image", "elbo"], tiny_pipeline_folder, PROMPTS, *overrides)
    z = torch.randn(2, *both.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    found = both.on_latents(z, PROMPTS[:2], [5, 6])
    assert both.denoiser.forwards == (8 if shared else 16)
    assert both.forwards == {"mi_image": 8, "elbo": 8}
    for name in ("mi_image", "elbo"):
        alone = scoring([name], tiny_pipeline_folder, PROMPTS, *overrides)
        torch.testing.assert_close(
            alone.on_latents(z, PROMPTS[:2], [5, 6])[name], found[name], rtol=1e-4, atol=1e-4
        )


def test_every_scorer_says_what_it_cost(tiny_pipeline_folder: Path) -> None:
    judge = scoring(["elbo", "llr_image", "contrast", "cas"], tiny_pipeline_folder)
    z = torch.randn(3, *judge.denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    judge.on_latents(z, PROMPTS, [5, 6, 7])
    assert judge.forwards["elbo"] == judge.forwards["llr_image"] == 3 * 2 * 2
    times = judge.settings["contrast"]["times"]
    assert judge.forwards["contrast"] == times * sum(1 + len(judge.edits(text)) for text in PROMPTS)
    assert judge.forwards["cas"] == 3 * 2 * (4 * (2 + 1) + 3)
    assert sum(judge.forwards.values()) == judge.denoiser.forwards


def test_a_sum_runs_its_parts_and_stands_beside_them(tiny_pipeline_folder: Path) -> None:
    judge = scoring(
        ["combined", "elbo-0.5*mi_image"], tiny_pipeline_folder, PROMPTS, "scorer.combined=z(elbo)+mi"
    )
    assert judge.scorers == ("elbo", "mi", "mi_image")
    assert [observer.name for observer in judge.observers()] == ["mi"]
    table = {"elbo": [1.0, 3.0, 5.0, 5.0], "mi": [1.0, 1.0, 1.0, 2.0], "mi_image": [2.0, 2.0, 4.0, 0.0]}
    found = judge.on_table(table, ["p", "p", "q", "q"])
    assert found["combined"] == pytest.approx([0.0, 2.0, 1.0, 2.0])
    assert found["elbo-0.5*mi_image"] == pytest.approx([0.0, 2.0, 3.0, 5.0])


def test_scores_of_the_path_are_refused_for_pictures() -> None:
    check_no_path(["elbo", "mi_image+cas"], "score.scorers")
    check_no_path(["mi"], "score.scorers", there=["mi"])
    with pytest.raises(
        UserError, match=r"score\.scorers: llr is measured on the sampler's own path.*use llr_image"
    ):
        check_no_path(["elbo+0.5*llr"], "score.scorers")


def test_the_oracle_tells_right_from_wrong_and_says_exactly(tiny_pipeline_folder: Path) -> None:
    from mitune.worlds.shapes import CATEGORIES, random_scene, render, split  # noqa: F401

    judge = scoring(["oracle"], tiny_pipeline_folder)
    blank = torch.full((2, 3, 64, 64), 0.9)
    columns = judge.on_pictures(blank, [split(CATEGORIES[0], "test")[0]] * 2)
    assert set(columns) == {"oracle", *COLUMNS}
    assert columns["oracle"].max() < 1
    assert columns["exact"].tolist() == [0.0, 0.0]


def test_the_oracle_refuses_prompts_of_another_world() -> None:
    from mitune.worlds.shapes import CATEGORIES, split

    check_oracle(["mi", "oracle"], split(CATEGORIES[0], "train")[:20], "scorers")
    check_oracle(["mi"], ["a photo of a cat"], "scorers")
    with pytest.raises(UserError, match=r"evaluate\.scorers.*a photo of a cat.*\[mi\]"):
        check_oracle(["mi", "oracle"], ["a photo of a cat"], "evaluate.scorers")


def test_an_unknown_scorer_is_named(tiny_pipeline_folder: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'contrast'"):
        scoring(["contrst"], tiny_pipeline_folder)


def test_a_pool_without_edits_is_refused(tiny_pipeline_folder: Path) -> None:
    judge = scoring(["contrast"], tiny_pipeline_folder, pool=["cat"])
    with pytest.raises(UserError, match="no edit of the prompt 'cat'"):
        judge.edits("cat")


@pytest.mark.parametrize("source", ["edits", "words"])
def test_the_pool_is_mined_once(
    source: str, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = EditMiner.__init__

    def count(self: EditMiner, *arguments: Any) -> None:
        made.append(self)
        make(self, *arguments)

    monkeypatch.setattr(EditMiner, "__init__", count)
    judge = scoring(["contrast"], tiny_pipeline_folder, PROMPTS, f"scorer.contrast.negatives={source}")
    assert all(judge.edits(text) for text in PROMPTS)
    assert len(made) == 1


def test_contrast_takes_its_other_prompts_from_elsewhere(tiny_pipeline_folder: Path) -> None:
    from mitune.worlds.shapes import CATEGORIES, split

    denoiser = load_denoiser(str(tiny_pipeline_folder))

    def others(source: str, pool: list[str]) -> list[str]:
        config = compose([*SMALL, f"scorer.contrast.negatives={source}", "scorer.contrast.given=x.txt"])
        settings = OmegaConf.to_container(config.scorer)
        judge = Scoring(["contrast"], settings, denoiser, pool, given=["a cat", "a dog"])  # type: ignore[arg-type]
        found = judge.edits(PROMPTS[0])
        assert found
        assert PROMPTS[0] not in found
        return found

    assert set(others("pool", PROMPTS)) == set(PROMPTS[1:])
    assert others("list", PROMPTS) == ["a cat", "a dog"]
    # How words are used, and so which may change places, is learned from the pool.
    for text in others("words", split(CATEGORIES[0], "train")[:1500]):
        assert sorted(text.split()) == sorted(PROMPTS[0].split())


def test_rfmi_is_for_flows_and_says_so_before_anything_is_drawn(tiny_pipeline_folder: Path) -> None:
    judge = Scoring(["rfmi"], {"mi": {"t_min": 50}}, load_denoiser("shapes_flow"))
    (observer,) = judge.observers()
    given = judge.denoiser.encode_prompts(["a red circle"] * 2)
    sample(
        judge.denoiser,
        given,
        [1, 2],
        SamplerConfig("ddim", 3, eta=1.0, guidance=7.5, spacing="leading"),
        [observer],
    )
    assert observer.name == "rfmi"
    assert observer.result().isfinite().all()
    with pytest.raises(UserError, match="rfmi is defined on rectified flows"):
        scoring(["rfmi"], tiny_pipeline_folder)
