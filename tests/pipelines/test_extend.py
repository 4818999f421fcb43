"""A run that is extended is the run of the whole list: the same fates and pairs, and no old URL is fetched again."""

from __future__ import annotations

import json
import random
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curation.common_texts import common_texts_table
from curation.plan import open_plan
from curation.results.rows import write_rows
from pairmill.store import Store
from pipelines.curate import curate, tables_of
from pipelines.demo import RECIPE
from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server
from pipelines.doctor import project_root
from pipelines.extend import extend_run
from pipelines.recipe import CurateRecipe, load_recipe

pytestmark = pytest.mark.ray

#: Cases whose rows hang together: equal bytes, near images, equal texts, equal rows; and a few that fail.
CASES = ("copy", "reencoded", "text-shared", "duplicate-input", "missing", "html", "redirect", "mistyped")


def some_rows(base_url: str) -> pa.Table:
    """Those rows, the plain rows of the same pictures, and a few more plain ones, shuffled."""
    rows = demo_rows(base_url)
    special = rows.filter(pc.is_in(rows["case"], pa.array(CASES)))
    plain = rows.filter(pc.equal(rows["case"], "plain"))
    same = pc.is_in(plain["hexcode"], special.filter(pc.is_in(special["case"], pa.array(CASES[:4])))["hexcode"])
    found = pa.concat_tables([special, plain.filter(same), plain.filter(pc.invert(same)).slice(0, 40)])
    order = list(range(len(found)))
    random.Random(4).shuffle(order)
    return found.take(order)


class Extended(NamedTuple):
    """Two thirds of a list, extended by the last, and the whole list as one run.

    asked:   paths that the extension asked for.
    before:  files of the run as they were before it: (bytes, mtime).
    """

    recipe: CurateRecipe
    store: Store
    whole: Store
    first: pa.Table
    last: pa.Table
    asked: Counter[str]
    before: dict[str, tuple[bytes, int]]
    reports: tuple[dict[str, Any], dict[str, Any]]
    base_url: str


def recipe_of(folder: Path, name: str, path: Path, *more: str) -> CurateRecipe:
    overrides = [f"run_dir={folder / name}", f"input.path={path}", "shards.rows_per_shard=3", "pack.rows_per_part=20"]
    return load_recipe(RECIPE, [*overrides, "translate.enabled=false", *more])


def counts(base_url: str) -> Counter[str]:
    with urllib.request.urlopen(f"{base_url}/_count") as answer:
        return Counter(json.load(answer))


def files(store: Store) -> dict[str, tuple[bytes, int]]:
    root = Path(store.path(""))
    return {str(f.relative_to(root)): (f.read_bytes(), f.stat().st_mtime_ns) for f in root.rglob("*") if f.is_file()}


def pairs(store: Store) -> pa.Table:
    return pq.read_table(sorted(Path(store.path("pairs")).glob("part-*.parquet"))).sort_by("uid")


def fates(store: Store, path: Path) -> list[dict[str, Any]]:
    write_rows(store, path)
    return pq.read_table(path).drop_columns(["error"]).to_pylist()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Extended]:
    folder = tmp_path_factory.mktemp("extend")
    with demo_server() as base_url:
        rows = some_rows(base_url)
        cut = len(rows) * 2 // 3
        first, last = rows.slice(0, cut), rows.slice(cut)
        # The new list brings a column.
        last = last.append_column("source", pa.array([f"crawl {n}" for n in range(len(last))]))
        pq.write_table(first, folder / "first.parquet")
        pq.write_table(last, folder / "last.parquet")
        pq.write_table(pa.concat_tables([first, last], promote_options="default"), folder / "whole.parquet")
        whole = recipe_of(folder, "whole", folder / "whole.parquet", "recaption.enabled=false")
        expected = curate(whole)
        recipe = recipe_of(folder, "run", folder / "first.parquet", "recaption.enabled=false")
        curate(recipe)
        store = Store(recipe.run_dir)
        before, asked = files(store), counts(base_url)
        (folder / "first.parquet").rename(folder / "kept.parquet")  # an extension needs no old list
        report = extend_run(store, recipe, [str(folder / "last.parquet")], {})
        (folder / "kept.parquet").rename(folder / "first.parquet")
        yield Extended(
            recipe,
            store,
            Store(whole.run_dir),
            first,
            last,
            counts(base_url) - asked,
            before,
            (expected, report),
            base_url,
        )


def test_every_row_meets_the_fate_it_meets_in_the_whole_list(extended: Extended, tmp_path: Path) -> None:
    found = fates(extended.store, tmp_path / "found.parquet")
    assert found == fates(extended.whole, tmp_path / "expected.parquet")
    old, new = found[: len(extended.first)], found[len(extended.first) :]
    # The list is one in which lists touch: rows, pictures and texts of the new one meet those of the old.
    assert any(r["drop_reason"] == "duplicate_input" for r in new)
    assert any(r["drop_stage"] == "deduplicate" for r in new)
    assert any(r["drop_stage"] == "deduplicate" for r in old)
    assert any(r["drop_reason"] == "text_too_common" for r in old)
    expected, report = extended.reports
    assert [(s["name"], s["rows_in"], s["rows_kept"], s["dropped"]) for s in report["stages"]] == [
        (s["name"], s["rows_in"], s["rows_kept"], s["dropped"]) for s in expected["stages"]
    ]
    assert report["complete"]


def test_the_pairs_are_those_of_the_whole_list(extended: Extended) -> None:
    found, expected = pairs(extended.store), pairs(extended.whole)
    assert found.schema == expected.schema
    assert len(found) > 20
    assert found.equals(expected)
    assert [f.name for f in found.schema.field("input").type] == ["zh", "hexcode", "group", "case", "source"]


def test_no_old_url_is_fetched_again(extended: Extended) -> None:
    def paths(rows: pa.Table) -> set[str]:
        found = {urlsplit(url).path for url in rows["url"].to_pylist()}
        return found | {path.replace("/redirect/", "/images/") for path in found}  # where a redirect leads

    assert not paths(extended.first) - paths(extended.last) & extended.asked.keys()
    assert sum(extended.asked.values()) <= len(extended.last) + 1 + 4  # robots.txt, redirects


def test_no_old_shard_is_touched_but_those_in_which_a_text_became_common(extended: Extended) -> None:
    now = files(extended.store)
    touched = {name for name, was in extended.before.items() if now.get(name) != was}
    assert {name for name in touched if name.startswith(("plan/", "images/"))} == {
        "plan/plan.json",
        "plan/plan-copy.json",
    }
    filtered, common = (
        {name for name in touched if name.startswith(f"{table}/shard-")}
        for table in ("columns/filter", common_texts_table(10))
    )
    assert {Path(name).name for name in filtered} == {Path(name).name for name in common}
    assert 0 < len(filtered) < sum(name.startswith("columns/filter/shard-") for name in extended.before)


def test_only_shards_whose_selection_changed_would_be_captioned_again(extended: Extended) -> None:
    captions = {"enabled": True, "model": str(project_root() / "samples" / "models" / "captioner")}
    recipe = CurateRecipe.checked(extended.recipe.model_dump(mode="json") | {"recaption": captions})
    table = tables_of(recipe, open_plan(extended.store), extended.store).named("columns/recaption")
    now = {name: extended.store.index(name) for name in table.upstream}
    old = [n for n in extended.before if n.startswith("selections/default/_manifest/")]
    redone, recommitted = set(), set()
    for name in old:
        shard, key, content = Path(name).stem.removeprefix("shard-").split("-")
        contents = {name: index[int(shard)].content for name, index in now.items()}
        assert extended.store.index("selections/default")[int(shard)].key != key  # it looked at all rows again
        if table.key(contents) != table.key(contents | {"selections/default": content}):
            redone.add(int(shard))
        recommitted.add(int(shard))
    loses = set()
    for shard in recommitted:
        was = pq.read_table(pa.BufferReader(extended.before[f"selections/default/shard-{shard:06d}.parquet"][0]))
        if not was.equals(extended.store.load("selections/default", shard)):
            loses.add(shard)
    assert redone == loses
    assert 0 < len(redone) < len(recommitted)


def test_running_the_recipe_again_resumes_with_all_lists_and_does_nothing(extended: Extended) -> None:
    asked = counts(extended.base_url)
    before = {name: was for name, was in files(extended.store).items() if not name.startswith(("runs/", "re"))}
    report = curate(extended.recipe)
    assert (report["rows_in"], report["complete"]) == (len(extended.first) + len(extended.last), True)
    after = files(extended.store)
    assert {name: after[name][0] for name in before} == {name: was[0] for name, was in before.items()}
    assert counts(extended.base_url) == asked
