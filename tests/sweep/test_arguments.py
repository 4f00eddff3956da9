"""What is swept, what is fixed, and how a job's folder is called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.sweep.arguments import LONGEST, Words, example, folder_name, grid, read, values_of
from mitune.sweep.sweep import swept_words


def test_words_are_parted() -> None:
    words = read(
        [
            *("adapter=dora,lora", "select.k=range(1,4)", "train.lr=interval(1e-5,1e-3)"),
            *("scorers=[mi,llr]", "experiment=shapes", "prompts.source=/data/my prompts.txt"),
            *("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+seed=3"),
        ]
    )
    assert words.swept == ("adapter=dora,lora", "select.k=range(1,4)", "train.lr=interval(1e-5,1e-3)")
    assert words.hydra == ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert words.fixed == (
        *("scorers=[mi,llr]", "experiment=shapes", "prompts.source=/data/my prompts.txt", "seed=3"),
    )
    assert words.choices == ("experiment=shapes",)


def test_what_hydra_cannot_read_stays_as_it_is_unless_it_looks_like_a_list() -> None:
    assert read(["select.by=z(mi)+z(elbo)"]).fixed == ("select.by=z(mi)+z(elbo)",)
    with pytest.raises(UserError, match="quotes"):
        read(["select.by=mi,z(mi)+z(elbo)"])


def test_the_later_word_of_a_key_counts() -> None:
    assert read(["select.k=1", "select.k=1,2", "seed=1,2", "seed=1"]) == Words(
        ("seed=1",), ("select.k=1,2",), ()
    )


def test_quotes_keep_a_comma_and_are_taken_off() -> None:
    assert read(["prompts.source='a,b (1).txt'"]).fixed == ("prompts.source=a,b (1).txt",)
    swept = read(["select.by=mi,'z(mi)+z(elbo)'"]).swept
    assert grid(swept) == [{"select.by": "mi"}, {"select.by": "z(mi)+z(elbo)"}]


def test_the_grid_is_hydras() -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [
        "adapter=dora,lora",
        "train.lr=1e-4,0.001",
        "select.k=range(1,3)",
        "scorers=[mi],[mi,llr]",
        "adapter=lora",
    ]
    parsed = OverridesParser.create().parse_overrides(words)
    (theirs,) = BasicSweeper.split_arguments(parsed, None)
    assert grid(words) == [values_of(job) for job in theirs]
    assert len(theirs) == 2 * 2 * 2
    assert {job["adapter"] for job in grid(words) or []} == {"lora"}  # the later word of a key counts


def test_only_a_search_takes_an_interval() -> None:
    words = ["select.k=1,3", "train.lr=interval(0.001,0.01)"]
    assert grid(words) is None
    assert example(words) == {"select.k": "1", "train.lr": "0.001"}


def test_what_a_preset_sweeps_can_be_fixed_or_swept_otherwise() -> None:
    params = {"generate.candidates": "6,12", "select.k": "1,3", "adapter": "dora,lora"}
    words = Words(("select.k=2",), ("adapter=lora,dora",), ())
    assert swept_words(params, words) == ["generate.candidates=6,12", "adapter=lora,dora"]


def test_plain_words_name_the_folder() -> None:
    assert folder_name({"adapter": "lora", "select.k": "7"}) == "adapter=lora,select.k=7"


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4, unique=True))
def test_a_folder_is_one_safe_name_and_tells_jobs_apart(texts: list[str]) -> None:
    names = [folder_name({"prompts.source": text}) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert name.isascii()
        assert not set(name) & set("/\\ \"'$*?|<>\n\0")
        assert name.startswith("prompts.source=")
        assert len(name) <= LONGEST + 9
