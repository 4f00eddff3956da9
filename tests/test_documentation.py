"""The documentation: short where it should be, its links lead somewhere, its figures are those that were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import mitune
from benchmarks import docs, records

ROOT = docs.ROOT
PAGES = [*docs.PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# Pages that tell what was measured; the others may name numbers, which are settings.
MEASURED = ["README.md", "docs/index.md", "docs/results.md", "docs/recipe.md", "docs/scores.md", "docs/steering.md",
            "docs/scale.md", "docs/faq.md", "docs/inversion.md"]  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The places within a page that GitHub and the site link to."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8 * 1024
    assert re.findall(r"^    make (\w+)", read("README.md"), re.MULTILINE) == ["demo", "test"]


def test_every_link_leads_to_a_file_and_a_heading_in_it() -> None:
    dead = []
    for name in PAGES:
        for link in _LINK.findall(_CODE.sub("", read(name))):
            if link.startswith(("https://", "http://")):
                continue
            path, _, heading = link.partition("#")
            target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
            if not target.is_file() and not target.is_dir():
                dead.append(f"{name}: {link}")
            elif heading and heading not in anchors(target.read_text(encoding="utf-8")):
                dead.append(f"{name}: {link} (no such heading)")
    assert not dead


def test_the_sentences_say_what_was_measured() -> None:
    wrong = []
    for page, entries in records.entries().items():
        text = records.flat(read(page))
        wrong += [
            f"{page} should say: {sentence}"
            for entry in entries
            if (sentence := records.flat(records.sentences(entry))) not in text
        ]
    assert not wrong


@pytest.mark.parametrize("page", MEASURED)
def test_no_figure_stands_in_a_page_without_its_record(page: str) -> None:
    held = [records.sentences(entry) for entry in records.entries().get(page, [])]
    assert not list(records.loose(read(page), held))


def test_a_figure_that_changed_or_came_without_a_record_is_found() -> None:
    held = ["it rose by +0.064"]
    assert not list(records.loose("it rose\nby +0.064, `x=0.25`, 150 prompts", held))
    assert list(records.loose("it rose by +0.065", held)) == ["it rose by +0.065"]
    assert list(records.loose("true of 57 % of them", held))


def test_what_has_no_record_says_so() -> None:
    for page in MEASURED:
        for part in re.findall(r"<!-- no record -->(.*?)<!-- end of no record -->", read(page), re.DOTALL):
            assert re.search(r"no record was kept", records.flat(part), re.IGNORECASE)


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = str(yaml.safe_load(read("mkdocs.yml"))["nav"])
    for page in docs.PAGES[1:]:
        assert f"'{Path(page).name}'" in menu


def test_the_python_page_shows_all_that_the_package_offers() -> None:
    shown = re.findall(r"^::: mitune\.(\w+)$", read("docs/api.md"), re.MULTILINE)
    assert sorted(shown) == sorted({*mitune.__all__} - {"__version__"})


def test_the_site_fetches_nothing() -> None:
    site = yaml.safe_load(read("mkdocs.yml"))
    assert site["theme"]["font"] is False
    assert {next(iter(one)) if isinstance(one, dict) else one for one in site["plugins"]} == {
        "search",
        "mkdocstrings",
    }


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert mitune.__version__ == citation["version"] == newest[1]


def test_the_citation_has_what_its_format_asks_for() -> None:
    """Citation File Format 1.2.0: what must be there, dates as dates, people with names."""
    citation = yaml.safe_load(read("CITATION.cff"))
    known = {
        "abstract", "authors", "cff-version", "date-released", "identifiers", "keywords", "license", "message",
        "preferred-citation", "references", "repository-code", "title", "type", "url", "version",
    }  # fmt: skip
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation) <= known
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(citation["date-released"]))
    works = [citation, citation["preferred-citation"], *citation.get("references", [])]
    for work in works:
        assert work["title"]
        assert work["authors"]
        assert all(set(one) in ({"name"}, {"family-names", "given-names"}) for one in work["authors"])
        assert all(one["type"] in {"doi", "url", "swh", "other"} for one in work.get("identifiers", []))
