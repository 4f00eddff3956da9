"""Which edits a command asks for: the one of its keys, or a table of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune.config.keys import keys
from mitune.data.pictures.cells import Place
from mitune.data.table_files import check_column, open_table
from mitune.denoiser import Denoiser
from mitune.digests import sha256_of
from mitune.errors import UserError, check_known, short
from mitune.pixels.plans import Plan, Wanted, plan
from mitune.pixels.settings import MODES
from mitune.reading import home, is_number, is_whole
from mitune.sampling.catalogue import is_deterministic
from mitune.sampling.seeds import candidate_seed
from mitune.settings import SEED, check_value
from mitune.tasks import PictureRef

COLUMNS = ("source", "target", "picture", "seed", "mode", "phrase", "weight")


@dataclass(frozen=True)
class Edit:
    """Asks for one edit: of the picture that is drawn from ``seed``, or of ``picture``.

    ``where``: it stands, for messages; empty where the keys of the command say it.
    """

    wanted: Wanted
    seed: int
    picture: PictureRef | None = None
    where: str = ""

    @property
    def said(self) -> list[Any]:
        """Give all that its result depends on."""
        own = self.wanted
        picture = self.picture and self.picture.sha256
        return [own.source, own.target, own.mode, own.phrase, own.weight, self.seed, picture]


def planned(denoiser: Denoiser, edits: Sequence[Edit]) -> list[Plan]:
    """Settle how each edit is done. Raises UserError as ``plan``, which says where the edit stands."""
    plans = []
    for one in edits:
        try:
            plans.append(plan(denoiser, one.wanted))
        except UserError as error:
            raise UserError(f"{one.where}: {error}" if one.where else str(error)) from error
    return plans


def digest(edits: list[Edit]) -> str:
    """Give the digest of what is asked for."""
    return sha256_of(json.dumps([one.said for one in edits]).encode(errors="surrogatepass"))


def read_edits(config: DictConfig) -> list[Edit]:
    """Read the edits of a command. Raises UserError: none, both ways at once, a row that is none."""
    own = config.edit
    if own.pairs is not None:
        return _of_table(config)
    wanted = Wanted(own.source, own.target or own.source, own.mode, own.phrase, own.weight)
    picture = None if own.picture is None else PictureRef.of(home(own.picture))
    return [Edit(wanted, _seed(config, wanted, own.picture_seed), picture)]


def _seed(config: DictConfig, wanted: Wanted, given: int | None) -> int:
    return candidate_seed(config.seed, wanted.source, config.edit.number) if given is None else given


def _of_table(config: DictConfig) -> list[Edit]:
    path = home(config.edit.pairs)
    table = open_table(path, COLUMNS)
    check_column("source", table.columns, str(path), "edit.pairs")
    if "phrase" not in table.columns:  # a phrase may be told louder with the prompts the same
        check_column("target", table.columns, str(path), "edit.pairs")
    wanted = [name for name in COLUMNS if name in table.columns]
    edits = [
        _of_row(config, row, f"{path}, edit {number}", path)
        for number, row in enumerate(table.rows(wanted), 1)
    ]
    if not edits:
        raise UserError(f"edit.pairs={path} holds no edit; give rows with source and target")
    return edits


def _of_row(config: DictConfig, row: Mapping[str, Any], where: str, path: Path) -> Edit:
    """One row of the table; what it leaves open is as the keys say."""
    texts: dict[str, Any] = {name: row.get(name) for name in COLUMNS if row.get(name) not in (None, "")}
    for name in ("source", "target", "mode", "phrase", "picture"):
        if not isinstance(texts.get(name, ""), str):
            raise UserError(f"{where}: {name} is no text; correct it")
    source = texts.get("source", "")
    target = texts.get("target", source)
    if not source.strip():
        raise UserError(f"{where}: the source prompt is empty; give one")
    mode = texts.get("mode", config.edit.mode)
    check_known(f"{where}: mode", mode, MODES)
    phrase = texts.get("phrase", config.edit.phrase)
    weight = _weight(texts.get("weight", config.edit.weight), where)
    seed = _number(texts.get("seed"), f"{where}: seed")
    if seed is not None and not (is_whole(seed) and 0 <= seed <= SEED):
        raise UserError(
            f"{where}: the seed {short(str(seed))} is no whole number from 0 to {SEED}; correct it"
        )
    picture = _picture(config, texts["picture"], where, path) if "picture" in texts else None
    wanted = Wanted(source, target, mode, phrase, weight)
    return Edit(wanted, _seed(config, wanted, seed), picture, where)


def _picture(config: DictConfig, name: str, where: str, path: Path) -> PictureRef:
    """The picture of a row. Raises UserError for one that is not there, or cannot be followed back."""
    if not is_deterministic(config.sampler.name, config.sampler.eta):
        raise UserError(
            f"{where}: a picture is followed back to its noise by a sampler that adds none; say sampler=ddim"
            " sampler.eta=0"
        )
    return PictureRef.of(Place(path.parent, way_out="copy it there").find(name, f"{where}: the picture"))


def _weight(value: Any, where: str) -> float | None:
    """The weight of a row, which has the bounds of ``edit.weight``."""
    weight = _number(value, f"{where}: weight")
    try:
        check_value(keys()["edit.weight"], weight)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return None if weight is None else float(weight)


def _number(value: Any, where: str) -> Any:
    """A number of a cell, which a csv holds as a text. Raises UserError for what is none."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not is_number(value):
        raise UserError(f"{where} is no number; correct it")
    return value
