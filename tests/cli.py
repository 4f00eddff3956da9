"""The command line on the embedded world: a test that is about something else need not say which model and prompts."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from mitune import cli, config
from mitune.stages.catalogue import STAGES
from mitune.verbs.demo import PRESET


def main(arguments: Sequence[str]) -> int:
    """:func:`mitune.cli.main` with the embedded world's preset, where the words name none."""
    return cli.main(command(arguments))


def command(arguments: Sequence[str]) -> list[str]:
    """The words of a command, with the preset where its stage takes one."""
    stage, *words = [*arguments] or [""]
    return [stage, *on_shapes(words)] if stage in STAGES and not STAGES[stage].inherits else [*arguments]


def compose(words: Sequence[str] = (), stage: str | None = None) -> DictConfig:
    """:func:`mitune.config.compose` with the embedded world's preset, where the words name none."""
    return config.compose(on_shapes(words), stage)


def on_shapes(words: Sequence[str]) -> list[str]:
    """The words, with a preset."""
    return [*([] if any(word.startswith("experiment=") for word in words) else [PRESET]), *words]
