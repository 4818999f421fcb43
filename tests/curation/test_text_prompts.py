"""Prompts in the recipe and in a file: names, versions, kinds, and the columns that they name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from test_recaption import SERVED, Scripted, picture, table

from curation.flow import flow_of
from curation.recaption import Recaption, RecaptionConfig
from curation.reuse import what_it_is_made_from
from curation.stages import STAGES
from curation.text_prompts import read_prompts
from pairmill.errors import RecipeError
from pipelines.doctor import project_root
from pipelines.recipe import parse_recipe

FILE = """
short: {version: 2, text: "Name it."}
tags: {version: "2026-11", text: "List its things."}
realigned: {version: 1, kind: rewritten, language: null, text: "Correct this: {caption}"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "prompts.yaml"
    made.write_text(FILE)
    return made


def test_the_prompts_of_a_file_are_asked_beside_those_of_the_recipe(file: Path) -> None:
    given = {"model": "m", "prompts_file": str(file), "prompts": {"more": "Say more."}}
    config = RecaptionConfig.checked(given)
    resolved = config.resolved_prompts()
    assert {name: (one.kind, one.version, one.language) for name, one in resolved.items()} == {
        "short": ("short", 2, "en"),
        "tags": ("tags", "2026-11", "en"),
        "realigned": ("rewritten", 1, None),
        "more": ("long", None, "en"),
    }
    # A file alone is all that is asked.
    assert list(RecaptionConfig.checked({"prompts_file": str(file)}).prompts) == ["short", "tags", "realigned"]


def test_a_run_keeps_the_prompts_as_they_were_and_needs_the_file_no_more(file: Path) -> None:
    text = f"run_dir: r\ninput: {{path: u}}\nrecaption: {{model: m, engine: openai, prompts_file: {file}}}"
    recipe = parse_recipe(text)
    file.unlink()
    again = parse_recipe(recipe.to_yaml())
    assert again == recipe and list(again.recaption.prompts) == ["short", "tags", "realigned"]


def test_a_version_is_kept_with_the_text_and_decides_it(file: Path) -> None:
    config = SERVED.model_copy(update={"prompts": RecaptionConfig.checked({"prompts_file": str(file)}).prompts})
    rows = table([picture(10)], captions=["un chien"]).append_column("language", pa.array(["fr"]))
    made = Recaption(config, engine=Scripted())(rows)["recaptions"].to_pylist()[0]
    assert [(one["prompt_id"], one["kind"], one["language"]) for one in made] == [
        ("short@2", "short", "en"),
        ("tags@2026-11", "tags", "en"),
        ("realigned@1", "rewritten", "fr"),
    ]
    file.write_text(FILE.replace("version: 2,", "version: 3,"))
    newer = SERVED.model_copy(update={"prompts": RecaptionConfig.checked({"prompts_file": str(file)}).prompts})
    assert newer.identity() != config.identity()


@pytest.mark.parametrize(
    ("content", "prompts", "says"),
    [
        (None, {}, "must name a readable file"),
        ("short: {text: a}", {}, "(?s)a text and a version.*short"),
        ("short: say it", {}, "(?s)a text and a version.*short"),
        ("short: {version: 1, text: a}", {"short": "b"}, "(?s)each prompt once.*short, in both"),
        ("short: {version: 1, text: a, txt: a}", {}, r"prompts\.short\.txt is not a key"),
        ("short: {version: 1, text: a, kind: poem}", {}, r"prompts\.short\.kind must"),
        ("a b: {version: 1, text: a}", {}, "a name must consist of letters"),
        ("short: {version: 'a b', text: a}", {}, r"prompts\.short\.version must"),
    ],
)
def test_what_a_file_of_prompts_cannot_be(
    tmp_path: Path, content: str | None, prompts: dict[str, str], says: str
) -> None:
    file = tmp_path / "prompts.yaml"
    if content is not None:
        file.write_text(content)
    given = {"prompts_file": str(file), **({"prompts": prompts} if prompts else {})}
    with pytest.raises(RecipeError, match=says):
        RecaptionConfig.checked(given, at="recaption")


def recaption_of(prompt: str) -> Recaption:
    return Recaption(SERVED.model_copy(update={"prompts": {"short": prompt}}), engine=Scripted())


def test_a_prompt_may_name_any_column_that_the_row_has() -> None:
    given = {"recaption": {"model": "m", "engine": "openai", "prompts": {"short": "{caption} {language} {sharpness}"}}}
    assert flow_of(given).named("recaption").reads == ("image", "caption", "language", "sharpness")


@pytest.mark.parametrize("name", ["sharpnes", "translations", "recaptions"])
def test_a_column_that_no_stage_before_adds_is_refused(name: str) -> None:
    given = {"recaption": {"model": "m", "engine": "openai", "prompts": {"short": f"{{{name}}}"}}}
    with pytest.raises(RecipeError, match="prompt short of recaption must name columns"):
        flow_of({**given, "translate": {"model": "m", "engine": "openai"}})


def test_a_column_of_the_list_is_checked_once_the_list_is_known() -> None:
    prompts = {"short": "{input.title}"}
    flow = flow_of({"recaption": {"model": "m", "engine": "openai", "prompts": prompts}})
    plan = [(column.name, column.type) for column in STAGES.get("plan").adds]
    flow.check(pa.schema([*plan, ("input", pa.struct([("title", pa.string())]))]))
    with pytest.raises(RecipeError, match=r"mean: input\.titel"):
        flow.check(pa.schema([*plan, ("input", pa.struct([("titel", pa.string())]))]))


def with_title(rows: pa.Table, *titles: str | None) -> pa.Table:
    inner = pa.StructArray.from_arrays([pa.array(titles, pa.string())], names=["title"])
    return rows.append_column("input", inner)


def test_a_column_of_the_list_is_in_the_prompt_and_decides_which_rows_are_stale() -> None:
    stage = recaption_of("of {input.title}")
    rows = table([picture(10), picture(11)])
    made = stage(with_title(rows, "Rex", None))
    assert [one[0]["text"] for one in made["recaptions"].to_pylist()] == ["of Rex 10", "of  11"]
    before = what_it_is_made_from(stage, with_title(rows, "Rex", "x"), "m").to_pylist()
    after = what_it_is_made_from(stage, with_title(rows, "Rex", "y"), "m").to_pylist()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_a_column_that_no_prompt_names_makes_no_row_stale() -> None:
    rows, other = table([picture(10)], captions=["a"]), table([picture(10)], captions=["b"])
    named, unnamed = recaption_of("{caption}"), recaption_of("name it")
    assert what_it_is_made_from(unnamed, rows, "m").equals(what_it_is_made_from(unnamed, other, "m"))
    assert not what_it_is_made_from(named, rows, "m").equals(what_it_is_made_from(named, other, "m"))


def test_the_prompts_that_come_with_the_recipes_fit_a_flow() -> None:
    file = project_root() / "pipelines" / "recipes" / "prompts.yaml"
    kinds = {name: one.get("kind", name) for name, one in read_prompts(file).items()}
    assert kinds == {
        "short": "short",
        "long": "long",
        "tags": "tags",
        "question": "question",
        "realigned": "rewritten",
        "concepts": "long",
    }
    given = {"model": "m", "engine": "openai", "prompts_file": str(file)}
    assert "input.concepts" in flow_of({"recaption": given}).named("recaption").reads
