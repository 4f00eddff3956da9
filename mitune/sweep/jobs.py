"""One job of a sweep: an ordinary command in a folder of its own, and the note of how it ended."""

from __future__ import annotations

import contextlib
import io
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mitune import command
from mitune.errors import UserError, first_line, short
from mitune.files import write_json
from mitune.report.sweeps import NOTE, read_note
from mitune.stages.catalogue import STAGES
from mitune.sweep.arguments import folder_name, values_of

FAILED = 1
_SAYS = ("stage", "words", "code", "line", "command")  # a note of this version
# The command was told to stop: by Ctrl-C, or by a scheduler that will start it again.
STOPPED = (75, 130)


@dataclass(frozen=True)
class Job:
    """Runs one job of a sweep when Hydra's launchers call it, in this process or in another on another machine.

    Attributes:
        stage: what it runs.
        fixed: words of every job.
        folder: of the sweep.
        command: tells the notes of this command from those of earlier ones.
        choices: what Hydra is told of the groups, which is no value of the job.
    """

    stage: str
    fixed: tuple[str, ...]
    folder: str
    command: str
    choices: tuple[str, ...] = ()

    def __call__(self, config: Any) -> float | None:
        """Run the job that Hydra's configuration of the moment asks for; gives its objective, None if it failed."""
        from hydra.core.hydra_config import HydraConfig

        own = [word for word in HydraConfig.get().overrides.task if word not in {*self.fixed, *self.choices}]
        in_process = str(HydraConfig.get().launcher["_target_"]).endswith("BasicLauncher")
        with _hydra_kept():
            note = self.run(values_of(own))
        if note["code"] in STOPPED and in_process:
            raise SystemExit(note["code"])
        return note["value"]

    def run(self, values: dict[str, str]) -> dict[str, Any]:
        """Do the job with these swept ``values``, unless it is done; gives its note."""
        place = Path(self.folder) / folder_name(values)
        words = [*self.fixed, *(f"{key}={value}" for key, value in values.items())]
        before = read_note(place, _SAYS)
        same = before and before["code"] == 0 and (before["stage"], before["words"]) == (self.stage, words)
        if before and same and _intact(place):
            print(f"job {place.name}: done before", flush=True)
            note = before | {"command": self.command}
        else:
            print(f"job {place.name}", flush=True)
            start = time.time()
            own = [f"run={place}"]
            # A folder of one's own may serve several sweeps.
            if not any(word.startswith("sweep.share=") for word in words):
                own.append(f"sweep.share={Path(self.folder) / 'shared'}")
            for part in (*STAGES[self.stage].needs, self.stage):
                code, line = attempt(part, [*words, *own])
                if code:
                    break
            note = {
                "stage": self.stage,
                "values": values,
                "words": words,
                "code": code,
                "line": line,
                "seconds": round(time.time() - start, 3),
                "value": None if code else gain(place, words),
                "command": self.command,
            }
        write_json(place / NOTE, note)
        return note


def _intact(place: Path) -> bool:
    """Whether what a job left is still as it was."""
    from mitune.runs import RunFolder

    return RunFolder(place).intact()


def notes(folder: Path, command: str | None = None) -> dict[str, dict[str, Any]]:
    """Read the notes in a sweep's folder by the names of the jobs' folders; ``command``: only those of this one."""
    found = {path.parent.name: read_note(path.parent, _SAYS) for path in sorted(folder.glob(f"*/{NOTE}"))}
    return {name: note for name, note in found.items() if note and command in (None, note["command"])}


def gain(place: Path, words: list[str]) -> float | None:
    """Read what ``sweep.objective`` gained on the held-out prompts in the last round; None before an evaluation."""
    from mitune.config import compose
    from mitune.runs import RunFolder

    run = RunFolder(place)
    rounds = [number for number in run.trained() if run.mark(number, "evaluate")]
    if not rounds:
        return None
    config = compose(words, "evaluate")
    scores = (run.mark(rounds[-1], "evaluate") or {})["difference"]["all"]
    name = config.sweep.objective or config.evaluate.scorers[-1]
    return float(scores[name]["difference"])


def attempt(stage: str, words: list[str]) -> tuple[int, str]:
    """Run a command in this process; gives its exit code, and the line that it ended with where that is not 0."""
    said = LastError(sys.stderr)
    with contextlib.redirect_stderr(said):
        try:
            code = command.run(stage, words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else FAILED
        except Exception as error:
            traceback.print_exc()
            said.line, code = f"{type(error).__name__}: {first_line(error)}", FAILED
    return code, "" if code == 0 else short(said.line, 400)


class LastError(io.TextIOBase):
    """Passes on what is written, and keeps the last line that mitune said of an error."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.line, self._rest = out, "", ""

    def write(self, text: str) -> int:
        """Write ``text`` on."""
        self._rest += text
        *lines, self._rest = self._rest.split("\n")
        for line in lines:
            if line.startswith("mitune: ") and not line.startswith("mitune: warning:"):
                self.line = line.removeprefix("mitune: ")
        return self.out.write(text)

    def flush(self) -> None:
        """Flush what it is passed on to."""
        self.out.flush()

    def isatty(self) -> bool:
        """Tell whether it ends on a terminal."""
        return self.out.isatty()

    def fileno(self) -> int:
        """Give the file it ends in."""
        return self.out.fileno()


@contextlib.contextmanager
def _hydra_kept() -> Iterator[None]:
    """A job composes its configuration by Hydra too: what Hydra holds for the sweep is as before afterwards."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def check_stage(stage: str) -> None:
    """Raises UserError for a stage that has no folder of its own to repeat in."""
    if not STAGES[stage].swept:
        known = STAGES.where(lambda one: one.swept)
        raise UserError(f"mitune {stage} -m: a sweep repeats one of {', '.join(known)}")
