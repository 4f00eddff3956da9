"""``edit``: change what was asked in pictures, and nothing else; before and after, masks, a sheet, ``edit.json``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune.distributed import broadcast
from mitune.errors import UserError
from mitune.files import write_json
from mitune.information.scoring import check_judges, check_no_path
from mitune.pixels.editing import check as check_model
from mitune.reading import is_folder, is_there
from mitune.runs import RunFolder
from mitune.stages.edit_units import Editing
from mitune.stages.edit_written import FOLDERS, write
from mitune.stages.edits import planned, read_edits
from mitune.stages.inputs import load_model, prompt_pool, round_adapter, sampler_of, scoring_of
from mitune.stages.progress import say
from mitune.stages.sample import last_round, numbered_folder

_PLACE = "edited"  # where the units lie
_WRITTEN = re.compile(r"\d{6,}\.png|metadata\.jsonl")


def edit_folder(config: DictConfig) -> Path:
    """Name the folder that an edit command writes: ``edit.out``, or a numbered one in ``edits`` of the run folder."""
    return numbered_folder(config, "edit", "edits")


def settled(config: DictConfig) -> dict[str, Any]:
    """Tell what ``edit.round`` stands for where it is not given, as that of ``sample``."""
    return last_round(config, "edit")


def check_place(folder: Path) -> None:
    """Raises UserError if ``folder`` holds what ``edit`` would replace and did not write. Main process only."""
    begun = (folder / _PLACE / "plan.json").is_file()
    own = [folder / name for name in (*FOLDERS, "sheet.png", "edit.json")]
    found = [path for path in own if os.path.lexists(path)] if not begun else []
    for path in own[: len(FOLDERS)] if begun else ():
        if is_there(path):
            inside = sorted(path.iterdir()) if is_folder(path) else [path]
            found += [one for one in inside if not _WRITTEN.fullmatch(one.name) or not one.is_file()]
    if found:
        raise UserError(
            f"{found[0]} exists and was not written by mitune edit; move it away, or choose another edit.out="
        )


def edit(config: DictConfig, run: RunFolder) -> dict[str, Any]:
    """Write ``before``, ``after`` (folders that ``score`` reads), ``masks``, ``sheet.png`` and ``edit.json``; gives
    what this says. ``run``: the folder of :func:`edit_folder`.

    Raises UserError: edits that cannot be read or done, scores that pictures cannot get.
    """
    edits = read_edits(config)
    check_no_path(config.edit.scorers, "edit.scorers", config.scorer.combined)
    check_judges(config.edit.scorers, [one.wanted.target for one in edits], "edit.scorers", config.scorer)
    number = config.edit.round or 0
    denoiser = load_model(config, round_adapter(RunFolder(config.run), number) if number else None)
    check_model(denoiser)
    plans = planned(denoiser, edits)
    texts = [text for one in edits for text in (one.wanted.source, one.wanted.target)]
    with denoiser.fused():

        def pool() -> list[str]:
            return [*texts, *(prompt_pool(config.prompts) if config.prompts.source else [])]

        scoring = scoring_of(config, denoiser, config.edit.scorers, pool)
        work = Editing(run.root / _PLACE, edits, plans, config, sampler_of(config, denoiser), scoring)
        work.make()

    def finish() -> dict[str, Any]:
        figures = write(work, run.root) | {"round": number}
        write_json(run.root / "edit.json", figures)
        _say(figures, run.root)
        return figures

    return broadcast(finish)


def _say(figures: dict[str, Any], folder: Path) -> None:
    means = figures["means"]
    rate = figures["edits"] / max(figures["seconds"], 1e-9)
    outside = means["difference_outside"]
    rest = "" if outside is None else f"; outside of what changed pixels differ by {255 * outside:.1f} of 255"
    say(
        f"edited {figures['edits']} pictures in {figures['seconds']:.0f} s ({rate:.1f} edits/s, {figures['forwards']}"
        f" forwards){rest}"
    )
    for name in means:
        if name.endswith("_after") and means[name] is not None:
            own = name.removesuffix("_after")
            say(f"  {own} of the target: {means[f'{own}_before']:.4g} before, {means[name]:.4g} after")
    say(f"pictures: {folder.resolve()}")
