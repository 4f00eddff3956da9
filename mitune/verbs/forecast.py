"""The part of ``mitune check`` that needs torch: prompts, device, plan, memory, disk, and a probe of the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from mitune.errors import short
from mitune.families import family_of
from mitune.families.footprint import Footprint
from mitune.families.options import find_device, find_dtype
from mitune.families.source import ModelSource
from mitune.reading import home
from mitune.stages.balancing import check_balance
from mitune.stages.forecast import BYTES, Disk, disk, memory
from mitune.stages.generate import check_control
from mitune.stages.inputs import check_prompts, held_out_prompts, quiet, training_prompts
from mitune.stages.planning import Plan, Work, plan
from mitune.stages.probe import Speed, probe
from mitune.stages.search import check_search
from mitune.tasks import Task
from mitune.track import check_trackers
from mitune.verbs.amounts import duration, free, size

SHOWN = 3  # prompts of each list
CONTEXT = "and 0.3 to 1 GiB that CUDA takes for itself"


def forecast(
    config: Any, source: ModelSource, found: Footprint | None, seconds: float | None
) -> Iterator[tuple[str, Iterable[str]]]:
    """Tell what is known without the weights, (title, lines) by section; with ``seconds``, load them and time them for
    so long. Raises UserError as the run would.
    """
    check_trackers(name for name, wanted in config.tracker.items() if wanted)
    quiet()
    family = family_of(source)
    training, held_out = training_prompts(config), held_out_prompts(config)
    check_prompts(config)
    for tasks in (training, held_out):
        check_balance(config, tasks, quiet=True)
    yield (
        "prompts",
        [
            *_prompts("to train on", config.prompts.source, training),
            *_prompts("held out", config.evaluate.prompts.source, held_out),
        ],
    )
    check_search(config, training, config.generate.candidates)
    check_control(config)
    yield "device", [_device(config)]
    planned = plan(config, family.branches, exact=True)
    yield "plan", [planned.line().removeprefix("plan: "), *_stages(planned)]
    if found is not None:
        adapter = found.adapter(
            [*config.adapter.targets] or family.adapter_targets,
            config.adapter.rank,
            config.adapter.kind == "dora",
        )
        yield "memory", _memory(config, found, family.branches, adapter)
        yield "disk", [_disk(config, disk(config, planned, found, adapter))]
    if seconds is not None:
        yield "time", _time(planned, probe(config, seconds))


def _prompts(what: str, source: str, tasks: list[Task]) -> Iterator[str]:
    yield f"{len(tasks):,} {what}, of {source}, such as"
    yield from (f"  {short(task.text, 100)}" for task in tasks[:SHOWN])


def _device(config: Any) -> str:
    device = find_device(config.model.device)
    dtype = str(find_dtype(config.model.dtype, device)).removeprefix("torch.")
    if device.type != "cuda":
        return f"{device} in {dtype}; torch sees {'a' if torch.cuda.is_available() else 'no'} GPU"
    told = torch.cuda.get_device_properties(device)
    return f"{device} ({told.name}, {size(told.total_memory)}) in {dtype}"


def _stages(planned: Plan) -> Iterator[str]:
    """A line for every stage of the first round, and for what is another in later ones."""
    for work in planned.works:
        if work.round == 1 or (work.round == 2 and work.stage == "evaluate"):
            yield f"  {'later: ' if work.round > 1 else ''}{work.stage}: {_work(work)}"


def _work(work: Work) -> str:
    parts = [f"{work.pictures:,} pictures"] if work.pictures else []
    parts += [f"{work.steps:,} steps"] if work.steps else []
    if work.rows:
        most = "at most " if work.at_most else ""
        parts.append(
            f"{most}{work.total:,} network rows ({', '.join(f'{name} {count:,}' for name, count in work.rows.items())})"
        )
    parts += [f"{work.decoded:,} decoded"] if work.decoded else []
    return ", ".join(parts) or "nothing to do"


def _memory(config: Any, found: Footprint, branches: int, adapter: int) -> Iterator[str]:
    """What each kind of work takes at once, in the number format of the device; another line for a GPU's."""
    device = find_device(config.model.device)
    name = str(find_dtype(config.model.dtype, device)).removeprefix("torch.")
    names = [name]
    if config.model.dtype == "auto" and device.type != "cuda":
        names.append("bfloat16")
    for own in names:
        asked = memory(config, found, branches, adapter, BYTES[own])
        kinds = ", ".join(f"{kind} {size(asked.weights + count)}" for kind, count in asked.beside.items())
        where = "" if own == name else "on a GPU, "
        beside = f", {CONTEXT}" if own == "bfloat16" else ""
        yield f"{where}{own}: about {size(asked.most)} at the most{beside}; weights {size(asked.weights)}; {kinds}"
    yield f"an adapter of {adapter:,} parameters"
    yield "reckoned from the shapes of the weights, not measured: the weights exactly, all else roughly"


def _disk(config: Any, asked: Disk) -> str:
    there = free(home(config.run))
    short_of = "; THAT IS NOT ENOUGH" if asked.size + asked.beside > there else ""
    beside = f", and {size(asked.beside)} more while select writes its set" if asked.beside else ""
    return f"about {size(asked.size)} in about {asked.files:,} files{beside}; {size(there)} are free there{short_of}"


def _time(planned: Plan, speed: Speed) -> Iterator[str]:
    yield (
        f"about {duration(speed.total(planned))} with one process: {speed.rows:,.1f} rows a second,"
        f" {speed.trained:,.1f} in training, {speed.decoded:,.1f} pictures decoded"
        + (f"; {size(speed.memory)} of the GPU's memory taken" if speed.memory else "")
    )
    for work in planned.works:
        if work.round == 1:
            yield f"  {work.stage}: {duration(speed.seconds(work))}"
