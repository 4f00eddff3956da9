"""Racing as configured: what the store says of those dropped, what it cost, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from mitune.data.pictures.loading import load_pictures
from mitune.data.prompts import make_prompt
from mitune.data.selection import scorers, select
from mitune.data.store import CandidateStore, plan_units
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.information.scoring import Scoring
from mitune.sampling.catalogue import SamplerConfig, SamplerPart
from mitune.sampling.racing import Cut, rows_of
from mitune.stages import racing
from mitune.stages.candidates import Drawing, cost, draw, draw_unit
from mitune.stages.generate import keeper
from mitune.stages.racing import Race, cuts_of, look_cost, survivors_of
from tests.cli import compose

PROMPTS = [make_prompt(text) for text in ("a red circle", "a blue square and a dog")]
SAMPLER = SamplerConfig("ddim", 6, eta=1.0, guidance=2.0, spacing="leading")
CUTS = [Cut(2, 3), Cut(4, 2)]


@pytest.fixture(scope="module")
def model(tiny_pipeline_folder: Path) -> Any:
    return load_denoiser(str(tiny_pipeline_folder))


def scoring(model: Any, *names: str, **changed: Any) -> Scoring:
    settings: Any = OmegaConf.to_container(OmegaConf.merge(compose().scorer, changed))
    pool = [prompt.text for prompt in PROMPTS]
    return Scoring(names, settings, model, pool)


@pytest.mark.parametrize("batch_size", [96, 3])
def test_survivors_have_the_scores_and_latents_of_a_run_without_racing(model: Any, batch_size: int) -> None:
    unit = plan_units(PROMPTS, 5, 10)[0]
    names = ("mi", "z(mi)+llr", "elbo")
    few = {"elbo": {"times": 2}}
    whole, every = draw_unit(unit, Drawing(SAMPLER, scoring(model, *names, **few), 5, 96))
    race = Race(CUTS, scoring(model, "mi"))
    how = Drawing(SAMPLER, scoring(model, *names, **few), 5, batch_size, watch=race)
    table, latents = draw_unit(unit, how)
    left = [row for row, step in enumerate(table["dropped_at"]) if step is None]
    assert len(left) == len(latents) == 4
    assert sorted(step for step in table["dropped_at"] if step) == [2, 2, 2, 2, 4, 4]
    torch.testing.assert_close(latents, every[left], rtol=1e-4, atol=1e-4)
    for name in ("mi", "llr", "elbo"):
        if name in table:
            assert [table[name][row] for row in left] == pytest.approx(
                [whole[name][row] for row in left], rel=1e-3
            )
    for row in range(10):
        missing = {table[name][row] is None for name in ("mi", "z(mi)+llr", "elbo")}
        assert missing == {row not in left}


@pytest.mark.parametrize("by", ["llr", "elbo", "contrast"])
def test_every_forward_is_counted_and_every_dropped_candidate_is_seen(
    by: str, model: Any, tmp_path: Path
) -> None:
    few = {"elbo": {"times": 2}, "contrast": {"times": 2, "edits": 1}}
    look = {"llr": 0, "elbo": 4, "contrast": 4}[by]
    race = Race(CUTS, scoring(model, by, **few))
    units = plan_units(PROMPTS, 5, 5)
    store = draw(tmp_path, units, Drawing(SAMPLER, scoring(model, "mi"), 0, 96, watch=race))
    spent = cost(store)
    assert spent.forwards == 2 * rows_of(CUTS, 5, 6, look)
    assert spent.looks == race.forwards == look * 2 * (5 + 3)
    assert spent.scorers == {"mi": 0}
    table, everyone = store.table(), store.table(dropped=True)
    assert len(table) == 4
    assert scorers(table) == scorers(everyone) == ["mi"]
    assert not set(table.columns) & {"dropped_at", "race"}
    assert table["mi"].notna().all()
    assert len(everyone) == 10
    assert everyone["race"].notna().all()
    gone = everyone["dropped_at"].notna()
    assert sorted(everyone["dropped_at"][gone]) == [2, 2, 2, 2, 4, 4]
    assert everyone["mi"].isna().tolist() == gone.tolist()
    assert not everyone["kept"][gone].any()
    # Whoever opens the file finds them, too, with whole numbers for steps.
    file = pq.read_table(store.table_path(0)).to_pydict()
    assert sorted(str(step) for step in file["dropped_at"]) == ["2", "2", "4", "None", "None"]
    # Of those dropped at one cut none was ranked above one that went on.
    for _, rows in everyone[everyone["dropped_at"] != 2].groupby("prompt_id"):
        assert rows["race"][rows["dropped_at"].isna()].min() >= rows["race"][rows["dropped_at"] == 4].max()
    assert len(store.latents(table)) == 4
    assert load_pictures(tmp_path).left_out == 6


def test_a_dropped_candidate_is_never_selected(model: Any, tmp_path: Path) -> None:
    units = plan_units(PROMPTS, 5, 10)
    race = Race([Cut(1, 2)], scoring(model, "llr"))
    store = draw(tmp_path, units, Drawing(SAMPLER, scoring(model, "mi", "llr"), 0, 96, watch=race))
    everyone = store.table(dropped=True).set_index(["prompt_id", "candidate"])
    for by in ("mi", "llr", "random", "z(mi)+z(llr)"):
        for row in select(store.table(), by, 1, losers=1).itertuples():
            assert everyone.loc[(row.prompt_id, row.candidate), "dropped_at"] != 1
    with pytest.raises(UserError, match="has only 2 candidates"):
        select(store.table(), "mi", 3)


def test_a_race_goes_on_where_it_was_left(model: Any, tmp_path: Path) -> None:
    units = plan_units(PROMPTS, 4, 4)

    def run(folder: Path, which: Any) -> CandidateStore:
        race = Race([Cut(3, 2)], scoring(model, "mi"))
        return draw(folder, which, Drawing(SAMPLER, scoring(model, "llr"), 0, 96, watch=race))

    whole = run(tmp_path / "whole", units)
    part = run(tmp_path / "part", units)
    part.table_path(1).unlink()
    part = run(tmp_path / "part", units)
    for index in (0, 1):
        assert part.table_path(index).read_bytes() == whole.table_path(index).read_bytes()
        assert part.latents_path(index).read_bytes() == whole.latents_path(index).read_bytes()


def test_what_is_kept_are_survivors() -> None:
    racing = ["sampler.racing.by=mi", "sampler.racing.survivors=[2]", "select=mi", "select.k=1"]
    config = compose([*racing, "generate.candidates=6", "generate.keep=5"])
    assert survivors_of(config) == 2
    table = {
        "prompt_id": ["a", "a"],
        "prompt": ["a", "a"],
        "candidate": [1, 4],
        "seed": [7, 8],
        "mi": [1.0, 2.0],
    }
    assert keeper(config)(table) == [True, True]


def test_the_store_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    unit = plan_units(PROMPTS[:1], 2, 2)[0]
    table: dict[str, list[Any]] = {
        "prompt_id": [PROMPTS[0].id] * 2, "prompt": [PROMPTS[0].text] * 2, "category": ["", ""], "candidate": [0, 1],
        "seed": [1, 2], "kept": [True, False], "mi": [1.0, None], "dropped_at": [None, 3], "race": [2.0, 1.0],
    }  # fmt: skip
    store, one = CandidateStore(tmp_path), torch.zeros(1, 2)
    store.write_unit(unit, table, one)
    assert store.table()["candidate"].tolist() == [0]
    with pytest.raises(ValueError, match="dropped has the score mi"):
        store.write_unit(unit, table | {"mi": [1.0, 1.0]}, one)
    with pytest.raises(ValueError, match="no latent to keep"):
        store.write_unit(unit, table | {"kept": [False, True]}, one)
    with pytest.raises(UserError, match="score 'race' is nan for candidate 1 of prompt 'a red circle'"):
        store.write_unit(unit, table | {"race": [2.0, float("nan")]}, one)


# -- configuration -----------------------------------------------------------------------------------------------------


def test_schedules_come_from_survivors_or_from_a_speedup() -> None:
    assert cuts_of(compose()) == []
    given = [
        "sampler.racing.by=llr",
        "sampler.racing.at=[0.25,10]",
        "generate.candidates=16",
        "sampler.steps=20",
    ]
    assert cuts_of(compose([*given, "sampler.racing.survivors=[8,3]"])) == [Cut(5, 8), Cut(10, 3)]
    cuts = cuts_of(compose([*given, "sampler.racing.speedup=1.9"]))
    assert rows_of([], 16, 20) >= 1.9 * rows_of(cuts, 16, 20)
    looks = [
        "sampler.steps=20",
        "sampler.racing.by=elbo",
        "sampler.racing.at=[4]",
        "generate.candidates=16",
        "sampler.racing.times=2",
    ]
    cuts = cuts_of(compose([*looks, "sampler.racing.speedup=1.9"]))
    assert rows_of([], 16, 20) >= 1.9 * rows_of(cuts, 16, 20, look=4)
    scorer = compose(["scorer.llr_image.paths=3"]).scorer
    assert [look_cost(by, scorer, 2, 3) for by in ("mi", "elbo", "llr_image", "contrast")] == [0, 4, 12, 8]


def test_a_sampler_that_evaluates_twice_in_a_step_saves_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "sampler.steps=20",
        "sampler.racing.by=elbo",
        "sampler.racing.at=[4]",
        "sampler.racing.times=2",
        "generate.candidates=16",
    ]
    config = compose([*words, "sampler.racing.speedup=1.9"])
    (once,) = cuts_of(config)
    twice = SamplerPart("ddim", "", "x:x", evaluations=2)
    monkeypatch.setattr(racing, "SAMPLERS", {"ddim": twice})
    each = racing.step_rows(config, 2)
    assert each == [4] * 19 + [2]  # nothing is evaluated a second time at clean data
    (cut,) = cuts_of(config)
    assert cut.survivors > once.survivors  # looks cost less beside the steps
    assert rows_of([], 16, 20, branches=each) >= 1.9 * rows_of([cut], 16, 20, look=4, branches=each)


BASE = ["sampler.racing.by=llr", "generate.candidates=12", "select.k=3", "sampler.steps=20"]


@pytest.mark.parametrize(
    ("overrides", "hints"),
    [
        (["sampler.racing.by=lrr"], ["sampler.racing.by: lrr is no running score", "did you mean 'llr'"]),
        (["sampler.racing.by=oracle"], ["oracle judges finished pictures only"]),
        (["sampler.racing.by=cas"], ["choose among mi, "]),
        (["sampler.racing.by=elbo"], ["elbo is not free", "sampler.racing.times=2"]),
        (["sampler.racing.survivors=[6]"], ["give one of them, not both"]),
        (["sampler.racing.speedup=null"], ["say how many candidates go on", "speedup=2"]),
        (["sampler.racing.by=null"], ["sampler.racing.speedup: say which score drops candidates"]),
        (["sampler.racing.speedup=0.5"], ["sampler.racing.speedup=0.5: must be at least 1"]),
        (["sampler.racing.speedup=nan"], ["must be at least 1"]),
        (["sampler.racing.speedup=9"], ["sampler.racing.speedup=9", "fall 1.82 times only"]),
        (["sampler.racing.at=[1.5]"], ["sampler.racing.at: 1.5 is neither"]),
        (["sampler.racing.at=[0]"], ["sampler.racing.at: 0 is neither"]),
        (["sampler.racing.at=[20]"], ["sampler.racing.at=[20] with sampler.steps=20", "1 to 19"]),
        (["sampler.racing.at=[0.6,0.5]"], ["rising order"]),
        (["sampler.racing.at=[]"], ["sampler.racing.at is empty"]),
        (["sampler.racing.at=[a]"], ["sampler.racing.at=[a]", "list"]),
        (["sampler.racing.times=0"], ["sampler.racing.times=0: must be at least 1"]),
        (["sampler.eta=0", "scorers=[contrast,elbo]"], ["sampler.racing.by: llr needs a stochastic sampler"]),
        (["sampler.racing.speedup=null", "sampler.racing.survivors=[2]"], ["survivors=[2]: 3 candidates a prompt"]),
        (["sampler.racing.speedup=null", "sampler.racing.survivors=[12]"], ["leaves 12 of 12"]),
        (["sampler.racing.speedup=null", "sampler.racing.survivors=[6,4]"], ["one number for each of"]),
        (["sampler.racing.speedup=null", "sampler.racing.survivors=[4.5]"], ["sampler.racing.survivors=[4.5]"]),
        (["sampler.racing.speed=2"], ["did you mean 'sampler.racing.speedup'"]),
        (["sampler.racing=on"], ["it is a group of keys"]),
    ],
)  # fmt: skip
def test_what_cannot_be_raced_is_refused_on_one_line(overrides: list[str], hints: list[str]) -> None:
    given = [*BASE, "sampler.racing.speedup=1.5", *overrides]
    with pytest.raises(UserError) as caught:
        cuts_of(compose(given))
    line = str(caught.value)
    assert "\n" not in line
    for hint in hints:
        assert hint in line
