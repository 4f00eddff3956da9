"""Turn a run folder into ``report.html``: one self-contained page, no script, no link to the outside.

Every part of a run may be missing (a run that has only generated so far, or one of an earlier version): what is there
is shown.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq
from omegaconf import OmegaConf

import mitune
from mitune.config import ScorerConfig, read_settings
from mitune.errors import UserError
from mitune.evaluate.categories import IDENTITY, score_columns
from mitune.evaluate.drawings import curve, histogram
from mitune.evaluate.judged import judge_in_words, judged_by, judges_in_words
from mitune.evaluate.tables import bounds, figure
from mitune.files import read_json, write_text
from mitune.reading import is_file, is_number
from mitune.report import figures, pictures
from mitune.scores import meaning
from mitune.stages.catalogue import ROUND
from mitune.track import METRICS, read_metrics, without_secrets

_ROUND = re.compile(r"round-(\d+)")
_SHOWN = ("model", "prompt_id", "prompt")  # of the table of held-out pictures, beside their scores


def write_report(run_folder: str | Path) -> Path:
    """Write ``<run_folder>/report.html`` from what the run has left there, atomically, and return its path.

    Reads ``summary.json``, ``config.yaml`` and, in each ``round-N/``, ``metrics.jsonl``, ``evaluation.json``,
    ``evaluation.parquet`` and ``candidates_examples.json``. Raises UserError when the folder holds no run.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the run folder with run=")
    summary = _json(folder / "summary.json", {})
    numbers = {int(match[1]): path for path in folder.iterdir() if (match := _ROUND.fullmatch(path.name))}
    if not summary and not numbers:
        raise UserError(
            f"{folder} holds no run (no summary.json, no round-1/); run `mitune run run={folder}` first"
        )
    written = {entry.get("round"): entry for entry in summary.get("rounds", [])}
    chosen = summary.get("scorer")
    rounds = [
        _round(
            number, numbers.get(number), written.get(number) or _marks(numbers.get(number)), folder, chosen
        )
        for number in sorted(numbers.keys() | written.keys())
    ]
    page = template("template.html.j2").render(
        version=mitune.__version__,
        name=folder.resolve().name,
        made=summary.get("made") or {},
        facts=_facts(summary, rounds, _scorer(folder / "config.yaml").get("combined", "")),
        rounds=rounds,
        chosen=chosen,
        round_tables=figures.round_tables(rounds),
        headline=figures.headline(rounds),
        configuration=_configuration(folder / "config.yaml"),
        meaning=_meanings(_scorer(folder / "config.yaml"), rounds),
        sorts=pictures.SORTS + 1,
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def template(name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """Load the template of a page, with further filters; everything put into it is escaped (autoescape), a missing name
    is an error (StrictUndefined)."""
    own = importlib.resources.files("mitune.report")
    names = (name, "style.css.j2")
    sources = {name: own.joinpath(name).read_text(encoding="utf-8") for name in names}
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.DictLoader(sources),
    )
    environment.filters |= {
        "figure": figure,
        "bounds": bounds,
        "duration": figures.duration,
        "count": figures.count,
        **filters,
    }
    return environment.get_template(name)


def _facts(
    summary: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], combined: str
) -> list[tuple[str, str]]:
    """What stands at the head of the page, as (name, text); what is not known is left out."""
    made = summary.get("made") or {}
    judges: list[str] = next((entry["judges"] for entry in reversed(rounds) if entry["judges"]), [])
    found = [
        ("model", summary.get("model")),
        ("judged by", "; ".join(judges) or None),
        ("selected by", _chooser(summary, combined)),
        ("seed", summary.get("seed")),
        ("date", str(made["date"]).replace("T", " ").replace("+00:00", " UTC") if "date" in made else None),
        ("MI-Tune", made.get("version")),
        ("device", made.get("device")),
        ("network forwards", figures.count(summary["forwards"]) if "forwards" in summary else None),
        ("time", figures.duration(summary["seconds"]) if "seconds" in summary else None),
    ]
    return [(name, str(value)) for name, value in found if value is not None]


def _chooser(summary: Mapping[str, Any], combined: str) -> str | None:
    """The score that selected, and whose it is."""
    name = summary.get("scorer")
    entry = judged_by([str(name)], combined, {"model": summary.get("model", "")}).get(str(name))
    return name if name is None or entry is None else f"{name}, of {judge_in_words(entry)}"


def _round(
    number: int, folder: Path | None, entry: Mapping[str, Any], run: Path, chosen: str | None
) -> dict[str, Any]:
    """Everything the page shows of one round."""
    evaluation: Mapping[str, Any] = _json(folder / "evaluation.json", {}) if folder else {}
    evaluation = evaluation or entry.get("evaluate") or {}
    candidates = _json(folder / "candidates_examples.json", []) if folder else []
    leading = figures.leading_scores(evaluation, (entry.get("select") or {}).get("by") or chosen)
    tables = figures.score_tables(evaluation, leading)
    named = [table["score"] for table in tables]
    examples = [pictures.example(one, folder, run) for one in evaluation.get("examples", []) if folder]
    return {
        "number": number,
        **{stage: _with_default(entry.get(stage)) for stage in ("generate", "select", "train")},
        "selection_gain": figures.selection_gain(entry.get("select") or {}),
        "tables": tables,
        "judges": judges_in_words(evaluation.get("judged_by") or {}),
        "watch": evaluation.get("watch"),
        "diversity": _with_default(evaluation.get("diversity")),
        "examples": examples,
        "orders": pictures.in_order(examples, named),
        "candidates": [pictures.candidates(one, folder, run) for one in candidates if folder],
        "loss": _loss(read_metrics(folder / METRICS)) if folder else None,
        **_of_pictures(folder / "evaluation.parquet" if folder else None, named),
    }


def _marks(folder: Path | None) -> dict[str, Any]:
    """What the finished stages of a round noted, which no summary has yet: a damaged note is left out."""
    found = {}
    for stage in ROUND if folder else ():
        with contextlib.suppress(UserError):
            found[stage] = read_json(folder / "done" / f"{stage}.json")  # type: ignore[operator]
    return {stage: figures for stage, figures in found.items() if isinstance(figures, dict)}


class _Figures(dict[str, Any]):
    """A mapping in which what was not measured is None."""

    def __missing__(self, key: str) -> None:
        return None


def _with_default(mapping: Mapping[str, Any] | None) -> _Figures:
    return _Figures(mapping or {})


def _themes(draw: Callable[[bool], bytes]) -> dict[str, str]:
    """A drawing as data URIs, for a light and for a dark page."""
    return {
        "light": pictures.data_uri(draw(False), "png"),
        "dark": pictures.data_uri(draw(True), "png"),
    }


def _loss(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The training curve: every row of stage "train" with a loss."""
    points = [
        (row["step"], row["loss"]) for row in rows if row["stage"] == "train" and is_number(row.get("loss"))
    ]
    if not points:
        return None
    steps, losses = zip(*points, strict=True)
    drawings = _themes(lambda dark: curve({"loss": (steps, losses)}, "step", "training loss", dark))
    return {**drawings, "first": losses[0], "last": losses[-1], "steps": len(points)}


def _of_pictures(path: Path | None, leading: Sequence[str]) -> dict[str, Any]:
    """What the table of all held-out pictures says: each prompt's gain, and how the scores are spread."""
    if path is None or not is_file(path):
        return {"prompt_table": None, "histograms": []}
    wanted = [name for name in pq.read_schema(path).names if name in _SHOWN or name not in IDENTITY]
    table: pd.DataFrame = pq.read_table(path, columns=wanted).to_pandas()
    before, after = table[table["model"] == "before"], table[table["model"] == "after"]
    by_prompt = figures.prompt_table(before, after, leading[0]) if leading else None
    return {
        "prompt_table": by_prompt,
        "histograms": _histograms(before, after, score_columns(table), leading),
    }


def _histograms(
    before: pd.DataFrame, after: pd.DataFrame, names: Sequence[str], leading: Sequence[str]
) -> list[dict[str, Any]]:
    """Distributions of every score but ``exact`` (two bars tell no more than its mean), before and after."""
    drawings = []
    for name in (name for name in dict.fromkeys([*leading, *names]) if name in names and name != "exact"):
        old, new = before[name].dropna(), after[name].dropna()
        if len(old) and len(new):
            themes = _themes(functools.partial(histogram, old, new, name))
            drawings.append({"score": name, "before": old.mean(), "after": new.mean(), **themes})
    return drawings


def _configuration(path: Path) -> str | None:
    """The resolved configuration as YAML without its secrets."""
    if not path.exists():
        return None
    return OmegaConf.to_yaml(OmegaConf.create(without_secrets(read_settings(path))))


def _scorer(path: Path) -> Mapping[str, Any]:
    """The run's own settings of the scores (the defaults where it left none)."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(ScorerConfig))
    if path.exists():
        own = read_settings(path).get("scorer") or {}
        settings = OmegaConf.to_container(OmegaConf.merge(settings, own), resolve=False)
    return settings


def _meanings(settings: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the scores in the tables are, by ``settings``."""
    names = [table["score"] for entry in rounds for table in entry["tables"]]
    return {name: said for name in names if (said := meaning(name, settings)) is not None}


def _json(path: Path, default: Any) -> Any:
    return read_json(path) if path.exists() else default
