"""One command, given its words: what the command line runs, and each job of a sweep.

command.run("score", ["score.source=pictures/"])
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mitune import leaving
from mitune.config import changed, compose, flatten
from mitune.config.composition import kept
from mitune.errors import UserError, complain, listed
from mitune.stages.catalogue import STAGES, meant
from mitune.stages.made import COMMAND

MISTAKE = 2
INTERRUPTED = 130


def run(stage: str, words: Sequence[str]) -> int:
    """Do ``stage`` with the configuration that ``words`` ask for; gives the exit code, as :func:`coded`."""
    return coded(lambda: do(stage, words))


def coded(action: Callable[[], int]) -> int:
    """Give the exit code of ``action``, with errors as one line and a code: 2 a mistake in the input, 75 told to leave
    (run it again), 130 interrupted, 1 another process was lost. What a scheduler can rely on: :mod:`mitune.leaving`.
    """
    with leaving.signals():
        return _coded(action)


def _coded(action: Callable[[], int]) -> int:
    try:
        return action()
    except UserError as error:
        complain(str(error))
        return MISTAKE
    except leaving.Leave as leave:
        if leave.line:
            complain(leave.line)
        return leave.code
    except KeyboardInterrupt:
        print("\nmitune: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of a place that nobody foresaw
        from mitune.files import refusal

        reason = refusal(error)
        if reason is None:
            raise
        complain(f"cannot use {error.filename or 'a file'}: {reason}")
        return MISTAKE


def do(stage: str, words: Sequence[str], show: bool = False) -> int:
    """Do ``stage``, or only print its configuration (``show``); gives 0, or the code of the processes that it launched.
    Raises UserError for a mistake in the input."""
    COMMAND.set((stage, *words))
    stage, words = meant(stage, words)
    given = {word.partition("=")[0] for word in words}
    if "sweep" in given and "sweep.share" not in given:  # a sweep's own jobs have both
        raise UserError("sweep= says what is swept: add -m (mitune run -m experiment=shapes sweep=rounds)")
    config = compose(words, stage)
    if show:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config), end="")
        return 0
    if stated := kept(words, flatten(config)):
        shown = listed([f"{name}={value}" for name, value in stated.items()], most=8, length=200, quote="")
        complain(f"warning: from {config.run}/config.yaml, not the preset: {shown}")
    _first_look(stage, config)
    if config.launch is not None:
        from mitune.launcher import is_launched, launch

        if not is_launched():
            return launch(config.launch, [stage, *words, "launch=null"])
    work(stage, config)
    return 0


def _first_look(stage: str, config: Any) -> None:
    """Refuse what is wrong to see without the libraries that compute: they take seconds to import."""
    from mitune.files import PLACE
    from mitune.pace import log_every
    from mitune.stages.first_look import look
    from mitune.track import CHARTS, check_trackers

    PLACE.set(STAGES[stage].place)
    log_every()
    if not STAGES[stage].inherits:
        check_trackers(name for name in CHARTS if config.tracker[name])
    look(stage, config)


def work(stage: str, config: Any) -> None:
    """Load what computes, and compute. The imports wait until the configuration is known to be good."""
    from mitune.versions import check_versions

    own = STAGES[stage]
    check_versions()
    # Where a connection breaks, torch prints its C++ stack; what it means is said in one line (mitune.distributed).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch

    from mitune.distributed import broadcast, state, together
    from mitune.finetune.sharding import check_launch
    from mitune.runs import RunFolder
    from mitune.stages.inputs import opening, quiet
    from mitune.stages.progress import note, warn
    from mitune.stages.run import run_stage
    from mitune.stages.tracking import tracking

    quiet()
    if own.trains and (line := check_launch(config, state().num_processes)):
        warn(line)
    folder, guard, settle = (own.look_up(trait) for trait in ("folder", "guard", "settle"))
    with together():
        try:
            # The first process numbers the folder: once it is at work there, the others would see another free.
            place = RunFolder(config.run)
            if settle:
                config = changed(config, broadcast(lambda: settle(config)))
            if folder:
                own_folder = folder(config)
                place = RunFolder(own_folder.with_name(broadcast(lambda: own_folder.name)))
            main = state().is_main_process
            with contextlib.ExitStack() as held:
                if main:
                    held.enter_context(place.lock())
                    held.enter_context(place.unless_refused())
                if main and guard:
                    guard(place.root)
                if main and not own.inherits:
                    place.remember(config, own.place)
                place.check_peers(config)
                if own.shared:
                    note(opening(stage, config, place.root, state().num_processes))
                with tracking(stage, config, place, main):
                    if own.in_round:
                        run_stage(stage, config, place, config.round)
                    elif own.shared or main:
                        own.load()(config, place)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "out of memory on the device; lower generate.batch_size, evaluate.batch_size,"
                " segment.batch_size or train.micro_batch"
                " (and see model.dtype, model.offload, train.gradient_checkpointing)"
            ) from error
