"""The command line: ``mitune STAGE [group=option] [key=value]``. A user's mistake is one line and exit code 2."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import mitune
from mitune import leaving
from mitune.config import compose, groups, leaves
from mitune.errors import UserError, complain, nearest, short
from mitune.reading import home

STAGES = {
    "generate": "draw candidates of every training prompt and score them",
    "select": "make the training set of the best candidates",
    "train": "fine-tune the adapter on the training set",
    "evaluate": "compare the base model and the tuned one on held-out prompts",
    "run": "these four, for R rounds, with summary.json and report.html",
    "sample": "draw pictures of prompts: plain, the best of many, or steered (sampler=das)",
    "score": "score any pictures with captions; keep the best of them",
    "agree": "how well the scores agree with each other and with a referee",
    "calibrate": "when candidates can be dropped early: a pilot that proposes sampler.racing",
    "export": "a trained adapter as a folder with a model card; upload it to the Hub",
}
MISTAKE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 done, 2 a mistake in the input, 75 told to leave (run it again),
    130 interrupted, 1 another process was lost. What a scheduler can rely on: :mod:`mitune.leaving`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with leaving.signals():
        return _coded(arguments)


def _coded(arguments: list[str]) -> int:
    """Errors as one line and a code."""
    try:
        return _main(arguments)
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


def _main(arguments: list[str]) -> int:
    flags = [argument for argument in arguments if argument.startswith("-")]
    words = [argument for argument in arguments if not argument.startswith("-")]
    known = ("--help", "-h", "--cfg", "--version", "-m", "--multirun")
    for flag in flags:
        if flag not in known:
            raise UserError(
                f"there is no option {short(flag, 80)}{nearest(flag, known)}; settings are given as key=value"
            )
    if "--version" in flags:
        print(f"mitune {mitune.__version__}")
        return 0
    if not words or words[0] in ("help", "--help"):
        print(overview())
        return 0 if flags or words else MISTAKE
    stage = words[0]
    if stage == "sweep-table":
        return _sweep_table(words[1:])
    if stage not in STAGES:
        hint = "; the stage comes first: mitune run key=value" if "=" in stage else ""
        raise UserError(
            f"there is no stage '{short(stage, 80)}'{nearest(stage, STAGES)}; stages are {', '.join(STAGES)}{hint}"
        )
    if "--help" in flags or "-h" in flags:
        print(manual(stage))
        return 0
    if "-m" in flags or "--multirun" in flags:
        from mitune.sweep.sweep import sweep

        return sweep(stage, words[1:], show="--cfg" in flags)
    given = {word.partition("=")[0] for word in words[1:]}
    if "sweep" in given and "sweep.share" not in given:  # a sweep's own jobs have both
        raise UserError("sweep= says what is swept: add -m (mitune run -m sweep=rounds)")
    config = compose(words[1:])
    if stage == "export":  # it goes by what the run was, not by a preset
        from mitune.runs import RunFolder

        config = RunFolder(config.run).recall(words[1:])
    if "--cfg" in flags:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(config), end="")
        return 0
    if config.launch is not None:
        from mitune.launcher import is_launched, launch

        if not is_launched():
            return launch(config.launch, [*arguments, "launch=null"])
    return _work(stage, config)


def _sweep_table(words: list[str]) -> int:
    """``mitune sweep-table FOLDER``."""
    from mitune.report.sweeps import write_sweep

    if len(words) != 1 or "=" in words[0]:
        raise UserError(
            "mitune sweep-table FOLDER: give the folder of a sweep, or one that holds several runs"
        )
    write_sweep(home(words[0]))
    return 0


def _work(stage: str, config: Any) -> int:
    """Load what computes, and compute. The imports wait until the configuration is known to be good."""
    from mitune.track import check_trackers
    from mitune.versions import check_versions

    check_versions()
    # Where a connection breaks, torch prints its C++ stack; what it means is said in one line (mitune.distributed).
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if stage != "export":
        check_trackers(name for name, wanted in config.tracker.items() if wanted)
    import torch

    from mitune.distributed import state, together
    from mitune.finetune.sharding import check_launch
    from mitune.runs import RunFolder
    from mitune.stages.common import quiet
    from mitune.stages.progress import warn
    from mitune.stages.sample import check_place, sample_folder
    from mitune.stages.score import score_folder

    quiet()
    if stage in ("train", "run") and (line := check_launch(config, state().num_processes)):
        warn(line)
    folders = {"score": score_folder, "sample": sample_folder}
    run = RunFolder(folders[stage](config) if stage in folders else config.run)
    with together():
        try:
            main = state().is_main_process
            with run.lock() if main else contextlib.nullcontext():
                if main and stage == "sample":
                    check_place(run.root)
                if main and stage != "export":
                    run.remember(config)
                run.check_fellows(config)
                _go(stage, config, run)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "out of memory on the device; lower generate.batch_size, evaluate.batch_size or train.micro_batch"
                " (and see model.dtype, model.offload, train.gradient_checkpointing)"
            ) from error
    return 0


def _go(stage: str, config: Any, run: Any) -> None:
    from mitune.distributed import state
    from mitune.stages.agree import agree
    from mitune.stages.calibrate import calibrate
    from mitune.stages.export import export
    from mitune.stages.run import run_rounds, run_stage
    from mitune.stages.sample import sample
    from mitune.stages.score import score

    alone = {"run": run_rounds, "sample": sample, "score": score, "agree": agree, "calibrate": calibrate}
    if stage == "export":
        if state().is_main_process:
            export(config, run)
    elif stage in alone:
        alone[stage](config, run)
    else:
        run_stage(stage, config, run, config.round)


def overview() -> str:
    """``mitune --help``."""
    lines = [
        "mitune: self-supervised alignment of text-to-image diffusion models",
        "",
        "usage: mitune STAGE [group=option ...] [key=value ...]",
        "",
        "stages",
        *(f"  {name:<10} {meaning}" for name, meaning in STAGES.items()),
        "",
        "many runs at once: mitune STAGE -m key=value,value ...    (a folder each in sweeps/NAME, or run=FOLDER)",
        "  mitune sweep-table FOLDER    what they reached: table.md, .csv, .parquet and .png",
        "",
        f"presets: experiment={', '.join(groups()['experiment'])}",
        f"         sweep={', '.join(groups()['sweep'])} (with -m)",
        "",
        "  mitune run                                       the demo on the embedded world",
        "  mitune run experiment=mitune_sd21 prompts.source=prompts.txt evaluate.prompts.source=held_out.txt",
        "  mitune sample sample.prompt='a red circle' sampler=das reward=clip alpha=0.1 sample.of=16",
        "  mitune score score.source=pictures/ score.top_fraction=0.25",
        "  mitune export run=runs/mine export.push=user/name   the adapter with its card, on the Hub",
        "  mitune run --help                                every group and key with its default",
        "  mitune run experiment=mitune_sd21 --cfg          the resolved configuration",
        "  mitune run launch=multi_gpu                      on every GPU of this machine (launch/ holds the others)",
        "  mitune run -m adapter=dora,lora select.k=1,3     four runs that share their candidates",
        "  mitune run -m --cfg sweep=candidates             only list the runs",
        "",
        "The same command after an interruption goes on where it was, with as many processes as you like:",
        "  accelerate launch --config_file launch/multi_gpu.yaml --num_processes 8 -m mitune run",
        "Processes on several nodes need one shared run= folder. A process that is lost is noticed after",
        "MITUNE_PATIENCE seconds of silence at the latest (environment, default 300).",
        "",
        "exit codes: 0 done; 2 a mistake in the input, or a disk that refuses; 75 told to leave by SIGTERM or SIGUSR1:",
        "everything is saved, run it again (a launcher turns it into 1: RUN/.requeue tells; see mitune.leaving);",
        "130 interrupted; 1 anything else",
    ]
    return "\n".join(lines)


def manual(stage: str) -> str:
    """``mitune STAGE --help``: groups with their options, keys with defaults and meanings."""
    config = compose()
    from omegaconf import OmegaConf

    rows = []
    for name, _, meaning in leaves():
        value = OmegaConf.select(config, name)
        rows.append((f"{name}={_shown(value)}", meaning))
    width = min(46, max(len(left) for left, _ in rows))
    lines = [
        f"mitune {stage}: {STAGES[stage]}",
        "",
        f"usage: mitune {stage} [group=option ...] [key=value ...] [--cfg] [-m, then values may be lists: a,b]",
        "",
        "groups (group=option)",
        *(f"  {group:<11} {', '.join(options)}" for group, options in groups().items()),
        "",
        "keys, with the values of experiment=shapes",
        *(f"  {left:<{width}}  {meaning}" for left, meaning in rows),
    ]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"[{','.join(map(str, value))}]"
        if hasattr(value, "_iter_ex") or isinstance(value, list)
        else str(value)
    )
