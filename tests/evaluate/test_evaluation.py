from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mitune.errors import UserError
from mitune.evaluate.diversity import compare_diversity
from mitune.evaluate.evaluation import choose_examples, write_evaluation


def table() -> pd.DataFrame:
    rows = [
        {
            "prompt_id": f"{number:012x}",
            "prompt": f"prompt {number}",
            "category": "color" if number < 3 else "spatial",
            "candidate": candidate,
            "seed": 10 * number + candidate,
            "oracle": 0.1 * number + 0.02 * candidate,
            "exact": False,
            "mi+0.5*clip": float(number - candidate),
        }
        for number in range(5)
        for candidate in range(2)
    ]
    return pd.DataFrame(rows)


def test_evaluation_is_written_for_people_and_machines(tmp_path: Path) -> None:
    before = table()
    after = table().assign(oracle=lambda rows: rows["oracle"] + 0.1)
    pictures = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    order = np.random.default_rng(0).permutation(10)
    # The tuned model's table comes in another order, its pictures with it: pairs must still meet.
    result = write_evaluation(
        tmp_path, before, after.iloc[order], pictures, [pictures[i] for i in order], examples=4
    )

    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert result["before"]["all"]["oracle"] == pytest.approx(before["oracle"].mean())
    assert result["after"]["spatial"]["n"] == 4
    assert result["difference"]["all"]["oracle"]["difference"] == pytest.approx(0.1)
    assert result["diversity"] == compare_diversity(pictures, pictures, before["prompt_id"].tolist())
    assert result["diversity"]["ratio"] == pytest.approx(1.0)

    assert [example["prompt"] for example in result["examples"]] == [
        "prompt 0",
        "prompt 3",
        "prompt 1",
        "prompt 4",
    ]
    for example in result["examples"]:
        base, tuned = (np.asarray(Image.open(tmp_path / example[side])) for side in ("before", "after"))
        np.testing.assert_array_equal(base, tuned)
        row = before.index[before["prompt"] == example["prompt"]][0]
        np.testing.assert_array_equal(base, (pictures[row] * 255).round().byte().permute(1, 2, 0).numpy())
        assert example["scores_after"]["oracle"] == pytest.approx(example["scores_before"]["oracle"] + 0.1)
    assert {path.name for path in (tmp_path / "pictures").glob("*histogram*")} == {
        "oracle-histogram.png",
        "mi-0.5-clip-histogram.png",
    }
    assert Image.open(tmp_path / "pictures" / "before-after.png").width > 400
    rows = pq.read_table(tmp_path / "evaluation.parquet").to_pandas()
    assert rows.groupby("model")["oracle"].mean().to_dict() == pytest.approx(
        {"before": before["oracle"].mean(), "after": after["oracle"].mean()}
    )


def test_pictures_are_taken_one_by_one_and_few_are_held(tmp_path: Path) -> None:
    """What comes from a stream is what comes from a list, whatever the order of the tuned model's rows."""
    before, after = table(), table().iloc[[3, 2, 0, 1, 9, 8, 6, 7, 5, 4]]
    generator = torch.Generator().manual_seed(1)
    old, new = torch.rand(2, 10, 3, 16, 16, generator=generator)
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def stream(pictures: torch.Tensor) -> Iterator[torch.Tensor]:
        nonlocal most
        for picture in pictures:
            own = picture.clone()
            alive.add(own)
            most = max(most, len(alive))
            yield own

    whole = write_evaluation(tmp_path / "whole", before, after, old, new, examples=3)
    found = write_evaluation(tmp_path / "stream", before, after, stream(old), stream(new), examples=3)
    assert found == whole
    assert most <= 4  # the pictures of two prompts, whose rows may be mixed
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*"))
    assert len(files) == 2 * 3 + 1 + 2 + 2
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stream" / file).read_bytes(), file
    with pytest.raises(ValueError, match="zip"):
        write_evaluation(tmp_path / "short", before, after, stream(old[:3]), stream(new))


def test_nothing_is_written_when_the_pictures_do_not_match(tmp_path: Path) -> None:
    pictures = torch.rand(10, 3, 8, 8)
    with pytest.raises(UserError, match="another seed"):
        write_evaluation(tmp_path, table(), table().assign(seed=0), pictures, pictures)
    with pytest.raises(ValueError, match="length"):
        write_evaluation(tmp_path, table(), table(), pictures[:3], pictures)
    assert list(tmp_path.iterdir()) == []


def test_examples_take_categories_in_turn_and_one_picture_a_prompt() -> None:
    rows = choose_examples(table(), 24)
    assert table().loc[rows, "prompt"].tolist() == [
        "prompt 0",
        "prompt 3",
        "prompt 1",
        "prompt 4",
        "prompt 2",
    ]
    assert choose_examples(table(), 0) == []
    assert len(choose_examples(table().drop(columns="category"), 3)) == 3


def test_examples_do_not_depend_on_the_scores() -> None:
    data = table()
    assert choose_examples(data, 4) == choose_examples(data.assign(oracle=1 - data["oracle"]), 4)
