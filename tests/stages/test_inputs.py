from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mitune.config import compose
from mitune.stages.inputs import check_prompts


@pytest.mark.parametrize(("held_out", "flattered"), [("a", True), ("b", False)])
def test_an_edit_of_another_picture_is_another_task(
    held_out: str, flattered: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["scorers=[mi]", "select.by=mi", "evaluate.scorers=[mi]"]
    for name, section in (("a", "prompts"), (held_out, "evaluate.prompts")):
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
        table = tmp_path / f"{section}.csv"
        table.write_text(f"prompt,source\nmake it red,{name}.png\n", encoding="utf-8")
        words += [f"{section}.source={table}", f"{section}.picture_column=source"]
    check_prompts(compose(words))
    assert ("1 held-out prompts are trained on too" in capsys.readouterr().err) == flattered
