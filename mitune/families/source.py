"""Where a model's files are: a folder, a Hub repository, or the package; found before anything large is
read.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from mitune.errors import UserError
from mitune.files import read_json

PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BLOCK = 4096  # bytes; a few of them, spread over a weight file, tell fine-tunes of one architecture apart


@dataclass(frozen=True)
class ModelSource:
    """A pipeline that exists: its name, its folder (None while it is still on the Hub), its class and
    components.
    """

    name: str
    folder: Path | None
    pipeline: str
    components: tuple[str, ...]
    revision: str | None = None


def find_model(path: str | Path, revision: str | None = None) -> ModelSource:
    """Find ``path`` ('shapes', a folder, or a Hub id) and read its ``model_index.json``; nothing else is
    fetched.

    Raises UserError: nothing there, no pipeline, a single checkpoint file, pickled weights.
    """
    text = str(path)
    if text == "shapes":
        folder = Path(__file__).parent.parent / "worlds" / "shapes" / "model"
        if not (folder / "model_index.json").is_file():
            raise UserError(f"the embedded model is missing at {folder}; install mitune again")
        return _from_folder(folder, "shapes")
    local = Path(text).expanduser()
    if local.suffix.lower() in PICKLED:
        raise UserError(
            f"{text}: pickled checkpoints can run any code when opened and are not read; use a diffusers "
            "folder with safetensors weights"
        )
    if local.is_file():
        raise UserError(
            f"{text} is a single file; turn it into a folder once with diffusers: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if local.is_dir():
        return _from_folder(local, local.resolve().name)
    if not _HUB_ID.fullmatch(text):
        raise UserError(f"{text} is neither a folder nor a Hub id (owner/name)")
    return _from_hub(text, revision)


def _from_folder(folder: Path, name: str) -> ModelSource:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"{folder} is not a diffusers pipeline: it has no model_index.json; give the folder that has one"
        )
    return _source(name, folder, read_json(index), None)


def _from_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{name}@{revision}" if revision else name
    try:
        index = read_json(hf_hub_download(name, "model_index.json", revision=revision))
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
            f"{name} has no revision '{revision}' on the Hub; leave model.revision out for the newest"
        ) from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{at}: no such folder here, and the Hub cannot be reached; check the path or the network"
        ) from error
    except EntryNotFoundError as error:
        raise UserError(f"{at} on the Hub is not a diffusers pipeline: it has no model_index.json") from error
    except (HfHubHTTPError, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{at}: the Hub did not answer ({first}); try again later") from error
    return _source(name, None, index, revision)


def _source(name: str, folder: Path | None, index: dict, revision: str | None) -> ModelSource:
    pipeline = index.get("_class_name") if isinstance(index, dict) else None
    if not isinstance(pipeline, str):
        raise UserError(f"{name}: model_index.json names no pipeline class (_class_name)")
    components = tuple(
        key
        for key, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] is not None
    )
    return ModelSource(name, folder, pipeline, components, revision)


def weight_files(folder: Path, component: str, variant: str | None) -> list[Path]:
    """The safetensors files of a component (several when sharded). Raises UserError if only pickled ones are
    there.
    """
    part = folder / component
    everything = sorted(part.glob("*.safetensors"))
    # name[.variant][-00001-of-00002].safetensors: what is loaded without a variant has no dot in its stem.
    chosen = [
        file for file in everything if (f".{variant}" in file.stem if variant else "." not in file.stem)
    ]
    if chosen:
        return chosen
    if everything:
        variants = sorted({file.stem.split(".")[1].split("-")[0] for file in everything if "." in file.stem})
        hint = f"choose model.variant={variants[0]}" if variants else "leave model.variant out"
        raise UserError(
            f"{part} has no weights{f' of the variant {variant!r}' if variant else ' without a variant'}; "
            f"{hint}"
        )
    if any(part.glob("*.bin")):
        raise UserError(
            f"{part} has pickled weights only (.bin), which are not read; save the pipeline again with "
            "safe_serialization=True"
        )
    raise UserError(f"{part} has no safetensors weights; the model is incomplete, fetch it again")


def fingerprint(files: list[Path]) -> str:
    """12 hex digits that tell weights apart at the cost of a few reads: sizes, headers, and blocks spread
    over each file.
    """
    digest = hashlib.sha256()
    for file in files:
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
