"""Whether what a command names is there: looked at before anything heavy is imported, and before processes start.

Only places are looked at: files, folders, names that cannot be on the Hub. What is in them is said by whoever reads
them, in the same words. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.config.relations import SCORE_KEYS
from mitune.data.labelled.places import check_source, is_picture, picture_caption
from mitune.data.places import find_pictures, find_prompts
from mitune.errors import UserError, short
from mitune.families.adapter_place import find_file
from mitune.families.source import is_hub_adapter, look_for_model
from mitune.files import LOCK, user_errors
from mitune.reading import check_regular, home, is_file, is_folder, is_there
from mitune.referees.catalogue import JUDGES
from mitune.referees.judge_files import HEAD, check_head, find_judge
from mitune.scores import scorers_of
from mitune.stages.catalogue import ROUND, STAGES, covers


def look(stage: str, config: DictConfig) -> None:
    """Raise UserError for a place that a command of ``stage`` names and that is not there, or cannot be written."""
    if STAGES[stage].inherits:
        return
    check_folder(_written(stage, config))
    if _is_done(stage, config):
        return  # it gives its figures again, and opens none of these
    for key, check in _LOOKS.items():
        if _opens(stage, key, config) and (value := OmegaConf.select(config, key)) is not None:
            check(value)
    if stage == "segment":
        check_segment(config.segment)
    if stage in ("segment", "edit"):
        check_uncompiled(config.model)
    if stage == "agree" and config.agree.source is not None:
        check_table(config.agree.source)
    else:
        _check_judges(stage, config)


def _written(stage: str, config: DictConfig) -> Path:
    """The folder in which a command of ``stage`` writes. Raises UserError as :func:`table_path`."""
    if stage == "score":
        return table_path(config).parent
    if stage == "segment":
        return segment_folder(config)
    if stage == "benchmark" and config.benchmark.pictures is not None:
        return beside_pictures(config.benchmark)
    if stage in _NUMBERED:
        out = config[stage].out
        return home(config.run) / _NUMBERED[stage] if out is None else home(out)
    return home(config.run)


_NUMBERED = {
    "sample": "samples",
    "edit": "edits",
    "benchmark": "benchmarks",
}  # which folders lie numbered in which of the run folder


def check_folder(folder: Path) -> None:
    """Raise UserError where a folder could not be made or written: a file lies in its way, or it is another's."""
    place = folder / LOCK
    with user_errors(place):
        there = next(parent for parent in (folder, *folder.parents, Path("/")) if os.path.lexists(parent))
        if not there.is_dir():
            raise OSError(errno.EEXIST if there == folder else errno.ENOTDIR, "", str(place))
        if not os.access(there, os.W_OK | os.X_OK):
            raise OSError(errno.EROFS if _read_only(there) else errno.EACCES, "", str(place))


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def check_score(settings: DictConfig) -> None:
    """Raise UserError for a score command without a source, or whose table has no parquet file's name."""
    if settings.source is None:
        raise UserError(
            "score: say which pictures: score.source=FOLDER (with metadata.csv), a parquet file, a Hub dataset id, or"
            " a folder of candidates"
        )
    if settings.out is not None and home(settings.out).suffix != ".parquet":
        raise UserError(
            f"score.out={settings.out}: the table is a parquet file; give a name that ends in .parquet"
        )


def table_path(config: DictConfig) -> Path:
    """Tell where the table of ``score`` goes: ``score.out``, or beside the source (in the run folder for one that is no
    file).

    Raises UserError without a source, or for a name that is no parquet file's.
    """
    settings = config.score
    check_score(settings)
    if settings.out is not None:
        return home(settings.out)
    source = home(settings.source)
    if is_file(source):
        return source.parent / f"{source.stem}-scores.parquet"
    if is_folder(source):
        return source.resolve().parent / f"{source.resolve().name}-scores.parquet"
    return home(config.run) / f"{settings.source.replace('/', '--')}-scores.parquet"


def segment_folder(config: DictConfig) -> Path:
    """Name the folder that ``segment`` writes: ``segment.out``, or one beside the folder that the source is.

    For one picture it is in the run folder, one for each way to look at it: nothing is written among the user's own
    pictures, and other phrases are looked for without more ado. Raises UserError without a source.
    """
    settings = config.segment
    if settings.source is None:
        raise UserError(
            "segment: say which pictures: segment.source=a.png with segment.phrases=[a cat,a dog], a folder with"
            " metadata.jsonl, or a data set"
        )
    source = home(settings.source)
    if settings.out is not None:
        if is_folder(source) and home(settings.out).resolve() == source.resolve():
            raise UserError("segment.out is the folder of segment.source; name another, or leave it out")
        return home(settings.out)
    if is_folder(source):
        return source.resolve().parent / f"{source.resolve().name}{SEGMENTED}"
    if is_file(source) and not is_picture(settings.source):
        return source.parent / f"{source.stem}{SEGMENTED}"
    if is_file(source):
        asked = {name: settings[name] for name in ("phrases", "caption", "template")}
        how = {name: value for name, value in config.pixels.items() if name != "threshold"}
        told = repr((str(source.resolve()), asked, how, config.model.path, config.model.adapter, config.seed))
        digest = hashlib.sha256(told.encode()).hexdigest()[:8]
        return home(config.run) / "segmented" / f"{source.stem[:100]}-{digest}"
    return home(config.run) / f"{settings.source.replace('/', '--')}{SEGMENTED}"


SEGMENTED = "-segmented"
ORACLE = "oracle"
"""``segment.tune``: the threshold is fitted on the labels that it is then judged by."""


def check_segment(settings: DictConfig) -> None:
    """Raise UserError for sources of ``segment`` that are not there, or phrases that are not to be found in the one
    prompt there is."""
    check_source(settings.source, settings.layout)
    if settings.tune not in (None, ORACLE):
        check_source(settings.tune, what="segment.tune")
    if is_picture(settings.source) and settings.layout is None:
        text = picture_caption(settings.phrases, settings.caption, settings.template)
        if settings.phrases:
            from mitune.pixels.asking import unambiguous  # its grammar takes numpy

            unambiguous(text, settings.phrases)


def check_uncompiled(model: DictConfig) -> None:
    """Raise UserError for a model whose attention is to be looked at and that is compiled."""
    if model.compile:
        raise UserError("model.compile: a compiled network shows no attention; say model.compile=false")


def beside_pictures(settings: DictConfig) -> Path:
    """Tell where the results of a benchmark's pictures go: ``benchmark.out``, or beside them; UserError among
    them.
    """
    folder = home(settings.pictures).resolve()
    if settings.out is not None:
        if home(settings.out).resolve().is_relative_to(folder):
            raise UserError(
                "benchmark.out is the folder of benchmark.pictures, or in it; name another, or leave it out: results go"
                " beside it"
            )
        return home(settings.out)
    return folder.parent / f"{folder.name}-{settings.name}"


def check_table(source: str) -> None:
    """Raise UserError unless ``agree.source`` is a file or a folder."""
    path = home(source)
    if not is_folder(path):
        check_regular(path, f"agree.source={path}")


def find_profile(path: str | Path, key: str) -> Path:
    """Find a profile that ``mitune score`` measured. Raises UserError, naming ``key``, where there is no such file."""
    path = home(path)
    if not is_file(path):
        raise UserError(
            f"{key}={path}: there is no such file; mitune score score.profile={path} measures one"
        )
    return path


def _adapters(names: Any) -> None:
    for name in [names] if isinstance(names, str) else names:
        path = home(name)
        if is_file(path) or is_folder(path) or not is_hub_adapter(name):
            find_file(path)


def _device(name: str) -> None:
    """Raise UserError for a device of no kind that there is; whether this machine has it, only torch can say."""
    if name.partition(":")[0] not in _DEVICES:
        raise UserError(f"model.device={short(name)} is no device; give auto, cpu, cuda, cuda:1 or mps")


_DEVICES = ("auto", "cpu", "cuda", "mps")


def _there(path: str, key: str) -> None:
    """Raise UserError where a file or folder is not there."""
    if not is_there(home(path)):
        raise UserError(f"{key}={path} does not exist; check the path")


# Of each key that names a place, who looks at it; a key that is null names none.
_LOOKS: dict[str, Callable[[Any], object]] = {
    "prompts.source": find_prompts,
    "evaluate.prompts.source": find_prompts,
    "model.path": look_for_model,
    "model.device": _device,
    "model.adapter": _adapters,
    "scorer.profile": lambda path: find_profile(path, "scorer.profile"),
    "benchmark.source": lambda path: _there(path, "benchmark.source"),
    "benchmark.pictures": lambda path: _there(path, "benchmark.pictures"),
    "edit.pairs": lambda path: check_regular(home(path), f"edit.pairs={path}"),
    "edit.picture": lambda path: check_regular(home(path), f"edit.picture={path}"),
    "score.source": find_pictures,
    "score.pool": find_prompts,
    "score.adapter": _adapters,
    "select.real": find_pictures,
}
_DRAWING = ("generate", "run", "agree", "calibrate", "sample")


def _opens(stage: str, key: str, config: DictConfig) -> bool:
    """Whether a command of ``stage`` is sure to open what ``key`` names."""
    if stage == "agree" and config.agree.source is not None:
        return False
    if stage == "benchmark" and key.startswith("model.") and config.benchmark.pictures is not None:
        return False
    if key == "prompts.source":
        return stage in _DRAWING and not (stage == "sample" and config.sample.prompt is not None)
    if key == "select.real":
        return stage in ("run", "select") and config.select.real_fraction > 0
    if key == "scorer.profile" and stage == "train":
        return bool(config.train.keep_best_by or config.train.pictures_every)
    if key == "scorer.profile" and stage == "select":
        return _scores_real(config)
    return covers(STAGES[stage].reads, key)


def _scores_real(config: DictConfig) -> bool:
    """Whether ``select`` asks a score about real pictures; its candidates have theirs."""
    own = config.select
    return own.real is not None and own.real_fraction > 0 and own.by != "random"


def _is_done(stage: str, config: DictConfig) -> bool:
    """Whether the run folder says that all of a command's work is done."""
    last = {"run": (ROUND[-1], config.rounds)} | {name: (name, config.round) for name in ROUND}
    if stage not in last:
        return False
    name, number = last[stage]
    return is_file(home(config.run) / f"round-{number}" / "done" / f"{name}.json")


_OTHERS = ("search.reward",)  # names of judges, beside the lists of scores


def _check_judges(stage: str, config: DictConfig) -> None:
    """Raise UserError for a judge of the scores asked for whose files cannot be where its key says."""
    lists = [key for key in (*SCORE_KEYS, *_OTHERS) if covers(STAGES[stage].reads, key)]
    if stage == "train":
        lists = ["train.keep_best_by"]
    if stage == "select":
        lists = ["select.by"] if _scores_real(config) else []
    for key in lists:
        value = OmegaConf.select(config, key)
        names = [value] if isinstance(value, str) else [*(value or ())]
        for name in _known_scorers(names, config.scorer.combined):
            if name in JUDGES:
                _check_judge(name, config)


def _known_scorers(names: list[str], combined: str) -> list[str]:
    """The scorers that the names stand for; none where one is unknown, which is said by whoever reads the key."""
    try:
        return scorers_of(names, combined)
    except UserError:
        return []


def _check_judge(name: str, config: DictConfig) -> None:
    path = OmegaConf.select(config, f"scorer.{name}.path")
    if path is not None:
        find_judge(path, f"scorer.{name}.path")
    if HEAD.startswith(f"scorer.{name}."):
        check_head(OmegaConf.select(config, HEAD))
