"""``mitune survey build|serve|report``: people choose among pictures, and their answers become tables."""

from __future__ import annotations

import importlib

from mitune.errors import UserError, nearest, short
from mitune.verbs.catalogue import VERBS

# What comes after the verb, and where its code is: imported on use, as some of it needs the extra `survey`.
ACTS = {
    "build": "mitune.survey.build",
    "serve": "mitune.survey.serve",
    "report": "mitune.survey.report",
}


def survey(words: list[str]) -> int:
    """``mitune survey build|serve|report WORDS``: the module of that name, its ``main(words)``."""
    act = words[0] if words else ""
    if act not in ACTS:
        said = f"'{short(act, 40)}' is not known{nearest(act, ACTS)}" if act else "what to do is missing"
        raise UserError(f"survey: {said}; give {VERBS['survey'].takes}")
    code: int = importlib.import_module(ACTS[act]).main(words[1:])
    return code
