"""Whether the libraries that are installed are those that mitune asks for: some older ones work and give other numbers.

transformers 5.5 opens the embedded model with a random text encoder and goes on. Only metadata is read here, nothing
is imported: a command can ask before it loads what computes.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from mitune.errors import UserError

_CHECKOUT = Path(__file__).resolve().parents[1]


@cache
def check_versions() -> None:
    """Raise UserError, naming all of them, where an installed library is not of a version that mitune was made for."""
    unmet = [wanted for wanted in map(_parsed, required()) if wanted is not None and is_unmet(wanted)]
    if unmet:
        found = ", ".join(f"{wanted.name} {metadata.version(wanted.name)}" for wanted in unmet)
        asked = ", ".join(_named(wanted) for wanted in unmet)
        quoted = " ".join(f"'{_named(wanted)}'" for wanted in unmet)
        raise UserError(f"installed: {found}; mitune needs {asked}: {sys.executable} -m pip install {quoted}")


def required() -> list[str]:
    """List what this mitune asks for. A checkout says so itself: what was noted when it was installed may be older."""
    project = _CHECKOUT / "pyproject.toml"
    if sys.version_info >= (3, 11) and project.is_file():
        import tomllib

        stated = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if stated.get("name") == "mitune":
            return list(stated.get("dependencies", ()))
    try:
        return metadata.requires("mitune") or []
    except metadata.PackageNotFoundError:  # run from a folder that was copied here
        return []


def is_unmet(wanted: Requirement) -> bool:
    """Tell whether another version is installed than ``wanted`` asks for. A library that is not there, or does not tell
    its version, is none of these: another distribution may bring its module, and importing it tells.
    """
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return False
    try:
        # A build that leads to a release counts as that release: vendors ship 2.14.0a0 for 2.14.0.
        release = Version(Version(metadata.version(wanted.name)).base_version)
    except (metadata.PackageNotFoundError, InvalidVersion, TypeError):
        return False
    return release not in wanted.specifier


def _parsed(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _named(wanted: Requirement) -> str:
    return f"{wanted.name}{wanted.specifier}"
