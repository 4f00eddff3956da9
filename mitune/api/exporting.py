"""An export folder of a model that was trained here: what ``mitune export`` writes of a round."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mitune.api.evaluation import Evaluation
from mitune.digests import sha256
from mitune.errors import UserError
from mitune.families import lora
from mitune.hub import folder as folders
from mitune.hub.base import BaseModel, describe, on_hub
from mitune.hub.card import Facts
from mitune.hub.escape import scrub
from mitune.hub.push import check_repository
from mitune.hub.usage import Drawn
from mitune.stages.settings import ExportConfig

if TYPE_CHECKING:
    from mitune.api.model import Model


def export(
    model: Model,
    folder: Path,
    evaluation: Evaluation | None,
    name: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
) -> Path:
    """Write the folder; gives it.

    Args:
        model: it was trained here.
        folder: where.
        evaluation: for the card, with its pictures.
        name: on the card (default: the folder's).
        base_model: Hub id of the base model.
        license: on the card (default: the base model's, where it is known).

    Raises UserError: a model that was not trained here, a place that is taken.
    """
    file = None if model.adapter is None else model.adapter.file
    if not model.facts or file is None:
        raise UserError(
            "export: this model was not trained here, so that a card has nothing to say of it; save_adapter writes its"
            " adapter alone"
        )
    saved = lora.read_adapter(file.parent)
    with tempfile.TemporaryDirectory(prefix="mitune-") as shown:
        figures: dict[str, Any] = {}
        if evaluation is not None:
            evaluation.save(shown)
            figures = folders.read_json(Path(shown) / "evaluation.json")
        facts = Facts(
            name=name or folder.resolve().name,
            base=_base(model, base_model),
            kind="dora" if any(saved.is_dora(component) for component in saved.tensors) else "lora",
            rank=max(rank for component in saved.tensors for rank in saved.ranks(component).values()),
            round=model.rounds,
            selected_by=str(model.facts.get("by", "")),
            candidates=int(model.facts.get("candidates", 0)),
            steps=model.facts["train"]["steps"],
            evaluation=figures,
            examples=folders.examples(Path(shown), figures, ExportConfig.pictures),
            license=license,
            combined=model.scorer.combined,
            drawn=None if evaluation is None else _drawn(evaluation),
        )
        origin = folders.provenance(
            round=model.rounds,
            seed=model.facts["seed"],
            model=scrub(model.base.identity),
            adapter_sha256=sha256(file),
        )
        text = OmegaConf.to_yaml(OmegaConf.create(scrub(model.facts)))
        folders.write_folder(folder, file.parent, facts, text, origin)
    return folder


def _drawn(evaluation: Evaluation) -> Drawn:
    """How the evaluation drew its pictures."""
    denoiser = evaluation.after.model.denoiser
    edits = denoiser.edits_pictures
    return Drawn(
        evaluation.after.sampler,
        str(denoiser.dtype).removeprefix("torch."),
        edits,
        getattr(denoiser, "picture_guidance", None) if edits else None,
    )


def _base(model: Model, hub_id: str | None) -> BaseModel:
    """What the card says of the base model: as far as it is known. Raises UserError for a name that is no Hub id."""
    source = model.weights.source
    if source is None or source.path is None:
        name = model.base.identity.partition("#")[0]
        found = BaseModel(name, None, {}, hasattr(model.denoiser.pipeline, "load_lora_weights"))
    else:
        found = describe(source.path, source.revision, source.config)
    if found.flow is None:  # no scheduler in a folder to look at; the network is here
        found = dataclasses.replace(found, flow=model.denoiser.schedule.kind == "flow")
    if hub_id is None:
        return found
    check_repository(hub_id, "base_model")
    return on_hub(found, hub_id)
