"""What a card has to know of the model that an adapter is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mitune.errors import UserError
from mitune.families.components import pipeline_class
from mitune.families.source import EMBEDDED, ModelSource, find_model
from mitune.reading import home, is_hub_id, is_there, read_json, reading
from mitune.scheduler_config import is_flow


@dataclass(frozen=True)
class BaseModel:
    """Holds what a card says of the base model.

    Attributes:
        name: of the model.
        hub_id: where it is on the Hub, if there.
        license: license, license_name, license_link of its own card.
        takes_adapters: whether the plain pipeline loads LoRA files itself (None: not known).
        flow: whether it is a rectified flow (None: not known).
        shipped: it is in this package, and nowhere else.
    """

    name: str
    hub_id: str | None
    license: Mapping[str, str]
    takes_adapters: bool | None
    flow: bool | None = None
    shipped: bool = False


def describe(path: str, revision: str | None = None, config: str | None = None) -> BaseModel:
    """Find out about ``model.path`` what can be without its weights; what is out of reach stays unknown."""
    folder = home(path)
    here = path in EMBEDDED or is_there(folder)
    try:
        source = find_model(path, revision, config)
        takes = hasattr(pipeline_class(source), "load_lora_weights")
        name, own, flow = source.name, source.folder if source.file is None else None, _is_flow(source)
    except UserError:
        takes, name, own, flow = None, folder.name, None, None
    if path in EMBEDDED:
        return BaseModel(name, None, {"license": "apache-2.0"}, takes, flow, shipped=True)
    card = _card(own / "README.md") if own is not None else None if here else _card(_fetched(path, revision))
    return BaseModel(name, None if here or not is_hub_id(path) else path, _license(card), takes, flow)


def on_hub(found: BaseModel, hub_id: str) -> BaseModel:
    """Say where on the Hub the model is; its licence is that of the card there, where it is not known yet."""
    return replace(found, hub_id=hub_id, license=found.license or describe(hub_id).license, shipped=False)


def _is_flow(source: ModelSource) -> bool | None:
    """Whether the scheduler in a model's folder is a flow's; None where there is none to look at."""
    if source.folder is None or source.file is not None:
        return None
    file = source.folder / "scheduler" / "scheduler_config.json"
    try:
        config = read_json(file) if file.is_file() else None
    except UserError:
        return None
    return is_flow(config) if isinstance(config, dict) else None


def _fetched(hub_id: str, revision: str | None) -> Path | None:
    """The repository's card, where the Hub or its cache has one."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, "README.md", revision=revision))
    except (OSError, ValueError):
        return None


def _card(file: Path | None) -> Any:
    """The metadata of a card, or None for what is none."""
    from huggingface_hub import ModelCard

    if file is None or not file.is_file():
        return None
    try:
        with reading(file):
            return ModelCard.load(file, ignore_metadata_errors=True).data
    except UserError:
        return None


def _license(card: Any) -> dict[str, str]:
    keys = ("license", "license_name", "license_link")
    found = {key: card.get(key) for key in keys} if card is not None else {}
    return {key: value for key, value in found.items() if isinstance(value, str) and value}
