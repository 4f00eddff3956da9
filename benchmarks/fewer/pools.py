"""Pools of candidates on the embedded models, drawn by several samplers in turn; what is drawn is kept in files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import common
from mitune.config import compose
from mitune.data.store import Unit, plan_units
from mitune.errors import UserError
from mitune.families import load_denoiser
from mitune.sampling.catalogue import SAMPLERS, is_deterministic
from mitune.scores import NEEDS_NOISE
from mitune.stages.candidates import Drawing, draw_unit
from mitune.stages.inputs import candidate_sampler, prompt_pool, read_prompts, scoring_of

_SETTING = re.compile(
    r"(?P<name>\w+):(?P<steps>\d+)(:(?P<spacing>[a-z]+))?(@(?P<low>\d+)-(?P<high>\d+))?(\^(?P<guidance>[\d.]+))?"
)


Tables = dict[str, tuple[pd.DataFrame, float, float]]
"""By setting: the candidates, and the network rows a candidate of drawing and of scoring."""


@dataclass(frozen=True)
class Setting:
    """A way to draw: ``SAMPLER:STEPS[:SPACING][@LOW-HIGH][^GUIDANCE]``: the times that are guided, and how much, where
    not as the others are.

    >>> Setting.read("dpmpp_2m:10@100-800").words
    ('sampler=dpmpp_2m', 'sampler.steps=10', 'sampler.guidance_interval=[100,800]')
    """

    text: str
    words: tuple[str, ...]
    deterministic: bool

    @staticmethod
    def read(text: str) -> Setting:
        """Raises UserError for what is no setting."""
        match = _SETTING.fullmatch(text)
        if not match or match["name"] not in (*SAMPLERS, "ddim0"):
            raise UserError(
                f"{text}: a setting is SAMPLER:STEPS, with :SPACING, @LOW-HIGH (the times that are guided) and"
                f" ^GUIDANCE where wanted, such as dpmpp_2m:8; samplers: {', '.join(SAMPLERS)}, and ddim0 (no noise)"
            )
        words = [f"sampler={match['name'].removesuffix('0')}", f"sampler.steps={match['steps']}"]
        if match["name"] == "ddim0":
            words.append("sampler.eta=0")
        if match["spacing"]:
            words.append(f"sampler.spacing={match['spacing']}")
        if match["low"]:
            words.append(f"sampler.guidance_interval=[{match['low']},{match['high']}]")
        if match["guidance"]:
            words.append(f"generate.guidance={match['guidance']}")
        still = match["name"] == "ddim0" or is_deterministic(match["name"], 1.0)
        return Setting(text, tuple(words), still)


@dataclass(frozen=True)
class Where:
    """What is drawn from, and how many: ``model`` of the embedded ones, ``guidance`` of the candidates.

    >>> Where("shapes_flow", 4, 180, 8).title
    'shapes_flow, guidance 4'
    """

    model: str
    guidance: float
    prompts: int
    candidates: int

    @property
    def said(self) -> dict[str, Any]:
        """Give its part of a row of the record."""
        return {"model": self.model, "guidance": self.guidance, "candidates": self.candidates}

    @property
    def title(self) -> str:
        """Name it for a table."""
        return f"{self.model}, guidance {self.guidance:g}"


class Pools:
    """Draws pools of ``where`` with the preset ``shapes``, a round of one batch by every setting in turn.

    A round by a setting is one line of a file in ``folder``, and what is there is not drawn again.
    """

    def __init__(self, where: Where, scorers: Sequence[str], folder: Path, batch: int = 96) -> None:
        self.where, self.scorers, self.folder = where, tuple(scorers), folder
        self._preset = ("experiment=shapes", f"model={where.model}", f"generate.guidance={where.guidance:g}")
        config = compose([*self._preset, f"prompts.limit={where.prompts}"])
        self.denoiser: Any = load_denoiser(config.model)
        tasks = read_prompts(config.prompts)
        order = np.random.default_rng(0).permutation(len(tasks))  # so that the first rounds are of all kinds
        self._pool = prompt_pool(config.prompts)
        self._batch = batch
        self.units = plan_units([tasks[place] for place in order], where.candidates, batch)

    def draw(self, unit: Unit, setting: Setting, scorers: Sequence[str] | None = None) -> dict[str, Any]:
        """Draw one unit: its table, the network rows of drawing and of scoring, and the seconds of both together."""
        wanted = self.scorers if scorers is None else scorers
        names = [name for name in wanted if name not in NEEDS_NOISE or not setting.deterministic]
        words = [*self._preset, *setting.words, f"scorers=[{','.join(names)}]", "select.by=random"]
        config = compose(words)
        scoring = scoring_of(config, self.denoiser, names, lambda: self._pool)
        drawing = Drawing(
            candidate_sampler(config, self.denoiser), scoring, config.seed, batch_size=self._batch
        )
        found: dict[str, Any] = {}

        def run() -> None:
            found["table"], _ = draw_unit(unit, drawing)

        before = self.denoiser.forwards
        with self.denoiser.fused():
            seconds = common.timed(run)
        rows = self.denoiser.forwards - before
        # A pass that two scores share counts for both.
        scored = sum(scoring.forwards[name] for name in scoring.scorers)
        return found | {"rows": rows - scored, "scored": scored, "seconds": seconds}

    def tables(self, settings: Sequence[Setting], rounds: int | None, say: Callable[[str], None]) -> Tables:
        """Give what the first ``rounds`` drew; 0: all that is there already of each setting, and nothing is drawn."""
        found: dict[str, list[dict[str, Any]]] = {setting.text: self._kept(setting) for setting in settings}
        units = self.units[:rounds]
        for place, unit in enumerate(units):
            turn = place % len(settings)
            for setting in [*settings[turn:], *settings[:turn]]:
                if len(found[setting.text]) > place:
                    continue
                line = self.draw(unit, setting)
                found[setting.text].append(line)
                with self._file(setting).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            say(f"{self.where.title}: {place + 1} of {len(units)} rounds")
        most = None if rounds == 0 else len(units)
        return {name: self._joined(lines[:most]) for name, lines in found.items() if lines}

    def _joined(self, lines: Sequence[dict[str, Any]]) -> tuple[pd.DataFrame, float, float]:
        table = pd.concat([pd.DataFrame(line["table"]) for line in lines], ignore_index=True)
        drawn, scored = (sum(line[key] for line in lines) / len(table) for key in ("rows", "scored"))
        return table, drawn, scored

    def _file(self, setting: Setting) -> Path:
        where = self.where
        name = f"{where.model}-{where.guidance:g}-{where.candidates}-{'+'.join(self.scorers)}-{setting.text}"
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name.replace(':', '_')}.jsonl"

    def _kept(self, setting: Setting) -> list[dict[str, Any]]:
        """The rounds of an earlier command that drew the same prompts; a line that a kill cut off is left out."""
        file, lines = self._file(setting), []
        if not file.exists():
            return []
        written = file.read_text(encoding="utf-8").splitlines()
        for text, unit in zip(written, self.units, strict=False):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if line["table"]["prompt_id"] != [prompt.id for prompt, _ in unit.candidates()]:
                break
            lines.append(line)
        if len(lines) < len(written):
            file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return lines
