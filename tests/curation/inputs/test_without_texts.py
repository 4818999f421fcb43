"""A list without texts is either kept, or the user is warned before anything is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curation.filters.stage import FilterConfig
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend, plan
from curation.plan_file import Plan
from curation.without_texts import warning
from pairmill.store import Store

OFF: dict[str, Any] = {"min_characters": 0, "min_words": 0}


def planned(folder: Path, name: str, content: str, **keys: Any) -> tuple[Store, Plan]:
    (folder / name).write_text(content)
    store = Store(str(folder / "run"))
    return store, plan(store, InputConfig(path=str(folder / name), **keys), ShardsConfig())


LISTS = [
    ("list.txt", "http://a/1\nhttp://a/2\n", {}),
    ("list.csv", "url\nhttp://a/1\n", {"text_column": None}),
    ("list.csv", "url,text\nhttp://a/1,\nhttp://a/2,\n", {}),
    ("list.jsonl", '{"url": "http://a/1", "text": null}\n', {}),
]


@pytest.mark.parametrize(("name", "content", "keys"), LISTS)
def test_the_user_is_told_before_rows_are_fetched_to_be_dropped(
    tmp_path: Path, name: str, content: str, keys: dict[str, Any]
) -> None:
    store, made = planned(tmp_path, name, content, **keys)
    told = warning(store, made, FilterConfig())
    assert told is not None
    assert all(key in told for key in ("filter.min_characters", "filter.min_words", "input.text_column"))


@pytest.mark.parametrize(
    "config",
    [OFF, {"enabled": False}, {"score_only": ["text_too_short", "text_too_few_words"]}],
)
def test_a_recipe_that_keeps_rows_without_texts_is_right(tmp_path: Path, config: dict[str, Any]) -> None:
    store, made = planned(tmp_path, *LISTS[0][:2])
    assert warning(store, made, FilterConfig.checked(config)) is None


def test_one_text_is_enough(tmp_path: Path) -> None:
    store, made = planned(tmp_path, "list.csv", "url,text\nhttp://a/1,\nhttp://a/2,x\n")
    assert warning(store, made, FilterConfig()) is None


def test_a_later_list_may_have_the_texts(tmp_path: Path) -> None:
    store, _ = planned(tmp_path, *LISTS[0][:2])
    (tmp_path / "more.csv").write_text("url,text\nhttp://a/3,x\n")
    made, _ = extend(store, [str(tmp_path / "more.csv")], InputConfig(path="unused"), ShardsConfig())
    assert warning(store, made, FilterConfig()) is None
