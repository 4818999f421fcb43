"""Prompts with a row's columns in them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from curation.heads.boxes import LINES
from curation.recaption import RECAPTION
from curation.templates import Template
from pairmill.errors import RecipeError

MADE = [
    {"text": "A dog.", "kind": "short"},
    {"text": " A dog runs. ", "kind": "long"},
    {"text": "", "kind": "long"},
    {"text": "dog, beach", "kind": "tags"},
    {"text": "What runs?", "kind": "question"},
]
TYPES: dict[str, pa.DataType] = {
    "caption": pa.string(),
    "score_clip": pa.float32(),
    "words_lines": LINES,
    "recaptions": pa.list_(RECAPTION),
    "image": pa.binary(),
    "image_embedding_clip": pa.list_(pa.float16(), 4),
    "input.title": pa.string(),
    "input.concepts": pa.list_(pa.string()),
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("about {caption}!", "about a dog!"),
        ("{score_clip}", "0.3"),
        ("{input.concepts}. A photo of", "dog, beach. A photo of"),
        ("{recaptions}", "A dog.\nA dog runs."),
        ("{recaptions.tags}", "dog, beach"),
        ("{recaptions.question}", "What runs?"),
        ("{words_lines}", "STOP"),
        ("{faces} {near}", "2 yes"),
        ("{{caption}} {caption}", "{caption} a dog"),
        ('{"a": {"b": 1}} { caption }', '{"a": {"b": 1}} { caption }'),
        ("{input.title}", "{caption}"),
        ("[{empty}]", "[]"),
    ],
)
def test_each_column_in_words(text: str, filled: str) -> None:
    values: dict[str, Any] = {
        "caption": " a dog ",
        "score_clip": 0.30000001192092896,
        "input.concepts": ["dog", None, "beach"],
        "recaptions": MADE,
        "words_lines": [{"corners": [0.0] * 8, "score": 0.9, "text": "STOP"}],
        "faces": 2,
        "near": True,
        "input.title": "{caption}",  # a value is no template
        "empty": None,
    }
    assert Template(text).filled(values) == filled


def test_a_line_without_anything_to_say_is_left_out() -> None:
    made = Template("Describe it.\nIts alt text: {caption}\n\nTags: {recaptions.tags}, {input.title}")
    assert made.filled({"caption": " ", "recaptions": MADE}) == "Describe it.\n\nTags: dog, beach, "
    assert made.filled({}) == "Describe it.\n"
    assert Template("about {caption}").filled({}) == "about "


def test_the_columns_are_those_in_braces() -> None:
    made = Template("{caption} {recaptions} {recaptions.tags} {input.a b} {{language}} {caption}")
    assert made.columns == ("caption", "recaptions", "input.a b")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{captoin}", r"(?s)prompt p must name columns .*\{captoin\}.*mean: [^;]*caption"),
        ("{recaption}", r"mean: [^;]*recaptions"),
        ("{input.tile}", r"mean: [^;]*input\.title"),
        ("{recaptions.tag}", r"mean: [^;]*recaptions\.tags"),
        ("{caption.tags}", "mean: caption;"),
        ("{words_lines.tags}", "mean: words_lines;"),
        ("{image}", r"(?s)texts, numbers or lists of texts.*\{image\} is binary"),
        ("{image_embedding_clip}", "lists of texts"),
    ],
)
def test_what_is_no_column_of_words_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        Template(text).check_types("prompt p", TYPES)


def test_a_column_of_the_list_is_not_known_before_the_list_is() -> None:
    Template("{input.anything} {caption}").check_names("prompt p", TYPES)
    with pytest.raises(RecipeError, match=r"mean: [^;]*caption"):
        Template("{captoin}").check_names("prompt p", TYPES)
