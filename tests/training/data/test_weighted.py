"""Rows drawn by weights: as often as they should be, the same over any number of workers and after a resume."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import reader_of
from test_sources import curated

from pairmill.errors import IntegrityError, RecipeError
from pairmill.store import Store
from training.data.batches import assemble, read_here
from training.data.config import DataConfig, TextSelector
from training.data.cursor import make_plan
from training.data.source import open_source, open_sources
from training.data.weighted import WeightedSource, draw, shares

weights = st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40).filter(lambda found: sum(found) > 0)


@given(weights, st.integers(1, 200), st.integers(0, 5))
def test_each_row_is_drawn_as_often_as_its_share_rounded(found: list[float], draws: int, seed: int) -> None:
    values = np.array(found, np.float64)
    wanted = values / values.sum() * draws
    for rng in (np.random.default_rng(seed), None):
        chosen = draw(values, draws, rng)
        times = np.bincount(chosen, minlength=len(values))
        assert len(chosen) == draws == times.sum()
        assert (times >= np.floor(wanted - 1e-6)).all() and (times <= np.ceil(wanted + 1e-6)).all()
        assert not times[values == 0].any()


def test_over_epochs_the_mean_is_the_share() -> None:
    values = np.array([0.2, 1.0, 0.0, 3.3, 0.5])
    times = sum(np.bincount(draw(values, 7, np.random.default_rng(seed)), minlength=5) for seed in range(4000)) / 4000
    assert np.allclose(times, values / values.sum() * 7, atol=0.03)


@given(weights, st.integers(1, 10_000))
def test_pieces_share_all_draws_by_their_sums(found: list[float], draws: int) -> None:
    sums = np.array(found, np.float64)
    parts = shares(sums, draws)
    assert parts.sum() == draws and (parts >= 0).all()
    assert not parts[sums == 0].any()
    assert (np.abs(parts - sums / sums.sum() * draws) <= 2).all()


WEIGHTS = {0: [1.0, 5.0, 2.0, 3.0], 1: [0.0, 5.0, 6.0, 0.0]}


def weighted_run(root: Path, values: dict[int, list[float]] = WEIGHTS) -> str:
    """`curated`, with a selection `heavy` of the same rows and a weight of each."""
    store = Store(str(curated(root)))
    for shard, numbers in values.items():
        rows = store.load("selections/strict", shard)
        keep = rows["keep"].to_pylist()
        rows = rows.append_column("weight", pa.array(numbers, pa.float32(), mask=~np.array(keep)))
        total = sum(number for number, kept in zip(numbers, keep, strict=True) if kept)
        facts = {"stages": {"select": {"rows_kept": sum(keep)}}, "facts": {"select": {"weight": total}}}
        store.commit("selections/heavy", shard, "0" * 16, rows, facts)
    return store.uri


def config_of(run: str, **more: Any) -> DataConfig:
    given_ = {"path": run, "selection": "heavy", "weight": "weight", "batch_size": 2, "lanes": 2, "bundle_rows": 2}
    return DataConfig.model_validate({**given_, **more})


ALT = ((TextSelector(kind="alt"),),)


def batches(config: DataConfig, number: int, *, rank: int = 0, world: int = 1, start: int = 0) -> list[list[bytes]]:
    """The rows of so many batches on one worker, by the tokens of their captions."""
    sources = open_sources(config)
    plan = make_plan(config, sources, seed=3, workers=world)
    stream = read_here(plan, reader_of(sources, slots=ALT), rank=rank, world=world, start_batch=start)
    made = assemble(stream, plan, rank=rank, world=world, start_batch=start, pad_id=0)
    return [
        sorted(b.tokens_BKL[row, 0].tobytes().rstrip(b"\0") for row in np.flatnonzero(b.row_valid_B))
        for b in itertools.islice(made, number)
    ]


def test_rows_come_in_the_ratio_of_their_weights(tmp_path: Path) -> None:
    config = config_of(weighted_run(tmp_path))
    assert make_plan(config, open_sources(config), seed=0).steps_per_epoch == 3  # six rows are kept
    seen = Counter(itertools.chain.from_iterable(batches(config, 3 * 150)))
    assert sum(seen.values()) == 2 * 3 * 150
    wanted = {0: 1.0, 2: 2.0, 3: 3.0, 6: 6.0}
    assert len(seen) == len(wanted)
    found = sorted(number / sum(seen.values()) for number in seen.values())
    assert np.allclose(found, [weight / 12 for weight in wanted.values()], atol=0.03)


def test_batches_are_the_same_over_workers_and_after_a_resume(tmp_path: Path) -> None:
    config = config_of(weighted_run(tmp_path))
    whole = batches(config, 20)
    parts = [batches(config, 20, rank=rank, world=2) for rank in range(2)]
    assert [sorted(one + other) for one, other in zip(*parts, strict=True)] == whole
    assert batches(config, 9, start=11) == whole[11:]
    assert whole[:3] != whole[3:6]


def test_the_order_of_a_run_that_is_not_shuffled_is_that_of_the_rows(tmp_path: Path) -> None:
    config = config_of(weighted_run(tmp_path), shuffle=False)
    assert batches(config, 3) == batches(config, 3, start=3)


def test_a_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    prints = [
        open_sources(config_of(weighted_run(tmp_path / name, values), weight=weight))[0].fingerprint
        for name, values, weight in (
            ("a", WEIGHTS, "weight"),
            ("b", WEIGHTS, "weight"),
            ("c", {**WEIGHTS, 0: [2.0] * 4}, "weight"),
            ("d", WEIGHTS, None),
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_source_without_an_epoch_reads_in_order(tmp_path: Path) -> None:
    source = open_sources(config_of(weighted_run(tmp_path)))[0]
    assert isinstance(source, WeightedSource)
    whole = [uid for piece in range(source.pieces) for uid in source.read(piece)["uid"].to_pylist()]
    assert whole == sorted(whole) and len(whole) == 6
    assert source.read(0, 1, 2).equals(source.read(0).slice(1, 1))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"weight": "wieght"}, "data.weight must name a column of weights of the selection"),
        ({"selection": "strict"}, "data.weight must name a column of weights of the selection"),
        ({"selection": None}, "data.weight must come with a selection"),
    ],
)
def test_weights_that_there_are_none_of_are_refused(tmp_path: Path, changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(RecipeError, match=rule):
        open_sources(config_of(weighted_run(tmp_path), **changes))


def test_no_weight_at_all_is_refused(tmp_path: Path) -> None:
    run = weighted_run(tmp_path, {0: [0.0] * 4, 1: [0.0] * 4})
    with pytest.raises(RecipeError, match=r"data\.weight must be above 0 for some row"):
        open_sources(config_of(run))


def test_weights_of_several_datasets_stand_with_them(tmp_path: Path) -> None:
    run = weighted_run(tmp_path)
    one = {"path": run, "selection": "heavy", "row_weight": "weight", "weight": 2}
    config = DataConfig.model_validate({"datasets": [one, {"path": run}], "batch_size": 4})
    assert [type(source) for source in open_sources(config)] == [WeightedSource, type(open_source(run))]
    with pytest.raises(RecipeError, match=r"data\.weight must come with data\.path"):
        DataConfig.model_validate({"datasets": [one, {"path": run}], "weight": "weight"})


def test_a_piece_that_lost_its_weights_is_no_piece(tmp_path: Path) -> None:
    source = open_sources(config_of(weighted_run(tmp_path)))[0]
    store = Store(str(tmp_path))
    for shard in (0, 1):
        rows = store.load("selections/heavy", shard)
        at = rows.schema.get_field_index("weight")
        store.write_table(
            f"selections/heavy/shard-{shard:06d}.parquet",
            rows.set_column(at, "weight", pa.array([0.0] * len(rows), pa.float32())),
        )
    with pytest.raises(IntegrityError, match="must have the weights that were counted"):
        source.read(0)
