"""The configuration: every key (``keys``), what it may say (``checks``), how a command line becomes one
(``composition``).

``compose`` reads the Hydra groups of ``conf/``, merges them into the dataclasses of ``keys`` and refuses what does not
fit, before any model is loaded. Nothing here imports torch, so that ``mitune --help`` answers at once.
"""

from mitune.config.checks import check_racer
from mitune.config.composition import compose, compose_saved, conf_folder, groups, shipped_folder
from mitune.config.keys import Config, ScorerConfig, flatten, leaves
from mitune.config.saved import read_saved, read_settings, saved_text
from mitune.scores import COLUMNS, LATENT_SCORERS, PATH_SCORERS, PICTURE_SCORERS, RACERS, SCORERS

__all__ = [
    "COLUMNS",
    "LATENT_SCORERS",
    "PATH_SCORERS",
    "PICTURE_SCORERS",
    "RACERS",
    "SCORERS",
    "Config",
    "ScorerConfig",
    "check_racer",
    "compose",
    "compose_saved",
    "conf_folder",
    "flatten",
    "groups",
    "leaves",
    "read_saved",
    "read_settings",
    "saved_text",
    "shipped_folder",
]
