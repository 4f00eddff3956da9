"""``score``: how well any pictures go with their captions; a table beside them, and the best share as a dataset."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from omegaconf import DictConfig

from mitune.data.dataset import encode_png
from mitune.data.pictures.loading import load_pictures
from mitune.data.pictures.rows import Pictures, prompts_of
from mitune.data.pictures.writing import write_pictures, written_here
from mitune.data.prompts import load_prompts
from mitune.distributed import broadcast, state
from mitune.errors import UserError
from mitune.evaluate.judged import caption, judged_by
from mitune.files import PARTIAL, check_writable, read_json, user_errors, write_json, write_tables
from mitune.information.mi import measure_profile
from mitune.information.scoring import Scoring, check_judges, check_no_path, check_normalised
from mitune.reading import home, is_there
from mitune.runs import RunFolder
from mitune.scores import PATH_SCORERS, SCORES, columns, scorers_of, sums
from mitune.stages.first_look import table_path
from mitune.stages.inputs import POOL, check_lengths, check_pictures, load_model, read_profile, scoring_of
from mitune.stages.picture_scores import ScoredPictures
from mitune.stages.progress import say

SCHEMA = 1
PORTION = 2**17  # rows of the table that are put into words at a time
_WORK = "-work"  # the end of the name of a working folder that cannot be named like its table
PROFILED = 48  # pictures that a profile is measured on


def score_folder(config: DictConfig) -> Path:
    """Name the folder that a score command works in: its table's name without the ending.

    Where that is the source itself, another beside it, one for each choice of its pictures: nothing is ever written
    among the user's own files, where it would be read as a part of the source.
    """
    settings, path = config.score, table_path(config)
    folder = path.with_suffix("")
    if os.path.realpath(folder) != os.path.realpath(home(settings.source)):
        return folder
    choice = repr((settings.split, settings.image_column, settings.text_column))
    return path.with_name(f"{path.stem}{_WORK}") / hashlib.sha256(choice.encode()).hexdigest()[:8]


def _written_here(path: Path, root: Path) -> bool:
    """Whether the table was written by the command that works in ``root``, or for another choice of its pictures."""
    beside = root.parent.glob("*/plan.json") if root.parent.name == f"{path.stem}{_WORK}" else ()
    return (root / "plan.json").exists() or any(beside)


def score(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write the table of scores, ``score.json`` and the filtered dataset; gives what ``score.json`` says.

    Raises UserError: no source, a score that pictures cannot get, bad rows (unless ``score.skip``).
    """
    settings = config.score
    pictures = load_pictures(
        settings.source,
        split=settings.split,
        image_column=settings.image_column,
        text_column=settings.text_column,
        limit=settings.limit,
        skip=settings.skip,
        seed=config.seed,
        outside=settings.outside,
        caption=settings.caption,
    )
    by = check(config, pictures)
    path = table_path(config)
    if state().is_main_process and path.exists() and (path.is_dir() or not _written_here(path, run.root)):
        raise UserError(
            f"{path} exists and was not written by mitune score; move it away, or choose another score.out="
        )
    if state().is_main_process and settings.top_fraction is not None:
        _check_top(_top_folder(config), run.root / "top")
    work = ScoredPictures(run.root, pictures, settings.rows_per_unit)
    if settings.profile is not None:
        if is_there(home(settings.profile)):
            read_profile(settings.profile, "score.profile")  # nothing but an older one is replaced
        if state().is_main_process:
            check_writable(home(settings.profile))
    judge = functools.cache(lambda: _judge(config, pictures))
    work.score(judge, config.seed, settings.batch_size, settings.skip)

    def finish() -> dict[str, Any]:
        combined = config.scorer.combined
        table = work.table()
        captions = pd.factorize(pd.Series([pictures.texts[row] for row in table["row"]], dtype=object))[0]
        table = table.assign(**sums(table, [*settings.scorers, by], combined, captions))
        fresh = run.root / "scores.parquet"
        write_tables(fresh, _portions(work, table))
        _settle(fresh, path)
        names, made = list(settings.scorers), read_json(run.root / "model.json")
        figures = {
            "schema": SCHEMA,
            "source": pictures.where,
            "model": made["model"],
            "judged_by": judged_by([name for name in names if name not in pictures.scores], combined, made),
            "table": str(path),
            "pictures": len(table),
            **work.report(table),
            **asdict(work.cost()),
            "scores": {
                name: {"mean": float(values.mean()), "low": float(values.min()), "high": float(values.max())}
                for name in names
                for values in [table[name].to_numpy(dtype=np.float64)]
            },
        }
        if settings.top_fraction is not None:
            figures["top"] = _write_top(config, run, work, table, by)
        if settings.profile is not None:
            figures["profile"] = _write_profile(config, work, judge()[0])
        write_json(run.root / "score.json", figures)
        _say(figures)
        return figures

    return broadcast(finish)


def _portions(work: ScoredPictures, table: pd.DataFrame) -> Iterator[pa.Table]:
    """The table of scores, so many rows at a time with their names and captions."""
    for start in range(0, len(table), PORTION):
        rows = work.described(table.iloc[start : start + PORTION])
        yield pa.Table.from_pandas(rows, preserve_index=False)


def check(config: DictConfig, pictures: Pictures) -> str:
    """Check that the scores asked for can be had; gives the score that filters. Raises UserError."""
    settings, combined = config.score, config.scorer.combined
    check_no_path(settings.scorers, "score.scorers", combined, there=list(pictures.scores))
    prompts = list(dict.fromkeys(pictures.texts))
    check_judges(settings.scorers, prompts, "score.scorers", config.scorer)
    check_normalised(settings.scorers, pictures.texts, "score.scorers", combined)
    by = settings.by or settings.scorers[0]
    there = {*settings.scorers, *pictures.scores, *columns(settings.scorers, combined)}
    if by not in there and not set(columns([by], combined)) <= there:
        more = ",".join([*settings.scorers, by])
        raise UserError(f"score.by={by}: the pictures do not get this score; add it: score.scorers=[{more}]")
    return by


def _judge(config: DictConfig, pictures: Pictures) -> tuple[Any, Scoring]:
    """The model and the scores that it gives; those of the sampler's path are known already."""
    settings = config.score
    denoiser = load_model(config, home(settings.adapter) if settings.adapter else None)
    check_lengths(denoiser, prompts_of(pictures), config.prompts, "prompts")

    def pool() -> list[str]:
        more = load_prompts(settings.pool, limit=POOL) if settings.pool is not None else []
        return [*list(dict.fromkeys(pictures.texts))[:POOL], *(prompt.text for prompt in more)]

    names = [
        name for name in scorers_of(settings.scorers, config.scorer.combined) if name not in PATH_SCORERS
    ]
    scoring = scoring_of(config, denoiser, names, pool, settings.batch_size)
    if settings.profile is not None or any(SCORES[name].where == "latent" for name in names):
        made = [None] * len(pictures) if pictures.made_from is None else pictures.made_from
        rows = {line: row for row, line in enumerate(made)}.values()
        check_pictures(
            denoiser,
            [pictures.task(row) for row in rows],
            f"score.source={settings.source}",
            "score candidates that such a model drew (a folder RUN/round-1/candidates), or say model= of one that takes"
            " a text alone",
            "say model= of the one that edits pictures",
        )
    return denoiser, scoring


def _settle(fresh: Path, place: Path) -> None:
    """Move what was made in the working folder beside it, in the place of an older one.

    Nothing half-written ever lies in the user's own folder: what a kill leaves is in the working folder, and is
    cleaned there.
    """
    with user_errors(place):
        if place.is_dir():
            aside = fresh.with_name(f"{PARTIAL}{place.name}")
            os.replace(place, aside)
            os.replace(fresh, place)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(fresh, place)


def _top_folder(config: DictConfig) -> Path:
    path = table_path(config)
    return path.with_name(f"{path.stem.removesuffix('-scores')}-top-{config.score.top_fraction:g}")


def _check_top(*folders: Path) -> None:
    """Raises UserError for a folder that would be replaced, and holds what no score command wrote."""
    for folder in folders:
        if folder.exists() and not written_here(folder):
            raise UserError(
                f"{folder} exists and was not written by mitune score; move it away, or choose another score.out="
            )


def _write_top(
    config: DictConfig, run: RunFolder, work: ScoredPictures, table: pd.DataFrame, by: str
) -> dict[str, Any]:
    """The best share of the pictures by one score, as a dataset beside the table; gives what was written. Candidates
    that left a race of passes before they had this score are not among them. UserError where none has it."""
    fraction, folder, pictures = config.score.top_fraction, _top_folder(config), work.pictures
    _check_top(folder, run.root / "top")
    count = max(1, round(fraction * len(table)))
    best = table[np.isfinite(table[by].to_numpy(dtype=np.float64))]
    if not len(best):
        raise UserError(f"score.by={by}: no picture of {pictures.where} has this score; choose another")
    best = best.sort_values([by, "row"], ascending=[False, True], kind="stable").head(count)
    best = work.described(best).rename(columns={"image": "name"})
    rows = best["row"].tolist()
    order = None
    if pictures.latents is not None:
        denoiser, latents = load_model(config), pictures.latents

        def contents(place: int) -> bytes:
            return encode_png(denoiser.decode(latents([rows[place]]))[0])

    else:
        assert pictures.read is not None
        read = pictures.read

        def contents(place: int) -> bytes:
            return read(rows[place])

        order = sorted(range(len(rows)), key=rows.__getitem__)
    write_pictures(run.root / "top", best, contents, order)
    _settle(run.root / "top", folder)
    return {
        "by": by,
        "fraction": fraction,
        "pictures": len(best),
        "lowest": float(best[by].iloc[-1]),
        "dataset": str(folder),
    }


def _write_profile(config: DictConfig, work: ScoredPictures, denoiser: Any) -> str:
    """Where over time the information of the first pictures is, as ``scorer.profile`` takes it; gives the file."""
    path = home(config.score.profile)
    pictures = work.pictures
    with denoiser.fused():
        rows, latents, _, _ = work.open(list(range(len(pictures)))[:PROFILED], denoiser, config.score.skip)
        if not rows:
            raise work.none_opened(
                f"score.profile: none of the first {PROFILED} pictures of {pictures.where} decodes"
            )
        seeds = work.seeds(config.seed)
        profile = measure_profile(
            denoiser,
            latents,
            denoiser.encode([pictures.task(row) for row in rows]),
            [seeds[row] for row in rows],
            batch_size=config.score.batch_size,
        )
    origin = {"model": denoiser.identity, "source": pictures.where, "pictures": len(rows)}
    write_json(path, {**asdict(profile), **origin})
    return str(path)


def _say(figures: dict[str, Any]) -> None:
    rate = figures["pictures"] / max(figures["seconds"], 1e-9)
    say(
        f"scored {figures['pictures']} pictures of {figures['source']} in {figures['seconds']:.0f} s"
        f" ({rate:.1f} pictures/s, {figures['forwards']} forwards)"
    )
    for name, values in figures["scores"].items():
        say(f"  {name}: mean {values['mean']:.4g}, from {values['low']:.4g} to {values['high']:.4g}")
    if said := caption(figures["judged_by"]):
        say(said)
    say(f"table: {Path(figures['table']).resolve()}")
    if "profile" in figures:
        say(f"profile: {Path(figures['profile']).resolve()}")
    if "top" in figures:
        top = figures["top"]
        say(f"the best {top['pictures']} by {top['by']}: {Path(top['dataset']).resolve()}")
