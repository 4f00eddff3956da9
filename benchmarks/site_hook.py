"""A hook of mkdocs: what pages link to outside of ``docs/`` (records, plots, launch files) becomes part of the site.

On GitHub ``../benchmarks/results/quality-shapes.md`` is a file of the repository; in the site it is a page of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
# A link or picture of Markdown whose address goes up from docs/.
_UP = re.compile(r"(\]\()\.\./([\w./-]+)(#[\w-]+)?\)")
# Pages of the repository that the site shows as they are: page of the site -> file.
WHOLE = {"contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
_BACK = {path: page for page, path in WHOLE.items()}


def linked(text: str) -> set[str]:
    """Give the files of the repository outside ``docs/`` that a page links to."""
    return {found[2] for found in _UP.finditer(text)} - {"README.md", *WHOLE.values()}


def on_files(files: Any, config: Any) -> Any:
    """Add to the site what its pages link to, and the pages that are kept at the root of the repository."""
    wanted: set[str] = set()
    for file in files.documentation_pages():
        wanted |= linked(file.content_string)
    for name in sorted(wanted):
        files.append(
            File.generated(config, name, abs_src_path=str(ROOT / name), inclusion=InclusionLevel.NOT_IN_NAV)
        )
    for page, name in WHOLE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for path, other in _BACK.items():
            text = text.replace(f"]({path})", f"]({other})")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn addresses that go up from ``docs/`` into those of the site."""

    def inside(found: re.Match[str]) -> str:
        path = {**_BACK, "README.md": "index.md"}.get(found[2], found[2])
        return f"{found[1]}{path}{found[3] or ''})"

    return _UP.sub(inside, markdown) if page.file.src_uri.count("/") == 0 else markdown
