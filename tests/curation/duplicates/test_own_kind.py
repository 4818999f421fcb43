"""A kind of duplicate of a user's own, defined here and registered by one line, through a whole run."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import Field
from ray import cloudpickle

from curation.duplicates.equal_values import EqualValues
from curation.duplicates.kinds import KINDS
from curation.results.rows import write_rows
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig
from pairmill.registry_docs import render
from pairmill.store import Entry, Store
from pipelines.curate import curate
from pipelines.demo_rows import labels
from pipelines.demo_server import demo_server
from pipelines.recipe import CurateRecipe, parse_recipe

pytestmark = pytest.mark.ray


class DuplicateCaptionConfig(NamedConfig):
    min_characters: int = Field(1, ge=1, description="a shorter caption says too little to be compared")


class DuplicateCaption(EqualValues):
    """Rows of equal caption, but for case: weaker than equal bytes, stronger than near-duplicates."""

    name, strength = "duplicate_caption", 15
    reads = ("caption",)
    columns = pa.schema([("folded", pa.string())])
    Config = DuplicateCaptionConfig
    config: DuplicateCaptionConfig

    def narrow(self, rows: pa.Table) -> Mapping[str, pa.Array]:
        folded = [text.casefold() for text in rows["caption"].to_pylist()]
        long = [text if len(text) >= self.config.min_characters else None for text in folded]
        return {"folded": pa.array(long, pa.string())}


OURS = ["duplicate_pair", "duplicate_image", {"name": "near_duplicate_image", "max_distance": 0}]
OWN = {"name": "duplicate_caption", "min_characters": 10}
OTHERS = 20


def families() -> list[tuple[str, str, int, str]]:
    """(family, folder of the server, number of the picture, text)."""
    return [
        # Three pictures with one caption: two go for it.
        *(
            ("caption", "images", n, text)
            for n, text in enumerate(["A Fine Caption", "a fine caption", "A FINE CAPTION"])
        ),
        # One picture twice with one caption, and another picture with it.  Whichever of the three is best, one other
        # row is joined to a better one by its bytes and caption, and the remaining one by its caption alone.
        ("pair", "images", 10, "another fine caption"),
        ("pair", "copy", 10, "another fine caption"),
        ("pair", "images", 20, "another fine caption"),
        # One picture twice, with two captions.
        ("image", "images", 30, "a first long caption"),
        ("image", "copy", 30, "a second long caption"),
        # Too short to be compared.
        ("short", "images", 40, "red thing"),
        ("short", "images", 50, "red thing"),
        *(("others", "images", 100 + 10 * n, f"a caption like no other, {n}") for n in range(OTHERS)),
    ]


REASONS = {
    "caption": {None: 1, "duplicate_caption": 2},
    "pair": {None: 1, "duplicate_caption": 1, "duplicate_pair": 1},
    "image": {None: 1, "duplicate_image": 1},
    "short": {None: 2},
    "others": {None: OTHERS},
}


class State(NamedTuple):
    """A run directory as an invocation left it."""

    report: dict[str, Any]
    index: dict[str, dict[int, Entry]]
    made_by: dict[str, set[int]]  # table -> invocations that committed what is there
    asked: dict[str, int]  # path -> requests so far
    uids: set[str]  # of the product


class Runs(NamedTuple):
    store: Store
    without: State
    with_own: State
    again: State


def state_after(recipe: CurateRecipe, base_url: str) -> State:
    report = curate(recipe, quiet=True)
    store = Store(recipe.run_dir)
    tables = ("images", "columns/filter", "selections/default", "pairs")
    with urllib.request.urlopen(f"{base_url}/_count") as answer:
        asked = json.load(answer)
    pairs = pq.read_table(sorted(Path(store.path("pairs")).glob("part-*.parquet")), columns=["uid"])
    return State(
        report,
        {table: store.index(table) for table in tables},
        {table: {int(m["run"]) for m in store.manifests(table) if "run" in m} for table in tables},
        asked,
        set(pairs["uid"].to_pylist()),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("own-kind")
    # Workers cannot import a test module; a user's package they can.
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    with demo_server() as base_url, KINDS.extended("duplicate_caption", DuplicateCaption):
        rows = [
            {"url": f"{base_url}/{way}/{labels()[n]['file']}", "text": text, "family": family}
            for family, way, n, text in families()
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "urls.parquet")

        def recipe(*kinds: object) -> CurateRecipe:
            return CurateRecipe.checked(
                {
                    "run_dir": str(folder / "run"),
                    "input": {"path": str(folder / "urls.parquet")},
                    "shards": {"rows_per_shard": 12},
                    "download": {"allow_networks": ["127.0.0.0/8"], "timeout_s": 30},
                    "filter": {"min_side": 100, "min_words": 2},
                    "deduplicate": {"kinds": kinds},
                }
            )

        without = state_after(recipe(*OURS), base_url)
        with_own = state_after(recipe(*OURS, OWN), base_url)
        again = state_after(recipe(*OURS, OWN), base_url)
        yield Runs(Store(recipe().run_dir), without, with_own, again)
    cloudpickle.unregister_pickle_by_value(module)


def dropped(state: State) -> dict[str, int]:
    return next(stage["dropped"] for stage in state.report["stages"] if stage["name"] == "deduplicate")


def test_the_report_has_its_reason(runs: Runs) -> None:
    assert dropped(runs.without) == {"duplicate_pair": 1, "duplicate_image": 1}
    assert dropped(runs.with_own) == {"duplicate_pair": 1, "duplicate_image": 1, "duplicate_caption": 3}
    assert runs.with_own.report["complete"]
    assert "duplicate_caption" in (Path(runs.store.uri) / "report.html").read_text()


def test_every_row_says_why_it_went_and_the_product_holds_the_others(runs: Runs, tmp_path: Path) -> None:
    write_rows(runs.store, tmp_path / "rows.parquet")
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    met = {family: Counter(r["drop_reason"] for r in rows if r["family"] == family) for family in REASONS}
    assert met == REASONS
    assert {r["drop_stage"] for r in rows if r["drop_reason"]} == {"deduplicate"}
    assert runs.with_own.uids == {r["uid"] for r in rows if r["drop_reason"] is None}
    gone = {r["uid"] for r in rows if r["drop_reason"] == "duplicate_caption"}
    assert runs.without.uids - runs.with_own.uids == gone


def test_adding_it_makes_the_selection_and_what_follows_stale_and_nothing_else(runs: Runs) -> None:
    before, after = runs.without, runs.with_own
    assert after.asked == before.asked
    for table in ("images", "columns/filter"):
        assert after.index[table] == before.index[table]
        assert after.made_by[table] == {1}
    assert len(after.index["selections/default"]) == 3
    assert after.made_by["selections/default"] == {2}
    assert after.index["pairs"] != before.index["pairs"]


def test_running_again_does_nothing(runs: Runs) -> None:
    assert runs.again.index == runs.with_own.index
    assert runs.again.made_by == runs.with_own.made_by
    assert runs.again.asked == runs.with_own.asked
    assert dropped(runs.again) == dropped(runs.with_own)


def test_the_recipe_that_is_kept_and_the_schema_have_its_keys(runs: Runs) -> None:
    assert "min_characters: 10" in (runs.store.read_text("recipe.yaml") or "")
    schema = json.dumps(CurateRecipe.model_json_schema())
    assert "duplicate_caption" in schema
    assert "min_characters" in schema
    assert "a shorter caption says too little to be compared" in schema


def test_the_page_of_the_registry_shows_it(runs: Runs) -> None:
    page = render(KINDS, "Kinds of duplicates")
    assert "### `duplicate_caption`\n\nRows of equal caption, but for case: weaker than equal bytes" in page
    row = "| `min_characters` | integer ≥ `1` | `1` | a shorter caption says too little to be compared |"
    assert row in page


class Misread(DuplicateCaption):
    name, reads = "misread", ("captoin",)


def test_a_kind_that_reads_what_is_not_there_is_refused_before_any_work(runs: Runs) -> None:
    kept = runs.store.read_text("recipe.yaml") or ""
    recipe = parse_recipe(kept, [f"deduplicate.kinds=['{__name__}:Misread']"])
    with pytest.raises(RecipeError, match=r"misread reads captoin\n  fix: perhaps you mean: caption"):
        curate(recipe)
    assert runs.store.read_text("recipe.yaml") == kept


def test_a_run_that_keeps_nothing_has_no_duplicates(runs: Runs) -> None:
    kept = runs.store.read_text("recipe.yaml") or ""
    report = curate(parse_recipe(kept, ["filter.min_side=5000", "deduplicate.name=nothing"]), quiet=True)
    assert report["rows_kept"] == 0
    assert not next(stage["dropped"] for stage in report["stages"] if stage["name"] == "deduplicate")
