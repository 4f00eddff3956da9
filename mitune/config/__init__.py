"""The configuration: every key (``keys``), what it may say (``relations``), how a command line becomes one
(``composition``).

``compose`` reads the Hydra groups of ``conf/``, merges them into the dataclasses of ``keys`` and refuses what does not
fit, before any model is loaded. Nothing here imports torch, so that ``mitune --help`` answers at once.
"""

from mitune.config.composition import changed, compose, conf_folder, groups, shipped_folder
from mitune.config.keys import Config, ScorerConfig, flatten
from mitune.config.saved import read_saved, read_settings, saved_text

__all__ = [
    "Config",
    "ScorerConfig",
    "changed",
    "compose",
    "conf_folder",
    "flatten",
    "groups",
    "read_saved",
    "read_settings",
    "saved_text",
    "shipped_folder",
]
