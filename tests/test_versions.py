"""Version bounds are what was tested, and a library outside of them is refused before it computes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mitune import versions
from mitune.errors import UserError
from mitune.families import load_denoiser
from tests.cli import main

tomllib = pytest.importorskip(
    "tomllib", reason="Python 3.10 does not read pyproject.toml; any later one does"
)
ROOT = Path(__file__).parent.parent
FILES = ("constraints.txt", "constraints-lowest.txt", "constraints-newest.txt")
# Extras whose bounds no test of ours holds; pyproject.toml says so there.
UNTESTED = {"t5", "quantization", "hpsv2", "imagereward", "sweep"}


def dependencies() -> list[Requirement]:
    """Those of pyproject.toml and of its tested extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tested = [line for extra in sorted(set(extras) - UNTESTED) for line in extras[extra]]
    return [Requirement(line) for line in [*project["dependencies"], *tested]]


def pins(name: str) -> dict[str, list[Version]]:
    """What a constraints file pins: for some libraries one version a Python version."""
    found: dict[str, list[Version]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            (pin,) = Requirement(line).specifier
            assert pin.operator == "=="
            found.setdefault(canonicalize_name(Requirement(line).name), []).append(Version(pin.version))
    return found


@pytest.mark.parametrize("wanted", dependencies(), ids=lambda wanted: wanted.name)
def test_the_lower_bound_is_the_lowest_version_tested(wanted: Requirement) -> None:
    (lower,) = [Version(part.version) for part in wanted.specifier if part.operator == ">="]
    assert pins("constraints-lowest.txt")[canonicalize_name(wanted.name)] == [lower]


@pytest.mark.parametrize("wanted", dependencies(), ids=lambda wanted: wanted.name)
@pytest.mark.parametrize("name", FILES)
def test_every_dependency_is_pinned_within_its_bounds(wanted: Requirement, name: str) -> None:
    pinned = pins(name)[canonicalize_name(wanted.name)]
    assert all(version in wanted.specifier for version in pinned)


def test_torch_is_pinned_alike_everywhere() -> None:
    makefile = re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert {str(version) for name in FILES for version in pins(name)["torch"]} == set(makefile)


def test_both_ends_have_their_command_and_their_environment() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    clean = makefile.partition("\nclean:")[2]
    for end in ("lowest", "newest"):
        assert re.search(rf"^test-lowest\b.*\btest-{end}\b|^test-{end}\b", makefile, re.MULTILINE)
        assert f".venv-{end}/" in ignored
        assert f".venv-{end}" in clean


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str | None]]:
    """Versions to be found instead of those that are installed; None: the library is not there."""
    asked = versions.metadata.version
    pretended: dict[str, str | None] = {}

    def version(name: str) -> str:
        found = pretended.get(name, asked(name))
        if found is None:
            raise versions.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(versions.metadata, "version", version)
    versions.check_versions.cache_clear()
    yield pretended
    versions.check_versions.cache_clear()


@pytest.mark.usefixtures("installed")
def test_what_is_installed_here_passes() -> None:
    versions.check_versions()


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.5.4", "5.24.0", "6.0.0"])
def test_a_library_outside_its_bounds_is_named(installed: dict[str, str | None], version: str) -> None:
    installed["transformers"] = version
    with pytest.raises(UserError) as refusal:
        versions.check_versions()
    assert f"transformers {version}" in str(refusal.value)
    assert re.search(r"pip install 'transformers[<>=.,\d]+'$", str(refusal.value))


def test_all_of_them_are_named_in_one_line(installed: dict[str, str | None]) -> None:
    installed |= {"peft": "0.15.0", "diffusers": "0.34.0"}
    with pytest.raises(UserError) as refusal:
        versions.check_versions()
    assert "diffusers 0.34.0, peft 0.15.0" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("version", [None, "unknown", "2.14.0a0+nv26.1", "2.13.0+cpu", "3.0"])
def test_no_alarm_where_nothing_is_known_to_be_wrong(
    installed: dict[str, str | None], version: str | None
) -> None:
    installed["torch"] = version
    versions.check_versions()


def test_a_model_is_not_opened_and_nothing_computed_with_it(
    installed: dict[str, str | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed["transformers"] = "5.0.0"
    with pytest.raises(UserError, match=r"transformers 5\.0\.0"):
        load_denoiser("shapes")
    assert main(["run", f"run={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mitune: installed: transformers 5.0.0")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_was_noted_at_installation_counts_outside_a_checkout(
    installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path)
    noted = ["peft>=99", "rich>=99; extra == 'dev'", "rich>=99; python_version < '3'", "no requirement ="]
    monkeypatch.setattr(versions.metadata, "requires", lambda name: noted)
    with pytest.raises(UserError, match="peft") as refusal:
        versions.check_versions()
    assert "rich" not in str(refusal.value)


def test_a_copied_folder_asks_for_nothing(
    installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def requires(name: str) -> list[str]:
        raise versions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(versions.metadata, "requires", requires)
    assert versions.required() == []
    versions.check_versions()
