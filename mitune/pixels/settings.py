"""The keys of ``edit``. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.settings import CANDIDATES, ROUNDS, SEED, Settings, key

MODES = {
    "auto": "reweight where the prompts are the same, replace where their words have equally many tokens, else refine",
    "replace": "every word of the target looks where the source's word at its place does",
    "refine": "words that both have look where they did, new ones look for themselves",
    "reweight": "refine, with edit.phrase looked at edit.weight times as much",
}


@dataclass
class EditConfig(Settings):
    """Changing what was asked in a picture, and nothing else (Prompt-to-Prompt, Hertz et al. 2022)."""

    source: str | None = key(None, "the prompt of the picture as it is", basic=True)
    target: str | None = key(None, "the prompt of the picture as it shall be", basic=True)
    pairs: str | None = key(
        None,
        "instead of one edit a table of them (.jsonl, .csv, …): source, target, and maybe picture, seed, mode, phrase,"
        " weight",
        path=True,
        basic=True,
    )
    picture: str | None = key(
        None, "a picture of edit.source to edit (default: one is drawn)", path=True, basic=True
    )
    picture_seed: int | None = key(
        None, "draw the picture of this seed, as metadata.jsonl of a sample names it", low=0, high=SEED
    )
    number: int = key(0, "draw candidate number so many of edit.source", low=0, high=CANDIDATES)
    mode: str = key("auto", "how the two prompts' attention goes together", choices=MODES, basic=True)
    phrase: str | None = key(
        None, "words whose part of the picture changes (default: the phrases that differ)", basic=True
    )
    weight: float | None = key(
        None, "reweight: how much edit.phrase is looked at (1: as it is)", low=-100, high=100, basic=True
    )
    cross_share: float = key(
        0.8, "share of the steps, the first, in which the words look where the source's do", low=0, high=1
    )
    self_share: float = key(
        0.4,
        "share of the steps, the first, in which the picture looks at itself as the source does",
        low=0,
        high=1,
    )
    blend: bool = key(True, "keep the source outside of the part that changes", basic=True)
    threshold: float = key(
        0.6, "blend: a place changes where its map reaches this share of the map's highest", above=0, high=1
    )
    scorers: list[str] = key([], "scores of the target prompt that the pictures get, before and after")
    round: int | None = key(
        None,
        "edit with the adapter of this round of run= (default: the last that is trained; 0: the base model)",
        low=0,
        high=ROUNDS,
    )
    rows_per_unit: int = key(32, "edits a file; what a killed command loses at most", low=1, high=CANDIDATES)
    out: str | None = key(
        None, "the folder to write (default: a numbered one, RUN/edits/001 and on)", path=True, basic=True
    )
