"""The model card: README.md with the Hub's metadata. Whatever a user wrote is escaped, in YAML and in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mitune.errors import UserError
from mitune.evaluate.judged import few, judges_in_words
from mitune.hub.base import BaseModel
from mitune.hub.escape import literal, plain
from mitune.hub.usage import Drawn, usage, usage_here
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import SCORES, scorers_of

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
    source; ``repository``: the Hub id it goes to, if any; ``dataset``: that of the training set; ``selected_by``: the
    score that chose it, "" for a data set of the user's own, among which nothing was chosen; ``own``: whether there are
    pictures in it that the model drew; ``real``: how many of them no model drew, ``real_source``: the name of where
    these are from; ``combined``: what the score of that name stands for; ``drawn``: how the evaluation drew its
    pictures.
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
    own: bool = True
    real: int = 0
    real_source: str = ""
    combined: str = ""
    drawn: Drawn | None = None


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
    licence = _licence(facts)
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


def _licence(facts: Facts) -> dict[str, str]:
    """``license`` as the Hub takes it: an identifier, or ``other`` with a name."""
    if not facts.license:
        return dict(facts.base.license)
    if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", facts.license):
        return {"license": facts.license}
    return {"license": "other", "license_name": plain(facts.license, 100)}


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
            *_licensed(facts),
            *_training(facts),
        ]
    )
    return str(ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text}\n"))


def _summary(facts: Facts) -> list[str]:
    """What it is, who chose, and what came of it."""
    kind = {"dora": "DoRA", "lora": "LoRA"}.get(facts.kind, literal(facts.kind))
    what = f"A {kind} adapter of rank {facts.rank} for {_base(facts)}"
    trained = f"It was trained by [MI-Tune]({PAPER}) on"
    if facts.selected_by:
        what += ", made to have it follow its prompts better"
        trained += f" {_trained_on(facts)}, {_chosen(facts)}"
    else:
        trained += " a data set of the user's own"
    return [f"{what}. {trained}.", "", _outcome(facts)]


def _trained_on(facts: Facts) -> str:
    """Whose the pictures are that were chosen."""
    ours = "the model's own pictures"
    if not facts.real:
        return ours
    # Their captions are a kind of label.
    of = f"with their captions ({literal(facts.real_source, 100)})"
    return f"{ours} and {facts.real} real ones {of}" if facts.own else f"{facts.real} real pictures {of}"


def _chosen(facts: Facts) -> str:
    """Who chose the pictures that were trained on."""
    if facts.selected_by == "random":
        return "chosen at random (a control)"
    try:
        scorers = scorers_of([facts.selected_by], facts.combined)
    except UserError:
        scorers = []
    outside = [name for name in scorers if SCORES[name].where == "picture"]
    without = (
        "no reward model, no human raters" if facts.real else "no labels, no reward model, no human raters"
    )
    if "oracle" in outside:
        return "chosen by the embedded world's oracle (a control: it knows the right answer)"
    if outside or not scorers:
        return (
            f"chosen by the score {literal(facts.selected_by, 100)}, which judges from outside of the model"
        )
    return (
        f"chosen by the information that prompt and picture share as the model itself measures it: {without}"
    )


def outcomes(facts: Facts) -> dict[str, list[str]]:
    """Sort the scores by what came of them: ``rose``, ``fell``, ``open`` (the interval has zero in it, or there is
    none)."""
    found: dict[str, list[str]] = {"rose": [], "fell": [], "open": []}
    for name, (_, _, change) in scores(facts).items():
        ends = change.get("ci95")
        low, high = ends if isinstance(ends, (list, tuple)) and len(ends) == 2 else (0.0, 0.0)
        found["rose" if low > 0 else "fell" if high < 0 else "open"].append(name)
    return found


def _outcome(facts: Facts) -> str:
    """What rose, what did not, and whether who says so chose, too."""
    found = scores(facts)
    if not found:
        return "It was not evaluated on held-out prompts: nothing is known of what it brings."
    judged = facts.evaluation.get("judged_by") or {}
    said = []
    for what, names in outcomes(facts).items():
        if names:
            shown = ", ".join(
                f"{literal(name, 100)} ({_number(found[name][0])} to {_number(found[name][1])})"
                for name in names
            )
            said.append(f"{shown} {_CAME[what]}")
    text = f"On held-out prompts: {'; '.join(said)}."
    chose = [name for name in found if (judged.get(name) or {}).get("selected")]
    free = [name for name in found if name in judged and name not in chose]
    if chose:
        text += (
            f" {_listed(chose)} also chose what was trained on, so a rise there is no independent witness"
            f"{'.' if free else ': no score here is one.'}"
        )
    return text


_CAME = {
    "rose": "rose, by an interval above zero",
    "fell": "fell, by an interval below zero",
    "open": "did not change by more than these pictures can tell",
}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(literal(name, 100) for name in names)


def _base(facts: Facts) -> str:
    hub_id = facts.base.hub_id
    if facts.base.shipped:
        return f"{literal(facts.base.name)}, the small model inside the package mitune"
    name = literal(hub_id or facts.base.name)
    return (
        f"[{name}](https://huggingface.co/{hub_id})"
        if hub_id
        else f"{name} (base model on the Hub: not stated)"
    )


def _use(facts: Facts) -> list[str]:
    shipped = facts.base.shipped and facts.base.hub_id is None
    base = facts.base.hub_id or (facts.base.name if shipped else "path/to/the/base/model")
    here = facts.repository or "path/to/this/folder"
    prompts = [example.prompt for example in facts.examples]
    drawn = facts.drawn or Drawn(SamplerConfig())
    if facts.base.takes_adapters is False:  # diffusers has no loader for these
        code = usage_here(base, here, prompts, drawn)
    else:
        code = usage(base, here, prompts, drawn, facts.base.flow, shipped)
    lines = ["## Use", "", "```python", *code, "```"]
    if facts.drawn is not None and scores(facts):
        lines += ["", f"The evaluation drew with {facts.drawn.in_words}."]
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
    everything = (facts.evaluation.get("after") or {}).get("all", {})
    count, prompts = everything.get("n"), everything.get("prompts")
    pictures = f"{count} pictures" if isinstance(count, int) else "Pictures"
    of = f"{prompts} held-out prompts" if isinstance(prompts, int) else "held-out prompts"
    drawn = f", with {facts.drawn.in_words}" if facts.drawn is not None else ""
    rough = few(prompts) if isinstance(prompts, int) else ""
    lines = [
        "## Evaluation",
        "",
        f"{pictures} of {of}, drawn from the same seeds with and without the adapter{drawn}. Means; the"
        f" difference is paired, with its 95 % interval{f' ({rough})' if rough else ''}.",
        "",
    ]
    if judges := judges_in_words(facts.evaluation.get("judged_by") or {}):
        lines += ["Who judged (the model itself judges each picture with the weights that drew it):", ""]
        lines += [*(f"- {literal(line)}" for line in judges), ""]
    lines += ["| score | without | with | difference |", "|---|---|---|---|"]
    for name, (before, after, change) in found.items():
        cells = [literal(name, 100), _number(before), _number(after), _interval(change)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _licensed(facts: Facts) -> list[str]:
    """Base model and licence, and that they are not stated where they are not."""
    licence = _licence(facts)
    named = licence.get("license_name") or licence.get("license")
    base = facts.base.hub_id
    if base is None:
        base = f"{facts.base.name} of the package mitune" if facts.base.shipped else "not stated"
    return [
        "## Base model and licence",
        "",
        f"Base model: {literal(base)}. Licence: {literal(named) if named else 'not stated'}. The licence of the base"
        " model holds for what is drawn with it and this adapter.",
        "",
    ]


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
        lines.append(
            f"| {literal(example.prompt)} | ![without]({example.before}) | ![with]({example.after}) |"
        )
    return [*lines, ""]


def _training(facts: Facts) -> list[str]:
    rounds = (
        "" if facts.round == 1 else f" Round {facts.round}: it goes on from the adapter of the one before."
    )
    if not facts.selected_by:
        pictures = "A data set of the user's own"
    else:
        among = (
            f"{facts.candidates} candidates a prompt, the best"
            if facts.own
            else f"{facts.real} real pictures"
        )
        pictures = f"{among} chosen by {literal(facts.selected_by, 100)}"
    return [
        "## Training",
        "",
        f"{pictures}, {facts.steps} optimizer steps.{rounds} `config.yaml` is the resolved configuration,"
        " `provenance.json` says what exactly this was made from.",
    ]
