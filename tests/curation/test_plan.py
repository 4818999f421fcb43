from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import visiting
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, plan
from curation.plan_file import Plan
from pairmill.errors import InputError, RunDirError
from pairmill.store import Store


def make(folder: Path, rows: list[tuple[str, str]], *, run: str = "run", **shards: int) -> tuple[Store, Plan]:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"url": [u for u, _ in rows], "text": [t for _, t in rows]}), folder / "list.parquet")
    store = Store(str(folder / run))
    return store, plan(store, InputConfig(path=str(folder / "list.parquet")), ShardsConfig(**shards))


def planned(store: Store, made: Plan) -> pa.Table:
    return pa.concat_tables([store.read_table(f"plan/shard-{s:06d}.parquet") for s in made.shard_numbers()])


ROWS = [(f"http://host{i % 3}/{i}", f"text {i % 7}") for i in range(100)]


def test_every_row_is_in_exactly_one_shard(tmp_path: Path) -> None:
    store, made = make(tmp_path, ROWS, rows_per_shard=30)
    sizes = [len(store.read_table(f"plan/shard-{s:06d}.parquet")) for s in made.shard_numbers()]
    assert (made.rows, sizes) == (100, [30, 30, 30, 10])
    assert sorted(planned(store, made)["index"].to_pylist()) == list(range(100))


def test_the_order_is_a_seeded_shuffle(tmp_path: Path) -> None:
    orders = [planned(*make(tmp_path, ROWS, run=f"run{s}", seed=s))["index"].to_pylist() for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(100))


@given(
    rows=st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from(["", "x", "y"])), min_size=1, max_size=40),
    per_shard=st.integers(1, 15),
    bucket_bytes=st.sampled_from([1, 300, 10**9]),
)
@settings(max_examples=40, deadline=None)
def test_first_of_equal_rows_lives_whatever_the_buckets(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], per_shard: int, bucket_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visiting, "_BUCKET_BYTES", bucket_bytes)
        store, made = make(tmp_path_factory.mktemp("plan"), rows, rows_per_shard=per_shard)
    table = planned(store, made)
    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row, index)
    for row in table.to_pylist():
        lives = first[(row["url"], row["alt"])] == row["index"]
        assert row["drop_reason"] == (None if lives else "duplicate_input")
        assert row["drop_stage"] == (None if lives else "plan")
    assert len(table) == len(rows)


def test_bucket_count_does_not_change_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, made = make(tmp_path, ROWS, run="one", rows_per_shard=30)
    monkeypatch.setattr(visiting, "_BUCKET_BYTES", 50)
    again_store, again = make(tmp_path, ROWS, run="many", rows_per_shard=30)
    assert again.fingerprint == made.fingerprint
    assert planned(again_store, again).equals(planned(store, made))


def test_planning_again_finds_the_plan(tmp_path: Path) -> None:
    _, made = make(tmp_path, ROWS)
    assert make(tmp_path, ROWS)[1] == made


def test_another_input_or_cut_is_refused(tmp_path: Path) -> None:
    make(tmp_path, ROWS)
    with pytest.raises(RunDirError, match="must lead to the files"):
        make(tmp_path, ROWS[:-1])
    make(tmp_path, ROWS)
    with pytest.raises(RunDirError, match=r"shards\."):
        make(tmp_path, ROWS, seed=5)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one row"):
        make(tmp_path, [])


def test_each_plan_shard_is_committed_by_its_content(tmp_path: Path) -> None:
    store, made = make(tmp_path, ROWS, rows_per_shard=30)
    again, _ = make(tmp_path, ROWS, run="again", rows_per_shard=30)
    index = store.index("plan")
    assert sorted(index) == list(made.shard_numbers())
    assert len({entry.content for entry in index.values()}) == 4
    assert again.index("plan") == index


def test_what_a_killed_planning_left_behind_the_plan_is_removed(tmp_path: Path) -> None:
    store, _ = make(tmp_path, ROWS, rows_per_shard=10)
    for name in ("plan.json", "plan-copy.json"):  # its commit: a planning without it was killed
        Path(store.path(f"plan/{name}")).unlink()
    last = store.index("plan")[9]
    Path(store.path(f"plan/_manifest/0000/shard-000009-{last.key}-{last.content}.json")).unlink()
    _, made = make(tmp_path, ROWS[:25], rows_per_shard=10)
    assert made.shards == 3
    assert sorted(store.index("plan")) == [0, 1, 2]
    assert sorted(file.name for file in Path(store.path("plan")).glob("*.parquet")) == [
        f"shard-{number:06d}.parquet" for number in range(3)
    ]


@pytest.mark.parametrize("there", ["recipe.yaml", "forgotten.parquet"])
def test_a_run_of_another_kind_is_not_planned_over(tmp_path: Path, there: str) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / there).write_text("model: {}")
    with pytest.raises(RunDirError, match="must be new, or hold a curation"):
        make(tmp_path, ROWS)
    assert (run / there).read_text() == "model: {}"
    assert not (run / "plan").exists()


def test_a_recipe_may_lie_where_its_run_will_be(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("mine: 1")
    (tmp_path / "run" / ".hidden").touch()
    _, made = make(tmp_path, ROWS)
    assert made.rows == len(ROWS)
