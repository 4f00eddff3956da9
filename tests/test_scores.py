"""Weighted sums of scores: what can be written, what it means, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.errors import UserError
from mitune.scores import COMBINED, Term, columns, is_sum, normalised, scorers_of, terms, weigh


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mi", [Term(1.0, "mi")]),
        ("exact", [Term(1.0, "exact")]),
        ("contrast+0.5*elbo", [Term(1.0, "contrast"), Term(0.5, "elbo")]),
        ("z(contrast) - 2*z(mi_image)", [Term(1.0, "contrast", True), Term(-2.0, "mi_image", True)]),
        ("-elbo+1e-3*cas", [Term(-1.0, "elbo"), Term(1e-3, "cas")]),
        ("3.*llr", [Term(3.0, "llr")]),
    ],
)
def test_a_score_is_its_parts(text: str, parts: list[Term]) -> None:
    assert list(terms(text)) == parts


def test_combined_stands_for_its_sum() -> None:
    assert terms(COMBINED, "z(elbo)+mi") == terms("z(elbo)+mi")
    assert columns(["mi", COMBINED], "z(elbo)+exact") == ["mi", "elbo", "exact"]
    assert scorers_of([COMBINED], "z(elbo)+exact") == ["elbo", "oracle"]
    assert is_sum(COMBINED)
    assert not is_sum("exact")
    assert normalised(COMBINED, "mi+z(elbo)")
    assert not normalised("mi+elbo")


@pytest.mark.parametrize(
    ("text", "combined", "hint"),
    [
        ("contrst", "", "did you mean 'contrast'"),
        ("mi+", "", "cannot be read at '\\+'"),
        ("mi elbo", "", "cannot be read at ' elbo'"),
        ("z(mi", "", "cannot be read"),
        ("mi)", "", "cannot be read"),
        ("0.5mi", "", "cannot be read"),
        ("mi**2", "", "cannot be read at '\\*\\*2'"),
        ("", "", "empty"),
        ("combined+mi", "elbo", "no score 'combined'"),
        (COMBINED, "mi+combined", "scorer.combined=mi\\+combined: there is no score 'combined'"),
        (COMBINED, "", "scorer.combined= is empty"),
    ],
)
def test_what_is_refused(text: str, combined: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        terms(text, combined)


VALUES = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=20)


@settings(max_examples=60, deadline=None)
@given(values=VALUES, data=st.data())
def test_z_has_mean_nought_and_deviation_one_within_each_prompt(
    values: list[float], data: st.DataObject
) -> None:
    size = len(values)
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
    result = weigh({"mi": values}, terms("z(mi)"), groups)
    for group in set(groups):
        rows = np.array([other == group for other in groups])
        inside, given_values = result[rows], np.array(values)[rows]
        if np.ptp(given_values) < 1e-6:
            assert np.abs(inside).max() <= np.sqrt(rows.sum()) + 1e-9
            continue
        assert abs(inside.mean()) < 1e-6
        assert abs(inside.std() - 1) < 1e-6
        # An increasing map: whoever was ahead is not behind now.
        assert (np.diff(inside[np.argsort(given_values, kind="stable")]) >= -1e-12).all()


def test_weights_and_scale() -> None:
    table = {"mi": [1.0, 2.0, 3.0, 4.0], "elbo": [10.0, 30.0, 0.0, 0.0]}
    assert weigh(table, terms("mi-0.1*elbo")).tolist() == pytest.approx([0.0, -1.0, 3.0, 4.0])
    # Within prompts, any scale and offset of a part is the same part; equal scores tell nothing apart.
    one = weigh(table, terms("z(mi)+z(elbo)"), ["p", "p", "q", "q"])
    other = weigh(
        {"mi": table["mi"], "elbo": [7 * x + 5 for x in table["elbo"]]}, terms("z(mi)+z(elbo)"), list("ppqq")
    )
    assert one.tolist() == pytest.approx([-2.0, 2.0, -1.0, 1.0])
    np.testing.assert_allclose(one, other, atol=1e-12)
