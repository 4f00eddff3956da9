"""The verbs: a row each. Their code takes the words after the verb and gives the exit code. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mitune.parts import Catalogue, Part


@dataclass(frozen=True)
class Verb(Part):
    """Says what a command beside the stages is.

    Attributes:
        takes: the words that it takes, as its usage line has them.
        options: what it takes that begins with ``--``, and what that is for; its code finds them among its words.
        said: what its own help says beyond the meaning.
    """

    takes: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    said: str = ""


VERBS: Catalogue[Verb] = Catalogue(
    "command",
    Verb(
        "demo",
        "the whole loop on the embedded world: about five minutes on two cores, then a report",
        "mitune.verbs.demo:demo",
        takes="[key=value ...]",
        options={"--cfg": "print the resolved configuration, and do nothing"},
    ),
    Verb(
        "init",
        "write a preset with comments for a model and a prompt file, for mitune run",
        "mitune.verbs.init:init",
        takes="MODEL PROMPTS [HELD_OUT_PROMPTS] [out=FILE.yaml] [key=value ...]",
        said="MODEL is a diffusers folder, a Hub id or a .safetensors file; PROMPTS a file with a prompt a line, a"
        " table, a folder or a Hub dataset. From one file a fifth of the prompts (200 at most) is held out for the"
        " evaluation: two new files beside the preset. The words model.path=, prompts.source= and"
        " evaluate.prompts.source= say the same; every other key=value is written to the preset too. Nothing is"
        " written over. The preset is used as experiment=FILE.yaml.",
    ),
    Verb(
        "ls",
        "the presets, and the runs below FOLDER (default: runs and sweeps)",
        "mitune.verbs.ls:ls",
        takes="[FOLDER]",
    ),
    Verb(
        "status",
        "what is done in a run folder, what is at work there, and what comes next",
        "mitune.verbs.status:status",
        takes="RUN",
        said="It only reads, so it may be asked while a command is at work there.",
    ),
    Verb(
        "report",
        "report.html again, of what a run has left so far, without a run",
        "mitune.verbs.report:report",
        takes="RUN",
    ),
    Verb(
        "clean",
        "what of a run folder can be made again, and how large it is; --yes deletes it",
        "mitune.verbs.clean:clean",
        takes="RUN",
        options={
            "--yes": "delete what no later command asks for: checkpoints of finished trainings, half-written files",
            "--drawn": "with what can be drawn again from its seed: the latents behind finished selections and tables",
        },
        said="Without --yes nothing is deleted. Tables, training sets, adapters, pictures, marks and reports always"
        " stay, and so does what mitune did not write and what a link leads to. What was drawn is drawn again where a"
        " later command needs it, bit for bit on the same device and libraries.",
    ),
    Verb(
        "check",
        "what mitune run would do with these words: files, plan, memory, disk; with probe=10 (seconds) the time",
        "mitune.verbs.check:check",
        takes="[probe=SECONDS] [group=option ...] [key=value ...]",
    ),
    Verb(
        "survey",
        "ask people: build a survey from pictures, serve its page, report the answers as tables",
        "mitune.verbs.survey:survey",
        takes="build|serve|report FOLDER [[NAME=]SOURCE ...] [key=value ...]",
        said="build: FOLDER is made from sources, [NAME=]SOURCE: a run's folder, one of mitune sample, a folder or"
        " table of pictures with prompts; mitune survey build help lists its keys. serve: the survey of FOLDER on this"
        " machine. report: FOLDER/report, with a page, its figures and the answers without personal data.",
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
