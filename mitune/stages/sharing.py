"""What runs of a sweep have in common lies in one place: drawn once, by whichever job comes first.

A job's folder holds a link to it. The place is named by a hash of all that its contents depend on, so jobs that differ
only in how they train find the same candidates, and jobs that differ in how they draw never do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mitune import leaving, reading
from mitune.config.keys import keys
from mitune.distributed import broadcast, state, wait
from mitune.errors import UserError
from mitune.files import PARTIAL, user_errors
from mitune.runs import dependencies
from mitune.stages.catalogue import covers
from mitune.stages.inputs import selecting
from mitune.stages.progress import say
from mitune.stages.racing import survivors_of
from mitune.tasks import Task

# Keys and sections that came when folders had names already: their defaults say what it was without them, and the names
# stay. Of the sections of scores, all but those that were there at first.
_LATER = (
    "prompts.picture_column model.picture_guidance sampler.guidance_interval generate.passes sampler.balance"
    " sampler.balancing search.rcp scorer scorer.mi.form -scorer.aesthetic -scorer.cas -scorer.clip -scorer.combined"
    " -scorer.contrast -scorer.elbo -scorer.hpsv2 -scorer.imagereward -scorer.jpeg -scorer.llr_image -scorer.mi"
    " -scorer.mi_image -scorer.pickscore -scorer.profile"
)
POLL = 2.0  # seconds between two looks at whether another job has finished


def candidates_name(
    config: DictConfig,
    number: int,
    prompts: Sequence[Task],
    identity: str,
    branches: int = 2,
    laid: str | None = None,
) -> str:
    """Name the candidates of round ``number`` by all they depend on: seeds, prompts, sampler, scores, the model's
    weights, and which latents are kept.

    Args:
        config: the run's.
        number: of the round.
        prompts: their tasks.
        identity: of the model; from the second round on with the adapter's.
        branches: of the model.
        laid: as :func:`mitune.sampling.grids.laid` says.
    """
    values = _depends(config)
    keep = values.pop("generate.keep") or config.select.k
    if keep < survivors_of(config, branches):
        values["kept"] = [keep, config.select.losers, selecting(config)]
    if config.generate.passes is not None:
        values["raced"] = [config.select.k, config.select.losers, selecting(config)]
    values |= {"round": number, "prompts": [prompt.id for prompt in prompts], "model": identity}
    return _name("candidates", values | ({} if laid is None else {"steps": laid}))


def real_name(
    config: DictConfig,
    plan: Mapping[str, Any],
    scorers: Sequence[str],
    skip: bool,
    identity: str,
    source: str | None = None,
) -> str:
    """Name the scores of real pictures by all they depend on.

    Args:
        config: for the scores' parameters, and the prompts in which edits are found.
        plan: the pictures.
        scorers: names of the scores.
        skip: whether pictures that do not decode are left out.
        identity: of the model's weights.
        source: as it was given, since two may have the same captions; None for names of earlier versions.
    """
    needed = ("seed", "model.", "prompts.", "scorer.")
    values = {key: value for key, value in _depends(config).items() if key.startswith(needed)}
    values |= {"plan": plan, "scores": sorted(scorers), "skip": skip, "identity": identity}
    return _name("real", values | ({} if source is None else {"source": source}))


def _depends(config: DictConfig) -> dict[str, Any]:
    """What candidates depend on, by key."""
    return as_named(dependencies(config, "generate"))


def as_named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out keys that came later and have their default: folders are named by what is left."""
    declared = keys()
    return {
        key: value
        for key, value in values.items()
        if not (covers(_LATER, key) and value == declared[key].default)
    }


def _name(kind: str, values: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:16]}"


@contextlib.contextmanager
def shared(config: DictConfig, place: Path, name: str) -> Iterator[None]:
    """While inside, this run alone may write to ``place``, which is a link to ``sweep.share``/``name``.

    Without ``sweep.share``, or where ``place`` is a folder already, it stays the run's own. Other jobs that need the
    same wait here until it is done. Raises UserError where ``place`` already is a link to something else.
    """
    if config.sweep.share is None or (place.exists() and not place.is_symlink()):
        yield
        return
    home = reading.home(config.sweep.share) / name
    handle = -1
    if state().is_main_process:
        with user_errors(home):
            home.mkdir(parents=True, exist_ok=True)
            _link(place, home)
            handle = os.open(home / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    wait()
    try:
        waited = False
        while not broadcast(lambda: _locked(handle)):
            leaving.check()
            if not waited:
                say(f"another job is making {home}; waiting for it")
            waited = True
            time.sleep(POLL)
        yield
    finally:
        if handle >= 0:
            os.close(handle)  # lets go of the lock, as the end of a killed process does


def _link(place: Path, home: Path) -> None:
    """Make ``place`` a link to ``home``, relative, so that a sweep's folder can be moved as a whole."""
    if place.is_symlink():
        if place.resolve() == home.resolve():
            return
        if (place / "plan.json").exists():
            raise UserError(
                f"{place} holds what another configuration or model made ({place.resolve().name}, not {home.name});"
                " choose another run= folder"
            )
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{PARTIAL}{place.name}-{os.getpid()}")
    fresh.symlink_to(os.path.relpath(home.resolve(), place.parent.resolve()), target_is_directory=True)
    os.replace(fresh, place)


def _locked(handle: int) -> bool:
    """Take the lock if it is free. On a file system without locks there is nothing to wait for."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True
