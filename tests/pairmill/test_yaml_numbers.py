"""A number in a recipe means what it looks like, or is refused with what to write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairmill.errors import RecipeError
from pairmill.yaml_text import read_yaml, write_yaml
from training.data.config import DataConfig
from training.recipe import ComputeConfig, TrainConfig


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1e-3", 0.001), ("1E-3", 0.001), ("1e3", 1000.0), ("1e+3", 1000.0), ("+1e3", 1000.0), ("-2e-5", -2e-5)),
        *(("1.5e3", 1500.0), ("1.5e-3", 0.0015), (".5e1", 5.0), ("1.e2", 100.0), ("1_0e2", 1000.0)),
        *((".5", 0.5), ("5.", 5.0), ("0", 0), ("007", 7), ("1_000", 1000), ("0x1F", 31), ("-12", -12)),
    ],
)
def test_a_number_is_one_in_every_spelling(text: str, number: float) -> None:
    assert read_yaml(f"a: {text}\nb: [{text}, x]\n", "recipe") == {"a": number, "b": [number, "x"]}


@pytest.mark.parametrize(("text", "number"), [("010", "8"), ("-0100", "-64"), ("1:30", "90"), ("1:30.5", "90.5")])
def test_a_number_to_another_base_is_refused_with_the_line(text: str, number: str) -> None:
    with pytest.raises(RecipeError) as error:
        read_yaml(f"seed: 1\nsize: {text}\n", "recipe.yaml")
    assert all(part in str(error.value.value) for part in ("recipe.yaml", text, number, "line 2", "quotes"))
    assert read_yaml(f"size: '{text}'", "recipe") == {"size": text}


@pytest.mark.parametrize("text", ["no", "No", "yes", "on", "off", "y", "n", "NO"])
def test_words_are_words_and_truth_values_where_one_is_asked_for(text: str) -> None:
    assert read_yaml(f"language: {text}\n{text}: 1", "recipe") == {"language": text, text: 1}
    asked = {"path": "x", "texts": [{"language": text}], "shuffle": text}
    config = DataConfig.checked(read_yaml(write_yaml(asked), "recipe"))
    assert config.text_slots()[0][0].language == text
    assert config.shuffle is (text.lower() in ("yes", "on", "y"))


@pytest.mark.parametrize("text", ["true", "False", "TRUE"])
def test_truth_values(text: str) -> None:
    assert read_yaml(f"a: {text}", "recipe") == {"a": text.lower() == "true"}


def test_a_whole_number_with_an_exponent_is_an_integer() -> None:
    train = TrainConfig.checked(read_yaml("steps: 1e3", "recipe"))
    assert train.steps == 1000 and type(train.steps) is int
    compute = ComputeConfig.checked(read_yaml("workers: 1e1", "recipe"))
    assert compute.workers == 10
    with pytest.raises(RecipeError, match="steps"):
        TrainConfig.checked(read_yaml("steps: 1.5e0", "recipe"))


@pytest.mark.parametrize("text", ["1e", "e3", "1e-", "1-3", "v1e3", "1e3x", "0x1e3g", "1 e3", "10.0.0.1", "::1"])
def test_other_texts_stay_texts(text: str) -> None:
    assert read_yaml(f"a: '{text}'", "recipe") == read_yaml(f"a: {text}", "recipe") == {"a": text}


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text("0123456789eE+-._:xb", max_size=8)


@given(st.recursive(NUMBERS | WORDS | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=4)))
def test_what_is_written_is_read_back(data: Any) -> None:
    read = read_yaml(write_yaml({"a": data}), "recipe")["a"]
    assert read == data
    assert type(read) is type(data)
