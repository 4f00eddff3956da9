"""Turn a run folder into ``report.html``: one self-contained page, no script, no link to the outside.

Every part of a run may be missing (a run that has only generated so far): what is there is shown.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.resources
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from PIL import Image

import mitune
from mitune.config import ScorerConfig, read_settings
from mitune.data.decoding import open_picture
from mitune.errors import UserError
from mitune.evaluate.categories import score_columns
from mitune.evaluate.drawings import curve, histogram
from mitune.evaluate.tables import bounds, figure
from mitune.files import read_json, write_text
from mitune.reading import is_file, is_number, read_bytes
from mitune.scores import meaning
from mitune.stages.catalogue import ROUND
from mitune.track import METRICS, read_metrics, without_secrets

_ROUND = re.compile(r"round-(\d+)")
_LARGEST = 256  # side of a picture on the page; larger ones are reduced, or the page would weigh 100 MB
_COUNTS = ("n", "prompts")


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
    rounds = [
        _round(number, numbers.get(number), written.get(number) or _marks(numbers.get(number)), folder)
        for number in sorted(numbers.keys() | written.keys())
    ]
    page = _template().render(
        version=mitune.__version__,
        name=folder.resolve().name,
        summary=summary,
        rounds=rounds,
        headline=_headline(rounds, summary.get("scorer")),
        configuration=_configuration(folder / "config.yaml"),
        meaning=_meanings(folder / "config.yaml", rounds),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _template() -> jinja2.Template:
    """The page's template; everything put into it is escaped (autoescape), a missing name is an error
    (StrictUndefined)."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "bounds": bounds, "duration": duration, "count": count}
    source = (
        importlib.resources.files("mitune.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    )
    return environment.from_string(source)


def duration(seconds: float | None) -> str:
    """Write seconds as a person says them: ``7.5 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(value: float | None) -> str:
    """Write a whole number with its thousands set apart by narrow spaces."""
    return "–" if value is None else f"{int(value):,}".replace(",", "\u202f")


def _round(number: int, folder: Path | None, entry: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Everything the page shows of one round."""
    evaluation: Mapping[str, Any] = _json(folder / "evaluation.json", {}) if folder else {}
    evaluation = evaluation or entry.get("evaluate") or {}
    candidates = _json(folder / "candidates_examples.json", []) if folder else []
    return {
        "number": number,
        **{stage: _with_default(entry.get(stage)) for stage in ("generate", "select", "train")},
        "selection_gain": selection_gain(entry.get("select") or {}),
        "tables": _score_tables(evaluation, (entry.get("select") or {}).get("by")),
        "diversity": _with_default(evaluation.get("diversity")),
        "examples": [_example(example, folder, run) for example in evaluation.get("examples", []) if folder],
        "candidates": [_candidates(example, folder, run) for example in candidates if folder],
        "loss": _loss(read_metrics(folder / METRICS)) if folder else None,
        "histograms": _histograms(folder / "evaluation.parquet") if folder else [],
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


def selection_gain(select: Mapping[str, Any]) -> float | None:
    """Compute the share of the possible lift that selection reached: (kept − pool) / (best − pool)."""
    pool, kept, best = (select.get(f"oracle_{name}") for name in ("pool", "kept", "best"))
    if pool is None or kept is None or best is None or best <= pool:
        return None
    return (kept - pool) / (best - pool)


def _score_tables(evaluation: Mapping[str, Any], chosen: str | None) -> list[dict[str, Any]]:
    """A table a score: rows by category with before, after, difference and its place on a common scale.

    The oracle's come first, then the score that selected (``chosen``), then ``mi`` and the others.
    """
    before, after = evaluation.get("before") or {}, evaluation.get("after") or {}
    difference = evaluation.get("difference") or {}
    everything = before.get("all") or after.get("all") or {}
    names = [
        name for name, value in everything.items() if name not in _COUNTS and isinstance(value, (int, float))
    ]
    leading = [name for name in ("oracle", "exact", chosen) if name in names]
    tables = []
    for name in dict.fromkeys([*leading, *names]):
        rows = []
        for category in dict.fromkeys([*before, *after]):
            old, new = before.get(category, {}), after.get(category, {})
            change = (difference.get(category) or {}).get(name) or {}
            value = change.get("difference")
            if value is None and old.get(name) is not None and new.get(name) is not None:
                value = new[name] - old[name]
            rows.append(
                {
                    "category": category,
                    "n": (new or old).get("n"),
                    "before": old.get(name),
                    "before_ci95": _interval(old, name),
                    "after": new.get(name),
                    "after_ci95": _interval(new, name),
                    "difference": value,
                    "ci95": change.get("ci95"),
                    "verdict": _verdict(change.get("ci95")),
                }
            )
        tables.append({"score": name, "rows": _placed(rows)})
    return tables


def _interval(row: Mapping[str, Any], name: str) -> list[float] | None:
    return (row.get("ci95") or {}).get(name) or row.get(f"{name}_ci95")


def _verdict(interval: list[float] | None) -> str:
    """ "up" or "down" where the whole interval is on one side of zero, else "level"; "" without an
    interval."""
    if interval is None:
        return ""
    return "up" if interval[0] > 0 else "down" if interval[1] < 0 else "level"


def _placed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ``bar`` = (low, value, high) in percent of a common axis with zero at 50, for the small interval plot."""
    reach = max((abs(bound) for row in rows if row["ci95"] for bound in row["ci95"]), default=0.0)
    for row in rows:
        points = [row["ci95"][0], row["difference"], row["ci95"][1]] if row["ci95"] and reach > 0 else None
        row["bar"] = points and [round(50 + 47 * point / reach, 2) for point in points]
    return rows


def _headline(rounds: Iterable[Mapping[str, Any]], scorer: str | None) -> dict[str, Any] | None:
    """The last evaluated round's leading figures: the oracle's where there is one, else the chosen scorer's."""
    evaluated = [entry for entry in rounds if entry["tables"]]
    if not evaluated:
        return None
    last = evaluated[-1]
    overall = {table["score"]: table["rows"][0] for table in last["tables"]}
    leading = next((name for name in ("oracle", scorer, "mi") if name in overall), next(iter(overall)))
    others = [name for name in ("exact", "mi", scorer) if name in overall and name != leading]
    return {
        "round": last["number"],
        "score": leading,
        "scores": [(name, overall[name]) for name in dict.fromkeys([leading, *others])],
        "diversity": last["diversity"],
    }


def _example(example: Mapping[str, Any], folder: Path | None, run: Path) -> dict[str, Any]:
    """A before/after pair with its pictures read in."""
    return {
        "prompt": example.get("prompt", ""),
        "category": example.get("category", ""),
        "pictures": [
            {
                "side": side,
                "data": _picture(folder, example.get(side), run),
                "scores": example.get(f"scores_{side}") or {},
            }
            for side in ("before", "after")
        ],
    }


def _candidates(example: Mapping[str, Any], folder: Path | None, run: Path) -> dict[str, Any]:
    """The best and worst candidates of a prompt with their pictures read in."""
    return {
        "prompt": example.get("prompt", ""),
        "sides": [
            {
                "side": side,
                "pictures": [
                    {"data": _picture(folder, entry.get("picture"), run), "scores": entry.get("scores") or {}}
                    for entry in example.get(side) or []
                ],
            }
            for side in ("best", "worst")
        ],
    }


def _picture(folder: Path | None, relative: str | None, run: Path) -> str | None:
    """A picture of the round as a data URI, reduced to the size it is shown at; None where it is not to be had.

    Only files inside the run folder are read: a run folder from somebody else must not draw other files into the page.
    """
    if folder is None or not relative:
        return None
    path = (folder / relative).resolve()
    if not path.is_relative_to(run.resolve()) or not path.is_file():
        return None
    try:
        picture = open_picture(read_bytes(path), str(path))
    except UserError:
        return None
    buffer = io.BytesIO()
    if max(picture.size) <= _LARGEST:
        picture.save(buffer, "PNG", optimize=True)
        return _data_uri(buffer.getvalue(), "png")
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=88)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _themes(draw: Callable[[bool], bytes]) -> dict[str, str]:
    """A drawing as data URIs, for a light and for a dark page."""
    return {"light": _data_uri(draw(False), "png"), "dark": _data_uri(draw(True), "png")}


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


def _histograms(path: Path) -> list[dict[str, Any]]:
    """Distributions of every score but ``exact`` (two bars tell no more than its mean), before and after."""
    if not is_file(path):
        return []
    table: pd.DataFrame = pq.read_table(path).to_pandas()
    before, after = table[table["model"] == "before"], table[table["model"] == "after"]
    names = [name for name in score_columns(table) if name != "exact"]
    drawings = []
    for name in sorted(names, key=lambda name: name != "mi"):
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


def _meanings(path: Path, rounds: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the scores in the tables are, by the run's own settings (the defaults where it left none)."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(ScorerConfig))
    if path.exists():
        own = read_settings(path).get("scorer") or {}
        settings = OmegaConf.to_container(OmegaConf.merge(settings, own), resolve=False)
    names = [table["score"] for entry in rounds for table in entry["tables"]]
    return {name: said for name in names if (said := meaning(name, settings)) is not None}


def _json(path: Path, default: Any) -> Any:
    return read_json(path) if path.exists() else default
