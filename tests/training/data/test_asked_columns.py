"""Columns that objectives ask for, from the data to a batch: pairs, selections, tars, and files of others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import ANY_TEXT, as_json, jpeg, reader_of, text_rows, uid, write_parquet, write_tar
from test_text_scores import run_of

from pairmill.errors import RecipeError
from pairmill.store import Store
from training.data.asked_columns import COLUMNS, MOST_TAGS, UNKNOWN
from training.data.batches import Batch
from training.data.bundle import from_table, to_table
from training.data.config import DataConfig, Slot, TextSelector
from training.data.cursor import make_plan, single_pass
from training.data.sample import sample_id
from training.data.source import open_source, open_sources
from training.data.stream import batches

ALL = tuple(COLUMNS)
ALT_THEN_LONG: tuple[Slot, ...] = ((TextSelector(kind="alt"),), (TextSelector(kind="long"),))


def parquet(path: Path, columns: dict[str, Any], texts: Any = None) -> str:
    n = len(next(iter(columns.values())))
    rows = {"uid": [uid(at) for at in range(n)], "image": [jpeg(at) for at in range(n)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**rows, "texts": text_rows(n) if texts is None else texts, **columns}), path)
    return str(path)


def batch_of(
    config: dict[str, Any], asked: Sequence[str], *, slots: tuple[Slot, ...] = (ANY_TEXT,), lanes: int = 1
) -> Batch:
    used = DataConfig.checked({"batch_size": 4, "lanes": lanes, "bundle_rows": 3, **config})
    sources = open_sources(used, asked)
    plan = make_plan(used, sources, seed=1)
    reader = reader_of(sources, slots=slots)
    reader = type(reader)(reader.sources, reader.transform, slots, reader.tokenize, 5, columns=tuple(asked))
    with batches(plan, reader, used, with_ray=False) as made:
        [batch] = itertools.islice(made, 1)
    return batch


def by_row(batch: Batch, name: str) -> list[Any]:
    """Rows in the order of the file."""
    at = {identity: row for row, identity in enumerate(batch.sample_id_B.tolist())}
    values = batch.asked[name].tolist()
    return [values[at[sample_id(uid(row))]] for row in range(len(at))]


def test_each_is_read_under_its_name_in_the_data(tmp_path: Path) -> None:
    columns = {
        "noise": pa.array([[0.5, 0.125, 0.25], [1.0, None, 0.0], None, [0.75]], pa.list_(pa.float32())),
        "sample_weight": pa.array([1.5, 0.0, None, 3.0], pa.float64()),
        "things": pa.array([["Dog", "a  cat"], [], None, ["ＤＯＧ"]], pa.list_(pa.string())),
    }
    path = parquet(tmp_path / "a.parquet", columns)
    config = {"path": path, "columns": {"noise_prob": "noise", "tags": "things"}}
    batch = batch_of(config, ALL, slots=ALT_THEN_LONG)
    assert {name: (v.dtype, v.shape) for name, v in batch.asked.items()} == {
        "noise_prob": (np.float32, (4, 2)),
        "sample_weight": (np.float32, (4,)),
        "tags": (np.int64, (4, MOST_TAGS)),
    }
    # The texts of a row are alt, translated, long; a list of another length is the first text's number.
    assert by_row(batch, "noise_prob") == [[0.5, 0.25], [1.0, 0.0], [-1.0, -1.0], [0.75, -1.0]]
    assert by_row(batch, "sample_weight") == [1.5, 0.0, 1.0, 3.0]
    dog, cat = by_row(batch, "tags")[0][:2]
    assert dog != cat and min(dog, cat) >= 0
    assert [[tag for tag in tags if tag >= 0] for tags in by_row(batch, "tags")] == [[dog, cat], [], [], [dog]]
    assert not any(batch.problems)


def test_nothing_is_read_that_no_objective_asks_for(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"sample_weight": [1.0] * 4})
    batch = batch_of({"path": path, "columns": {"tags": "nowhere"}}, ())
    assert batch.asked == {}
    assert batch_of({"path": path, "columns": {"tags": "nowhere"}}, ("sample_weight",)).asked.keys() == {
        "sample_weight"
    }


@pytest.mark.parametrize("texts", [["a", "b", "c", "d"], [["a"], ["b", "x"], ["c"], ["d"]]])
def test_plain_texts_have_their_noise_too(tmp_path: Path, texts: Any) -> None:
    path = parquet(tmp_path / "a.parquet", {"noise_prob": pa.array([0.5, 0.25, 0.125, 1.0])}, texts)
    batch = batch_of({"path": path, "shuffle": False}, ("noise_prob",))
    found = [value for [value] in by_row(batch, "noise_prob")]
    assert found[0] == 0.5 and found[2:] == [0.125, 1.0]
    assert found[1] in ((0.25,) if texts[1] == "b" else (0.25, -1.0))  # a number is of the first text


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("sample_weight", [1.0, -1.0, float("nan"), float("inf")], [1.0, 1.0, 1.0, 1.0]),
        ("noise_prob", [0.5, 1.5, -0.1, float("nan")], [[0.5], [-1.0], [-1.0], [-1.0]]),
        ("tags", [[3, 1], [-5, 2], [7], [None, 4]], [[3, 1], [2], [7], [4]]),
    ],
)
def test_what_is_of_no_use_is_unknown_and_named(tmp_path: Path, name: str, values: Any, expected: Any) -> None:
    path = parquet(tmp_path / "a.parquet", {name: values})
    batch = batch_of({"path": path}, (name,), slots=((TextSelector(kind="alt"),),))
    found = by_row(batch, name)
    assert found == expected if name != "tags" else [[t for t in row if t >= 0] for row in found] == expected
    assert batch.row_valid_B.all()
    bad = {"sample_weight": [1, 2, 3], "noise_prob": [1, 2, 3], "tags": [1]}[name]
    assert {problem.split(":")[0] for problem in batch.problems} == {f"a.parquet, row {row}" for row in bad}
    assert all(f"its {name} " in problem for problem in batch.problems)


def test_the_first_tags_of_many_are_kept(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"tags": [list(range(100)), [1], [2], [3]]})
    assert by_row(batch_of({"path": path}, ("tags",)), "tags")[0] == list(range(MOST_TAGS))


def test_padding_and_lanes_have_them_too(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"sample_weight": [float(row) for row in range(12)]})
    used = DataConfig.checked({"path": path, "batch_size": 6, "lanes": 3})
    sources = open_sources(used, ALL[1:2])
    plan = make_plan(used, sources, seed=1)
    reader = reader_of(sources)
    reader = type(reader)(reader.sources, reader.transform, reader.slots, reader.tokenize, 5, columns=ALL[1:2])
    for rank in range(2):
        with batches(plan, reader, used, rank=rank, world=2, with_ray=False) as made:
            [batch] = itertools.islice(made, 1)
        known = {sample_id(uid(row)): float(row) for row in range(12)} | {-1: UNKNOWN["sample_weight"]}
        weights = batch.asked["sample_weight"].tolist()
        assert weights == [known[identity] for identity in batch.sample_id_B.tolist()]


def test_they_travel_as_a_table(tmp_path: Path) -> None:
    columns = {"noise_prob": [0.5] * 4, "sample_weight": [2.0] * 4, "tags": [[1], [2], [3], [4]]}
    source = open_source(parquet(tmp_path / "a.parquet", columns), config=DataConfig(path="x"), asked=ALL)
    reader = reader_of([source], slots=ALT_THEN_LONG)
    reader = type(reader)(reader.sources, reader.transform, reader.slots, reader.tokenize, 5, columns=ALL)
    [spec] = single_pass(source.rows, 100)
    bundle = reader(spec)
    table = pa.concat_tables([to_table(bundle)])
    found = from_table(table, 16, 16)
    assert found.asked.keys() == set(ALL)
    for name, values in bundle.asked.items():
        assert np.array_equal(values, found.asked[name]) and values.dtype == found.asked[name].dtype, name


def test_a_selection_has_those_of_its_own_and_of_the_tables_of_its_run(tmp_path: Path) -> None:
    run, store = run_of(tmp_path / "run"), Store(str(tmp_path / "run"))
    for shard in range(2):
        chosen = store.load("selections/good", shard).append_column("weight", pa.array([1.5, 2.5, 9.0]))
        store.commit("selections/good", shard, "0" * 16, chosen, {"stages": {"select": {"rows_kept": 2}}})
        noise = {"uid": chosen["uid"], "score_noise": pa.array([0.5, 0.25, 0.125], pa.float32())}
        store.commit("columns/score-noise", shard, "0" * 16, pa.table(noise), {})
    columns = {"noise_prob": "score_noise", "sample_weight": "weight"}
    config = DataConfig(path=str(run), selection="good", columns=columns)
    source = open_source(str(run), "good", config, asked=("noise_prob", "sample_weight"))
    rows = source.read(1).to_pylist()
    assert [row["weight"] for row in rows] == [1.5, 2.5]
    assert [dict(row["scores"][0]) for row in rows] == [{":noise_prob": 0.5}, {":noise_prob": 0.25}]
    before = source.fingerprint
    store.commit("columns/score-noise", 1, "0" * 16, store.load("columns/score-noise", 0).slice(0, 3), {})
    with pytest.raises(RecipeError, match=r"asks for tags: .*lists of words .*\n.*tags, in "):
        open_source(str(run), "good", config, asked=("tags",))
    assert open_source(str(run), "good", config, asked=()).fingerprint != before
    with pytest.raises(RecipeError, match=r"keep, in .*\n.*perhaps you mean: .*score_"):
        used = config.model_copy(update={"columns": {"noise_prob": "keep"}})
        open_source(str(run), "good", used, asked=("noise_prob",))


def test_a_tar_has_them_in_its_json(tmp_path: Path) -> None:
    facts = [{"uid": uid(row), "w": 0.5 * row, "tags": [row]} for row in range(4)]
    samples = [(f"{row}", {"jpg": jpeg(row), "txt": b"a", "json": as_json(one)}) for row, one in enumerate(facts)]
    path = write_tar(tmp_path / "a.tar", samples)
    batch = batch_of({"path": str(path), "columns": {"sample_weight": "w"}}, ("sample_weight", "tags"))
    assert by_row(batch, "sample_weight") == [0.0, 0.5, 1.0, 1.5]
    assert [row[0] for row in by_row(batch, "tags")] == [0, 1, 2, 3]
    with pytest.raises(RecipeError, match=r"asks for noise_prob: .*\n.*the \.json of sample 0 of a\.tar\n"):
        open_sources(DataConfig(path=str(path)), ("noise_prob",))


def test_a_dataset_without_one_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    path = str(write_parquet(tmp_path / "a.parquet", 10))
    with pytest.raises(RecipeError, match=r"asks for sample_weight: .*\n.*sample_weight, in .*a\.parquet"):
        open_sources(DataConfig(path=path), ("sample_weight",))
    with pytest.raises(RecipeError, match=r"sha256 \(string\), in "):
        open_sources(DataConfig(path=path, columns={"tags": "sha256"}), ("tags",))
    with pytest.raises(RecipeError, match="perhaps you mean: sample_weight"):
        DataConfig.checked({"path": path, "columns": {"sample_wieght": "w"}})
