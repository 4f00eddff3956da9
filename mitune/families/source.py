"""Where a model's files are: a folder, a Hub repository, or the package; found before anything large is read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.errors import UserError, first_line, short
from mitune.families.adapter_place import ADAPTER_FILE, PEFT_FILE, PEFT_SETTINGS, PICKLED, choose
from mitune.families.headers import Header, read_header
from mitune.families.marks import read_marks
from mitune.reading import check_regular, home, is_file, is_folder, is_hub_id, is_there, read_json

EMBEDDED = {"shapes": "shapes/model", "shapes_flow": "shapes/model_flow"}
"""The models inside the package, by the name they are opened with, and their folders below ``worlds``."""
_HUB_ADAPTER = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:/((?!.*\.\.)[^@]+\.safetensors))?(?:@(.+))?")
_EITHER = "stabilityai/stable-diffusion-2-1"
_BLOCK = 4096  # bytes; a few of them, spread over a weight file, tell fine-tunes of one architecture apart


@dataclass(frozen=True)
class ModelSource:
    """A pipeline exists: its name, its folder (None while it is still on the Hub), its class and
    components. ``file``: the single checkpoint file its weights are in, ``built_as`` the folder or Hub id that says
    how they are put together. ``index``: what ``model_index.json`` says.
    """

    name: str
    folder: Path | None
    pipeline: str
    components: tuple[str, ...]
    revision: str | None = None
    file: Path | None = None
    built_as: str | None = None
    index: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def find_model(
    path: str | Path, revision: str | None = None, configuration: str | None = None
) -> ModelSource:
    """Find ``path`` (one of ``EMBEDDED``, a folder, a Hub id, or a checkpoint file) and read its
    ``model_index.json``; nothing else is fetched. ``configuration``: the folder or Hub id that says how the model in a
    checkpoint file is built (default: that of the model it was made from, as diffusers recognises it).

    Raises UserError: nothing there, no pipeline, pickled weights, a file whose configuration cannot be had.
    """
    local = look_for_model(path)
    if local is None:
        return _from_hub(str(path), revision)
    if is_file(local):
        return _from_file(local, configuration)
    return _from_folder(local, str(path) if str(path) in EMBEDDED else local.resolve().name)


def look_for_model(path: str | Path) -> Path | None:
    """Find the folder or checkpoint file that ``path`` names; None for what may be on the Hub, which is not asked.

    No library is imported and no weights are read. Raises UserError: nothing there, no pipeline, pickled weights.
    """
    text = str(path)
    if text in EMBEDDED:
        folder = Path(__file__).parent.parent / "worlds" / EMBEDDED[text]
        if not (folder / "model_index.json").is_file():
            raise UserError(f"the embedded model is missing at {folder}; install mitune again")
        return folder
    local = home(text)
    if local.suffix.lower() in PICKLED:
        raise UserError(
            f"{text}: pickled checkpoints can run any code when opened and are not read; use a diffusers "
            "folder with safetensors weights"
        )
    if is_file(local):
        _check_file(local)
        return local
    if is_folder(local):
        _check_index(local)
        return local
    if not is_hub_id(text):
        if is_there(local):  # a device, a pipe or a socket
            check_regular(local)
        raise UserError(f"{short(text)} is neither a folder nor a Hub id (owner/name)")
    return None


def _check_file(file: Path) -> Header:
    if file.suffix.lower() != ".safetensors":
        raise UserError(
            f"{file} is no safetensors file; give a .safetensors checkpoint or a diffusers folder"
        )
    return read_header(file, "it is damaged, fetch it again")


def _check_index(folder: Path) -> Path:
    index = folder / "model_index.json"
    if not os.path.lexists(index):
        raise UserError(
            f"{folder} is not a diffusers pipeline: it has no model_index.json; give the folder that has one"
        )
    return index


def _from_file(file: Path, configuration: str | None) -> ModelSource:
    header = _check_file(file)
    marks = read_marks(file, header)
    built_as = configuration or _recognised(file, header, bool(marks))
    if is_file(home(built_as)):
        raise UserError(
            f"model.config={built_as} is a file; give the diffusers folder of a model that is built alike"
        )
    try:
        base = find_model(built_as)
    except UserError as error:
        raise UserError(
            f"{file} is a single checkpoint file, built as {built_as}; its configuration is needed beside it, and"
            f" {error}; say model.config=FOLDER of such a model (only weights that the file lacks are read there)"
        ) from error
    return dataclasses.replace(base, name=file.stem, file=file, built_as=built_as)


def _recognised(file: Path, header: Header, marked: bool) -> str:
    """Find the Hub id of the model that a checkpoint's layers are those of. ``marked``: its own marks say what it
    predicts.
    """
    from diffusers.loaders import single_file_utils

    try:
        found = str(
            single_file_utils.fetch_diffusers_config(header.layers())["pretrained_model_name_or_path"]
        )
    except Exception as error:  # whatever it does with layers it does not know
        raise UserError(
            f"{file}: diffusers does not recognise this checkpoint; say model.config=FOLDER"
        ) from error
    if found == _EITHER and not marked:
        raise UserError(
            f"{file} has the layers of Stable Diffusion 2.x, which do not say whether it predicts the noise (2-base,"
            f" 2.1-base) or the velocity (2, 2.1); say model.config={_EITHER}-base or model.config={_EITHER}"
        )
    return found


def _from_folder(folder: Path, name: str) -> ModelSource:
    return _source(name, folder, read_json(_check_index(folder), "fetch the model again"), None)


def _from_hub(name: str, revision: str | None) -> ModelSource:
    missing = "is not a diffusers pipeline: it has no model_index.json"
    return _source(name, None, read_json(_fetch(name, "model_index.json", revision, missing)), revision)


def find_adapter(name: str | Path) -> Path:
    """Find an adapter: a folder or file here, or fetched from the Hub (``owner/name``, ``owner/name/FILE`` where it has
    several, either with ``@revision``).

    Raises UserError: neither, or the Hub does not have it.
    """
    path = home(name)
    found = _HUB_ADAPTER.fullmatch(str(name))
    if is_file(path) or is_folder(path) or not found:
        return path  # what is not there, its reader says
    return Path(_fetch_adapter(*found.groups()))


def is_hub_adapter(name: str) -> bool:
    """Tell whether ``name`` may be an adapter of the Hub, as :func:`find_adapter` takes it."""
    return _HUB_ADAPTER.fullmatch(name) is not None


def _fetch_adapter(name: str, file: str | None, revision: str | None) -> str:
    """The adapter file of a Hub repository, in the Hub's cache, with peft's settings beside it."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with asking_hub(name, revision, f"has no {file or ADAPTER_FILE}"):
        if file is None:
            try:
                return str(hf_hub_download(name, ADAPTER_FILE, revision=revision))
            except LocalEntryNotFoundError:  # no network: the cache may have an adapter by another name
                folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
                names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            except EntryNotFoundError:
                names = HfApi().list_repo_files(name, revision=revision)
            top = sorted({one.partition("/")[0] + "/" * ("/" in one) for one in names})
            file = choose(top, name, f"say which: {name}/FILE.safetensors")
        if Path(file).name == PEFT_FILE:
            hf_hub_download(name, str(Path(file).with_name(PEFT_SETTINGS)), revision=revision)
        return str(hf_hub_download(name, file, revision=revision))


def _fetch(name: str, file: str, revision: str | None, missing: str) -> str:
    """A file of a Hub repository, in the Hub's cache. ``missing``: what it is without that file."""
    from huggingface_hub import hf_hub_download

    with asking_hub(name, revision, missing):
        return str(hf_hub_download(name, file, revision=revision))


@contextlib.contextmanager
def asking_hub(name: str, revision: str | None, missing: str) -> Iterator[None]:
    """Turn what the Hub and its client raise within the block into a UserError about ``name``.

    ``missing``: what the repository is if a file is not there.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{name}@{revision}" if revision else name
    try:
        yield
    except GatedRepoError as error:
        raise UserError(
            f"{at} asks for permission: accept its terms on the Hub and log in (hf auth login)"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{at}: no such folder here and no such model on the Hub (a private one needs: hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{name} has no revision '{revision}' on the Hub; leave it out for the newest"
        ) from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{at}: no such folder here, and the Hub cannot be reached; check the path or the network"
        ) from error
    except EntryNotFoundError as error:
        raise UserError(f"{at} on the Hub {missing}") from error
    except HFValidationError as error:
        raise UserError(f"{at} is neither a folder nor a Hub id (owner/name)") from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{at}: the Hub did not answer ({first_line(error)}); try again later") from error


def _source(name: str, folder: Path | None, index: Any, revision: str | None) -> ModelSource:
    index = checked_index(index, name)
    components = tuple(
        key for key, value in index.items() if isinstance(value, list) and value[0] is not None
    )
    return ModelSource(name, folder, index["_class_name"], components, revision, index=index)


def checked_index(index: Any, where: object) -> dict[str, Any]:
    """Give ``model_index.json``. Raises UserError, naming ``where``, unless it names a pipeline and its parts."""
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"{where}: model_index.json names no pipeline class (_class_name)")
    for key, value in index.items():
        if isinstance(value, dict) or (isinstance(value, list) and not _is_part(key, value)):
            raise UserError(
                f"{where}: model_index.json is damaged: its {short(key)!r} is no part with its library and class;"
                " fetch the model again"
            )
    return index


def _is_part(name: str, value: list[Any]) -> bool:
    if len(value) != 2 or not name.isidentifier():
        return False
    return value == [None, None] or all(isinstance(one, str) and one.isidentifier() for one in value)


def fingerprint(files: list[Path]) -> str:
    """12 hex digits that tell weights apart at the cost of a few reads: sizes, headers, and blocks spread
    over each file.
    """
    digest = hashlib.sha256()
    for file in files:
        check_regular(file)
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little") if file.suffix == ".safetensors" else size
            digest.update(stream.read(min(header, size)))
            start = stream.tell()
            for block in range(16):
                stream.seek(start + (size - start) * block // 16)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:12]
