"""The command line: ``mitune STAGE [group=option] [key=value]``, or a verb. A mistake is one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import mitune
from mitune import command
from mitune.errors import UserError, nearest, short
from mitune.stages.catalogue import STAGES, meant
from mitune.verbs.catalogue import VERBS

OPTIONS = {
    "--help": "what the stage reads, most used first, with the values of the words given",
    "--all": "all that the stage reads",
    "--cfg": "print the resolved configuration, and do nothing",
    "-m": "many runs: values may be lists, a,b",
    "--version": "the version",
}
_SAME = {"-h": "--help", "--multirun": "-m"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0 done, or as :func:`mitune.command.coded` says."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return command.coded(lambda: _main(given))


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["complete"]:
        from mitune.completion import complete

        print("\n".join(complete(arguments[1:], OPTIONS)))
        return 0
    flags = {_SAME.get(argument, argument) for argument in arguments if argument.startswith("-")}
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words and words[0] in VERBS and arguments != ["help"]:
        return _verb(words[0], words[1:], arguments, flags)
    known = (*OPTIONS, *_SAME)
    for flag in arguments:
        if flag.startswith("-") and flag not in known:
            raise UserError(
                f"there is no option {short(flag, 80)}{nearest(flag, known)}; settings are given as key=value"
            )
    if "--version" in flags:
        print(f"mitune {mitune.__version__}")
        return 0
    if not words or words == ["help"]:
        from mitune.manual import overview

        print(overview())
        return 0 if flags or words else command.MISTAKE
    return _stage(words[0], words[1:], flags)


def _verb(name: str, words: list[str], arguments: list[str], flags: set[str]) -> int:
    verb = VERBS[name]
    if "--help" in flags:
        from mitune.manual import usage

        print(usage(verb))
        return 0
    for flag in arguments:
        if flag.startswith("-") and flag not in verb.options:
            there = f"; it takes {', '.join(verb.options)}" if verb.options else ""
            raise UserError(
                f"{name}: there is no option {short(flag, 80)}{nearest(flag, verb.options)}{there}"
            )
    own = [flag for flag in verb.options if flag in flags]
    return verb.load()([*words, *own])  # type: ignore[no-any-return]


def _stage(stage: str, words: list[str], flags: set[str]) -> int:
    if stage not in STAGES:
        hint = "; the stage comes first: mitune run key=value" if "=" in stage else ""
        raise UserError(
            f"there is no command '{short(stage, 80)}'{nearest(stage, [*STAGES, *VERBS])}; stages are"
            f" {', '.join(STAGES)}{hint}; mitune --help lists all commands"
        )
    stage, words = meant(stage, words)
    if flags & {"--help", "--all"}:
        from mitune.manual import manual

        # Of many runs a value may be a list, which is no value of one.
        print(manual(stage, everything="--all" in flags, words=() if "-m" in flags else words))
        return 0
    if "-m" in flags:
        from mitune.sweep.sweep import sweep

        return sweep(stage, words, show="--cfg" in flags)
    return command.do(stage, words, show="--cfg" in flags)
