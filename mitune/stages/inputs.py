"""What every stage opens: the prompts, the model, the sampler."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from mitune.data.decoding import OF_TASK, open_picture
from mitune.data.prompts import load_prompts
from mitune.denoiser import Denoiser
from mitune.distributed import broadcast, visible
from mitune.errors import UserError, first_line, short
from mitune.families import load_denoiser
from mitune.families.adapted import Adapted
from mitune.families.options import find_device, find_dtype
from mitune.families.source import find_adapter
from mitune.information.scoring import Scoring, check_judges
from mitune.information.times import Profile
from mitune.reading import is_number, read_json
from mitune.referees.function import FunctionReward
from mitune.runs import RunFolder
from mitune.sampling.catalogue import SamplerConfig
from mitune.scores import COMBINED, SCORES, scorers_of
from mitune.stages.artefacts import require
from mitune.stages.first_look import find_profile
from mitune.stages.progress import warn
from mitune.tasks import Task

S = TypeVar("S")
_AHEAD: ContextVar[Callable[[Adapted], None] | None] = ContextVar("ahead", default=None)
POOL = 20_000  # prompts in which edits are looked for; a larger source adds time, not better edits


def quiet() -> None:
    """Keep the libraries' own bars and notices off the screen; their errors still come through."""
    import datasets
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    # Said once, before anything is drawn, by ``check_lengths``.
    warnings.filterwarnings("ignore", message="the prompt .* is longer than", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    # diffusers' own way of asking the Hub's client.
    warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument", category=UserWarning)


def opening(stage: str, config: DictConfig, folder: Path, processes: int) -> str:
    """Say what a command is about to do in ``folder``, and on what: the first line of a log. Raises UserError for a
    device or number format that is not there.
    """
    if stage == "agree" and config.agree.source is not None:  # no model is asked
        return f"agree in {folder}: the scores of {config.agree.source}"
    if stage == "benchmark" and config.benchmark.pictures is not None:
        return f"{config.benchmark.name} in {folder}: the pictures of {config.benchmark.pictures}"
    device = find_device(config.model.device)
    dtype = str(find_dtype(config.model.dtype, device)).removeprefix("torch.")
    many = f"{processes} processes" if processes > 1 else "1 process"
    model = f"model {config.model.path} on {device} in {dtype}, {many}"
    return f"{stage} in {folder}: {model}{_amount(stage, config)}"


def _amount(stage: str, config: DictConfig) -> str:
    """How much a command does, as far as the configuration says it; of a run its plan says more."""
    # Only what the stage reads is looked up (tests/end_to_end/test_reads.py).
    if stage == "run":
        return ""
    if stage == "train":
        return f"; {config.train.steps} training steps of {config.train.batch_size} pictures"
    if stage == "select":
        return f"; by {config.select.by}"
    if stage in ("score", "segment"):
        return f"; {config[stage].source}"
    own = config[stage]
    if stage == "benchmark":
        return f"; {own.name} of {own.source}, {config.sampler.steps} steps of {config.sampler.name}"
    if stage == "edit":
        return f"; {own.pairs or 'one edit'}, {config.sampler.steps} steps of {config.sampler.name}"
    drawn = (own.of or own.pictures) if stage == "sample" else own.candidates
    if stage in ("generate", "sample") and config.search.by == "rcp":
        return f"; {drawn} pictures of each prompt, {config.search.rcp.steps} steps up {config.search.reward}"
    return f"; {drawn} pictures of each prompt, {config.sampler.steps} steps of {config.sampler.name}"


def read_prompts(section: DictConfig, everything: bool = False, held_out: bool = False) -> list[Task]:
    """Read the prompts of a section (``prompts`` or ``evaluate.prompts``); ``everything``: without its limits;
    ``held_out``: where it names no split, a held-out one.
    """
    return load_prompts(
        section.source,
        split=section.split,
        limit=POOL if everything else section.limit,
        per_category=None if everything else section.per_category,
        column=section.column,
        category_column=section.category_column,
        held_out=held_out,
        # Of everything only the texts are wanted: no picture is read for them.
        picture_column=None if everything else section.picture_column,
    )


def prompt_pool(section: DictConfig, held_out: bool = False) -> list[str]:
    """Read the texts of a section's source, beyond its limits: where ``contrast`` finds its edits."""
    return [prompt.text for prompt in read_prompts(section, True, held_out)]


def whole_pool(config: DictConfig) -> list[str]:
    """The texts of both sources: the pool of what judges held-out prompts, from which nothing is learned."""
    return [*prompt_pool(config.prompts), *prompt_pool(config.evaluate.prompts, held_out=True)]


def training_prompts(config: DictConfig) -> list[Task]:
    """Read the training prompts. Raises UserError for what cannot be read, or what the oracle cannot judge."""
    prompts = read_prompts(config.prompts)
    check_judges(config.scorers, [prompt.text for prompt in prompts], "scorers", config.scorer)
    return prompts


def study_prompts(config: DictConfig, stage: str) -> list[Task]:
    """Read the prompts of a study of candidates, so many as its stage says. Raises UserError for one alone."""
    section: DictConfig = OmegaConf.merge(config.prompts, {"limit": config[stage].prompts})  # type: ignore[assignment]
    prompts = read_prompts(section)
    if len(prompts) < 2:
        raise UserError(f"{stage}: {config.prompts.source} has one prompt only; at least two are needed")
    return prompts


def held_out_prompts(config: DictConfig) -> list[Task]:
    """Read the prompts of the evaluation."""
    prompts = read_prompts(config.evaluate.prompts, held_out=True)
    texts = [prompt.text for prompt in prompts]
    check_judges(config.evaluate.scorers, texts, "evaluate.scorers", config.scorer)
    return prompts


def check_prompts(config: DictConfig) -> tuple[list[Task], list[Task]]:
    """Read both lists of prompts before hours are spent on one; warn of held-out prompts that are trained on."""
    training, held_out = training_prompts(config), held_out_prompts(config)
    known = {prompt.id for prompt in training}
    both = [prompt for prompt in held_out if prompt.id in known]
    if both:
        warn(
            f"evaluate.prompts: {len(both)} held-out prompts are trained on too, such as {short(both[0].text)!r};"
            " the comparison flatters the tuned model"
        )
    return training, held_out


def load_model(config: DictConfig, adapter: Path | None = None) -> Adapted:
    """Load the model of the configuration, with an adapter where one is given."""
    model = config.model
    if model.offload != "none" and find_device(model.device).type == "cpu":
        # A size of card says it; so that its runs go on, and are looked at, where there is no card.
        warn(f"model.offload={model.offload}: the model runs on the CPU, so nothing is moved")
        model = OmegaConf.merge(model, {"offload": "none"})
    denoiser = load_denoiser(model, adapter=adapter)
    if check := _AHEAD.get():
        _AHEAD.set(None)
        check(denoiser)
    return denoiser


@contextlib.contextmanager
def looking_ahead(check: Callable[[Adapted], None]) -> Iterator[None]:
    """Inside, ``check`` sees the first model that is loaded, so that what a later stage would refuse is refused before
    anything is drawn."""
    token = _AHEAD.set(check)
    try:
        yield
    finally:
        _AHEAD.reset(token)


def check_tasks(denoiser: Denoiser, tasks: Sequence[Task], section: DictConfig, key: str) -> None:
    """Check the prompts of ``section``, which is named ``key``, as ``check_pictures`` and ``check_lengths`` do."""
    check_pictures(denoiser, tasks, key)
    check_lengths(denoiser, tasks, section, key)


def check_pictures(
    denoiser: Denoiser, tasks: Iterable[Task], key: str, missing: str = "", needless: str = ""
) -> None:
    """Raise UserError unless each task is what the model is told: a text alone, or a text and a picture that decodes.

    Args:
        denoiser, tasks: of the stage.
        key: names where the tasks come from.
        missing, needless: what to do where a picture is missing, or there and of no use; by default of ``key`` as a
            section of prompts.
    """
    missing = (
        missing or f"give a table of prompts and pictures as {key}.source, and say {key}.picture_column="
    )
    needless = needless or f"leave {key}.picture_column out, or give a model that edits pictures"
    for task in tasks:
        if task.picture is None and denoiser.edits_pictures:
            raise UserError(
                f"{key}: {denoiser.identity} edits pictures, and the prompt {short(task.text)!r} names none; {missing}"
            )
        if task.picture is not None and not denoiser.edits_pictures:
            raise UserError(
                f"{key}: {denoiser.identity} takes a text alone, and the prompt {short(task.text)!r} has a picture;"
                f" {needless}"
            )
        if task.picture is not None:
            open_picture(task.picture.read(), task.picture.path, OF_TASK)


def check_real(config: DictConfig, denoiser: Denoiser) -> None:
    """Raise UserError where real pictures are to train a model that edits: they do not say what they were made from."""
    if denoiser.edits_pictures and config.select.real is not None and config.select.real_fraction > 0:
        raise UserError(
            f"select.real={config.select.real}: {denoiser.identity} edits pictures, and real pictures do not say what"
            " they were made from; leave select.real out, so that it is trained on its candidates alone"
        )


def check_lengths(denoiser: Any, prompts: Sequence[Task], section: DictConfig, key: str) -> None:
    """Warn of prompts that the text encoder cuts, naming what is cut; refuse them where ``strict`` is set."""
    cut = denoiser.prompt_length_report([prompt.text for prompt in prompts])
    for text, tokens in cut[:5]:
        line = (
            f"{key}: the prompt {short(text)!r} is too long for the text encoder; cut off: {short(tokens)!r}"
        )
        if section.strict:
            raise UserError(f"{line}; shorten it, or say {key}.strict=false to let it be cut")
        warn(line)
    if len(cut) > 5:
        warn(f"{key}: {len(cut) - 5} more prompts are too long and are cut")


def sampler_of(config: DictConfig, denoiser: Denoiser, guidance: float | None = None) -> SamplerConfig:
    """Read the sampler of the configuration, with another guidance scale where one is given. Its steps are laid out as
    the scheduler of ``denoiser`` has them, where the configuration does not say otherwise.
    """
    settings = settings_of(SamplerConfig, config.sampler).resolved(denoiser.sampler_defaults)
    return settings if guidance is None else dataclasses.replace(settings, guidance=guidance)


def settings_of(kind: type[S], section: DictConfig) -> S:
    """Read a section of the configuration as the dataclass that declares it."""
    found: S = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), section))  # type: ignore[assignment]
    return found


def candidate_sampler(config: DictConfig, denoiser: Denoiser) -> SamplerConfig:
    """Read the sampler that draws the candidates: with ``generate.guidance`` where that is given."""
    return sampler_of(config, denoiser, config.generate.guidance)


def scoring_of(
    config: DictConfig,
    denoiser: Denoiser,
    names: Sequence[str],
    pool: Callable[[], Iterable[str]],
    batch_size: int | None = None,
) -> Scoring:
    """Make the named scores with the parameters of the configuration.

    Args:
        config, denoiser: of the stage.
        names: of the scores, sums among them.
        pool: gives the prompts in which ``contrast`` finds its edits, where it is wanted.
        batch_size: rows a forward (default: two for each of ``generate.batch_size``).
    """
    settings: Any = OmegaConf.to_container(config.scorer, resolve=True)
    rows = batch_size or 2 * config.generate.batch_size
    return make_scoring(settings, denoiser, names, pool, config.seed, rows)


def make_scoring(
    settings: Mapping[str, Any],
    denoiser: Denoiser,
    names: Sequence[str],
    pool: Callable[[], Iterable[str]],
    seed: int,
    batch_size: int,
    functions: Sequence[FunctionReward] = (),
) -> Scoring:
    """Make the named scores: what they need of files is read only where they need it.

    Args:
        settings: section ``scorer`` as a mapping.
        denoiser, names, pool: as of :func:`scoring_of`.
        seed, batch_size, functions: as of :class:`Scoring`.
    """
    own = [judge.name for judge in functions]
    scorers = scorers_of(names, settings["combined"], own)
    wanted = any(SCORES[name].needs_pool for name in scorers if name not in own)
    profile = settings["profile"]
    return Scoring(
        names,
        settings,
        denoiser,
        pool=list(dict.fromkeys(pool())) if wanted else (),
        seed=seed,
        batch_size=batch_size,
        given=given_negatives(settings["contrast"]) if wanted else (),
        profile=read_profile(profile, "scorer.profile") if profile else None,
        functions=functions,
    )


def read_profile(path: str | Path, key: str) -> Profile:
    """Read a profile that ``mitune score`` measured. Raises UserError, naming ``key``, for a file that is none."""
    path = find_profile(path, key)
    try:
        found = read_json(path)
        return Profile(*(tuple(map(_figure, found[name])) for name in ("t", "value")))
    except (UserError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{key}={path} is no profile of mitune score ({first_line(error)}); measure one with score.profile="
        ) from error


def _figure(value: Any) -> float:
    """A number of JSON. Raises TypeError for all else: a text that reads like one is none."""
    if not is_number(value):
        raise TypeError(f"{short(repr(value), 40)} is no number")
    if abs(value) > 1e30:
        raise ValueError(f"{value} is out of bounds")
    return float(value)


def given_negatives(contrast: Mapping[str, Any]) -> list[str]:
    """Read the prompts that ``scorer.contrast.negatives=list`` tells every prompt from."""
    if contrast["negatives"] != "list":
        return []
    return [prompt.text for prompt in load_prompts(contrast["given"])]


def selecting(config: DictConfig) -> str:
    """``select.by`` as a score that a table of candidates can be ordered by: a name, or the weighted sum that it stands
    for; ``random`` where only real pictures are trained on, as the candidates need no score then.
    """
    if config.select.real is not None and config.select.real_fraction == 1:
        return "random"
    named = config.select.by == COMBINED and COMBINED not in config.scorers
    return config.scorer.combined if named else config.select.by


def round_adapter(run: RunFolder, number: int) -> Path:
    """Find the adapter that round ``number`` made, for all processes. Raises UserError while it is not done, or where
    it is not as it was."""
    broadcast(lambda: require(run, number, "train"))
    folder = run.round(number) / "adapter"
    visible(folder)
    return folder


def previous_adapter(run: RunFolder, number: int) -> Path | None:
    """Find the adapter that round ``number`` goes on from: None in the first one."""
    return round_adapter(run, number - 1) if number > 1 else None


def trained_from(config: DictConfig, run: RunFolder, number: int) -> Path | None:
    """Find the adapter that the training of round ``number`` starts with: the last round's, or in the first round, and
    with ``train.fresh`` in every one, ``model.adapter``. Raises UserError where that is a stack.
    """
    start, weights = config.model.adapter, config.model.adapter_weights
    if number > 1 and not config.train.fresh:
        return previous_adapter(run, number)
    if not start:
        return None
    if len(start) > 1 or any(weight != 1 for weight in weights):
        raise UserError(
            "model.adapter: training goes on from one adapter of weight 1; train on a model that holds the stack, or"
            " leave all but one out"
        )
    return find_adapter(start[0])
