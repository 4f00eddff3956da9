from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mitune.errors import UserError
from mitune.evaluate.drawings import png
from mitune.evaluate.evaluation import write_evaluation
from mitune.evaluate.watch import watched
from mitune.report import write_report
from mitune.report.figures import EACH, count, duration, leading_scores, prompt_table, score_tables
from mitune.report.pictures import in_order
from mitune.report.report import _loss
from mitune.tasks import UNCATEGORISED
from mitune.track import open_metrics

ATTACK = "<script>alert(1)</script>"
QUOTED = "\" onerror='alert(2)' x=\""
VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements of a page, its text, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def evaluation_table(lift: float) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    prompts = [ATTACK, QUOTED, *(f"prompt {number}" for number in range(6))]
    return pd.DataFrame(
        {
            "prompt_id": f"{number:012x}",
            "prompt": prompt,
            "category": [ATTACK, "color"][number % 2],
            "candidate": candidate,
            "seed": number * 10 + candidate,
            "oracle": float(np.clip(generator.uniform(0.3, 0.6) + lift * (0.5 + number % 4 / 4), 0, 1)),
            "mi": 40.0 + number + lift,
        }
        for number, prompt in enumerate(prompts)
        for candidate in range(2)
    )


def make_run(folder: Path, rounds: int = 2) -> Path:
    pictures = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    entries = []
    for number in range(1, rounds + 1):
        home = folder / f"round-{number}"
        result = write_evaluation(
            home,
            evaluation_table(0.0),
            evaluation_table(0.1 * number),
            pictures,
            pictures.flip(3),
            examples=4,
        )
        tracker = open_metrics(home, main=True)
        for step in range(80):
            tracker.log({"loss": 1 / (1 + step)}, step)
        tracker.log({"note": ATTACK}, 80)
        tracker.close()
        (home / "best.png").write_bytes(png(pictures[0]))
        example = {
            "prompt": ATTACK,
            "best": [{"picture": "best.png", "scores": {"contrast": -0.5, ATTACK: 2.0}}],
            "worst": [{"picture": "missing.png", "scores": {"contrast": -6.25}}],
        }
        (home / "candidates_examples.json").write_text(json.dumps([example]))
        select = {
            "by": "contrast",
            "k": 2,
            "kept": 16,
            "oracle_pool": 0.5,
            "oracle_kept": 0.8,
            "oracle_best": 0.9,
        }
        entries.append(
            {
                "round": number,
                "generate": {"prompts": 8, "candidates": 128, "forwards": 64000, "seconds": 75.0},
                "select": select,
                "train": {"steps": 80, "seconds": 30.5, "loss": 0.0125, "trainable_parameters": 1234567},
                "evaluate": {"before": result["before"], "after": result["after"]},
            }
        )
    summary = {
        "schema": 1,
        "model": ATTACK,
        "scorer": "contrast",
        "seed": 3,
        "forwards": 9,
        "seconds": 7300.0,
    }
    (folder / "summary.json").write_text(json.dumps({**summary, "rounds": entries}))
    (folder / "config.yaml").write_text(f"model:\n  id: '{ATTACK}'\n  token: hf_secret\nseed: 3\n")
    return folder


@pytest.fixture(scope="module")
def report(run: Path) -> tuple[str, Page]:
    return read(write_report(run))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_report_stands_alone(report: tuple[str, Page]) -> None:
    text, page = report
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "a", "form"}
    for attributes in [*page.all("img"), *page.all("source")]:
        source = attributes.get("src") or attributes.get("srcset") or ""
        assert source.startswith("data:image/")
        kind, data = source.removeprefix("data:image/").split(";base64,")
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert image.format == kind.upper()
    assert not re.search(r"https?://|url\(|@import", text)


def test_every_user_string_is_escaped(report: tuple[str, Page]) -> None:
    text, page = report
    assert ATTACK not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert ATTACK in page.text
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
    assert any(QUOTED in (attributes.get("alt") or "") for attributes in page.all("img"))


def test_figures_are_the_evaluation_s(run: Path, report: tuple[str, Page]) -> None:
    _, page = report
    evaluation = json.loads((run / "round-2" / "evaluation.json").read_text())
    change = evaluation["difference"]["all"]["oracle"]
    words = " ".join(page.text.split())
    assert f"oracle rose from {change['before']:.3f} to {change['after']:.3f}" in words
    assert f"+{change['difference']:.3f}, 95 % [+{change['ci95'][0]:.3f}, +{change['ci95'][1]:.3f}]" in words
    assert "75 %" in words, "selection reached 0.3 of a possible 0.4"
    assert "1 min 15 s" in words
    assert "2 h 1 min" in words
    assert "1\u202f234\u202f567" in page.text
    assert "contrast −6.250" in words


def test_headings_alt_texts_and_table_heads_serve_a_screen_reader(report: tuple[str, Page]) -> None:
    _, page = report
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes.get("scope") for attributes in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_all_rounds_are_there_the_last_one_open(report: tuple[str, Page]) -> None:
    text, _ = report
    assert text.index('id="round-2"') < text.index('id="round-1"')
    assert text.count("<details open>") == 1


def test_pictures_are_in_the_page_and_missing_ones_said_so(run: Path, report: tuple[str, Page]) -> None:
    _, page = report
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").split(",")[1]))))
        for attributes in page.all("img")
        if (attributes["src"] or "").startswith("data:image/png") and "tuning" in (attributes["alt"] or "")
    ]
    assert len(shown) == 2 * 2 * 4  # rounds × sides × examples
    np.testing.assert_array_equal(
        shown[0], np.asarray(Image.open(run / "round-2" / "pictures" / "before-000.png"))
    )
    assert page.text.count("picture missing") == 2


def test_secrets_of_the_configuration_are_hidden(report: tuple[str, Page]) -> None:
    text, page = report
    assert "hf_secret" not in text
    assert "token: '***'" in page.text


def test_the_same_run_gives_the_same_bytes(run: Path, report: tuple[str, Page]) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == report[0]


def test_a_run_without_evaluation_yet(tmp_path: Path) -> None:
    home = tmp_path / "round-1"
    home.mkdir()
    _, page = read(write_report(tmp_path))
    assert "Not evaluated yet" in page.text
    tracker = open_metrics(home, main=True)
    tracker.log({"loss": 0.5}, 0)
    tracker.close()
    _, page = read(write_report(tmp_path))
    assert "Training loss" in page.text
    assert "Round 1 has no evaluation yet" in page.text


def test_a_summary_alone_still_gives_its_tables(tmp_path: Path) -> None:
    row = {"oracle": 0.5, "exact": None, "mi": 30.0, "n": 4, "oracle_ci95": [0.4, 0.6]}
    rounds = [{"round": 1, "evaluate": {"before": {"all": row}, "after": {"all": {**row, "oracle": 0.6}}}}]
    (tmp_path / "summary.json").write_text(json.dumps({"schema": 1, "rounds": rounds}))
    _, page = read(write_report(tmp_path))
    words = " ".join(page.text.split())
    assert "oracle went from 0.500 to 0.600" in words
    assert "[0.400, 0.600]" in words
    assert "exact" not in words


def test_a_model_without_oracle_leads_with_its_scorer(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "oracle": None,
        "exact": None,
        "mi": 1.0,
        "contrast": -2.0,
        "n": 4,
        "oracle_ci95": None,
    }
    evaluation = {
        "before": {"all": rows},
        "after": {"all": {**rows, "contrast": -3.0}},
        "difference": {
            "all": {"contrast": {"before": -2, "after": -3, "difference": -1, "ci95": [-1.5, -0.5]}}
        },
    }
    (tmp_path / "round-1").mkdir()
    (tmp_path / "round-1" / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "summary.json").write_text(json.dumps({"scorer": "contrast", "rounds": []}))
    _, page = read(write_report(tmp_path))
    assert "contrast fell from −2.000 to −3.000" in " ".join(page.text.split())


def test_files_outside_the_run_folder_are_not_drawn_in(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "private.png")
    home = tmp_path / "run" / "round-1"
    home.mkdir(parents=True)
    (home / "broken.png").write_bytes(b"no picture")
    entries = [
        {"picture": name, "scores": {}}
        for name in ("../../private.png", str(tmp_path / "private.png"), "broken.png")
    ]
    (home / "candidates_examples.json").write_text(
        json.dumps([{"prompt": "p", "best": entries, "worst": []}])
    )
    _, page = read(write_report(tmp_path / "run"))
    assert page.all("img") == []
    assert page.text.count("picture missing") == 3


@pytest.mark.parametrize(
    ("size", "shown_as"),
    [
        ((768, 512), ("JPEG", (512, 341))),
        ((512, 512), ("JPEG", (512, 512))),
        ((256, 200), ("PNG", (256, 200))),
    ],
)
def test_large_pictures_are_reduced(
    tmp_path: Path, size: tuple[int, int], shown_as: tuple[str, tuple[int, int]]
) -> None:
    home = tmp_path / "round-1"
    home.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(home / "large.png")
    entry = {"picture": "large.png", "scores": {}}
    (home / "candidates_examples.json").write_text(
        json.dumps([{"prompt": "p", "best": [entry], "worst": []}])
    )
    _, page = read(write_report(tmp_path))
    data = (page.all("img")[0]["src"] or "").split(",")[1]
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == shown_as


def test_what_is_no_run_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        write_report(tmp_path / "none")
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (7.54, "7.5 s"), (59.99, "1 min 0 s"), (245, "4 min 5 s"), (7380, "2 h 3 min")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_count() -> None:
    assert count(None) == "–"
    assert count(1234567) == "1\u202f234\u202f567"


def test_a_curve_is_of_finite_losses_only() -> None:
    rows = [{"stage": "train", "step": step, "loss": loss} for step, loss in enumerate((2.0, None, 1.0))]
    rows += [{"stage": "train", "step": 3, "loss": loss} for loss in (math.inf, math.nan, True, "x")]
    found = _loss([*rows, {"stage": "validate", "step": 3, "loss": 9.0}])
    assert found is not None
    assert (found["first"], found["last"], found["steps"]) == (2.0, 1.0, 2)


def test_pictures_come_first_and_the_pair_stands_together(report: tuple[str, Page]) -> None:
    text, page = report
    body = text[text.index("<main>") :]
    assert body.index("<img") < body.index("<table")
    rows = [attributes for tag, attributes in page.elements if "popover" in attributes]
    named = [attributes["popovertarget"] for attributes in page.all("button")]
    assert {row["id"] for row in rows} == set(named)
    pair = body[body.index('id="pair-2-1"') : body.index('id="pair-2-2"')]
    assert pair.count("<img") == 2
    assert re.search(r"oracle 0\.\d+ → 0\.\d+ <span class=\"up\">\(\+0\.\d+\)", pair)


def test_right_and_wrong_are_marked_where_the_oracle_can_tell(tmp_path: Path) -> None:
    page = shown(tmp_path, [{"exact": 1.0}, {"exact": 0.0}, {"mi": 2.0}])
    marks = [
        attributes["class"] for attributes in page.all("span") if "mark" in (attributes.get("class") or "")
    ]
    assert marks == ["mark right", "mark wrong"]
    assert [(attributes["alt"] or "").rpartition("(")[2] for attributes in page.all("img")][:2] == [
        "right)",
        "wrong)",
    ]


def shown(folder: Path, scores: list[dict[str, float]], side: int = 8) -> Page:
    """The page of a run that shows a candidate for each of ``scores``."""
    home = folder / "round-1"
    home.mkdir()
    Image.new("RGB", (side, side)).save(home / "one.png")
    entries = [{"picture": "one.png", "scores": values} for values in scores]
    examples = [{"prompt": "p", "best": entries, "worst": []}]
    (home / "candidates_examples.json").write_text(json.dumps(examples))
    return read(write_report(folder))[1]


@pytest.mark.parametrize(("side", "kind"), [(64, "small"), (128, "small"), (129, None), (600, None)])
def test_only_small_pictures_are_shown_pixel_by_pixel(tmp_path: Path, side: int, kind: str | None) -> None:
    page = shown(tmp_path, [{}], side)
    assert [attributes.get("class") for attributes in page.all("img")] == [kind]


def test_pairs_can_be_put_in_the_order_of_what_was_gained() -> None:
    def pair(old: float, new: float) -> dict[str, Any]:
        rows = [
            {"score": name, "before": old, "after": new, "gain": gain}
            for name, gain in (("oracle", new - old), ("exact", new - old), ("flat", 0.0))
        ]
        return {"scores": rows, "orders": []}

    examples = [pair(0.5, 0.6), pair(0.1, 0.9), pair(0.9, 0.2), {"scores": [], "orders": []}]
    assert in_order(examples, ["oracle", "exact", "flat"]) == ["gain in oracle", "loss in oracle"]
    assert [example["orders"] for example in examples] == [[2, 2], [1, 3], [3, 1], [4, 4]]


def test_the_order_is_offered_without_a_script(report: tuple[str, Page]) -> None:
    text, page = report
    radios = [attributes for attributes in page.all("input") if attributes["name"] == "order-2"]
    assert [attributes["value"] for attributes in radios] == ["0", "1", "2"]  # mi gained the same everywhere
    for number in (1, 2):
        assert f'.sorted:has(input[value="{number}"]:checked) figure {{ order: var(--o{number}); }}' in text
    styles = [attributes.get("style") for attributes in page.all("figure") if attributes.get("style")]
    assert all(re.fullmatch(r"--o1:\d;--o2:\d;", style or "") for style in styles)
    assert len(styles) == 8


JUDGED = {
    "oracle": {"judge": "oracle", "itself": False, "selected": False},
    "mi": {"judge": f"small#1 {ATTACK}", "itself": True, "selected": True},
}


def judged_run(folder: Path) -> Path:
    """A run of one round that says who judged, how it was made, and selected by ``mi``."""
    make_run(folder, rounds=1)
    path = folder / "round-1/evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"judged_by": JUDGED}))
    made = {
        "command": f"mitune run 'name={ATTACK}'",
        "date": "2026-11-30T12:00:00+00:00",
        "version": "0.1.7",
        "device": "Card 24",
    }
    summary = folder / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"made": made}))
    return folder


def test_who_judged_and_how_it_was_made_stand_on_the_page_and_above_every_table(tmp_path: Path) -> None:
    text, page = read(write_report(judged_run(tmp_path)))
    words = " ".join(page.text.split())
    assert f"mitune run 'name={ATTACK}'" in words
    assert ATTACK not in text
    tables = text.split("<caption>")[1:]
    assert len(tables) == 5
    for caption in (table.split("</caption>")[0] for table in tables):
        assert "Judged by" in caption
        for fact in ("2026-11-30 12:00:00 UTC", "MI-Tune 0.1.7", "device Card 24", "model &lt;script"):
            assert fact in " ".join(caption.split())
    assert "Judged by the embedded world's oracle." in words
    assert f"Judged by the model itself (small#1 {ATTACK}), each picture by the model that drew it." in words
    assert "This score also selected what was trained on" in words
    assert f"contrast, of the model itself ({ATTACK})" in words


def test_few_prompts_are_said_to_be_few(report: tuple[str, Page]) -> None:
    assert "(8 prompts: the interval is wide)" in " ".join(report[1].text.split())


def test_a_column_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    make_run(tmp_path, rounds=1)
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text())
    for name in ("oracle_pool", "oracle_kept", "oracle_best"):
        summary["rounds"][0]["select"][name] = None
    path.write_text(json.dumps(summary))
    text, _ = read(write_report(tmp_path))
    made = text[text.index("What each round generated") : text.index("What it trained")]
    assert re.findall(r"<th scope=\"col\">(.*?)</th>", made) == [
        "round", "prompts", "candidates", "selected by", "k", "kept",
    ]  # fmt: skip
    assert "Share of the gain" not in text


def test_every_plot_is_explained(report: tuple[str, Page]) -> None:
    text, page = report
    plots = text.split('<div class="plots">')[1:]
    for part in plots:
        figures = part[: part.index("</div>")].split("<figure>")[1:]
        assert all(re.search(r"<figcaption>[^<]{80,}</figcaption>", figure) for figure in figures)
    assert len(page.all("source")) == 6  # two rounds of a loss and two scores


def test_every_prompt_has_its_gain_in_a_table(report: tuple[str, Page]) -> None:
    text, _ = report
    table = text[text.index("Every held-out prompt by its gain in oracle") :].split("</table>")[0]
    gains = [float(value) for value in re.findall(r"<td>\+(\d\.\d+)</td></tr>", table)]
    assert len(gains) == 8
    assert gains == sorted(gains, reverse=True)
    assert "&lt;script&gt;" in table


def test_of_very_many_prompts_both_ends_are_shown() -> None:
    before = pd.DataFrame({"prompt_id": range(500), "prompt": [f"p{n}" for n in range(500)], "mi": 0.0})
    table = prompt_table(before, before.assign(mi=np.arange(500.0)), "mi")
    assert table is not None
    assert (len(table["rows"]), table["left_out"]) == (2 * EACH, 500 - 2 * EACH)
    assert (table["rows"][0][0], table["rows"][-1][0]) == ("p499", "p0")
    assert prompt_table(before, before, "contrast") is None


def test_an_only_category_is_not_told_twice() -> None:
    row = {"mi": 1.0, "n": 4, "prompts": 4}
    rows = {"all": row, UNCATEGORISED: row}
    (table,) = score_tables({"before": rows, "after": rows}, [])
    assert [one["category"] for one in table["rows"]] == ["all"]
    assert "ci95" not in table["has"]
    (table,) = score_tables({"before": rows | {"b": row}, "after": rows | {"b": row}}, [])
    assert [one["category"] for one in table["rows"]] == ["all", UNCATEGORISED, "b"]


def test_what_judged_from_outside_and_did_not_select_leads() -> None:
    def by(itself: bool, selected: bool) -> dict[str, Any]:
        return {"judge": "x", "itself": itself, "selected": selected}

    judged = {
        "elbo": by(True, True),
        "mi": by(True, False),
        "pickscore": by(False, True),
        "clip": by(False, False),
    }
    assert leading_scores({"judged_by": judged}, "elbo")[2:] == ["clip", "mi", "elbo", "pickscore"]
    assert leading_scores({}, "contrast") == ["oracle", "exact", "contrast", "mi"]


def test_a_reward_that_may_be_hacked_is_said_at_the_head_of_the_page_and_in_its_round(tmp_path: Path) -> None:
    """What chose rises, and the oracle, which did not, falls; names in it are text."""
    pictures = list(torch.rand(16, 3, 16, 16))
    before, after = evaluation_table(0.4), evaluation_table(0.0).assign(mi=lambda rows: rows["mi"] + 1)
    watch = {
        "watch": lambda cells: watched(cells, ["mi"]) | {"said": f"{ATTACK} {watched(cells, ['mi'])['said']}"}
    }
    result = write_evaluation(tmp_path / "round-1", before, after, pictures, pictures, **watch)
    assert result["watch"]["hacked"]
    text, page = read(write_report(tmp_path))
    assert ATTACK not in text
    assert page.text.count("the reward may be hacked: what chose rises (mi +0.600") == 2
    assert [one for one in page.all("p") if one.get("role") == "alert"]
    calm = write_evaluation(
        tmp_path / "round-1", after, before, pictures, pictures, watch=lambda cells: watched(cells, ["mi"])
    )
    assert not calm["watch"]["hacked"]
    _, page = read(write_report(tmp_path))
    assert "Took no part in choosing: oracle" in page.text
    assert not [one for one in page.all("p") if one.get("role") == "alert"]
