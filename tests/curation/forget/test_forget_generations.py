"""What models wrote of forgotten rows goes from the caches too, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from forgotten_run import GONE, WANTED, Made, all_rows, killed
from traces import traces

from curation.engines import Generated
from curation.engines.generations import Generations, Name, Place, made_from
from curation.healing import examine
from pairmill import faults
from pairmill.errors import UserError
from pairmill.layout import GENERATIONS
from pairmill.recipe_file import run_recipe, write_recipe
from pairmill.store import Store
from pipelines.forget import forget

pytestmark = pytest.mark.slow

#: A caption that an earlier recipe had, with what was no part of it.
EARLIER = "<think>Hm</think>An earlier text about {}."


def write(cache: Generations, source: bytes | str, text: str, key: str = "0" * 32) -> None:
    name = Name(made_from(source), key)
    cache.keep(name, Place(name.path()), Generated(text, -0.5), None)


def texts(cache: Generations, sources: Iterable[bytes | str]) -> int:
    """How many of these have a generation."""
    with ThreadPoolExecutor(2) as pool:
        found = cache.look_up([Name(made_from(source), "0" * 32) for source in sources], None, pool)
    return sum(place.answer is not None for place in found)


def filled(store: Store, cache: Generations) -> tuple[set[bytes | str], set[bytes | str]]:
    """Write a generation from all that rows hold; what only forgotten rows hold, and what others do."""
    sources: dict[bool, set[bytes | str]] = {True: set(), False: set()}
    captions, recaptions = all_rows(store, "columns/filter"), all_rows(store, "columns/recaption")
    images = all_rows(store, "images")
    of_row: dict[str, list[Any]] = {}
    for table, name in ((images, "image"), (captions, "caption"), (recaptions, "recaptions")):
        for row in table.to_pylist():
            values = row[name] if isinstance(row[name], list) else [row[name]]
            of_row.setdefault(row["uid"], []).extend(one["text"] if isinstance(one, dict) else one for one in values)
    for at, (uid, values) in enumerate(of_row.items()):
        for source in filter(None, values):
            sources[uid in GONE].add(source)
            if isinstance(source, bytes):
                write(cache, source, f"by another prompt, number {at}")
                write(cache, source, EARLIER.format(uid), key=uid)
                sources[uid in GONE].add(f"An earlier text about {uid}.")
    # Every caption has been translated, those of an earlier recipe too.
    for text in (one for both in sources.values() for one in both if isinstance(one, str)):
        write(cache, text, f"translated: {text}")
    shared = sources[True] & sources[False]
    return sources[True], sources[False] - shared


def named(store: Store, **sections: str) -> None:
    """Let the run's recipe name caches."""
    recipe = dict(run_recipe(store))
    for name, place in sections.items():
        recipe[name] = {**recipe[name], "cache": place}
    write_recipe(store, yaml.safe_dump(recipe))


@pytest.mark.parametrize(
    "point", [None, "forget.shard_rewritten", "rewrite.images.manifest.before_write", "forget.generation"]
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_was_made_from_the_rows_is_gone_and_the_rest_is_there(
    made: Made, tmp_path: Path, point: str | None, elsewhere: bool
) -> None:
    cache = Generations(str(tmp_path / "cache") if elsewhere else made.store.within(GENERATIONS))
    if elsewhere:
        named(made.store, recaption=cache.uri, translate=cache.uri)
    gone, others = filled(made.store, cache)
    assert (texts(cache, gone), texts(cache, others)) == (len(gone), len(others))
    if point:
        killed(made, tmp_path, point)
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert GENERATIONS not in done["not_looked_into"]
    assert [one if isinstance(one, str) else made_from(one) for one in gone if texts(cache, [one])] == []
    kept = {one for one in others if not isinstance(one, str) or not one.startswith("An earlier")}
    assert texts(cache, kept) == len(kept)
    place = tmp_path / "cache" if elsewhere else Path(made.store.path(GENERATIONS))
    assert traces([place], {uid.encode() for uid in GONE}) == {}
    assert examine(made.store).damaged == []


def test_a_picture_of_several_shards_is_forgotten_once_by_all(tmp_path: Path) -> None:
    cache = Generations(str(tmp_path))
    for at in range(40):
        write(cache, b"one", f"text {at}", key=f"{at:032x}")
    assert {one.text for one in cache.held([made_from(b"one")])} == {f"text {at}" for at in range(40)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.forget([made_from(b"one")]), range(8)))
    assert texts(cache, [b"one"]) == 0 and not list(tmp_path.glob("??/??/*"))


def test_a_cache_that_is_out_of_reach_is_reported_and_keeps_no_row(
    made: Made, needles: set[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = Generations(made.store.within(GENERATIONS))
    filled(made.store, cache)
    monkeypatch.setattr(faults, "_armed", faults._parse("forget.generation:disk-full@1", str(tmp_path)))
    with pytest.raises(UserError, match="every cache of generations, must be") as refused:
        forget(made.store, WANTED, made.copies, sure=True)
    assert cache.uri in str(refused.value.value)
    tables = [folder for folder in (made.folder / "run").iterdir() if folder.name != GENERATIONS]
    assert traces(tables, needles) == {}
    assert (made.store.read_json("runs/run-0002.json") or {})["forgot"]["not_cleaned"] == [cache.uri]


@pytest.mark.parametrize("at_pass", [3, 8, 20])
def test_what_only_the_cache_knows_is_found_again_after_a_kill(made: Made, tmp_path: Path, at_pass: int) -> None:
    """A picture's earlier captions, which say what was translated, go after the translations."""
    cache = Generations(made.store.within(GENERATIONS))
    gone, _ = filled(made.store, cache)
    killed(made, tmp_path, "forget.generation", at_pass)
    assert 0 < texts(cache, gone) < len(gone)
    forget(made.store, WANTED, made.copies, sure=True)
    assert texts(cache, gone) == 0
