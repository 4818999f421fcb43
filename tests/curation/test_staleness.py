"""What a change of each key of the recipe makes stale: nothing, a table, or nothing but the verdict of the policy.

A table that is stale is made again from what is there.  images/ is fetched again, so no key may make it stale that does
not decide what is stored of a picture.  Tables behind a stale one follow only where its content comes out different.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import numpy as np
import pytest
from pydantic.fields import FieldInfo
from staleness_changes import BASE, CHANGES, HEAD, NEEDED

from curation.engines.model_files import folder_digest
from curation.flow import Tables
from curation.parts import product_identity
from curation.selections.selected_tables import selected_table
from curation.selections.uids import DTYPE, write_uids
from pairmill.config import EXECUTION, POLICY, Config, marked, put
from pairmill.registry import ChosenBy, NamedConfig
from pipelines.recipe import CurateRecipe


def fields(model: type[Config], at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a recipe that is no section, and those of what its lists and mappings hold."""
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            yield from fields(field.annotation, f"{at}{name}.")
        else:
            yield f"{at}{name}", field
            yield from held(field.annotation, f"{at}{name}", field.metadata)


def held(kind: Any, at: str, marks: Iterable[object] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of the configurations that a value of this type can hold; of a choice, `at{entry}.key`."""
    for chosen in (mark for mark in marks if isinstance(mark, ChosenBy)):
        for entry in chosen.registry.names:
            found = fields(chosen.registry.get(entry).Config, f"{at}{{{entry}}}.")
            yield from ((key, field) for key, field in found if not key.endswith("}.name"))
    origin, inner = get_origin(kind), get_args(kind)
    if is_section(kind):
        yield from fields(kind, f"{at}.")
    elif origin is Annotated:
        yield from held(inner[0], at, inner[1:])
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from held(inner[1], f"{at}.NAME")
    else:
        place = f"{at}[]" if origin in (tuple, list, Sequence) else at
        for one in inner:
            yield from held(one, place)


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config) and kind is not NamedConfig


FIELDS = dict(fields(CurateRecipe))


def test_every_key_has_an_entry_and_every_entry_a_key() -> None:
    assert CHANGES.keys() == FIELDS.keys()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "blocklist").write_text("0" * 64 + "\n")
    (folder / "words").write_text("buy now\n")
    (folder / "model").write_bytes(b"weights")
    write_uids(folder / "uids", np.zeros(1, DTYPE))
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text('{"model_type": "clip"}')
    content = f"sha256:{folder_digest(folder / 'clip')}"
    return {name: str(folder / name) for name in ("blocklist", "words", "model", "uids", "clip")} | {
        "clip_content": content
    }


def keys_of(recipe: CurateRecipe) -> dict[str, Any]:
    """Table -> what keys its shards, beside the contents of those it is made from; `pairs` too."""
    name = recipe.deduplicate.name
    plain = Tables(recipe.flow(name), selection=name)
    found = {table.name: [table.identity, list(table.upstream)] for table in plain.all}
    # What follows the selection of the product follows from that one.
    packed = Tables(recipe.flow(), selection=recipe.selection)
    found |= {table.name: [table.identity, list(table.upstream)] for table in packed.all}
    for rules in plain.flow.rules:
        table = selected_table(plain, rules).table
        found[table.name] = [table.identity, list(table.upstream)]
    return found | {"pairs": product_identity(recipe.flow())}


def engine_of(key: str) -> Mapping[str, Any]:
    """The engine of the section that a key is in, in the recipe that is changed; of other keys none."""
    section = BASE.get(key.partition(".")[0])
    engine: Mapping[str, Any] = section.get("engine", {}) if isinstance(section, Mapping) else {}
    return engine


def recipe_of(files: Mapping[str, str], changes: Mapping[str, Any]) -> CurateRecipe:
    data = copy.deepcopy(BASE)
    for key, value in changes.items():
        at, brace, rest = key.partition("{")
        if brace:
            name, _, key = rest.partition("}.")
            value = value.format(**files) if isinstance(value, str) and "{" in value else value
            engine = engine_of(at)
            needed = {
                **(engine if engine.get("name") == name else {}),
                **HEAD.get(name, {}),
                **NEEDED.get(name, {}),
            }
            value = {**needed, "name": name, key: value}
            at, value = (at.removesuffix("[]"), [value]) if at.endswith("[]") else (at, value)
        value = value.format(**files) if isinstance(value, str) and "{" in value else value
        put(data, at, copy.deepcopy(value))
    return CurateRecipe.checked(data)


def chosen(key: str) -> dict[str, Any]:
    """The change that chooses the entry whose key this is, and nothing beside it."""
    at, brace, rest = key.partition("{")
    name = rest.partition("}")[0]
    if brace and at.endswith("[]"):
        return {at.removesuffix("[]"): [{"name": name, **NEEDED.get(name, {})}]}
    engine = engine_of(at)
    return {at: name} if brace and at.endswith(".engine") and engine.get("name") != name else {}


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(CHANGES))
def test_a_change_makes_stale_what_the_table_says_and_nothing_else(key: str, files: dict[str, str]) -> None:
    change = CHANGES[key]
    given = {**chosen(key), **change.given}
    before = keys_of(recipe_of(files, given))
    after = keys_of(recipe_of(files, {**given, key: change.value}))
    stale = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if key == "deduplicate.name":
        assert "selections/other" in stale  # beside the old one, which stays
        stale.remove("selections/other")
    assert stale == change.stale


@pytest.mark.parametrize("key", sorted(key for key, field in FIELDS.items() if marked(field, EXECUTION)))
def test_how_a_stage_is_run_makes_nothing_stale(key: str) -> None:
    assert not CHANGES[key].stale


def test_only_what_is_stored_of_a_picture_makes_pictures_stale() -> None:
    assert {key for key, change in CHANGES.items() if "images" in change.stale} == {
        f"image.{name}"
        for name in ("size", "resize", "resize_only_if_bigger", "format", "quality", "chroma", "min_factor")
    }


def test_policy_is_a_matter_of_the_policy_alone() -> None:
    of_policy = {key for key, field in FIELDS.items() if marked(field, POLICY)}
    assert {key for key, change in CHANGES.items() if "columns/policy" in change.stale} == of_policy
    assert all(CHANGES[key].stale == {"columns/policy"} for key in of_policy)


def test_the_block_list_is_known_by_what_it_holds(tmp_path: Path) -> None:
    one, other, longer = (tmp_path / name for name in ("one", "other", "longer"))
    one.write_text("0" * 64 + "\n")
    other.write_text("# the same\n" + "0" * 64)
    longer.write_text("0" * 64 + "\n" + "1" * 64)
    keys = [keys_of(recipe_of({}, {"download.hash_blocklist": str(path)})) for path in (one, other, longer)]
    assert keys[0] == keys[1]
    assert keys[0]["columns/policy"] != keys[2]["columns/policy"]
    assert keys[0]["images"] == keys[2]["images"]
