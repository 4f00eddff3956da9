"""Upload a folder to the Hugging Face Hub, through its own client.

The client sends a file only if the repository does not have it; what an interrupted upload had sent is not sent again.
It retries what may be repeated; what it leaves to its caller, the creation of the repository, is retried here.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import mitune
from mitune.errors import UserError, first_line, short

WAITS: tuple[float, ...] = (1, 4)
"""Seconds before a request is made again."""
PATIENCE = 300
"""Seconds without a byte from the Hub after which a connection counts as lost."""

_NETWORK = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
_Result = TypeVar("_Result")


def check_repository(name: str, key: str = "export.push") -> None:
    """Raises UserError unless ``name`` can be a repository's: user/name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{key}={name}: {first_line(error)}; give user/name") from error
    if name.count("/") != 1:
        raise UserError(f"{key}={name}: give the owner, too: user/name")


def push(
    folder: Path,
    repository: str,
    private: bool = False,
    revision: str | None = None,
    kind: str = "model",
    message: str = "Upload by mitune export",
) -> str:
    """Send ``folder`` to ``repository`` (made if it is not there) and give the commit's address.

    Args:
        folder: what to send; ``repository``: ``owner/name``, ``private`` if it is made here.
        revision: a branch, made if it is not there.
        kind: model or dataset; ``message``: of the commit.

    Raises UserError: no token, one that is refused, no network, the Hub's refusal; the folder stays, and the same call
    goes on.
    """
    from huggingface_hub import HfApi, get_token

    check_repository(repository)
    token = get_token()
    if token is None:
        raise UserError(
            f"export.push={repository}: there is no token for the Hub; log in (hf auth login) or set HF_TOKEN;"
            f" the export is in {folder}"
        )
    api = HfApi(token=token, library_name="mitune", library_version=mitune.__version__)
    what: dict[str, Any] = {"repo_id": repository, "repo_type": kind}
    with _calm():
        try:
            _again(lambda: api.create_repo(**what, private=private or None, exist_ok=True))
            if revision is not None:
                _again(lambda: api.create_branch(**what, branch=revision, exist_ok=True))
            done = api.upload_folder(
                **what, folder_path=str(folder), revision=revision, commit_message=message
            )
        except Exception as error:  # many types and libraries, few meanings
            line = _meaning(error, repository).replace(token, "***")
            raise UserError(
                f"{line}; the export is in {folder}, and the same command goes on from there"
            ) from error
    return str(done.commit_url)


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """The client's own bars only where somebody watches, its notices of retries never; no wait without end."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        get_session,
        logging,
    )

    level, shown = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    with contextlib.suppress(AttributeError):
        get_session().timeout = PATIENCE
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            enable_progress_bars()


def _again(call: Callable[[], _Result]) -> _Result:
    """``call``, once more after a while where the Hub or the network failed."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            code = _status(error)
            if not (_is_network(error) if code is None else code >= 500 or code == 429):
                raise
            time.sleep(wait)
    return call()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, if it is one."""
    from huggingface_hub.errors import HfHubHTTPError

    for part in _chain(error):
        if isinstance(part, HfHubHTTPError) and part.response is not None:
            return int(part.response.status_code)
    return None


def _is_network(error: BaseException) -> bool:
    """Whether the Hub could not be reached, or the connection was lost."""
    return any(
        isinstance(part, (ConnectionError, TimeoutError)) or type(part).__module__.split(".")[0] in _NETWORK
        for part in _chain(error)
    )


def _meaning(error: BaseException, repository: str) -> str:
    """An error as a line that says what to do."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    code = _status(error)
    if any(isinstance(part, OfflineModeIsEnabled) for part in _chain(error)):
        return f"export.push={repository}: HF_HUB_OFFLINE is set, so nothing is sent; unset it"
    if code == 401:
        return f"the Hub refused the token (401); log in again (hf auth login) to push to {repository}"
    if code == 403:
        return f"the token may not write to {repository} (403); take one with write access, or a repository of your own"
    if code is not None and code >= 500:
        return f"the Hub has a fault of its own ({code}); try again later"
    if code == 429:
        return "the Hub asks for patience: too many requests (429); try again later"
    if code is not None:
        return f"the Hub refused the upload to {repository} ({code}: {_said(error)})"
    if _is_network(error):
        return f"the Hub cannot be reached, or the connection was lost ({_said(error)}); check the network"
    return f"the upload to {repository} failed ({_said(error)})"


def _said(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    for part in _chain(error):
        if isinstance(part, HfHubHTTPError) and part.server_message:
            return short(" ".join(part.server_message.split()), 200)
    return short(
        next((text for part in _chain(error) if (text := first_line(part).strip())), "no reason given")
    )
