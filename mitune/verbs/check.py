"""``mitune check``: what ``mitune run`` would do with the same words, told before anything is loaded."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import mitune
from mitune.config import compose
from mitune.errors import UserError, printable, short
from mitune.families.footprint import Footprint, footprint
from mitune.families.source import ModelSource, find_model
from mitune.reading import home
from mitune.verbs.amounts import size
from mitune.versions import check_versions

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets")
PROBE = 10.0  # seconds


def check(words: list[str]) -> int:
    """``mitune check [probe=SECONDS] WORDS``: ``WORDS`` as ``mitune run`` takes them. Gives 0.

    Raises UserError as the run would: for what is missing, damaged or does not fit together.
    """
    seconds, words = _probing(words)
    config = compose(words, "run")
    check_versions()
    source = find_model(config.model.path, config.model.revision, config.model.config)
    found = footprint(source, config.model.variant, config.model.resolution)
    _tell("installed", _installed())
    _tell("model", _model(config, source, found))
    _tell("run", [f"{config.name} in {home(config.run)}{_begun(config)}"])
    from mitune.verbs.forecast import forecast  # torch, from here on

    for title, lines in forecast(config, source, found, seconds):
        _tell(title, lines)
    return 0


def _probing(words: list[str]) -> tuple[float | None, list[str]]:
    """(seconds of a probe, the other words)."""
    mine = [word for word in words if word.partition("=")[0] == "probe"]
    rest = [word for word in words if word not in mine]
    if not mine:
        return None, rest
    text = mine[-1].partition("=")[2] or str(PROBE)
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= 3600:
            return seconds, rest
    raise UserError(f"probe={short(text, 40)}: give its seconds, above 0 and up to 3600, such as probe=10")


def _tell(title: str, lines: Any) -> None:
    for number, line in enumerate(lines):
        print(f"{title if not number else '':<10} {printable(line)}", flush=True)


def _installed() -> Iterator[str]:
    found = []
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    yield f"mitune {mitune.__version__}, Python {platform.python_version()}, {', '.join(found)}"


def _model(config: Any, source: ModelSource, found: Footprint | None) -> Iterator[str]:
    """Where the model is, its family, and what it is made of."""
    place = source.file or source.folder or "on the Hub, not fetched yet"
    yield f"{source.name}: {source.pipeline} ({place})"
    if found is None:
        yield "its size is not known before it is opened (a single file, a model on the Hub, or it does not say)"
        return
    parts = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in found.parameters.items())
    total = sum(found.parameters.values())
    yield f"{total / 1e6:,.1f} M parameters ({parts}), {size(found.disk)} of files"
    yield f"pictures of {found.picture[1]} x {found.picture[0]}, latents of {' x '.join(map(str, found.latent))}"
    if config.model.adapter:
        yield f"with {', '.join(config.model.adapter)}"


def _begun(config: Any) -> str:
    folder = Path(home(config.run))
    if not (folder / "config.yaml").is_file():
        return " (new)"
    return ": begun there, it goes on; what is done is not done again, and the plan counts all of it"
