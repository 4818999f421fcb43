"""`pairmill fit-noise`: the same file however a run is divided, and after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from curation.embedding.sampled import sampled
from curation.embedding.vectors import vector_column
from pairmill import faults
from pairmill.errors import InputError, IntegrityError, RecipeError
from pairmill.store import Store
from pipelines import fit_noise as command
from pipelines.fit_noise import fit_noise

ROWS, D, TABLE = 300, 8, "columns/embed-x"
COLUMNS = ("image_embedding_x", "text_embedding_x")


def rows() -> pa.Table:
    """Some without a vector, and one twice."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {"uid": [f"{int(one):032x}" for one in rng.permutation(ROWS)]}
    for name in COLUMNS:
        there = rng.random(ROWS) < 0.9
        vectors = rng.standard_normal((int(there.sum()), D))
        columns[name] = vector_column(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), there)
    table = pa.table(columns)
    return pa.concat_tables([table, table.slice(5, 1)])


def run(folder: Path, cuts: list[int]) -> Store:
    store = Store(str(folder))
    table = rows()
    for shard, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(table)], strict=True)):
        some = table.slice(begin, end - begin)
        store.commit(TABLE, shard, "0" * 16, some, {})
        keep = pa.array([int(uid, 16) % 2 == 0 for uid in some["uid"].to_pylist()])
        store.commit("selections/even", shard, "0" * 16, pa.table({"uid": some["uid"], "keep": keep}), {})
    return store


LAYOUTS = [[], [1], [100, 200], list(range(1, ROWS, 17)), [0, 150, 150]]


class Stage(NamedTuple):
    config: Any

    def column_names(self) -> tuple[str, ...]:
        return (*COLUMNS, "score_x")

    def revision(self) -> str:
        return "r1"


class Model(NamedTuple):
    model: str = "tiny"


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's recipe has a model x, whose vectors are up to date."""
    monkeypatch.setattr(command, "embedder", lambda recipe, name: Stage(Model()))
    monkeypatch.setattr(command, "up_to_date", lambda store, recipe, stage: TABLE)


@pytest.mark.parametrize("score", ["nevlp", "capro"])
def test_the_file_does_not_depend_on_how_the_run_is_divided(tmp_path: Path, score: Any) -> None:
    contents = set()
    for number, cuts in enumerate(LAYOUTS):
        store, file = run(tmp_path / str(number), cuts), tmp_path / f"{number}.safetensors"
        done = fit_noise(store, None, "x", score, file, rows=100)
        assert done["pairs"] == 100 and done["path"] == str(file)
        contents.add(file.read_bytes())
    assert len(contents) == 1
    fit_noise(store, None, "x", score, file, rows=100, seed=1)
    assert file.read_bytes() not in contents


def test_a_sample_is_of_the_smallest_hashes_without_what_lacks_a_vector_and_each_uid_once(tmp_path: Path) -> None:
    store = run(tmp_path, [100, 200])
    table = rows()
    complete = {row["uid"] for row in table.to_pylist() if all(row[name] is not None for name in COLUMNS)}
    whole = sampled(store, TABLE, COLUMNS, rows=10_000)
    assert sorted(whole["uid"].to_pylist()) == sorted(complete)
    assert whole.slice(0, 40).equals(sampled(store, TABLE, COLUMNS, rows=40))
    vectors = {row["uid"]: row[COLUMNS[0]] for row in table.to_pylist()}
    assert all(row[COLUMNS[0]] == vectors[row["uid"]] for row in whole.to_pylist())
    even = sampled(store, TABLE, COLUMNS, rows=10_000, selection="even")
    assert set(even["uid"].to_pylist()) == {uid for uid in complete if int(uid, 16) % 2 == 0}
    beside = sampled(store, TABLE, COLUMNS, rows=30, beside=lambda shard: store.load("selections/even", shard))
    assert all(row["keep"] == (int(row["uid"], 16) % 2 == 0) for row in beside.to_pylist())


def test_a_list_that_repeats_rows_gives_each_uid_once_and_as_many_as_asked_for(tmp_path: Path) -> None:
    store, once = run(tmp_path / "run", []), run(tmp_path / "once", [])
    for shard in range(1, 8):
        some = store.load(TABLE, 0).slice(0, 30) if shard % 2 else store.load(TABLE, 0).slice(100, 90)
        store.commit(TABLE, shard, "0" * 16, some, {})
    for wanted in (5, 25, 60, 200):
        found = sampled(store, TABLE, COLUMNS, rows=wanted)
        assert found["uid"].to_pylist() == sampled(once, TABLE, COLUMNS, rows=wanted)["uid"].to_pylist()
        assert len(found) == wanted


def test_tables_of_other_rows_are_refused(tmp_path: Path) -> None:
    store = run(tmp_path, [])
    other = pa.table({"uid": ["0" * 32], "keep": [True]})
    store.commit("columns/other", 0, "0" * 16, other, {})
    with pytest.raises(IntegrityError, match="in their order"):
        sampled(store, TABLE, COLUMNS, rows=10, beside=lambda shard: store.load("columns/other", shard))


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    def arm(spec: str) -> None:
        monkeypatch.setattr(faults, "_armed", faults._parse(spec, str(tmp_path)))

    yield arm


@pytest.mark.parametrize("point", ["fit.sample:raise@2", "fit.file.before_rename:raise@1"])
def test_a_command_that_stopped_leaves_what_was_there_and_ends_the_same_when_repeated(
    tmp_path: Path, armed: Any, point: str
) -> None:
    store, file = run(tmp_path / "run", [100, 200]), tmp_path / "head.safetensors"
    fit_noise(store, None, "x", "nevlp", file)
    expected = file.read_bytes()
    file.write_bytes(b"an earlier one")
    armed(point)
    with pytest.raises(faults.InjectedFault):
        fit_noise(store, None, "x", "nevlp", file)
    assert file.read_bytes() == b"an earlier one"
    fit_noise(store, None, "x", "nevlp", file)
    assert file.read_bytes() == expected


def test_wrong_keys_selections_and_runs_are_refused(tmp_path: Path) -> None:
    store, file = run(tmp_path / "run", []), tmp_path / "head.safetensors"
    with pytest.raises(RecipeError, match="--concepts"):
        fit_noise(store, None, "x", "nevlp", file, concepts=3)
    with pytest.raises(RecipeError, match="perhaps you mean: even"):
        fit_noise(store, None, "x", "nevlp", file, selection="eve")
    with pytest.raises(InputError, match="50 embedded pairs"):
        fit_noise(store, None, "x", "capro", file, rows=20)
    with pytest.raises(InputError, match="50 embedded pairs"):
        fit_noise(Store(str(tmp_path / "empty")), None, "x", "nevlp", file)
    assert not file.exists()
