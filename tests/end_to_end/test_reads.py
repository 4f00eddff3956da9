"""Every stage goes by the keys alone that its row says it reads: seen while it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mitune import command
from mitune.config.keys import keys
from mitune.runs import RunFolder
from mitune.stages.catalogue import ROUND, STAGES, covers
from tests.cli import main

Arguments = Callable[..., list[str]]
Seen = Callable[[list[str]], set[str]]
CLIMB = ("scorer.clip.path=shapes", "search.rcp.steps=2", "search.rcp.warmup=0", "search.rcp.views.number=1")
QUICK = ("scorer.contrast.times=1", "scorer.contrast.edits=1", "scorer.elbo.times=1")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """``seen(arguments)``: runs a command; gives the keys that it asked its configuration for, one by one or by the
    section. What looks at all of it (the run folder, the trackers) does not count."""
    found: set[str] = set()
    get, container, merge = DictConfig._get_impl, OmegaConf.to_container, OmegaConf.merge
    work, remember = command.work, RunFolder.remember
    watching = [False]

    def looked_up(self: DictConfig, key: Any, *more: Any, **options: Any) -> Any:
        value = get(self, key, *more, **options)
        full = self._get_full_key(key)
        if watching[0] and full in keys():
            found.add(full)
        return value

    def whole(cfg: Any, **options: Any) -> Any:
        section = cfg._get_full_key(None) if watching[0] and isinstance(cfg, DictConfig) else ""
        found.update(name for name in keys() if section and name.startswith(f"{section}."))
        return container(cfg, **options)

    def merged(*configs: Any) -> Any:
        for own in configs:  # a section made the dataclass of its keys: what is in it is its own affair
            section = own._get_full_key(None) if watching[0] and isinstance(own, DictConfig) else ""
            found.update(name for name in keys() if section and name.rpartition(".")[0] == section)
        return merge(*configs)

    def watched(stage: str, config: Any) -> None:
        watching[0] = True
        try:
            work(stage, config)
        finally:
            watching[0] = False

    def unwatched(self: RunFolder, config: Any, place: str) -> None:
        watching[0] = False
        remember(self, config, place)
        watching[0] = True

    def run(arguments: list[str]) -> set[str]:
        found.clear()
        assert main(arguments) == 0
        return set(found)

    monkeypatch.setattr(DictConfig, "_get_impl", looked_up)
    monkeypatch.setattr(OmegaConf, "to_container", staticmethod(whole))
    monkeypatch.setattr(OmegaConf, "merge", staticmethod(merged))
    monkeypatch.setattr(command, "work", watched)
    monkeypatch.setattr(RunFolder, "remember", unwatched)
    return run


def check(stage: str, found: set[str]) -> None:
    assert not [name for name in sorted(found) if not covers(STAGES[stage].reads, name)]


def test_a_round_and_what_is_made_of_it(seen: Seen, arguments: Arguments, tmp_path: Path) -> None:
    words = (
        *QUICK,
        "scorers=[mi,contrast]",
        "select.by=contrast",
        "train.keep_best_by=elbo",
        "train.validation_prompts=2",
    )
    whole: set[str] = set()
    for stage in ROUND:
        found = seen(arguments(stage, *words))
        assert found, stage
        check(stage, found)
        whole |= found
    # The row says no more than is so: of its own section a stage asks for all.
    assert {"generate.candidates", "select.balance", "train.lr", "adapter.rank", "evaluate.seed"} <= whole
    check("run", seen(arguments("run", *words)))
    check("export", seen(["export", f"run={tmp_path / 'run'}", "export.dataset=true"]))


@pytest.mark.parametrize(
    "words",
    [
        ("sampler.racing.by=mi", "sampler.racing.at=[1]", "sampler.racing.survivors=[2]"),
        ("sampler=das", "reward=jpeg", "search.particles=3"),
        ("sampler=das", "reward=contrast"),
        ("sampler=inversion", "reward=clip", "scorers=[contrast]", "select.by=contrast", *CLIMB),
    ],
    ids=["raced", "steered by a judge", "steered by the model", "climbing a judge"],
)
def test_other_ways_to_draw(words: tuple[str, ...], seen: Seen, arguments: Arguments, tmp_path: Path) -> None:
    share = f"sweep.share={tmp_path / 'shared'}"
    check("generate", seen(arguments("generate", *QUICK, *words, share)))
    if words[0] == "sampler=das":
        check("sample", seen(arguments("sample", *QUICK, *words, "sample.of=6", "sample.pictures=2")))


def test_pictures_scored_and_mixed_in(seen: Seen, arguments: Arguments, tmp_path: Path) -> None:
    check("sample", seen(arguments("sample", *QUICK, "sample.of=3", "sample.pictures=1", "sample.by=llr")))
    pictures = tmp_path / "run" / "samples" / "001" / "pictures"
    source = (
        f"score.source={pictures}",
        "score.top_fraction=0.5",
        f"score.profile={tmp_path / 'profile.json'}",
    )
    check("score", seen(arguments("score", *QUICK, *source)))
    real = (f"select.real={pictures}", "select.real_fraction=0.5", f"sweep.share={tmp_path / 'shared'}")
    check("generate", seen(arguments("generate", *QUICK, *real)))
    check("select", seen(arguments("select", *QUICK, *real)))


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("agree", ("agree.scorers=[mi,elbo,contrast]", "agree.candidates=3", "agree.resamples=10")),
        ("calibrate", ("calibrate.by=[mi,elbo]", "calibrate.times=1", "calibrate.candidates=3",
                       "calibrate.every=1", "calibrate.target=contrast", "calibrate.resamples=10")),
    ],
)  # fmt: skip
def test_pilots(stage: str, words: tuple[str, ...], seen: Seen, arguments: Arguments) -> None:
    found = seen(arguments(stage, *QUICK, *words, "sampler.steps=3"))
    assert f"{stage}.resamples" in found
    check(stage, found)


def test_edits(seen: Seen, arguments: Arguments) -> None:
    own = ("edit.source=a red circle", "edit.target=a blue circle", "edit.scorers=[mi_image]")
    check("edit", seen(arguments("edit", *own)))


def test_what_binds_a_run_folder_is_read() -> None:
    for stage in STAGES.values():
        for name in keys():
            assert covers(stage.reads, name) or not covers(stage.binds, name), (stage.name, name)


def test_every_word_of_a_row_names_keys() -> None:
    for stage in STAGES.values():
        for word in " ".join((stage.reads, stage.binds, stage.inherits)).split():
            assert any(covers(word.removeprefix("-"), name) for name in keys()), (stage.name, word)
