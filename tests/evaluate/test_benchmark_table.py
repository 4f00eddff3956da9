"""The table of a benchmark: means and intervals by closed forms, published numbers only beside the same judge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mitune.evaluate.benchmarks.judging import is_original, settings_for
from mitune.evaluate.benchmarks.table import beside, differences, markdown, model_figures, rows_of
from mitune.evaluate.bootstrap import mean_of_means_ci
from mitune.evaluate.catalogue import BENCHMARKS

GENEVAL, COMPBENCH = BENCHMARKS["geneval"], BENCHMARKS["t2i_compbench"]
SCORER = {"clip": {"path": "openai/clip-vit-large-patch14", "form": "clipscore"}}


def table(correct: dict[str, list[list[int]]]) -> pd.DataFrame:
    """{category: the pictures of each prompt}."""
    rows = [
        {"category": name, "line": line, "picture": n, "text": f"{name} {line}", "value": float(value),
         "correct": value > 0}
        for name, prompts in correct.items()
        for line, own in enumerate(prompts)
        for n, value in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows)


FEW = {"single_object": [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], "counting": [[0, 0, 0, 1], [0, 0, 0, 0]]}


def test_the_overall_score_is_the_mean_of_the_tasks_and_not_of_the_pictures() -> None:
    found = model_figures(table(FEW), GENEVAL)
    assert found["categories"]["single_object"]["mean"] == pytest.approx(6 / 12)
    assert found["categories"]["counting"]["mean"] == pytest.approx(1 / 8)
    assert found["overall"]["mean"] == pytest.approx((6 / 12 + 1 / 8) / 2)
    assert found["correct"] == {"pictures": 7 / 20, "prompts": 3 / 5}
    assert found["categories"]["counting"]["prompts"] == 2
    assert "overall" not in model_figures(table({"color": [[1], [0]]}), COMPBENCH)


def test_the_interval_of_a_mean_of_means_covers_as_it_says() -> None:
    """Of two parts of unlike size and spread: 95 % of intervals hold the truth, 1.5, to within 3 errors of 300."""
    generator, hits = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(60), 2)
    parts = np.where(groups < 20, "a", "b")
    for _ in range(300):
        prompts = np.where(
            np.arange(60) < 20, 1 + 2 * generator.normal(size=60), 2 + generator.normal(size=60)
        )
        found = mean_of_means_ci(np.repeat(prompts, 2), groups, parts, n=400)
        hits += found.low <= 1.5 <= found.high
    assert abs(hits / 300 - 0.95) < 3 * (0.95 * 0.05 / 300) ** 0.5


def test_differences_are_paired_by_line_and_picture_whatever_their_order() -> None:
    before, after = table(FEW), table(FEW)
    after["value"] = before["value"] + np.where(before["category"] == "counting", 0.5, 0.1)
    found = differences(before, after.sample(frac=1, random_state=1), GENEVAL)
    assert found["counting"]["difference"] == pytest.approx(0.5)
    assert found["overall"]["difference"] == pytest.approx(0.3)
    assert found["single_object"]["ci95"] == pytest.approx([0.1, 0.1])


def test_published_numbers_stand_beside_the_same_judge_only() -> None:
    alike = {"non_spatial": True, "spatial": False}
    rows, notes = beside(COMPBENCH, alike, {"non_spatial": "clip", "spatial": "spatial_owlv2"})
    assert [row["scores"] for row in rows] == [{"non_spatial": 0.3079}]
    (note,) = notes
    assert "spatial are not shown: they were judged by UniDet" in note
    assert "these by spatial_owlv2" in note
    rows, notes = beside(GENEVAL, dict.fromkeys(["counting"], False), {"counting": "geneval"})
    assert rows == []
    assert "other weights" in notes[0]
    assert beside(COMPBENCH, alike, {}, "x") == ([], ["Published numbers are not shown beside it: x."])


def test_a_judge_at_its_defaults_is_set_as_the_benchmark_has_it_and_a_changed_one_is_another() -> None:
    category = COMPBENCH.category("non_spatial")
    ours = settings_for(category, "clip", SCORER)
    assert ours["clip"] == {"path": "openai/clip-vit-base-patch32", "form": "cosine"}
    assert is_original(category, "clip", ours)
    mine = settings_for(category, "clip", {"clip": {"path": "mine", "form": "clipscore"}})
    assert mine["clip"] == {"path": "mine", "form": "cosine"}
    assert not is_original(category, "clip", mine)
    assert not is_original(COMPBENCH.category("color"), "clip", ours)
    assert SCORER["clip"]["form"] == "clipscore"


def test_what_the_catalogue_says_of_published_tables_agrees_with_itself() -> None:
    """GenEval's overall is the mean of its tasks, to its two digits; every score is of a category."""
    for one in GENEVAL.published:
        tasks = [one.scores[category.name] for category in GENEVAL.categories]
        assert one.scores["overall"] == pytest.approx(np.mean(tasks), abs=0.011)
    for benchmark in BENCHMARKS.values():
        names = {category.name for category in benchmark.categories} | {"overall"}
        assert all(set(one.scores) <= names for one in benchmark.published)
    assert sum(next(iter(one.prompts.values())) for one in GENEVAL.categories) == 553


def test_texts_of_users_are_no_marks_in_markdown() -> None:
    figures = {
        "title": "T2I-CompBench",
        "models": {"base": model_figures(table({"color": [[1], [0]]}), COMPBENCH)},
        "difference": {},
        "judged_by": {"color": {"name": "clip", "judge": "a|b<script>", "selected": False}},
        "published": [],
        "notes": [],
        "has_overall": False,
        "round": 0,
    }
    assert rows_of(figures)[0] == ["model", "color"]
    text = markdown(figures, lambda said: said.replace("|", r"\|").replace("<", r"\<"))
    assert r"a\|b\<script>" in text
    assert "| base model | 0.5000" in text
