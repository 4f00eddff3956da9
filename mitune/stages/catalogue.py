"""The stages: a row each, of what a command does, the keys it reads and the files it leaves.

A new stage is a row here and its file. The command line, the help, what a sweep repeats, which checks a command has to
pass and which keys are fixed once a stage has begun follow from the rows. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.parts import Catalogue, Part


def covers(words: str, name: str) -> bool:
    """Tell whether the key ``name`` lies in one of the sections or keys that ``words`` names: the longest that it lies
    in decides, of equal ones the last, and ``-section`` leaves one out.

    >>> covers("train -train.compile", "train.lr"), covers("train -train.compile", "train.compile")
    (True, False)
    """
    found = [own for own in reversed(words.split()) if f"{name}.".startswith(f"{own.removeprefix('-')}.")]
    return bool(found) and not max(found, key=lambda own: len(own.removeprefix("-"))).startswith("-")


@dataclass(frozen=True)
class Stage(Part):
    """Says what a stage is. Its code takes ``(config, run)``, and one of a round the number of the round too.

    Attributes:
        asks: the keys without which it cannot begin and that have no default, ``key|other`` where another may stand in.
        reads: the keys that it goes by, as :func:`covers` takes them; only these are checked together and shown.
        binds: the keys that what it makes depends on: fixed in a run folder once it has begun there.
        begun: what it leaves first in the run folder.
        writes: what it leaves there, as patterns: never written over where it is somebody else's.
        result: of a stage of a round: its main file or folder in ``round-N``, and how it is said that it is missing.
        needs: the stages whose results it goes on from: what a job of a sweep does before it.
        in_round: it is a step of a round, not a whole command.
        swept: a sweep can repeat it.
        trains: it trains, so the launch has to suit training.
        shared: all processes take part in it, not the main one alone.
        inherits: it goes by the configuration that made the run, in which only these sections may be given.
        folder: ``module:function`` that gives its folder, where it is not ``run``.
        settle: ``module:function`` that tells of keys left open what they stand for: {key: value}.
        place: the key that chooses another folder.
        guard: ``module:function`` that refuses that folder before anything is written there.
        other: a key whose value makes another stage of its command, and that stage.
    """

    asks: str = ""
    reads: str = ""
    binds: str = ""
    begun: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    result: tuple[str, str] = ("", "")
    needs: tuple[str, ...] = ()
    in_round: bool = False
    swept: bool = True
    trains: bool = False
    shared: bool = True
    inherits: str = ""
    folder: str = ""
    settle: str = ""
    place: str = "run"
    guard: str = ""
    other: tuple[str, str] = ("", "")

    def look_up(self, trait: str) -> Any:
        """Import what ``folder`` or ``guard`` names; None where it names nothing."""
        module, _, attribute = getattr(self, trait).partition(":")
        return getattr(importlib.import_module(module), attribute) if module else None

    def shows(self, name: str) -> bool:
        """Tell whether its help lists the key: it reads it, and it may be given."""
        return covers(self.inherits or self.reads, name)


# What is of one command, and not of the run whose configuration later commands start from.
ONCE = "round launch sample edit score segment benchmark export"
# What every command goes by.
_ALWAYS = "name run seed launch tracker"
# A model, and what it draws with; which device does it, and how, changes nothing of what is made.
_MODEL = "model -model.device -model.offload -model.vae_slicing"
_DRAWN = f"seed {_MODEL} prompts -prompts.strict sampler -sampler.racing scorer"
_OWN = "model.path prompts.source"  # what nobody can choose for the user
_PLAIN = "model prompts sampler -sampler.racing scorer generate.batch_size"


def _but(section: str, keys: str) -> str:
    """The section without some of its keys, as :func:`covers` takes it."""
    return " ".join([section, *(f"-{section}.{key}" for key in keys.split())])


_ROUND = (
    Stage(
        "generate",
        "draw candidates of every training prompt and score them",
        "mitune.stages.generate:generate",
        asks=_OWN,
        reads=f"{_ALWAYS} round scorers model prompts sampler search scorer generate sweep.share"
        " select.by select.k select.losers select.real select.real_fraction"
        " select.fraction select.balance select.difficulty",  # whether candidates may be scored in passes
        binds=f"{_DRAWN} sampler.racing scorers search {_but('generate', 'batch_size')}",
        begun=("round-*/candidates/plan.json",),
        writes=("round-*", "baseline-*"),
        result=("candidates", "is not complete"),
        in_round=True,
    ),
    Stage(
        "select",
        "make the training set of the best candidates",
        "mitune.stages.select:select_stage",
        asks="prompts.source",
        # The candidates' own keys too: whether their scores and numbers are enough is told before.
        reads=f"{_ALWAYS} round select scorers scorer model prompts generate search.by sweep.share"
        " score.skip score.outside score.caption",
        binds="select",
        begun=("round-*/done/select.json", "round-*/real/plan.json"),
        result=("dataset", "is not complete"),
        needs=("generate",),
        in_round=True,
    ),
    Stage(
        "train",
        "fine-tune the adapter on the training set",
        "mitune.stages.train:train_stage",
        asks="model.path",
        # What the objective wants of the training set, and the selection lacks, is told before anything is loaded.
        reads=f"{_ALWAYS} round adapter train {_PLAIN} select.by select.losers select.real",
        binds="adapter "
        + _but(
            "train",
            "micro_batch checkpoint_every keep_checkpoints log_every pictures_every compile gradient_checkpointing",
        ),
        begun=("round-*/checkpoints",),
        result=("adapter", "is not there yet"),
        needs=("generate", "select"),
        in_round=True,
        trains=True,
    ),
    Stage(
        "evaluate",
        "compare the base model and the tuned one on held-out prompts",
        "mitune.stages.evaluate:evaluate",
        asks="model.path evaluate.prompts.source",
        reads=f"{_ALWAYS} round evaluate {_PLAIN} generate.rows_per_unit sweep",
        binds=_but("evaluate", "batch_size prompts.strict"),
        begun=("round-*/after/plan.json",),
        result=("evaluation.json", "is not there yet"),
        needs=("generate", "select", "train"),
        in_round=True,
        other=("benchmark.name", "benchmark"),
    ),
)
_WHOLE = (
    Stage(
        "run",
        "these four, for R rounds, with summary.json and report.html",
        "mitune.stages.run:run_rounds",
        asks=f"{_OWN} evaluate.prompts.source",
        reads=" ".join(key for stage in _ROUND for key in stage.reads.split() if key[0] != "-")
        + " rounds -round",
        writes=("summary.json", "report.html"),
        trains=True,
    ),
    Stage(
        "sample",
        "draw pictures of prompts: plain, the best of many, or steered (sampler=das)",
        "mitune.stages.sample:sample",
        asks="model.path prompts.source|sample.prompt",
        reads=f"{_ALWAYS} sample {_PLAIN} sampler.racing.by search generate.rows_per_unit",
        binds=f"{_DRAWN} search {_but('sample', 'out round')}",  # the model's identity tells the round
        begun=("candidates/plan.json",),
        folder="mitune.stages.sample:sample_folder",
        settle="mitune.stages.sample:settled",
        place="sample.out",
        guard="mitune.stages.sample:check_place",
    ),
    Stage(
        "edit",
        "change what was asked in a picture, and nothing else (Prompt-to-Prompt)",
        "mitune.stages.edit:edit",
        asks="model.path edit.source|edit.pairs",
        reads=f"{_ALWAYS} edit model prompts sampler -sampler.racing search.by scorer generate.batch_size",
        # Which edits they are is known by what they say, not by the table that says it.
        binds=f"seed {_MODEL} sampler -sampler.racing scorer {_but('edit', 'out round pairs rows_per_unit')}",
        begun=("edited/plan.json",),
        swept=False,
        folder="mitune.stages.edit:edit_folder",
        settle="mitune.stages.edit:settled",
        place="edit.out",
        guard="mitune.stages.edit:check_place",
    ),
    Stage(
        "score",
        "score any pictures with captions; keep the best of them",
        "mitune.stages.score:score",
        asks="model.path",
        reads=f"{_ALWAYS} score model scorer prompts.strict",
        # Which pictures were scored is known by what they are, not by where they lay or how they were found.
        binds=f"seed {_MODEL} scorer "
        + _but(
            "score",
            "source split image_column text_column caption outside limit out by top_fraction profile skip batch_size",
        ),
        begun=("plan.json",),
        writes=("plan.json", "model.json", "unit-*", "scores.parquet", "score.json", "top"),
        swept=False,
        folder="mitune.stages.score:score_folder",
        place="score.out",
    ),
    Stage(
        "segment",
        "where in pictures each phrase is: heatmaps, masks, how right they are",
        "mitune.stages.segment:segment",
        asks="model.path",
        # How a table of pictures is read is said by the keys of ``score``.
        reads=f"{_ALWAYS} segment pixels model score.split score.image_column score.text_column score.caption"
        " score.outside score.skip",
        # Masks are made anew by every command: the threshold may change.
        binds=f"seed {_MODEL} {_but('pixels', 'threshold phrases')} segment.rows_per_unit",
        begun=("plan.json",),
        writes=(
            "plan.json",
            "model.json",
            "unit-*",
            "heatmaps",
            "masks",
            "overlays",
            "segmentation.*",
            "tune",
        ),
        swept=False,
        folder="mitune.stages.first_look:segment_folder",
        place="segment.out",
    ),
    Stage(
        "agree",
        "how well the scores agree with each other and with a referee",
        "mitune.stages.agree:agree",
        asks="model.path|agree.source prompts.source|agree.source",
        reads=f"{_ALWAYS} agree {_PLAIN} generate.rows_per_unit",
        binds=f"{_DRAWN} {_but('agree', 'referee positions ranked_by examples fractions resamples source')}",
        begun=("agree/candidates/plan.json",),
        writes=("agree",),
    ),
    Stage(
        "calibrate",
        "when candidates can be dropped early: a pilot that proposes sampler.racing",
        "mitune.stages.calibrate:calibrate",
        asks=_OWN,
        reads=f"{_ALWAYS} calibrate {_PLAIN} generate.guidance generate.rows_per_unit select.by",
        binds=f"{_DRAWN} generate.guidance {_but('calibrate', 'k recall resamples')}",
        begun=("calibrate/candidates/plan.json",),
        writes=("calibrate",),
    ),
    Stage(
        "benchmark",
        "a public benchmark, as mitune evaluate benchmark=NAME: draw it, or judge pictures",
        "mitune.stages.benchmark:benchmark",
        asks="model.path|benchmark.pictures benchmark.name benchmark.source|benchmark.pictures",
        reads=f"{_ALWAYS} benchmark model prompts.strict sampler -sampler.racing scorer generate.rows_per_unit"
        " evaluate.seed evaluate.guidance evaluate.batch_size",
        # Which units are judged together, and how many at once, changes nothing.
        binds=f"{_MODEL} sampler -sampler.racing scorer evaluate.seed evaluate.guidance"
        f" {_but('benchmark', 'out round batch_size')}",
        begun=("work/*/candidates/plan.json", "work/*/judged"),
        swept=False,
        folder="mitune.stages.benchmark:benchmark_folder",
        settle="mitune.stages.benchmark:settled",
        place="benchmark.out",
        guard="mitune.stages.benchmark:check_place",
    ),
    Stage(
        "export",
        "a trained adapter as a folder with a model card; upload it to the Hub",
        "mitune.stages.export:export",
        # The card tells how the adapter was made, and how the evaluation drew.
        reads="run model export name seed select.by select.k select.real train.steps generate.candidates"
        " evaluate.prompts.source evaluate.prompts.picture_column evaluate.guidance sampler -sampler.racing"
        " scorer.combined",
        swept=False,
        shared=False,
        inherits="run model export",
    ),
)
STAGES: Catalogue[Stage] = Catalogue("stage", *_ROUND, *_WHOLE)
ROUND = STAGES.where(lambda stage: stage.in_round)
"""The steps of a round, in their order."""


def meant(stage: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Tell which stage a command is, and its words under their full names: ``evaluate benchmark=geneval`` is one of its
    own, and knows ``pictures=``.

    >>> meant("evaluate", ["benchmark=geneval", "pictures=mine"])
    ('benchmark', ['benchmark.name=geneval', 'benchmark.pictures=mine'])
    """
    own = STAGES.get(stage)
    if own is None or (stage != _BENCHMARK and own.other[1] != _BENCHMARK):
        return stage, [*words]
    parted = [(word.partition("=")[0].strip(), word) for word in words]
    if stage != _BENCHMARK and not any(name in _NAMED for name, _ in parted):
        return stage, [*words]
    full = {**dict.fromkeys(_NAMED, "benchmark.name"), "pictures": "benchmark.pictures"}
    return _BENCHMARK, [
        f"{full[name]}={word.partition('=')[2]}" if name in full and "=" in word else word
        for name, word in parted
    ]


_BENCHMARK = "benchmark"
_NAMED = (_BENCHMARK, "evaluate.benchmark", "benchmark.name")


def begun(folder: Path) -> Iterator[Path]:
    """Find what stages leave first in a run folder: where there is nothing of it, no command has begun there."""
    return (path for stage in STAGES.values() for sign in stage.begun for path in folder.glob(sign))


OPEN = tuple(
    dict.fromkeys(word.partition("|")[0] for stage in STAGES.values() for word in stage.asks.split())
)
"""The keys that have no default, and that no preset says for a user: the model and the prompts."""
