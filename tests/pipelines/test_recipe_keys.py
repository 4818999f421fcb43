from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pairmill.config import EXECUTION, Config
from pairmill.registry import ChosenBy, NamedConfig, Registry
from pipelines.doctor import project_root
from pipelines.recipe import CurateRecipe
from pipelines.recipe_keys import all_recipes, recipe_page, sections
from training.recipe import TrainRecipe
from tune.recipe import SweepRecipe

WHOSE_KEYS = "registered name of the entry, or its import path package.module:attribute"


class LongConfig(NamedConfig):
    """Many words."""

    words: int = Field(9, ge=1, description="words at least")


class Long:
    Config = LongConfig


WRITERS: Registry[type[Long]] = Registry("writer", {"long": f"{__name__}:Long"})


class Inner(Config):
    """What is inside."""

    rate: float | None = Field(None, gt=0, le=1, description="share, 0-1; null: all | none")
    kind: Literal["a", "b"] = "a"


class Outer(Config):
    """A recipe,
    whole."""

    path: str = Field(description="where")
    inner: Inner = Inner()
    many: tuple[Inner, ...] = Field((), min_length=2, description="several")
    named: dict[str, str | Inner] = Field({}, description="by name")
    pair: tuple[int, float] = Field((1, 0.5), description="two numbers")
    how: Inner = Field(Inner(), description="how it is run", json_schema_extra=EXECUTION)
    writer: Annotated[NamedConfig, ChosenBy(WRITERS)] = Field(LongConfig(name="long"), description="who writes")


def test_the_page_is_current() -> None:
    page = (project_root() / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == recipe_page(all_recipes()), "run `make docs`"


def test_the_page_is_of_all_recipes() -> None:
    assert list(all_recipes().values()) == [CurateRecipe, TrainRecipe, SweepRecipe]


def test_every_key_has_a_line_with_type_default_and_meaning() -> None:
    found = {section.key: (section.meaning, section.rows) for section in sections(Outer.model_json_schema())}
    inner = [
        ("rate", "number > 0 ≤ 1 or null", "`null`", "share, 0-1; null: all \\| none"),
        ("kind", "`a`, `b`", "`a`", ""),
    ]
    assert found[""] == (
        "",
        [
            ("`path`", "string", "required", "where"),
            ("`many`", "list of mapping, 2 or more", "`[]`", "several"),
            ("`named`", "mapping of names to string or mapping", "`{}`", "by name"),
            ("`pair`", "[integer, number]", "`[1, 0.5]`", "two numbers"),
            ("`writer`", "`long` or mapping", "(below)", "who writes"),
        ],
    )
    for key, meaning in {
        "inner": "What is inside.",
        "many[]": "What is inside.",
        "named.NAME": "What is inside.",
    }.items():
        assert found[key] == (meaning, [(f"`{key}.{name}`", *rest) for name, *rest in inner])
    assert found["how"] == ("how it is run", [(f"`how.{name}` ○", *rest) for name, *rest in inner])
    assert found["writer"] == (
        "With `name: long`: Many words.",
        [
            ("`writer.name`", "string", "required", WHOSE_KEYS),
            ("`writer.words`", "integer ≥ 1", "`9`", "words at least"),
        ],
    )


def test_the_page_has_a_table_a_section() -> None:
    page = recipe_page({"pairmill make": Outer})
    assert (
        "## pairmill make\n\nA recipe, whole.\n\n| key | type | default | meaning |\n|---|---|---|---|\n| `path` |"
        in page
    )
    assert "### inner\n\nWhat is inside.\n\n| key |" in page
