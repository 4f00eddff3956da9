"""Completion of command lines in a shell: ``mitune completion bash`` prints what asks ``mitune complete WORDS``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mitune.config import groups
from mitune.config.composition import SHORT
from mitune.config.keys import keys
from mitune.config.relations import SCORE_KEYS
from mitune.errors import UserError, nearest
from mitune.scores import COLUMNS, COMBINED, INFORMATION, PICTURE_SCORERS, RACERS, SCORERS
from mitune.settings import Key
from mitune.stages.catalogue import STAGES
from mitune.verbs.catalogue import VERBS

_AS = {"demo": "run"}  # a verb that takes the words of a stage
_SCRIPTS = {
    "bash": """_mitune() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$' \\t'
    local words=($line)
    [[ "$line" == *[[:space:]] ]] && words+=("")
    local last="${words[@]: -1}" IFS=$'\\n'
    COMPREPLY=($(mitune complete "${words[@]:1}" 2>/dev/null))
    if [[ "$last" == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${last%%=*}="}"); fi
    if [[ "${COMPREPLY[0]}" == *= ]]; then compopt -o nospace; fi
}
complete -o default -F _mitune mitune
""",
    "zsh": """#compdef mitune
_mitune() {
    local -a found
    found=("${(@f)$(mitune complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -Q -S '' -- $found; else _files; fi
}
compdef _mitune mitune
""",
    "fish": """function __mitune
    mitune complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c mitune -f -a '(__mitune)'
complete -c mitune -n 'test -z (__mitune | string collect)' -F
""",
}


def script(shell: str) -> str:
    """Give what a shell reads to complete ``mitune``. Raises UserError for a shell that is not known."""
    if shell not in _SCRIPTS:
        raise UserError(
            f"mitune completion SHELL: it is one of {', '.join(_SCRIPTS)}{nearest(shell, _SCRIPTS)}"
        )
    return _SCRIPTS[shell]


def complete(words: Sequence[str], options: Iterable[str] = ()) -> list[str]:
    """Give what the last of ``words`` may become: a stage or a verb, then one of its ``options``, a group or a key that
    the stage reads, then a value after ``key=``. Where there is nothing, the shell offers files."""
    *before, last = words or [""]
    if not before:
        found = [*STAGES, *VERBS, *options]
    elif before[0] in STAGES and last.startswith("-"):
        found = list(options)
    elif before[0] in VERBS and last.startswith("-"):
        found = [*VERBS[before[0]].options, "--help"]
    else:
        found = _choices(before, last)
    return [word for word in found if word.startswith(last)]


def _choices(before: Sequence[str], last: str) -> list[str]:
    stage = before[0]
    if stage == "completion":
        return list(_SCRIPTS)
    if stage == "help":
        from mitune.manual import topics

        return topics()
    stage = _AS.get(stage, stage)
    if stage not in STAGES:
        return []
    own = STAGES[stage]
    name, equals, _ = last.partition("=")
    if not equals:
        known = {} if own.inherits else dict.fromkeys(groups(), ())
        return [f"{one}=" for one in (*known, *(key for key in keys() if own.shows(key)))]
    return [f"{name}={value}" for value in _values(name, last)]


def _values(name: str, last: str) -> list[str]:
    """The values that the key or group ``name`` may have; of a list, after the items that are there."""
    if name in groups():
        return groups()[name]
    key = keys().get(SHORT.get(name, name))
    if key is None:
        return []
    found = ["true", "false"] if key.kind is bool else [*key.limits.choices, *_scores(key)]
    if key.many:
        begun = last.partition("=")[2].rpartition(",")[0]
        there = begun.removeprefix("[").split(",")
        return [f"{begun},{value}" if begun else f"[{value}" for value in found if value not in there]
    return [*found, "null"] if key.optional else found


def _scores(key: Key) -> list[str]:
    """The scores that a key may name, or that a sum there may begin with."""
    if key.name == "search.reward":
        return [*PICTURE_SCORERS, *INFORMATION]
    if key.name in ("sampler.racing.by", "calibrate.by"):
        return [*RACERS]
    every = [*SCORERS, *COLUMNS]
    if key.name in SCORE_KEYS:
        return [*every, COMBINED]
    if key.name == "select.by":
        return [*every, COMBINED, "random"]
    return every if key.name in ("scorer.combined", "sweep.objective") else []
