"""The model card: README.md with the Hub's metadata. Whatever a user wrote is escaped, in YAML and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.hub.base import BaseModel
from mitune.hub.escape import literal, plain

TASK = "text-to-image"
PAPER = "https://arxiv.org/abs/2405.20759"
_COUNTS = ("n", "prompts")


@dataclass(frozen=True)
class Example:
    """Holds a pair of pictures: prompt, their names inside the export folder, the files that they are made of."""

    prompt: str
    before: str
    after: str
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Hold what a card says. ``evaluation``: ``evaluation.json`` of the round, or {}; ``held_out``: its prompts'
    source; ``repository``: the Hub id it goes to, if any; ``dataset``: that of the training set; ``real``: how many of
    the pictures trained on no model drew, ``real_source``: the name of where they are from.
    """

    name: str
    base: BaseModel
    kind: str
    rank: int
    round: int
    selected_by: str
    candidates: int
    steps: int
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    held_out: str = ""
    examples: Sequence[Example] = ()
    repository: str | None = None
    dataset: str | None = None
    merged: bool = False
    comfy: bool = False
    license: str | None = None
    real: int = 0
    real_source: str = ""


def scores(facts: Facts) -> dict[str, tuple[float | None, float, Mapping[str, Any]]]:
    """Score -> (mean before, mean after, the paired difference), of all held-out pictures."""
    tables = {name: facts.evaluation.get(name) or {} for name in ("before", "after", "difference")}
    before, after, difference = (table.get("all") or {} for table in tables.values())
    found = {}
    for name, value in after.items():
        if name in _COUNTS or isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if math.isfinite(value):
            change = difference.get(name)
            old = before.get(name)
            found[name] = (
                float(old) if isinstance(old, (int, float)) else None,
                float(value),
                change if isinstance(change, Mapping) else {},
            )
    return found


def metadata(facts: Facts) -> Any:
    """Make the card's YAML block as ``huggingface_hub.ModelCardData``."""
    from huggingface_hub import EvalResult, ModelCardData

    held_out = plain(facts.held_out, 100) or "held-out prompts"
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Text-to-image alignment",
            dataset_type="prompts",
            dataset_name=held_out,
            metric_type=plain(name, 100),
            metric_name=plain(name, 100),
            metric_value=value,
            metric_args=_arguments(before, change),
        )
        for name, (before, value, change) in scores(facts).items()
    ]
    tags = [TASK, "diffusers", "lora", *(["dora"] if facts.kind == "dora" else []), "mitune"]
    licence = {"license": facts.license} if facts.license else dict(facts.base.license)
    relation = {"base_model_relation": "adapter"} if facts.base.hub_id else {}
    widget = [{"text": plain(example.prompt), "output": {"url": example.after}} for example in facts.examples]
    return ModelCardData(
        base_model=facts.base.hub_id,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=tags,
        datasets=[facts.dataset] if facts.dataset else None,
        model_name=plain(facts.name, 100) if results else None,
        eval_results=results or None,
        **licence,
        **relation,
        **({"widget": widget} if widget else {}),
    )


def _arguments(before: float | None, change: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a figure is to be read against: the base model's, and the paired difference with its interval."""
    found: dict[str, Any] = {} if before is None else {"base_model": before}
    if isinstance(change.get("difference"), (int, float)):
        found["difference"] = change["difference"]
    if isinstance(change.get("ci95"), (list, tuple)):
        found["difference_ci95"] = list(change["ci95"])
    return found or None


def write_card(facts: Facts) -> str:
    """Write the whole README.md."""
    from huggingface_hub import ModelCard

    text = "\n".join(
        [
            f"# {literal(facts.name, 100)}",
            "",
            *_summary(facts),
            "",
            *_use(facts),
            "",
            *_evaluation(facts),
            *_pictures(facts),
            *_training(facts),
        ]
    )
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text}\n"))


def _summary(facts: Facts) -> list[str]:
    kind = {"dora": "DoRA", "lora": "LoRA"}.get(facts.kind, literal(facts.kind))
    pictures, without = "the model's own pictures", "no labels, no reward model, no human raters"
    if facts.real:  # their captions are a kind of label
        pictures += f" and {facts.real} real ones with their captions ({literal(facts.real_source, 100)})"
        without = "no reward model, no human raters"
    return [
        f"A {kind} adapter of rank {facts.rank} for {_base(facts)} that makes it follow its prompts better. It was"
        f" trained by [MI-Tune]({PAPER}) on {pictures}, chosen by the information that prompt and"
        f" picture share as the model itself measures it: {without}.",
    ]


def _base(facts: Facts) -> str:
    hub_id = facts.base.hub_id
    name = literal(hub_id or facts.base.name)
    return f"[{name}](https://huggingface.co/{hub_id})" if hub_id else name


def _use(facts: Facts) -> list[str]:
    base = facts.base.hub_id or "path/to/the/base/model"
    here = facts.repository or "path/to/this/folder"
    if facts.base.takes_adapters is False:  # diffusers has no loader for these
        code = [
            "from mitune.families import load_denoiser",
            "",
            f'denoiser = load_denoiser("{base}", adapter="{here}")',
        ]
    else:
        code = [
            "from diffusers import AutoPipelineForText2Image",
            "",
            f'pipeline = AutoPipelineForText2Image.from_pretrained("{base}")',
            f'pipeline.load_lora_weights("{here}")',
        ]
    lines = ["## Use", "", "```python", *code, "```"]
    if facts.merged:
        lines += [
            "",
            "`merged/` is the whole pipeline with the adapter in its weights, an ordinary diffusers folder.",
        ]
    if facts.comfy:
        lines += [
            "",
            "`comfy/` holds the adapter under the names that ComfyUI reads; put it in `models/loras`.",
        ]
        if facts.kind == "dora":
            lines += [
                "Its DoRA scales are for ComfyUI and Forge, which divide by the norm of the untouched weight.",
            ]
    return lines


def _evaluation(facts: Facts) -> list[str]:
    found = scores(facts)
    if not found:
        return []
    count = (facts.evaluation.get("after") or {}).get("all", {}).get("n")
    pictures = f"{count} pictures" if isinstance(count, int) else "Pictures"
    lines = [
        "## Evaluation",
        "",
        f"{pictures} of held-out prompts, drawn from the same seeds with and without the adapter. Means; the"
        " difference is paired, with its 95 % interval.",
        "",
        "| score | without | with | difference |",
        "|---|---|---|---|",
    ]
    for name, (before, after, change) in found.items():
        cells = [literal(name, 100), _number(before), _number(after), _interval(change)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) and math.isfinite(value) else "–"


def _interval(change: Mapping[str, Any]) -> str:
    text, ends = _number(change.get("difference")), change.get("ci95")
    if isinstance(ends, (list, tuple)) and len(ends) == 2:
        text += f" ({_number(ends[0])} … {_number(ends[1])})"
    return text


def _pictures(facts: Facts) -> list[str]:
    if not facts.examples:
        return []
    lines = [
        "## Pictures",
        "",
        "The same seeds; the prompts were not chosen by score.",
        "",
        "| prompt | without | with |",
        "|---|---|---|",
    ]
    for example in facts.examples:
        lines.append(f"| {literal(example.prompt)} | ![]({example.before}) | ![]({example.after}) |")
    return [*lines, ""]


def _training(facts: Facts) -> list[str]:
    rounds = (
        "" if facts.round == 1 else f" Round {facts.round}: it goes on from the adapter of the one before."
    )
    return [
        "## Training",
        "",
        f"{facts.candidates} candidates a prompt, the best chosen by {literal(facts.selected_by, 100)},"
        f" {facts.steps} optimizer steps.{rounds} `config.yaml` is the resolved configuration, `provenance.json`"
        " says what exactly this was made from.",
    ]
