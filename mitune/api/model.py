"""A model that can be asked, trained and compared: the first of all objects."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from mitune.api.asking import Asked, Score, bar, check_asked, check_noise, scoring_for, tasks_of_prompts
from mitune.api.candidates import Candidates, TrainingSet
from mitune.api.evaluation import Evaluation
from mitune.api.pictures import open_images, open_pictures, several
from mitune.api.segmentation import Segmentation, asked_of, segmented
from mitune.api.weights import Adapter, Weights
from mitune.data.settings import SelectConfig
from mitune.data.store import LATENT_ROW, plan_units
from mitune.errors import UserError, short
from mitune.families.adapted import Adapted
from mitune.families.adapter_place import ADAPTER_FILE
from mitune.files import atomic_folder, write_bytes
from mitune.finetune.adapters import attach
from mitune.finetune.catalogue import AdapterConfig, TrainConfig
from mitune.finetune.keeping import TrainResult
from mitune.finetune.trainer import train
from mitune.information.scoring import check_no_path, check_normalised
from mitune.pixels.catalogue import HeatmapConfig
from mitune.reading import home, read_bytes
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import ScorerConfig
from mitune.stages.candidates import Drawing, draw_unit
from mitune.stages.inputs import check_pictures
from mitune.stages.picture_scores import picture_seeds, score_batch
from mitune.stages.settings import EvaluateConfig, GenerateConfig, ScoreConfig, SegmentConfig
from mitune.stages.train import counted_on, training_seed
from mitune.tasks import Task
from mitune.track import METRICS, JsonLines


@dataclass(eq=False)
class Model:
    """A model draws, scores, trains, and is compared with others. :func:`mitune.load` makes one.

        model = mitune.load("shapes")
        candidates = model.draw(prompts, candidates=8, scores=["contrast"])
        tuned = model.train(candidates.select(by="contrast", k=2))
        tuned.evaluate(held_out, scores=["elbo"]).table
        tuned.save_adapter("adapter")

    >>> from mitune.api.loading import load
    >>> model, two = load("shapes", device="cpu"), SamplerConfig(steps=2)
    >>> candidates = model.draw("a red circle", candidates=2, scores="mi", sampler=two)
    >>> tuned = model.train(candidates.select(by="mi"), TrainConfig(steps=1, batch_size=1))
    >>> tuned.evaluate("a blue square", scores="mi", candidates=1, sampler=two).table["score"].tolist()
    ['mi', 'mi']

    A model and those trained from it share one network in memory; whichever is used puts its own adapter on for the
    time of the call. So they are not to be used from two threads at once.

    Attributes:
        weights: the shared network.
        scorer: the settings of the scores.
        adapter: what is put on it; None for the plain model.
        parent: the model that it was made from.
        training: the figures of its training; None for one that was loaded.
        rounds: how many trainings lie behind it.
    """

    weights: Weights
    scorer: ScorerConfig
    adapter: Adapter | None = None
    parent: Model | None = None
    training: TrainResult | None = None
    rounds: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    _holds: bool = False  # the adapter is in the network already: it is being trained

    def __repr__(self) -> str:
        return f"Model({self.identity})"

    @property
    def denoiser(self) -> Adapted:
        """Give the denoiser, without this model's adapter: what :mod:`mitune.information` and its like take."""
        return self.weights.denoiser

    @functools.cached_property
    def identity(self) -> str:
        """Name, fingerprint of the weights, and of the adapter if there is one."""
        with self.active() as denoiser:
            return denoiser.identity

    @property
    def base(self) -> Model:
        """Give the model that the trainings began with; of one that was only loaded, the one without its adapter."""
        found = self.parent or self
        while found.rounds and found.parent is not None:
            found = found.parent
        return found

    def active(self) -> AbstractContextManager[Adapted]:
        """Give the denoiser with this model's adapter on it, for the time of the block.

        Raises UserError where another model of the same network is training, or the adapter is gone or does not fit.
        """
        return nullcontext(self.denoiser) if self._holds else self.weights.wearing(self.adapter)

    @contextlib.contextmanager
    def _fused(self) -> Iterator[Adapted]:
        """The same, with the adapter merged into the weights, where it is not in use already."""
        inside = self._holds or self.weights.used
        with self.active() as denoiser, nullcontext() if inside else denoiser.fused():
            yield denoiser

    # -- drawing and scoring -----------------------------------------------------------------------------------

    def draw(
        self,
        prompts: str | Task | Iterable[str | Task],
        *,
        candidates: int = GenerateConfig.candidates,
        scores: Score | Iterable[Score] = SelectConfig.by,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        first: int = 0,
        pool: Iterable[str] = (),
        batch_size: int = GenerateConfig.batch_size,
        progress: bool = False,
    ) -> Candidates:
        """Draw pictures of every prompt and score them, as the stage ``generate`` does.

        Args:
            prompts: texts, or tasks of :func:`mitune.read_prompts`; each is drawn once.
            candidates: M, of each prompt.
            scores: names (``mitune help`` lists them), weighted sums, or functions of yours: (pictures [n, 3, H, W] in
                [0, 1], prompts) -> [n] numbers, higher = better, called with ``batch_size`` pictures at most.
            sampler: how; its scheduler's own where it does not say.
            seed: candidate i of a prompt depends on (seed, prompt, first + i) alone.
            first: number of the first candidate: give M to see new noise.
            pool: further prompts in which ``contrast`` finds its edits.
            batch_size: candidates a forward.
            progress: show a bar.

        Raises UserError: no prompts, an unknown score or one that cannot judge them, a setting out of its bounds, more
        than the memory holds. What a function of yours raises goes through.
        """
        asked, tasks = Asked.of(scores), tasks_of_prompts(prompts)
        return self._draw(asked, tasks, candidates, sampler, seed, first, pool, batch_size, progress, seed)

    def _draw(
        self,
        asked: Asked,
        tasks: list[Task],
        candidates: int,
        sampler: SamplerConfig | None,
        seed: int,
        first: int,
        pool: Iterable[str],
        batch_size: int,
        progress: bool,
        scoring_seed: int,
    ) -> Candidates:
        generate = GenerateConfig(candidates=candidates, batch_size=batch_size)
        generate.check("")
        sampler, scorer = sampler or SamplerConfig(), dataclasses.asdict(self.scorer)
        _check_sampler(sampler)
        check_asked(asked, tasks, scorer)
        check_noise(asked, sampler, self.scorer.combined)
        units = plan_units(tasks, candidates, generate.rows_per_unit)
        tables, latents, shown = [], [], bar("draw", len(tasks) * candidates, progress)
        with self._fused() as denoiser, shown as advance:
            check_pictures(denoiser, tasks, "prompts")
            texts = [*pool, *(task.text for task in tasks)]
            scoring = scoring_for(asked, denoiser, scorer, texts, scoring_seed, 2 * batch_size)
            how = Drawing(sampler.resolved(denoiser.sampler_defaults), scoring, seed, batch_size, first)
            for unit in units:
                table, own = draw_unit(unit, how, bar=advance)
                tables.append(pd.DataFrame(table).assign(kept=True, unit=unit.index))
                latents.append(own)
        rows = pd.concat(tables, ignore_index=True)
        rows[LATENT_ROW] = range(len(rows))
        return Candidates(
            self, seed, torch.cat(latents), asked.names, how.sampler, scoring.judges, units, rows
        )

    def score(
        self,
        pictures: Any,
        prompts: str | Task | Sequence[str | Task],
        scores: Score | Iterable[Score],
        *,
        seed: int = 0,
        pool: Iterable[str] = (),
        batch_size: int = ScoreConfig.batch_size,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Score finished pictures, each for its own prompt, as the stage ``score`` does.

        Args:
            pictures: files, PIL images (scaled and cut to the model's size), or a tensor [n, 3, H, W] in [0, 1]; one
                may come alone.
            prompts: one a picture.
            scores: as of :meth:`draw`, but for those that are measured while a picture is drawn.
            seed: of the noise that is put on them.
            pool: further prompts in which ``contrast`` finds its edits.
            batch_size: pictures at once.
            progress: show a bar.

        Gives a row a picture: ``text`` and one column a score. Raises UserError: numbers that differ, a picture that is
        none, a score that pictures cannot get.
        """
        asked, scorer = Asked.of(scores), dataclasses.asdict(self.scorer)
        ScoreConfig(batch_size=batch_size).check("")
        pictures, given = several(pictures), [prompts] if isinstance(prompts, (str, Task)) else prompts
        tasks = [task for one in given for task in tasks_of_prompts(one)]
        if len(pictures) != len(tasks) or not tasks:
            raise UserError(f"{len(pictures)} pictures and {len(tasks)} prompts; give one prompt a picture")
        texts, plain = [task.text for task in tasks], asked.plain(self.scorer.combined)
        check_no_path(plain, "scores")
        own = [judge.name for judge in asked.functions]
        check_normalised(asked.names, texts, "scores", self.scorer.combined, own)
        check_asked(asked, tasks, scorer)
        seeds, parts = picture_seeds(seed, texts), []
        with self._fused() as denoiser, bar("score", len(tasks), progress, "pictures") as advance:
            check_pictures(denoiser, tasks, "prompts")
            scoring = scoring_for(asked, denoiser, scorer, [*texts, *pool], seed, batch_size)
            for start in range(0, len(tasks), batch_size):
                part = slice(start, start + batch_size)
                shown = open_pictures(pictures[part], denoiser.picture_size)
                with torch.no_grad():
                    latents = denoiser.encode_image(shown.to(denoiser.device))
                parts.append(score_batch(scoring, latents, shown, tasks[part], seeds[part]))
                advance(len(shown))
        found: dict[str, Any] = {
            name: torch.cat([part[name] for part in parts]).tolist() for name in parts[0]
        }
        return pd.DataFrame({"text": texts} | found | scoring.on_table(found, texts))

    def segment(
        self,
        pictures: Any,
        prompts: str | Sequence[str],
        phrases: Sequence[str] | Sequence[Sequence[str]] | None = None,
        settings: HeatmapConfig | None = None,
        *,
        seed: int = 0,
        batch_size: int = SegmentConfig.batch_size,
        progress: bool = False,
    ) -> list[Segmentation]:
        """Find where in each picture each phrase of its prompt is, as the stage ``segment`` does.

            found = model.segment("a.png", "a red circle and a blue square", ["a red circle", "a blue square"])
            found[0].overlay().save("masks.png")

        Args:
            pictures: files, PIL images of any size, or tensors [3, H, W] in [0, 1]; one may come alone.
            prompts: one a picture.
            phrases: of each prompt; of one prompt alone, its own. None: they are found in it.
            settings: how heatmaps are made (default: the method ``ours``).
            seed: of the noise that is put on pictures.
            batch_size: rows a forward.
            progress: show a bar.

        Raises UserError: numbers that differ, a picture that is none, a phrase that is not in its prompt, a model that
        shows no attention.
        """
        SegmentConfig(batch_size=batch_size).check("")
        chosen = settings or HeatmapConfig()
        chosen.check("pixels.")
        opened = open_images(several(pictures))
        texts = [prompts] if isinstance(prompts, str) else [*prompts]
        if isinstance(phrases, str):
            raise UserError(
                f"phrases={short(phrases)!r} is one text; give a list, even of one: [{short(phrases)!r}]"
            )
        told: Any = [phrases] if phrases and isinstance(phrases[0], str) else phrases
        if len(opened) != len(texts) or not texts or (told is not None and len(told) != len(texts)):
            raise UserError(
                f"{len(opened)} pictures, {len(texts)} prompts and"
                f" {'no' if told is None else len(told)} lists of phrases; give one of each a picture"
            )
        asked = asked_of(texts, told, chosen.phrases)
        with self._fused() as denoiser:
            return segmented(denoiser, opened, asked, chosen, seed, batch_size, progress)

    # -- training and comparing ----------------------------------------------------------------------------------

    def train(
        self,
        training: TrainingSet | Any,
        settings: TrainConfig | None = None,
        adapter: AdapterConfig | None = None,
        *,
        folder: str | Path | None = None,
        seed: int = 0,
        validate: Callable[[Model], float] | None = None,
        progress: bool = False,
    ) -> Model:
        """Train an adapter on a training set, as the stage ``train`` does; gives the tuned model, this one stays.

        Args:
            training: of :meth:`Candidates.select`, or any ``datasets.Dataset`` with the columns image and text.
            settings: how (default: the paper's).
            adapter: what is trained. A model that has one adapter goes on from it, with the same settings of it.
            folder: where adapter, checkpoints and ``metrics.jsonl`` go; the same call with the same folder goes on
                where it was stopped. Without it they are in a temporary folder that lives as long as the tuned model.
            seed: of everything that is drawn.
            validate: says how good the model is that it is given, higher = better; asked at each checkpoint, and the
                best is kept.
            progress: show a bar.

        Raises UserError: nothing to train on, a set or adapter that does not fit, a loss that is not finite.
        """
        settings, adapter = settings or TrainConfig(), adapter or AdapterConfig()
        settings.check("train.")
        if settings.keep_best_by is not None:
            raise UserError("train.keep_best_by names a score for the command line; here give validate=")
        chosen, held = isinstance(training, TrainingSet), dataclasses.replace(self, _holds=True)
        start = None if self.adapter is None else self.adapter.start
        shown = bar("train", settings.steps, progress, "steps")
        with contextlib.ExitStack() as stack:
            place = home(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="mitune-")))
            tracker = JsonLines(place / METRICS)
            with self.weights.training() as denoiser, contextlib.closing(tracker), shown as advance:
                attach(denoiser, adapter, init_from=start, seed=seed)
                result = train(
                    denoiser,
                    training.dataset if chosen else training,
                    settings,
                    place,
                    tracker=tracker,
                    validate=None if validate is None else lambda step: float(validate(held)),
                    on_step=counted_on(advance),
                    seed=training_seed(seed, self.rounds + 1),
                )
            own = Adapter((place / "adapter",))
            weakref.finalize(own, stack.pop_all().close)  # a temporary folder lives as long as what it holds
        facts = {"train": dataclasses.asdict(settings), "adapter": dataclasses.asdict(adapter), "seed": seed}
        facts |= {"by": training.by, "candidates": training.candidates} if chosen else {}
        return Model(self.weights, self.scorer, own, self, result, self.rounds + 1, facts)

    def evaluate(
        self,
        prompts: str | Task | Iterable[str | Task],
        scores: Score | Iterable[Score],
        *,
        against: Model | None = None,
        candidates: int = EvaluateConfig.candidates,
        sampler: SamplerConfig | None = None,
        seed: int = EvaluateConfig.seed,
        pool: Iterable[str] = (),
        batch_size: int = EvaluateConfig.batch_size,
        progress: bool = False,
    ) -> Evaluation:
        """Compare this model with another on the same prompts and noise, as the stage ``evaluate`` does.

        Args:
            prompts: held out: not those that were trained on.
            scores: as of :meth:`draw`. A score that chose the training set rises by that alone: ask another one too.
            against: the other model (default: ``base``).
            candidates: pictures a prompt.
            sampler, pool, batch_size, progress: as of :meth:`draw`.
            seed: of the pictures.

        Raises UserError as :meth:`draw`, and where there is nothing to compare with.
        """
        other = against or self.base
        if other is self:
            raise UserError("evaluate: this model has no adapter; say against= of another model")
        asked, tasks, more = Asked.of(scores), tasks_of_prompts(prompts), list(pool)
        before, after = (
            one._draw(asked, tasks, candidates, sampler, seed, 0, more, batch_size, progress, 0)
            for one in (other, self)
        )
        return Evaluation(before, after, seed)

    # -- leaving ---------------------------------------------------------------------------------------------------

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter to ``folder``, atomically: ``pipeline.load_lora_weights(folder)`` of diffusers reads it.

        Raises UserError for a model without one, or where the disk refuses.
        """
        if self.adapter is None:
            raise UserError("save_adapter: this model has no adapter; train one first")
        if self.adapter.file is not None:
            with atomic_folder(folder) as partial:
                write_bytes(partial / ADAPTER_FILE, read_bytes(self.adapter.file))
            return
        with self.active() as denoiser:
            denoiser.save_adapter(folder)

    def export(self, folder: str | Path, evaluation: Evaluation | None = None, **card: Any) -> Path:
        """Write a folder for the Hub: the adapter, a model card, pictures before and after, where it comes from.

        ``evaluation``: what the card shows. ``card``: name, base_model (a Hub id), license. Gives the folder. Raises
        UserError for a model that was not trained here, and for a place that is taken.
        """
        from mitune.api.exporting import export

        return export(self, Path(folder), evaluation, **card)


def _check_sampler(sampler: SamplerConfig) -> None:
    sampler.check("sampler.")
    if sampler.racing.by is not None:
        raise UserError("sampler.racing: candidates race on the command line only; leave it out")
