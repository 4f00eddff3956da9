"""``mitune STAGE -m …``: the jobs, told to Hydra's sweeper and launcher; at the end a table and the failures."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mitune.config import Config, compose, conf_folder
from mitune.errors import UserError, complain, first_line
from mitune.launcher import is_launched, launch_file
from mitune.reading import home
from mitune.report.sweeps import check_place, write_sweep
from mitune.stages.catalogue import STAGES
from mitune.stages.inputs import selecting
from mitune.sweep.arguments import Words, example, folder_name, grid, read
from mitune.sweep.jobs import FAILED, STOPPED, Job, check_stage, notes

EXTRAS = {"joblib": "joblib", "submitit_slurm": "submitit", "submitit_local": "submitit", "optuna": "optuna"}


def sweep(stage: str, arguments: Sequence[str], show: bool = False) -> int:
    """Run ``stage`` for every combination that ``arguments`` ask for; gives the exit code: 0, 1 where a job failed.

    ``show``: only print the jobs. A grid is checked as a whole before its first job begins; of a search, which asks for
    one job after another, each job is checked when it comes. Raises UserError for what is wrong from the start.
    """
    check_stage(stage)
    if is_launched():
        raise UserError(
            "a sweep starts its jobs itself: leave accelerate launch out and say launch=NAME, a file of launch/"
        )
    words = read(arguments)
    with _hydra() as hydra:
        own = _own(words)
        settings = _hydra_settings([*words.hydra, *own, *words.choices])
        search = not str(settings.sweeper["_target_"]).endswith("BasicSweeper")
        swept = swept_words(settings.sweeper.get("params") or {}, words)
        if not swept:
            raise UserError(
                "-m: nothing is swept; give a key several values, such as select.k=1,3, or a preset: sweep="
            )
        if search and stage not in ("run", "evaluate"):
            raise UserError(f"mitune {stage} -m: a search needs figures to go by; say run or evaluate")
        if any(word.partition("=")[0] in ("run", "sweep.share") for word in swept):
            raise UserError(
                "-m: run= is the sweep's folder, of which every job has one of its own; give one value"
            )
        loader = hydra.config_loader
        jobs = None if search else grid(swept, loader)
        if jobs is None and not search:
            raise UserError("-m: an interval is for a search (hydra/sweeper=optuna); give a list or range()")
        if jobs is not None and not jobs:
            raise UserError(
                f"-m: {', '.join(swept)}: no value is among these; give a list, such as select.k=1,3"
            )
        configs = [_config(stage, words, values) for values in jobs or [example(swept, loader)]]
        folder = _folder(words, configs[0])
        fixed = [word for word in words.fixed if not word.startswith("run=")]
        fixed += [] if jobs is None else kept_by_all(configs)
        if show:
            for values in jobs or []:
                print(folder / folder_name(values))
            return 0
        check_place(folder)
        job = Job(stage, tuple(fixed), str(folder), uuid.uuid4().hex, words.choices)
        # What a preset sweeps is among the words now: a word of one's own may take its place.
        how = [
            *own,
            f"hydra.sweep.dir={_quoted(str(folder / 'hydra'))}",
            *words.hydra,
            "hydra.sweeper.params=null",
        ]
        trouble = _launch(hydra, job, [*how, *words.choices, *swept])
    return _finish(job, jobs, trouble)


@contextlib.contextmanager
def _hydra() -> Iterator[Any]:
    """Hydra on our configuration groups."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    ConfigStore.instance().store(name="mitune_schema", node=Config)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), job_name="mitune", version_base="1.3"):
        yield GlobalHydra.instance().hydra


def _own(words: Words) -> list[str]:
    """How we ask Hydra to go about it: it keeps its notes in a folder of its own and says nothing of itself."""
    found = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null"]
    if "hydra/sweeper=optuna" in words.hydra:
        # A gain is raised; a trial that fails is told to the study as failed.
        found += ["hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1.0"]
    return found


def _hydra_settings(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own part of the configuration. Raises UserError for a plugin that is not installed."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException

    try:
        settings = hydra_compose("config", list(overrides), return_hydra_config=True).hydra
        OmegaConf.resolve(settings.sweeper)
        if not isinstance(settings.sweeper.get("_target_"), str):
            raise UserError(
                "hydra: hydra.sweeper names no sweeper; leave it out, or say hydra/sweeper=optuna"
            )
        return settings
    except (HydraException, OmegaConfBaseException) as error:
        missing = [extra for name, extra in EXTRAS.items() if f"/{name}'" in str(error)]
        if missing:
            raise UserError(
                f"Hydra's plugin for {missing[0]} is not installed: pip install 'mitune[sweep]'"
            ) from error
        raise UserError(f"hydra: {' '.join(str(error).split())}") from error
    except (AttributeError, TypeError, ValueError) as error:  # of OmegaConf, where a section becomes a value
        raise UserError(
            f"hydra: {first_line(error)}; mend or leave out the words that begin with hydra"
        ) from error


def swept_words(params: Mapping[str, Any], words: Words) -> list[str]:
    """Give what is swept: the words' own, and ``params`` of a preset but for keys that the words fix or sweep."""
    given = {word.partition("=")[0] for word in (*words.fixed, *words.swept)}
    return [*(f"{key}={value}" for key, value in params.items() if key not in given), *words.swept]


def _config(stage: str, words: Words, values: dict[str, str]) -> DictConfig:
    """Give a job's configuration. Raises UserError, naming the job, where it is not valid for one of its commands."""
    own = [*words.fixed, *(f"{key}={value}" for key, value in values.items())]
    try:
        for part in STAGES[stage].needs:
            compose(own, part)
        config = compose(own, stage)
        if config.launch is not None:
            launch_file(config.launch)
        return config
    except UserError as error:
        raise UserError(f"job {folder_name(values)}: {error}") from error


def _folder(words: Words, config: DictConfig) -> Path:
    """The sweep's folder: ``run=``, or by the preset's name."""
    given = [word for word in words.fixed if word.startswith("run=")]
    return home(config.run).resolve() if given else Path("sweeps").resolve() / config.name


def kept_by_all(configs: Sequence[DictConfig]) -> list[str]:
    """Words that let jobs share their candidates though they choose among them differently.

    A job alone keeps the latents of its own winners; a shared store must hold those of every job.
    """
    if any(config.generate.keep is not None for config in configs):
        return []
    ways = {(selecting(config), config.select.losers) for config in configs}
    counts = {config.select.k for config in configs}
    if len(ways) > 1:
        return [f"generate.keep={max(config.generate.candidates for config in configs)}"]
    return [f"generate.keep={max(counts)}"] if len(counts) > 1 else []


def _quoted(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=text, quote=Quote.single).with_quotes()


def _launch(hydra: Any, job: Job, overrides: list[str]) -> str:
    """Let Hydra run the jobs; gives what went wrong outside of them, or an empty text."""
    from hydra.core.utils import setup_globals
    from hydra.errors import HydraException

    setup_globals()
    try:
        hydra.multirun(config_name="config", task_function=job, overrides=["hydra.mode=MULTIRUN", *overrides])
    except HydraException as error:
        return first_line(error)
    except Exception as error:  # a worker or a scheduler failed: what the jobs left says the rest
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def _finish(job: Job, jobs: list[dict[str, str]] | None, trouble: str) -> int:
    """Write and print the table; list what failed; give the exit code."""
    folder = Path(job.folder)
    found = notes(folder, job.command)
    failed = {name: note["line"] for name, note in found.items() if note["code"]}
    for name in map(folder_name, jobs or []):
        if name not in found:
            failed[name] = "it left no note of how it ended"
    if found:
        write_sweep(folder)
    if trouble:
        complain(f"the sweep did not end well: {trouble}")
    for name, line in failed.items():
        complain(f"failed: {name}: {line}")
    if failed:
        count = max(len(jobs or []), len(found))
        print(
            f"mitune: {len(failed)} of {count} jobs failed; the same command runs only these again",
            file=sys.stderr,
        )
    stopped = [note["code"] for note in found.values() if note["code"] in STOPPED]
    return stopped[0] if stopped else FAILED if failed or trouble else 0
