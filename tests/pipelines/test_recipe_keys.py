from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pairmill.config import EXECUTION, POLICY, Config
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


class Short:
    Config = NamedConfig


OWN: Registry[type[Any]] = Registry("own")
WRITERS: Registry[type[Any]] = Registry("writer", {"long": f"{__name__}:Long", "short": f"{__name__}:Short"})


class Inner(Config):
    """What is inside."""

    rate: float | None = Field(None, gt=0, le=1, description="share, 0-1; null: all | none")
    kind: Literal["a", "b"] = Field("a", description="which")


class Outer(Config):
    """A recipe,
    whole."""

    path: str = Field(description="where")
    inner: Inner = Inner()
    many: tuple[Inner, ...] = Field((), min_length=2, description="several")
    named: dict[str, str | Inner] = Field({}, description="by name")
    pair: tuple[int, float] = Field((1, 0.5), description="two numbers")
    how: Inner = Field(Inner(), description="how it is run", json_schema_extra=EXECUTION)
    writer: Annotated[NamedConfig, ChosenBy(WRITERS)] = Field(
        default_factory=lambda: LongConfig(name="long"), description="who writes"
    )
    limit: int = Field(5, description="most bytes", json_schema_extra=POLICY)
    own: tuple[Annotated[NamedConfig, ChosenBy(OWN)], ...] = Field((), description="your own")


def test_the_page_is_current() -> None:
    page = (project_root() / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == recipe_page(all_recipes()), "run `make docs`"


def test_the_page_is_of_all_recipes() -> None:
    assert list(all_recipes().values()) == [CurateRecipe, TrainRecipe, SweepRecipe]


def test_every_key_has_a_line_with_type_default_and_meaning() -> None:
    *most, short = sections(Outer.model_json_schema())
    found = {section.key: (section.meaning, section.rows) for section in most}
    inner = [
        ("rate", "number > `0` ≤ `1` or null", "`null`", "share, 0-1; null: all | none"),
        ("kind", "`a`, `b`", "`a`", "which"),
    ]
    assert found[""] == (
        "",
        [
            ("`path`", "text", "required", "where"),
            ("`many`", "list of mapping, 2 or more", "`[]`", "several"),
            ("`named`", "mapping of names to text or mapping", "`{}`", "by name"),
            ("`pair`", "list of 2: integer, number", "`[1, 0.5]`", "two numbers"),
            ("`writer`", "`long`, `short` or mapping", "`long`", "who writes"),
            ("`limit` ◇", "integer", "`5`", "most bytes"),
            ("`own`", "list of text or mapping", "`[]`", "your own"),
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
            ("`writer.name`", "text", "required", WHOSE_KEYS),
            ("`writer.words`", "integer ≥ `1`", "`9`", "words at least"),
        ],
    )
    assert short.meaning == "With `name: short`: It has no keys of its own."


def test_every_section_of_the_page_has_a_heading_of_its_own() -> None:
    page = recipe_page({"pairmill make": Outer})
    assert "### writer (long)\n" in page and "### writer (short)\n" in page
    for recipes in ({"pairmill make": Outer}, all_recipes()):
        headings = [line for line in recipe_page(recipes).splitlines() if line.startswith("#")]
        assert len(headings) == len(set(headings))
    assert "### score.NAME (faces)" in headings and "### embed.NAME" in headings


def test_nothing_is_left_empty() -> None:
    for recipe in all_recipes().values():
        for section in sections(recipe.model_json_schema()):
            assert section.meaning or not section.key, section.key
            for row in section.rows:
                assert all(cell.strip() for cell in row), row
                assert not row[1].endswith(" of "), row


def test_the_page_has_a_table_a_section() -> None:
    page = recipe_page({"pairmill make": Outer})
    assert (
        "## pairmill make\n\nA recipe, whole.\n\n| key | type | default | meaning |\n|---|---|---|---|\n| `path` |"
        in page
    )
    assert "| share, 0-1; null: all \\| none |" in page
    assert "### inner\n\nWhat is inside.\n\n| key |" in page
