"""The verbs: a row each. Their code takes the words after the verb and gives the exit code. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.parts import Catalogue, Part


@dataclass(frozen=True)
class Verb(Part):
    """Says what a command beside the stages is.

    Attributes:
        takes: the words that it takes, as its usage line has them.
    """

    takes: str = ""


VERBS: Catalogue[Verb] = Catalogue(
    "command",
    Verb(
        "demo",
        "the whole loop on the embedded world: about ten minutes on two cores, then a report",
        "mitune.verbs.demo:demo",
        takes="[key=value ...]",
    ),
    Verb(
        "check",
        "what mitune run would do with these words: files, plan, memory, disk; with probe=10 (seconds) the time",
        "mitune.verbs.check:check",
        takes="[probe=SECONDS] [group=option ...] [key=value ...]",
    ),
    Verb(
        "help", "one key, group, sampler, score or stage in full", "mitune.verbs.help:explained", takes="NAME"
    ),
    Verb("schema", "the configuration as a JSON schema", "mitune.verbs.help:printed_schema"),
    Verb("completion", "completion for a shell", "mitune.verbs.help:completed", takes="bash|zsh|fish"),
    Verb(
        "sweep-table",
        "what the runs of a sweep reached: table.md, .csv, .parquet and .png",
        "mitune.verbs.sweeps:sweep_table",
        takes="FOLDER",
    ),
)
