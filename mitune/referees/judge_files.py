"""Where a judge's files are: the package, a folder or the Hub; looked at before anything large is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mitune.errors import UserError
from mitune.families.adapter_place import PICKLED
from mitune.families.headers import read_headers
from mitune.families.shards import check_shards
from mitune.families.source import asking_hub, fingerprint
from mitune.families.weight_files import check_settings, check_stored
from mitune.reading import home, is_file, is_folder, is_hub_id, is_there, read_json

EMBEDDED = {"shapes": "shapes/clip"}
"""The judges inside the package, by the name they are opened with, and their folders below ``worlds``."""
HEAD = "scorer.aesthetic.head"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class JudgeSource:
    """A transformers folder, here or on the Hub; ``key``: the configuration key that named it."""

    name: str
    key: str
    folder: Path | None
    revision: str | None = None

    def open(self) -> Path:
        """The folder with everything that is needed in it, fetched from the Hub if need be; never a pickle.

        Raises UserError: no weights, pickled weights only, a Hub that does not answer.
        """
        folder = self.folder or _from_hub(self.name, self.revision, self.key, None)
        files = judge_files(folder)
        if not files:
            pickled = any(file.suffix in PICKLED for file in folder.iterdir())
            raise UserError(
                f"{self.key}={self.name}: "
                + ("its weights are pickled, which are not read" if pickled else "there are no weights there")
                + "; give a folder with model.safetensors (save_pretrained writes one)"
            )
        check_settings(folder)
        headers = read_headers(files)
        index = folder / "model.safetensors.index.json"
        if is_file(index) and not is_file(folder / "model.safetensors"):  # which is read first
            check_shards(index, "judge", headers)
        check_stored(headers, "judge")
        return folder

    def configuration(self) -> dict:
        """Read ``config.json``. Raises UserError where there is none."""
        return self._read("config.json")

    def preprocessing(self) -> dict:
        """Read ``preprocessor_config.json``, or what of it is in ``processor_config.json``, where processors of more
        than pictures save it. Raises UserError where there is neither.
        """
        try:
            return self._read("preprocessor_config.json")
        except UserError:
            whole = self._processor()
            if whole is None:
                raise
            return whole

    def _processor(self) -> dict | None:
        """How pictures are prepared, in ``processor_config.json``; None where that is not there, or says nothing."""
        try:
            found = self._read("processor_config.json").get("image_processor")
        except UserError:
            return None
        return found if isinstance(found, dict) else None

    def _read(self, file: str) -> dict:
        folder = self.folder or _from_hub(self.name, self.revision, self.key, file)
        if not (folder / file).exists():
            raise UserError(
                f"{self.key}={self.name}: there is no {file}; give a transformers folder or Hub id that has one"
            )
        found = read_json(folder / file)
        if not isinstance(found, dict):
            raise UserError(f"{self.key}={self.name}: {file} is no JSON object; fetch the judge again")
        return found

    @property
    def identity(self) -> str:
        """Name and fingerprint of the weights."""
        return f"{self.name}@{fingerprint(judge_files(self.open()))}"


def judge_files(folder: Path) -> list[Path]:
    """The weight files of a transformers folder."""
    return sorted(folder.glob("*.safetensors"))


def find_judge(path: str, key: str, revision: str | None = None) -> JudgeSource:
    """Find ``path``: one of ``EMBEDDED``, a folder, or a Hub id. Raises UserError for what is none of them."""
    if path in EMBEDDED:
        folder = Path(__file__).parent.parent / "worlds" / EMBEDDED[path]
        if not (folder / "config.json").is_file():
            raise UserError(f"{key}={path}: the embedded judge is missing at {folder}; install mitune again")
        return JudgeSource(path, key, folder)
    local = home(path)
    if is_folder(local):
        return JudgeSource(local.resolve().name, key, local)
    if not is_hub_id(path) or is_there(local):
        raise UserError(
            f"{key}={path} is neither a folder nor a Hub id (owner/name), nor one of {', '.join(EMBEDDED)}"
        )
    return JudgeSource(path, key, None, revision)


def _from_hub(name: str, revision: str | None, key: str, file: str | None) -> Path:
    """The local folder of a Hub repository with one ``file`` of it, or with all that is ever read."""
    from huggingface_hub import hf_hub_download, snapshot_download

    with asking_hub(f"{key}={name}", revision, f"has no {file}; give a transformers model"):
        if file is not None:
            return Path(hf_hub_download(name, file, revision=revision)).parent
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))


def check_head(head: str | None) -> Path:
    """Find the file of the aesthetic head. Raises UserError: none given, a pickle, nothing there."""
    if head is None:
        raise UserError(f"{HEAD}: the aesthetic score needs its head; say {HEAD}=FILE.safetensors")
    path = home(head)
    if path.suffix.lower() in PICKLED:
        raise UserError(
            f'{HEAD}={head}: a pickle can run any code when opened and is not read; convert it once: python -c "import'
            f" torch, safetensors.torch as s; s.save_file(torch.load('{path.name}', weights_only=True),"
            f" '{path.stem}.safetensors')\""
        )
    if not is_file(path):
        raise UserError(f"{HEAD}={head}: there is no such file; give the head as a .safetensors file")
    return path
