"""``export``: a round's adapter as a folder that others can use, and, where asked for, on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mitune.data import dataset as datasets
from mitune.digests import sha256
from mitune.errors import UserError, first_line
from mitune.families import load_denoiser, lora
from mitune.families.options import DTYPES
from mitune.files import read_json, write_tensors
from mitune.hub import folder as folders
from mitune.hub.base import describe, on_hub
from mitune.hub.card import Facts
from mitune.hub.comfy import comfy_tensors
from mitune.hub.escape import scrub
from mitune.hub.push import check_repository, push
from mitune.hub.usage import Drawn
from mitune.reading import home
from mitune.runs import RunFolder
from mitune.sampling.catalogue import SamplerConfig
from mitune.stages.artefacts import require
from mitune.stages.inputs import settings_of
from mitune.stages.progress import say, warn


def export(config: DictConfig, run: RunFolder) -> Path:
    """Write the export folder of a round, push it where ``export.push`` says so; gives the folder.

    Raises UserError: no such round, a place that is taken, a name or token that the Hub does not take, no network.
    """
    settings = config.export
    if settings.push is not None:
        check_repository(settings.push)
        if settings.dataset:
            check_repository(_dataset_name(settings.push), "export.push (for the training set)")
    number = _round(config, run)
    _check(config, run, number)
    round_folder = run.round(number)
    adapter = round_folder / "adapter"
    saved = lora.read_adapter(adapter)
    evaluation = _optional(round_folder / "evaluation.json")
    out = home(settings.out) if settings.out else run.root / "export"
    facts = _facts(config, run, number, saved, evaluation)
    _check_stated(facts, settings)
    origin = _origin(config, run, number)
    if folders.is_there(out, origin):
        say(f"the export is there already: {out.resolve()}")
    else:
        text = OmegaConf.to_yaml(OmegaConf.create(scrub(OmegaConf.to_container(config, resolve=False))))
        folders.write_folder(out, adapter, facts, text, origin, _extras(config, adapter, facts))
        say(f"exported round {number} of {run.root}: {out.resolve()}")
    parts = [(out, settings.push, "model")]
    if settings.dataset:
        place = out.with_name(f"{out.name}-dataset")
        if not folders.is_there(place, origin):
            training = datasets.load(round_folder / "dataset")
            folders.write_training_set(
                place, training, f"{facts.name}: training set", facts.base.name, origin
            )
        say(f"training set: {place.resolve()}")
        parts.append((place, settings.push and _dataset_name(settings.push), "dataset"))
    if settings.push is not None or settings.dry_run:
        for part, repository, kind in parts:
            _send(part, repository, kind, settings, number)
    return out


def _check_stated(facts: Facts, settings: DictConfig) -> None:
    """Warn where the card cannot say base model or licence. Raises UserError where it would be published so."""
    base = facts.base
    missing = []
    if base.hub_id is None and not base.shipped:
        missing.append(("the base model's name on the Hub", "export.base_model=owner/name"))
    if "license" not in base.license and facts.license is None:
        missing.append(("the base model's licence", "export.license="))
    if not missing:
        return
    what, words = (" and ".join(parts) for parts in zip(*missing, strict=True))
    if settings.push is not None and not settings.dry_run:
        raise UserError(f"export.push={settings.push}: the card cannot say {what}; add {words}")
    warn(f"the card says 'not stated' of {what}; add {words}")


def _send(place: Path, repository: str | None, kind: str, settings: DictConfig, number: int) -> None:
    """Upload a folder, or list what would go."""
    files = folders.contents(place)
    total = sum(size for _, size in files)
    if settings.dry_run:
        where = f"to the {kind} repository {repository}" if repository else "(no export.push given)"
        branch = f", branch {settings.revision}" if settings.revision else ""
        say(f"would go {where}{branch}: {len(files)} files, {total:,} bytes; nothing was sent")
        for name, size in files:
            say(f"  {size:>14,}  {name}")
        return
    assert repository is not None
    message = f"MI-Tune: round {number}" + (", training set" if kind == "dataset" else "")
    address = push(place, repository, settings.private, settings.revision, kind, message)
    say(f"{repository} holds {place.name} ({len(files)} files, {total:,} bytes): {address}")


def _dataset_name(repository: str) -> str:
    return f"{repository}-dataset"


def _round(config: DictConfig, run: RunFolder) -> int:
    """The round to export: ``export.round``, or the last that is trained."""
    trained = run.trained()
    if not trained:
        raise UserError(f"{run.root} has no trained adapter yet; run mitune run run={run.root} first")
    number = config.export.round or trained[-1]
    if number not in trained:
        raise UserError(
            f"export.round={number}: {run.root} has trained {', '.join(map(str, trained))}; give one of these"
        )
    return number


def _check(config: DictConfig, run: RunFolder, number: int) -> None:
    """Whether what is to be exported is as the stages left it. Raises UserError."""
    folder = run.round(number)
    require(run, number, "train")
    if config.export.dataset:
        require(run, number, "select", lambda path: folder / "dataset" in path.parents)
    if run.mark(number, "evaluate") is not None:
        shown = (folder, folder / "pictures")  # the pictures that it was drawn from may be gone
        require(run, number, "evaluate", lambda path: path.parent in shown)


def _optional(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged; delete it and {path.parent / 'done' / 'evaluate.json'}")
    return found


def _facts(
    config: DictConfig, run: RunFolder, number: int, saved: lora.SavedAdapter, evaluation: dict[str, Any]
) -> Facts:
    """What the card says."""
    settings, model, selected = config.export, config.model, run.mark(number, "select") or {}
    base = describe(model.path, model.revision, model.config)
    if settings.base_model is not None:
        check_repository(settings.base_model, "export.base_model")
        base = on_hub(base, settings.base_model)
    return Facts(
        name=settings.name or (settings.push or "").rpartition("/")[2] or run.root.resolve().name,
        base=base,
        kind="dora" if any(saved.is_dora(component) for component in saved.tensors) else "lora",
        rank=max(rank for component in saved.tensors for rank in saved.ranks(component).values()),
        round=number,
        selected_by=config.select.by,
        candidates=config.generate.candidates,
        steps=config.train.steps,
        evaluation=evaluation,
        held_out=Path(config.evaluate.prompts.source).stem,
        examples=folders.examples(run.round(number), evaluation, settings.pictures),
        repository=settings.push,
        dataset=_dataset_name(settings.push) if settings.push and settings.dataset else None,
        merged=settings.merged,
        comfy=settings.comfy,
        license=settings.license,
        own=selected.get("kept") != 0,
        real=(selected.get("real") or {}).get("pictures", 0),
        real_source=Path(config.select.real).stem if config.select.real else "",
        combined=config.scorer.combined,
        drawn=_drawn(config),
    )


def _drawn(config: DictConfig) -> Drawn:
    """How the evaluation drew."""
    sampler = settings_of(SamplerConfig, config.sampler)
    if config.evaluate.guidance is not None:
        sampler = dataclasses.replace(sampler, guidance=config.evaluate.guidance)
    edits = config.evaluate.prompts.picture_column is not None
    return Drawn(sampler, config.model.dtype, edits, config.model.picture_guidance)


def _origin(config: DictConfig, run: RunFolder, number: int) -> dict[str, Any]:
    """``provenance.json``. What the folder depends on is in it, so that it tells whether the folder is up to date."""
    folder = run.round(number)
    container = OmegaConf.to_container(config.export, resolve=False)
    assert isinstance(container, dict)
    sent = ("out", "private", "revision", "dry_run")  # where it goes, not what it is
    generated = run.mark(number, "generate") or {}
    return folders.provenance(
        run=run.root.resolve().name,
        round=number,
        seed=config.seed,
        model=scrub(generated.get("model")),
        adapter_sha256=sha256(folder / "adapter" / lora.FILE),
        evaluation_sha256=sha256(folder / "evaluation.json"),
        training_set=(run.mark(number, "select") or {}).get("kept"),
        export=scrub({key: value for key, value in container.items() if key not in sent}),
        model_dtype=config.model.dtype,
    )


def _extras(config: DictConfig, adapter: Path, facts: Facts) -> dict[str, Any]:
    """What else was asked for, each as the function that writes it; the model is opened once, where it is needed."""
    model = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(model, dict)

    @cache
    def denoiser() -> Any:
        """The tuned model in float32: norms and sums in 16 bits would be off by half a percent."""
        plain = {"dtype": "float32", "offload": "none", "quantization": "none", "compile": False}
        plain |= {"channels_last": False, "fast_decoder": None}
        return load_denoiser(model | plain, adapter=adapter)

    def comfy(file: Path) -> None:
        try:
            tensors = comfy_tensors(denoiser().adapter_updates())
        except ValueError as error:
            raise UserError(
                f"export.comfy: {first_line(error)}; leave it out, the diffusers file has all"
            ) from error
        write_tensors(file, tensors)

    def merged(folder: Path) -> None:
        denoiser().save_merged(folder, DTYPES.get(config.model.dtype))

    extras: dict[str, Any] = {}
    if config.export.comfy:  # before the weights take the adapter in
        extras[f"comfy/{folders.slug(facts.name)}.safetensors"] = comfy
    if config.export.merged:
        extras["merged"] = merged
    return extras
