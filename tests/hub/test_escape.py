"""Text of unknown origin in YAML, Markdown and HTML."""

from __future__ import annotations

import html

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from mitune.hub.base import BaseModel
from mitune.hub.card import Example, Facts, write_card
from mitune.hub.escape import literal, plain, scrub
from mitune.hub.folder import slug

NASTY = st.text(
    alphabet=st.sampled_from(list("a-#|*_<>&;:'\"`[](){}!\\/\n\r\t\u202e\u2028\x00%@~=+.0 ")), max_size=60
)


@given(NASTY | st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_literal_reads_as_the_text_and_holds_no_markup(text: str) -> None:
    written = literal(text)
    assert html.unescape(written) == plain(text)
    assert not set(written.replace("&#", "").replace(";", "")) & set("<>|*_`[](){}!\\\n\r\t:@~\"'+=-.&#")


@given(NASTY, NASTY, NASTY)
@settings(max_examples=25, deadline=None)
def test_a_card_of_hostile_strings_loads_and_keeps_its_metadata(name: str, prompt: str, score: str) -> None:
    facts = Facts(
        name=f"x{name}",
        base=BaseModel(name, "owner/base", {"license": name or "mit"}, True),
        kind="dora",
        rank=4,
        round=2,
        selected_by=score,
        candidates=3,
        steps=5,
        evaluation={"after": {"all": {"n": 4, f"s{score}": 0.5}}, "before": {"all": {f"s{score}": 0.25}}},
        held_out=prompt,
        examples=[Example(prompt, "pictures/before-000.png", "pictures/after-000.png")],
        repository="owner/name",
        real=3,
        real_source=prompt,
    )
    card = ModelCard(write_card(facts))
    assert card.data.base_model == "owner/base"
    assert card.data.base_model_relation == "adapter"
    assert card.data.license == (name or "mit")
    assert card.data.model_name == plain(f"x{name}", 100)
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
    assert card.data.widget[0]["text"] == plain(prompt)
    comment = "# The evaluation drew with "  # in the code that loads the adapter
    headings = [
        line for line in card.text.splitlines() if line.startswith("#") and not line.startswith(comment)
    ]
    assert [heading for heading in headings if heading.startswith("## ")] == [
        "## Use",
        "## Evaluation",
        "## Pictures",
        "## Base model and licence",
        "## Training",
    ]
    assert len(headings) == 6


def test_what_is_published_holds_no_secret_and_no_folder() -> None:
    token = "hf_" + "a" * 34
    found = scrub(
        {
            "path": "/home/alice/models/sd",
            "source": "~/prompts.txt",
            "api_key": "x",
            "list": [f"a {token} b", "https://alice:pw@host/x", "owner/name", 3, None, True],
        }
    )
    assert found == {
        "path": "sd",
        "source": "prompts.txt",
        "api_key": "***",
        "list": ["a *** b", "https://***@host/x", "owner/name", 3, None, True],
    }
    assert token not in literal(f"by {token}")


@pytest.mark.parametrize(
    ("name", "file"), [("a b/../c", "a-b-..-c"), ("...", "adapter"), ("", "adapter"), ("x" * 200, "x" * 80)]
)
def test_a_name_as_a_files(name: str, file: str) -> None:
    assert slug(name) == file
