"""A stage of a round in words: what it did. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mitune.evaluate.judged import caption


def did(stage: str, figures: Mapping[str, Any]) -> str:
    """Say what a stage of a round did, by the figures of its mark, in a line for a person."""
    if stage == "generate":
        rate = figures["candidates"] / max(figures["seconds"], 1e-9)
        text = (
            f"generated {figures['candidates']} candidates of {figures['prompts']} prompts"
            f" in {figures['seconds']:.0f} s ({rate:.1f} candidates/s, {figures['forwards']} forwards)"
        )
        if race := figures.get("racing"):
            text += f"; racing by {race['by']} dropped {race['dropped']}: drawing took {race['speedup']:.2f} times less"
        if passed := figures.get("passes"):
            text += (
                f"; scored in passes: {passed['left']} left the race for the best,"
                f" {passed['rows']} of {passed['whole']} rows"
            )
        if search := figures.get("search"):
            text += _searched(search)
        return text
    if stage == "select":
        text = f"selected {figures['kept']} by {figures['by']}, k={figures['k']}"
        if "real" in figures:
            text += f", and {figures['real']['pictures']} real pictures of {figures['real']['looked_at']}"
        if figures["oracle_pool"] is not None:
            text += (
                f"; oracle: pool {figures['oracle_pool']:.3f}, selected {figures['oracle_kept']:.3f},"
                f" best possible {figures['oracle_best']:.3f}"
            )
        return text
    if stage == "train":
        return (
            f"trained {figures['trainable_parameters']:,} parameters for {figures['steps']} steps in"
            f" {figures['seconds']:.0f} s, loss {figures['loss']:.4f}"
        )
    scores = figures["difference"]["all"]
    parts = [
        f"{name} {scores[name]['before']:.3f} -> {scores[name]['after']:.3f}"
        for name in scores
        if isinstance(scores[name], dict)
    ]
    text = f"evaluated {figures['after']['all']['n']} held-out pictures: {', '.join(parts)}"
    judged = caption(figures.get("judged_by") or {})
    watch = (figures.get("watch") or {}).get("said", "")
    return "; ".join(part for part in (text, judged, watch) if part)


def _searched(search: Mapping[str, Any]) -> str:
    """What a search came to: pictures that climbed a judge, or populations that were steered."""
    if "judged" in search:
        return (
            f"; climbed {search['reward_by']} to {search['reward']:.3f}, which saw {search['judged']} views and"
            f" {search['looked']} pictures"
        )
    return (
        f"; steered by {search['reward_by']} to {search['reward']:.3f} (log Z {search['log_evidence']:.2f}),"
        f" {100 * search['roots']:.0f} % of the first particles have descendants"
    )
