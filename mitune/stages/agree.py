"""``agree``: candidates of many prompts, every score of each, and how well the scores agree with a referee."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig
from PIL import Image

from mitune.data.prompts import make_prompt
from mitune.data.store import KEYS, find_store, plan_units
from mitune.distributed import broadcast, state
from mitune.errors import UserError
from mitune.evaluate.agreement import agreement, markdown, places, plot, ranked
from mitune.evaluate.drawings import grid, png
from mitune.evaluate.judged import judged_by
from mitune.files import clean_partial, read_json, write_bytes, write_json, write_table, write_text
from mitune.information.scoring import check_judges
from mitune.reading import check_regular, home, is_folder, reading
from mitune.runs import RunFolder
from mitune.scores import columns, is_sum, scorers_of, sums
from mitune.stages.balancing import check_balance
from mitune.stages.candidates import Drawing, cost, decode_rows, draw, scored_table
from mitune.stages.inputs import check_tasks, load_model, prompt_pool, sampler_of, scoring_of, study_prompts
from mitune.stages.progress import say


def agree(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write ``agree/agreement.json``, ``.md``, ``.png``, ``ranks.png`` and ``scores.parquet`` in the run folder; gives
    the JSON.

    Raises UserError: scores that cannot be had, too few prompts, a table without them.
    """
    folder = run.root / "agree"
    scorers = list(config.agree.scorers)
    referee: str = config.agree.referee or ("oracle" if "oracle" in scorers else scorers[-1])
    if state().is_main_process:
        clean_partial(folder)
    read, show = (lambda: _read(config), None) if config.agree.source is not None else _draw(config, folder)
    by: str = config.agree.ranked_by or scorers[0]

    def finish() -> dict[str, Any]:
        table, forwards, spent, made = read()
        table = _with_sums(config, table, [*scorers, referee, by])
        study = agreement(
            table,
            list(dict.fromkeys([*scorers, referee])),
            referee,
            positions=config.agree.positions,
            fractions=config.agree.fractions,
            forwards=forwards,
            seed=config.seed,
            resamples=config.agree.resamples,
            ranked_by=config.agree.ranked_by,
        )
        named = judged_by(study["scores"], config.scorer.combined, made) if made else {}
        figures = study | spent | {"judged_by": named}
        write_table(folder / "scores.parquet", pa.Table.from_pandas(table, preserve_index=False))
        write_bytes(folder / "agreement.png", plot(figures))
        if show is not None and config.agree.examples:
            write_bytes(folder / "ranks.png", png(show(table, by, list(study["scores"]))))
        text = markdown(figures)
        write_text(folder / "agreement.md", text)
        write_json(folder / "agreement.json", figures)
        say(text.rstrip())
        say(f"figures and plot: {folder.resolve()}")
        return figures

    return broadcast(finish)


# Candidates with their scores, forwards a candidate by score, what was drawn and what it took, and which models judged
# (as ``model.json`` has them; nothing where a table does not say).
Found = tuple[pd.DataFrame, dict[str, float] | None, dict[str, Any], dict[str, Any]]


def _read(config: DictConfig) -> Found:
    path = home(config.agree.source)
    table = read_scores(path)
    store = find_store(path) if is_folder(path) else None
    return table, None, {}, _made(store.folder) if store is not None else {}


Show = Callable[[pd.DataFrame, str, list[str]], Image.Image]


def _draw(config: DictConfig, folder: Path) -> tuple[Callable[[], Found], Show]:
    """Draw the candidates, on all processes; gives what reads them, for one, and what shows those at some ranks."""
    settings, combined = config.agree, config.scorer.combined
    prompts = study_prompts(config, "agree")
    check_judges(settings.scorers, [prompt.text for prompt in prompts], "agree.scorers", config.scorer)
    check_balance(config, prompts)
    units = plan_units(prompts, settings.candidates, config.generate.rows_per_unit)
    denoiser = load_model(config)
    check_tasks(denoiser, prompts, config.prompts, "prompts")
    scoring = scoring_of(config, denoiser, settings.scorers, lambda: prompt_pool(config.prompts))
    how = Drawing(sampler_of(config, denoiser), scoring, config.seed, config.generate.batch_size)
    store = draw(folder / "candidates", units, how, title="agree")

    def read() -> Found:
        rows = sum(unit.rows for unit in units)
        took = cost(store)
        each = {name: forwards / rows for name, forwards in took.scorers.items()}
        forwards = {
            name: sum(each[scorer] for scorer in scorers_of([name], combined))
            for name in {*settings.scorers, *each, "exact"}
            if set(scorers_of([name], combined)) <= each.keys()
        }
        settled = {"guidance": config.sampler.guidance, "steps": config.sampler.steps}
        spent = {"model": denoiser.identity, **settled, **took.total}
        return scored_table(store), forwards, spent, _made(store.folder)

    def show(table: pd.DataFrame, by: str, names: list[str]) -> Image.Image:
        rows = _at_ranks(table, by, settings.positions, settings.examples)
        known = store.table()
        pictures = decode_rows(store, known.loc[rows.index], denoiser, config.generate.batch_size)
        return grid(pictures, _captions(rows, names), rows.groupby("prompt_id", sort=False).size().max())

    return read, show


def _at_ranks(table: pd.DataFrame, by: str, positions: Sequence[int], prompts: int) -> pd.DataFrame:
    """The candidates of the first prompts at the given ranks by a score, best first, with their ``rank``."""
    parts = []
    for _, rows in itertools.islice(table.groupby("prompt_id", sort=False), prompts):
        chosen = rows.iloc[ranked(rows[by].to_numpy(), positions)]
        parts.append(chosen.assign(rank=places(len(rows), positions)))
    return pd.concat(parts)


def _captions(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """What is written under each picture: its rank and scores, and under the first of a prompt the prompt, last, as a
    long one is cut."""
    first = ~rows["prompt_id"].duplicated()
    return [
        f"rank {row['rank']}; "
        + ", ".join(f"{name} {row[name]:.3g}" for name in names)
        + (f": {row['prompt']}" if new else "")
        for new, (_, row) in zip(first, rows.iterrows(), strict=True)
    ]


def _made(folder: Path) -> dict[str, Any]:
    """Which model drew and judged the candidates of a folder, and the other judges."""
    path = folder / "model.json"
    return read_json(path) if path.is_file() else {}


def read_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores: a parquet file with ``prompt_id``, or the captions, and a column a score; or a folder of
    candidates. Raises UserError for what is neither."""
    if is_folder(path):
        store = find_store(path)
        if store is None:
            raise UserError(
                f"agree.source={path}: no candidates there; give the folder candidates of a round"
            )
        return scored_table(store)
    check_regular(path, f"agree.source={path}")
    with reading(f"agree.source={path} is not a readable parquet table: it"):
        table = pq.read_table(path).to_pandas()
    if "prompt_id" not in table:
        text = next((name for name in ("text", "prompt", "caption") if name in table), None)
        if text is None:
            raise UserError(
                f"agree.source={path} has no column prompt_id or text to tell the prompts apart; it has"
                f" {', '.join(map(str, table.columns))}"
            )
        table = table.assign(prompt_id=[make_prompt(str(value)).id for value in table[text]])
    return table


def _with_sums(config: DictConfig, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The weighted sums asked for, where the table has their parts."""
    combined = config.scorer.combined
    wanted = [name for name in dict.fromkeys(names) if is_sum(name) and name not in table]
    for name in wanted:
        missing = [part for part in columns([name], combined) if part not in table]
        if missing:
            there = [str(other) for other in table.columns if other not in KEYS]
            raise UserError(f"agree: {name} needs the score '{missing[0]}'; the table has {', '.join(there)}")
    return table.assign(**sums(table, wanted, combined, table["prompt_id"]))
