"""Judges that come as packages of their own: found when asked for, and only then."""

from __future__ import annotations

import importlib
from importlib import metadata, util
from typing import Any

from mitune.errors import UserError, first_line


def check_package(package: str, scorer: str) -> None:
    """Raise UserError if ``package`` is not installed, naming the extra that brings it; nothing is imported.

    The extra is called as the scorer is.
    """
    if util.find_spec(package) is None:
        raise UserError(
            f"the scorer {scorer} needs the package {package}, which is not installed: pip install mitune[{scorer}]"
        )


def import_package(module: str, scorer: str) -> Any:
    """Import a module of such a package. Raises UserError where it cannot be had or does not import."""
    check_package(module.partition(".")[0], scorer)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the scorer {scorer}: {module} does not import ({first_line(error)}); pip install mitune[{scorer}]"
        ) from error


def version_of(distribution: str) -> str:
    """The installed version, "unknown" where a package has no metadata."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
