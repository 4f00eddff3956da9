"""What README.md and the quick start tell a user to type, and a folder in which to type it."""

from __future__ import annotations

import re
import shlex
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.families import tiny

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/quickstart.md")
MODEL = "my-model"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPTS = {
    "prompts.txt": [
        "a red circle above a blue square", "a blue circle above a red square", "a green star left of a cat",
        "a green cat left of a star", "a small yellow dog", "a big yellow dog", "a photo of a red cat on a square",
        "a photo of a blue cat on a circle", "a green square", "a yellow square below a dog",
    ],
    "held_out.txt": [
        "a blue star above a red cat", "a small green circle", "a big dog left of a yellow star", "a photo of a square",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """Something that a page tells to type.

    Attributes:
        page: where it stands.
        kind: ``bash``, a line of a shell, or ``python``, a whole block.
    """

    page: str
    kind: str
    text: str

    @property
    def words(self) -> list[str]:
        """The line as a shell reads it."""
        return shlex.split(self.text)


def typed(page: str) -> list[Typed]:
    """Give what a page tells to type, from top to bottom."""
    found = []
    for kind, block in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if kind == "python":
            found.append(Typed(page, kind, block))
        else:
            lines = block.replace("\\\n", " ").splitlines()
            found += [
                Typed(page, kind, " ".join(line.split())) for line in lines if line and line[0] not in "#"
            ]
    return found


def told() -> list[Typed]:
    """Give what all the pages tell to type; what several say comes once."""
    return [*{one.text: one for page in PAGES for one in typed(page)}.values()]


def furnish(folder: Path) -> None:
    """Put into ``folder`` what the pages say a user has: a model, two files of prompts, pictures with captions."""
    from PIL import Image

    model = tiny.stable_diffusion(folder / "made")
    model.rename(folder / MODEL)
    shutil.rmtree(folder / "made")
    for name, prompts in _PROMPTS.items():
        (folder / name).write_text("\n".join(prompts) + "\n", encoding="utf-8")
    pictures = folder / "pictures"
    pictures.mkdir()
    for index, prompt in enumerate(_PROMPTS["prompts.txt"][:4]):
        shade = zlib.crc32(prompt.encode()) % 256
        Image.new("RGB", (16, 16), (shade, 255 - shade, 90)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(prompt, encoding="utf-8")
