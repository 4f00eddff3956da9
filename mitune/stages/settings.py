"""The keys of the stages, a section each. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from mitune.data.catalogue import LAYOUTS
from mitune.data.settings import PromptsConfig
from mitune.settings import (
    BATCH,
    CANDIDATES,
    GUIDANCE,
    RESAMPLES,
    ROUNDS,
    ROWS,
    SEED,
    STEPS,
    Settings,
    key,
    section,
)


@dataclass
class GenerateConfig(Settings):
    candidates: int = key(12, "M: candidates a prompt", low=1, high=CANDIDATES, basic=True)
    guidance: float | None = key(
        None, "guidance of the candidates (default: the sampler's)", low=0, high=GUIDANCE
    )
    batch_size: int = key(
        96,
        "candidates a batch (each is two rows of a forward); lower it to save memory",
        low=1,
        high=BATCH,
        basic=True,
    )
    rows_per_unit: int = key(
        192,
        "candidates a file; what a race or a search loses at most when told to leave",
        low=1,
        high=CANDIDATES,
    )
    keep: int | None = key(
        None,
        "best candidates a prompt whose latents are kept, at most all (default: select.k)",
        low=1,
        high=CANDIDATES,
    )
    passes: float | None = key(
        None,
        "measure what select.by goes by at a few times, and at the rest only for who is in the race for select.k and"
        " select.losers: the share of these that may be lost (null: off)",
        above=0,
        high=0.5,
    )


@dataclass
class EvaluateConfig(Settings):
    prompts: PromptsConfig = section(PromptsConfig)
    candidates: int = key(4, "pictures a held-out prompt", low=1, high=CANDIDATES, basic=True)
    batch_size: int = key(96, "pictures a batch", low=1, high=BATCH)
    guidance: float | None = key(
        None, "guidance of the comparison (default: the sampler's)", low=0, high=GUIDANCE
    )
    scorers: list[str] = key(
        ["elbo"],
        "scores in the tables; best one that did not select",
        filled=True,
        basic=True,
    )
    seed: int = key(
        1, "seed of the held-out pictures, the same before and after and in every round", low=0, high=SEED
    )
    examples: int = key(12, "before/after pairs in the report", low=0, high=1000)


@dataclass
class SampleConfig(Settings):
    prompt: str | None = key(None, "one prompt, instead of those of prompts.source", basic=True)
    pictures: int = key(4, "pictures a prompt", low=1, high=CANDIDATES, basic=True)
    of: int | None = key(
        None,
        "drawn for them: candidates, or particles of a search (default: as many)",
        low=1,
        high=CANDIDATES,
        basic=True,
    )
    by: str | None = key(
        None,
        "the score that picks the pictures (default, with sampler=das: drawn by the particles' weights)",
        basic=True,
    )
    scorers: list[str] = key(["mi"], "scores every picture gets", filled=True, basic=True)
    round: int | None = key(
        None,
        "draw with the adapter of this round of run= (default: the last that is trained; 0: the base model)",
        low=0,
        high=ROUNDS,
        basic=True,
    )
    out: str | None = key(
        None, "the folder to write (default: a numbered one, RUN/samples/001 and on)", path=True, basic=True
    )


@dataclass
class ScoreConfig(Settings):
    source: str | None = key(
        None,
        "pictures: a folder with metadata.csv/.jsonl or a.txt beside a.png, a parquet file, tar shards, a Hub"
        " dataset id, a folder of candidates",
        path=True,
        basic=True,
    )
    split: str | None = key(None, "split of a dataset that has several (default: train, or the only one)")
    image_column: str | None = key(
        None, "picture column (default: file_name, image, …; both of a pair jpg_0, jpg_1)"
    )
    text_column: str | None = key(None, "caption column (default: text, caption or prompt)")
    caption: str = key(
        "first", "of several captions", choices={"first": "the first", "random": "one by seed and row"}
    )
    outside: bool = key(
        False, "read files outside the source's folder too, where its table or its links name them"
    )
    limit: int | None = key(None, "at most this many pictures", low=1, high=ROWS)
    scorers: list[str] = key(["elbo", "mi_image"], "scores every picture gets", filled=True, basic=True)
    pool: str | None = key(
        None, "more prompts for contrast to find edits in (a source like prompts.source)", path=True
    )
    adapter: str | None = key(None, "judge with this adapter's model instead of the base model", path=True)
    out: str | None = key(
        None, "the table (default: SOURCE-scores.parquet beside the source)", path=True, basic=True
    )
    by: str | None = key(
        None, "the score that top_fraction goes by (default: the first of score.scorers)", basic=True
    )
    top_fraction: float | None = key(
        None, "write the best share (0 to 1) of the pictures as a dataset, too", above=0, high=1, basic=True
    )
    profile: str | None = key(
        None,
        "measure at which times the pictures' information lies, into this .json file, for scorer.profile",
        path=True,
    )
    skip: bool = key(False, "leave out pictures that do not decode or have no caption, instead of stopping")
    batch_size: int = key(192, "rows a forward", low=1, high=BATCH, basic=True)
    rows_per_unit: int = key(
        192, "pictures a unit; what a killed command loses at most", low=1, high=CANDIDATES
    )


@dataclass
class SegmentConfig(Settings):
    source: str | None = key(
        None,
        "a picture, a data set's folder (VOC, Context, COCO-Stuff, ADE20K), or pictures with captions as score.source",
        path=True,
        basic=True,
    )
    phrases: list[str] = key(
        [],
        "what is looked for, such as [a cat,a dog] (default: a table's own, or those of the caption)",
        basic=True,
    )
    caption: str | None = key(None, "the prompt of a picture (default: made of the phrases)", basic=True)
    template: str = key(
        "a photo of {}", "the prompt that is made of phrases, which stand at {} with commas between"
    )
    layout: str | None = key(
        None, "the data set that the source is (default: by its folders)", choices=LAYOUTS.meanings
    )
    limit: int | None = key(None, "at most this many pictures", low=1, high=ROWS, basic=True)
    tune: str | None = key(
        None,
        "fit the threshold on this labelled source, a data set or a table with a column label; oracle: on the labels of"
        " the very pictures",
        path=True,
        basic=True,
    )
    tune_split: str | None = key(None, "split of segment.tune, where it has several")
    out: str | None = key(
        None,
        "the folder to write (default: SOURCE-segmented beside a folder; of a picture, in RUN/segmented)",
        path=True,
        basic=True,
    )
    examples: int = key(24, "pictures on the page, at most", low=0, high=1000)
    batch_size: int = key(48, "rows a forward; lower it to save memory", low=1, high=BATCH, basic=True)
    rows_per_unit: int = key(
        16, "pictures a unit; what a killed command loses at most", low=1, high=CANDIDATES
    )


@dataclass
class AgreeConfig(Settings):
    prompts: int = key(100, "P: prompts, evenly over the categories", low=2, high=CANDIDATES, basic=True)
    candidates: int = key(32, "M: candidates a prompt", low=2, high=CANDIDATES, basic=True)
    scorers: list[str] = key(
        ["mi", "llr", "mi_image", "elbo", "llr_image", "contrast"],
        "scores that are compared",
        filled=True,
        basic=True,
    )
    referee: str | None = key(
        None,
        "the score the others are held to (default: oracle where it is one of them, else the last)",
        basic=True,
    )
    positions: list[int] = key(
        [1, 25, 50],
        "ranks that the paper compares (fewer candidates: first, middle, last)",
        filled=True,
        low=1,
        high=CANDIDATES,
    )
    ranked_by: str | None = key(
        None, "the score whose ranks they are for every two scores (default: that of the row)"
    )
    examples: int = key(6, "prompts whose pictures at these ranks are shown", low=0, high=100)
    fractions: list[float] = key(
        [0.03125, 0.0625, 0.125, 0.25, 0.5, 0.75, 1.0],
        "top shares of the referee's curve",
        above=0,
        high=1,
        filled=True,
    )
    resamples: int = key(2000, "of the bootstrap over prompts", low=1, high=RESAMPLES)
    source: str | None = key(
        None,
        "a table of scores (mitune score) or folder of candidates, instead of drawing",
        path=True,
        basic=True,
    )


@dataclass
class CalibrateConfig(Settings):
    prompts: int = key(24, "P: prompts, evenly over the categories", low=2, high=CANDIDATES, basic=True)
    candidates: int = key(16, "M: candidates a prompt", low=2, high=1000, basic=True)
    by: list[str] = key(
        ["mi", "llr"], "running scores to race by: those of sampler.racing.by", filled=True, basic=True
    )
    target: str | None = key(
        None, "the final score whose best candidates must survive (default: select.by)", basic=True
    )
    k: int = key(1, "how many of the best", low=1, high=1000, basic=True)
    recall: float = key(0.9, "share of them that a proposed schedule shall keep", above=0, high=1, basic=True)
    every: int = key(2, "steps between two looks, of scores that cost forwards", low=1, high=STEPS)
    times: int | None = key(None, "of a look: as sampler.racing.times", low=1, high=STEPS)
    edits: int = key(3, "of a look: as sampler.racing.edits", low=1, high=1000)
    resamples: int = key(2000, "of the bootstrap over prompts", low=1, high=RESAMPLES)


@dataclass
class ExportConfig(Settings):
    round: int | None = key(
        None, "the round to export (default: the last that is trained)", low=1, high=ROUNDS, basic=True
    )
    out: str | None = key(
        None, "the folder to write (default: export, in the run folder)", path=True, basic=True
    )
    name: str | None = key(None, "the model's name on its card (default: the repository's or the run's)")
    merged: bool = key(False, "the whole pipeline too, the adapter fused into its weights", basic=True)
    comfy: bool = key(False, "the adapter under the names that ComfyUI reads, too")
    dataset: bool = key(False, "the training set too, as parquet; its repository is NAME-dataset")
    pictures: int = key(12, "before/after pairs shown, at most", low=0, high=1000, basic=True)
    base_model: str | None = key(
        None, "Hub id of the base model for the card (default: model.path)", basic=True
    )
    license: str | None = key(None, "licence on the card (default: the base model's, where known)")
    push: str | None = key(None, "upload to this repository of the Hub: user/name", basic=True)
    private: bool = key(False, "make the repository private")
    revision: str | None = key(None, "branch of the repository (default: main)")
    dry_run: bool = key(False, "list what would be uploaded and send nothing", basic=True)


@dataclass
class SweepConfig(Settings):
    objective: str | None = key(
        None,
        "a search (Optuna) goes by what this score gained on held-out prompts (default: the last of evaluate.scorers)",
    )
    share: str | None = key(
        None,
        "a folder in which runs share what they have in common (default in a sweep: shared/ in its folder)",
        path=True,
    )
