"""Which file of a folder is its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mitune.errors import UserError, listed
from mitune.reading import check_regular, is_folder, reading

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")

PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
FORMS = "diffusers, peft, kohya and ComfyUI files in safetensors are read"
_UNPICKLE = "load it where you trust it and write it with safetensors.torch.save_file"


def find_file(path: Path) -> Path:
    """Find the adapter's weights: ``path`` itself, or the file of the folder that holds them.

    Raises UserError: nothing there, no adapter, several, pickled, no safetensors.
    """
    if is_folder(path):
        with reading(path):
            names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir())
        return path / choose(names, path)
    try:
        check_regular(path)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise UserError(f"there is no adapter at {path}: nothing is there; check the path") from error
        raise
    if path.suffix.lower() != ".safetensors":
        if path.suffix.lower() in PICKLED:
            raise UserError(
                f"{path} is pickled: it can run any code when opened and is not read; {_UNPICKLE}"
            )
        raise UserError(f"{path} is no adapter: not a safetensors file; {FORMS}")
    return path


def choose(names: Sequence[str], place: object, how: str = "give one of them itself") -> str:
    """Choose the file, of those called ``names`` (folders end in /) at ``place``, that holds the adapter; ``how``
    several are told apart. Raises UserError as above.
    """
    if ADAPTER_FILE in names:
        return ADAPTER_FILE
    if PEFT_FILE in names and PEFT_SETTINGS in names:
        return PEFT_FILE
    found = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if "model_index.json" in names:
        raise UserError(f"there is no adapter at {place}: it is a whole model; give it as model.path")
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{place} has {len(found)} safetensors files ({_few(found)}); {how}")
    pickled = [name for name in names if Path(name).suffix.lower() in PICKLED]
    if pickled:
        raise UserError(
            f"{place} has a pickled adapter only ({_few(pickled)}), which can run any code when opened and is not"
            f" read; {_UNPICKLE}"
        )
    raise UserError(f"there is no adapter at {place}: {_content(names)}; {FORMS}")


def _content(names: Sequence[str]) -> str:
    if not names:
        return "the folder is empty"
    rounds = [name for name in names if name.startswith("round-") and name.endswith("/")]
    if rounds and "config.yaml" in names:
        return f"it is a run folder, whose adapters are in {rounds[0]}adapter and so on; give one of these"
    return f"it holds {_few(names)}"


def _few(names: Sequence[str]) -> str:
    return listed(names, 4, 60, quote="")
