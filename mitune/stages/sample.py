"""``sample``: pictures of prompts, plain, the best of many, or steered; a folder of PNG files with their scores."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from mitune.config import flatten, read_saved
from mitune.config.keys import keys
from mitune.data.prompts import make_prompt
from mitune.data.selection import parts_among, select
from mitune.data.store import KEYS, LATENT_ROW, PICTURE, ROOT, UNIT, plan_units
from mitune.distributed import broadcast
from mitune.errors import UserError
from mitune.evaluate.drawings import grid, png, to_image
from mitune.evaluate.judged import caption, judged_by
from mitune.files import LOCK, at_work, atomic_folder, write_bytes, write_json
from mitune.information.scoring import check_judges
from mitune.reading import home, is_file, is_folder, is_there, read_json
from mitune.runs import RunFolder
from mitune.scores import INFORMATION, SCORES, scorers_of
from mitune.stages.balancing import check_balance
from mitune.stages.candidates import Drawing, cost, draw, each_picture
from mitune.stages.catalogue import STAGES, covers
from mitune.stages.inputs import (
    check_lengths,
    check_pictures,
    load_model,
    prompt_pool,
    read_prompts,
    round_adapter,
    sampler_of,
    scoring_of,
)
from mitune.stages.progress import say
from mitune.stages.search import check_search, search_of
from mitune.tasks import Task

_NUMBERED = "{:03d}"
SHEET = 64  # pictures on the sheet
_WRITTEN = re.compile(r"\d{6,}\.png|metadata\.jsonl")  # what lies in the folder of pictures


def sample_folder(config: DictConfig) -> Path:
    """Name the folder that a sample command writes: ``sample.out``, or a numbered one in ``samples`` of the run folder.

    The same command goes on in the folder where it was; any other has one of its own, so nothing is in its way.
    """
    return numbered_folder(config, "sample", "samples")


def numbered_folder(config: DictConfig, stage: str, beside: str) -> Path:
    """Name the folder of a command of ``stage``: its key ``out``, or a numbered one in ``beside`` of the run folder."""
    if config[stage].out is not None:
        return home(config[stage].out)
    place, own = home(config.run) / beside, _asked(stage, flatten(config))
    numbers = sorted(int(path.name) for path in place.glob("[0-9]*") if path.name.isdecimal())
    taken = 0
    for number in numbers:
        folder = place / _NUMBERED.format(number)
        saved = folder / "config.yaml"
        # What cannot be read is somebody else's, or harmed: it is left alone.
        with contextlib.suppress(UserError):
            if is_file(saved) and _asked(stage, read_saved(saved)) == own:
                return folder
        # A command that was refused leaves nothing, or its configuration alone.
        left = {path.name for path in folder.iterdir()} if is_folder(folder) else {""}
        if left - {LOCK, "config.yaml"} or at_work(folder):
            taken = number
    return place / _NUMBERED.format(taken + 1)


def settled(config: DictConfig) -> dict[str, Any]:
    """Tell what ``sample.round`` stands for where it is not given: the last round that the run has trained on this
    model, or 0, the base model."""
    return last_round(config, "sample")


def last_round(config: DictConfig, stage: str) -> dict[str, Any]:
    """Tell what the key ``round`` of ``stage`` stands for, as :func:`settled`."""
    if config[stage].round is not None:
        return {}
    saved = home(config.run) / "config.yaml"
    own = is_file(saved) and read_saved(saved).get("model.path") == config.model.path
    return {f"{stage}.round": max(RunFolder(config.run).trained(), default=0) if own else 0}


def _asked(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the pictures of one command from those of another."""
    binds = f"{STAGES[stage].binds} {stage}.round edit.pairs"
    return {name: values.get(name, one.default) for name, one in keys().items() if covers(binds, name)}


def sample(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write ``pictures`` (PNG files with ``metadata.jsonl``: a folder that ``score`` and ``datasets`` read),
    ``sheet.png`` and ``sample.json``; gives what this says. ``run``: the folder of :func:`sample_folder`.

    Raises UserError: scores that these pictures cannot get, more pictures than are drawn, a search that cannot be.
    """
    prompts = _prompts(config)
    by, drawn, names = check(config, prompts)
    number = config.sample.round or 0
    adapter = round_adapter(RunFolder(config.run), number) if number else None
    units = plan_units(prompts, drawn, config.generate.rows_per_unit)
    denoiser = load_model(config, adapter)
    column = "a table of prompts and pictures as prompts.source, with prompts.picture_column="
    given = config.sample.prompt is not None
    missing = f"leave it out, and give {column}" if given else ""
    check_pictures(denoiser, prompts, "sample.prompt" if given else "prompts", missing)
    check_lengths(denoiser, prompts, config.prompts, "prompts")

    def pool() -> list[str]:
        """Edits are looked for in the source too, however few prompts are drawn."""
        more = prompt_pool(config.prompts) if config.prompts.source else []
        return [*(prompt.text for prompt in prompts), *more]

    with denoiser.fused():
        how = Drawing(
            sampler_of(config, denoiser),
            scoring_of(config, denoiser, names, pool),
            config.seed,
            batch_size=config.generate.batch_size,
            search=search_of(config, denoiser),
        )
        store = draw(run.root / "candidates", units, how, title="sample")

    def finish() -> dict[str, Any]:
        there = store.columns()
        read = ["prompt_id", "prompt", "candidate", UNIT, *_chosen_from(there, by)]
        found = store.table(columns=read)
        table = store.whole(choose(found, by, config.sample.pictures, config.seed))
        pictures = each_picture(store, table, denoiser, config.generate.batch_size)
        scores = [name for name in there if name not in (*KEYS, PICTURE, UNIT, LATENT_ROW)]
        first = _write(run.root / "pictures", table, pictures, scores)
        texts = table["prompt"][:SHEET]
        captions = texts.where(texts != texts.shift(), "").tolist()  # under the first picture of a prompt
        sheet = grid(first, captions, config.sample.pictures)
        write_bytes(run.root / "sheet.png", png(sheet))
        spent = cost(store)
        figures: dict[str, Any] = {
            "schema": 1,
            "model": denoiser.identity,
            "prompts": len(prompts),
            "drawn": len(prompts) * drawn,
            "pictures": len(table),
            "round": number,
            "by": by,
            **spent.total,
            **({"search": {"reward_by": config.search.reward, **spent.referee}} if spent.referee else {}),
            "scores": {name: {"mean": float(table[name].mean())} for name in scores if name != ROOT},
            "judged_by": judged_by(scores, config.scorer.combined, read_json(store.folder / "model.json")),
        }
        before = is_there(run.root / "sample.json")
        write_json(run.root / "sample.json", figures)
        _say(figures | {"before": before}, run.root)
        return figures

    return broadcast(finish)


def check_place(folder: Path) -> None:
    """Raises UserError if ``folder`` holds what ``sample`` would replace and did not write; asked before anything is
    written there. Main process only."""
    begun = (folder / "candidates" / "plan.json").is_file()
    own = [folder / name for name in ("pictures", "sheet.png", "sample.json")]
    found = [path for path in own if os.path.lexists(path)] if not begun else []
    if begun and is_there(own[0]):
        # What was put among the pictures since would go with them.
        found = sorted(own[0].iterdir()) if is_folder(own[0]) else own[:1]
        found = [path for path in found if not _WRITTEN.fullmatch(path.name) or not path.is_file()]
    if found:
        raise UserError(
            f"{found[0]} exists and was not written by mitune sample; move it away, or choose another sample.out="
        )


def _prompts(config: DictConfig) -> list[Task]:
    text = config.sample.prompt
    if text is None:
        return read_prompts(config.prompts)
    if not text.strip():
        raise UserError(
            "sample.prompt is empty: give a prompt, or leave it out to draw those of prompts.source"
        )
    return [make_prompt(text)]


def check(config: DictConfig, prompts: list[Task]) -> tuple[str | None, int, list[str]]:
    """Give what picks the pictures, how many are drawn a prompt, and the scores each gets. Raises UserError."""
    settings, combined = config.sample, config.scorer.combined
    by, drawn = settings.by, settings.of or settings.pictures
    if drawn > settings.pictures and by is None:
        by = "reward" if config.search.by == "rcp" else "weight"
    names = list(settings.scorers)
    if by not in (None, "weight"):
        there = scorers_of(names, combined)
        names += [name for name in scorers_of([by], combined) if name not in there]
    used = scorers_of(names, combined)
    if config.search.by is not None and config.search.reward in INFORMATION:
        used.append(config.search.reward)
    pooled = any(SCORES[name].needs_pool for name in used)
    if pooled and config.prompts.source is None and config.scorer.contrast.negatives != "list":
        raise UserError(
            "contrast finds the prompts that it tells yours from in prompts.source=: give it, or run=, or"
            " scorer.contrast.negatives=list scorer.contrast.given=FILE"
        )
    texts = [prompt.text for prompt in prompts]
    check_judges(names, texts, "sample.scorers", config.scorer)
    check_search(config, prompts, drawn)
    check_balance(config, prompts)
    return by, drawn, names


def choose(table: pd.DataFrame, by: str | None, pictures: int, seed: int = 0) -> pd.DataFrame:
    """Choose ``pictures`` rows of each prompt (fewer where particles died), best first by the score ``by``.

    None: the first. "weight": drawn by the particles' weights without replacement (the largest of log w + Gumbel noise,
    Efraimidis and Spirakis 2006), so that one picture of a population follows the steered distribution.
    """
    if by is None:
        return table.groupby("prompt_id", sort=False).head(pictures).reset_index(drop=True)
    if by == "weight":
        noise = np.random.default_rng(seed).gumbel(size=len(table))
        table, by = table.assign(_drawn=table["das"] + noise), "_drawn"
    parts = [
        select(own, by, min(pictures, len(own)), seed=seed)
        for _, own in table.groupby("prompt_id", sort=False)
    ]
    return pd.concat(parts, ignore_index=True).drop(
        columns=["_drawn", "score", "rank", "preferred"], errors="ignore"
    )


def _chosen_from(names: list[str], by: str | None) -> list[str]:
    """The scores that :func:`choose` reads, of a table that has ``names``."""
    if by is None:
        return []
    return ["das"] if by == "weight" else parts_among(names, by)


def _write(
    folder: Path, table: pd.DataFrame, pictures: Iterable[Tensor], scores: list[str]
) -> list[Image.Image]:
    """An imagefolder: numbered PNG files, each written as it comes, and ``metadata.jsonl`` with prompt, seed and
    scores. Gives the first ones."""
    first: list[Image.Image] = []
    rows = table[["prompt", "category", "candidate", "seed", *scores]].rename(columns={"prompt": "text"})
    names = [f"{number:06d}.png" for number in range(len(table))]
    rows.insert(0, "file_name", names)
    with atomic_folder(folder) as partial:
        for name, picture in zip(names, pictures, strict=True):
            shown = to_image(picture)
            (partial / name).write_bytes(png(shown))
            if len(first) < SHEET:
                first.append(shown)
        rows.to_json(
            partial / "metadata.jsonl", orient="records", lines=True, force_ascii=False, double_precision=15
        )
    return first


def _with(figures: dict[str, Any]) -> str:
    """Who drew, in words."""
    number = figures["round"]
    drawer = f"the adapter of round {number}" if number else "the base model, no adapter of the run"
    return f" with {drawer}{' (done before)' if figures.get('before') else ''}"


def _say(figures: dict[str, Any], folder: Path) -> None:
    rate = figures["drawn"] / max(figures["seconds"], 1e-9)
    picked = f"; {figures['pictures']} picked by {figures['by']}" if figures["by"] else ""
    say(
        f"drew {figures['drawn']} pictures of {figures['prompts']} prompts{_with(figures)} in"
        f" {figures['seconds']:.0f} s"
        f" ({rate:.1f} pictures/s, {figures['forwards']} forwards){picked}"
    )
    for name, values in figures["scores"].items():
        say(f"  {name}: mean {values['mean']:.4g}")
    if said := caption(figures["judged_by"]):
        say(said)
    say(f"pictures: {(folder / 'pictures').resolve()}")
