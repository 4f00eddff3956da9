"""``mitune survey build|serve|report``: people choose among pictures, and their answers become tables."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitune.errors import UserError, nearest, short
from mitune.verbs.catalogue import VERBS

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    from mitune.data.store import CandidateStore

# What comes after the verb, and where its code is: imported on use, as some of it needs the extra `survey`.
ACTS = {
    "build": "mitune.survey.build",
    "serve": "mitune.survey.serve",
    "report": "mitune.survey.report",
}


def survey(words: list[str]) -> int:
    """``mitune survey build|serve|report WORDS``: the module of that name, its ``main(words)``."""
    act = words[0] if words else ""
    if act == "help":
        print(
            f"mitune survey {VERBS['survey'].takes}\n\n  mitune survey build help, serve help, report help tell more"
        )
        return 0
    if act not in ACTS:
        said = f"'{short(act, 40)}' is not known{nearest(act, ACTS)}" if act else "what to do is missing"
        raise UserError(f"survey: {said}; give {VERBS['survey'].takes}")
    main = importlib.import_module(ACTS[act]).main
    code: int = main(words[1:], decoded) if act == "build" else main(words[1:])
    return code


def decoded(store: CandidateStore, rows: pd.DataFrame) -> list[Image]:
    """Draw the pictures of kept candidates by the model of the run in whose folder they lie."""
    from mitune.evaluate.drawings import to_image
    from mitune.stages.candidates import decode_rows

    run = next(
        (folder for folder in store.folder.resolve().parents if (folder / "config.yaml").is_file()), None
    )
    if run is None:
        raise UserError(
            f"{store.folder} lies in no run's folder, and its latents need the run's model; give the run"
        )
    config, denoiser = _model(run)
    return [to_image(picture) for picture in decode_rows(store, rows, denoiser, config.generate.batch_size)]


@functools.lru_cache(maxsize=1)
def _model(run: Path) -> tuple[Any, Any]:
    """The configuration of a run, and its model, without adapters: they do not decode."""
    from mitune.config import compose
    from mitune.stages.inputs import load_model, quiet

    quiet()
    config = compose([f"run={run}"])
    return config, load_model(config)
