"""Texts that fit their pictures, by the scores of the curation: in pairs, selections and files of others."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import jpeg, reader_of, uid, write_tar

from curation.recaption import RECAPTION
from pairmill.errors import RecipeError
from pairmill.layout import TEXT, VERDICT
from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from training.data.config import DataConfig, TextSelector
from training.data.cursor import make_plan
from training.data.sample import as_texts, sample_id
from training.data.source import open_source, open_sources
from training.data.stream import batches
from training.data.text_transforms import Text
from training.data.texts import TextChooser, row_generator, row_texts

SCORED = {"clip": 0.25}
#: Texts of a row, the caption first, with the scores of `clip` and `other`; None: there is none.
ROWS: list[list[tuple[str, float | None, float | None]]] = [
    [("caption 0", 0.5, 0.0), ("new 0", 0.25, 0.5), ("new 1", 0.125, 0.75)],
    [("caption 1", 0.125, 0.5), ("new 2", None, 0.5)],
    [("caption 2", 0.375, None)],
]


def config_of(path: Path, *selectors: TextSelector, **given: Any) -> DataConfig:
    return DataConfig(path=str(path), texts=selectors, **given)


def chosen(path: Path, selector: TextSelector, selection: str | None = None) -> list[set[str]]:
    """The texts of each row that a slot draws in 40 epochs."""
    source = open_source(str(path), selection, config_of(path, selector))
    choose = TextChooser([(selector,)])
    found: list[set[str]] = []
    for piece in range(source.pieces):
        for row in source.read(piece).to_pylist():
            texts = row_texts(row["texts"], row["scores"])
            drawn = [choose(texts, row_generator(0, 1, epoch, 0))[0] for epoch in range(40)]
            found.append({text.text for text in drawn if text is not None})
    return found


def pairs(folder: Path, *, list_type: Any = pa.list_) -> Path:
    """A file of pairs as packing writes it."""
    texts = [[{"text": one[0], "kind": "alt" if not at else "short"} for at, one in enumerate(row)] for row in ROWS]
    columns = {
        "uid": [uid(at) for at in range(len(ROWS))],
        "image": [{"bytes": jpeg(at), "path": None} for at in range(len(ROWS))],
        "texts": pa.array(texts, pa.list_(TEXT)),
    }
    for at, name in enumerate(("clip", "other"), 1):
        columns[f"score_{name}"] = pa.array([row[0][at] for row in ROWS], pa.float32())
        columns[f"score_{name}_texts"] = pa.array([[one[at] for one in row] for row in ROWS], list_type(pa.float32()))
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "part-000000.parquet")
    return folder


def expected(least: dict[str, float]) -> list[set[str]]:
    def fits(one: tuple[str, float | None, float | None]) -> bool:
        own = dict(zip(("clip", "other"), one[1:], strict=True))
        return all((own[name] if own[name] is not None else -9) >= value for name, value in least.items())

    return [{one[0] for one in row if fits(one)} for row in ROWS]


@pytest.mark.parametrize("least", [{}, {"clip": 0.25}, {"other": 0.5}, {"clip": 0.125, "other": 0.5}, {"clip": 0.9}])
@pytest.mark.parametrize("list_type", [pa.list_, pa.large_list])
def test_texts_below_the_score_are_not_drawn(tmp_path: Path, least: dict[str, float], list_type: Any) -> None:
    folder = pairs(tmp_path / "pairs", list_type=list_type)
    assert chosen(folder, TextSelector(min_score=least)) == expected(least)


def test_kinds_and_scores_go_together(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "pairs")
    assert chosen(folder, TextSelector(kind="short", min_score=SCORED)) == [{"new 0"}, set(), set()]
    mixed = config_of(folder, TextSelector(kind="alt", min_score={"other": 0.1}), TextSelector(min_score=SCORED))
    assert mixed.scored_by() == ("clip", "other")
    source = open_source(str(folder), None, mixed)
    [first, *_] = source.read(0)["scores"].to_pylist()
    assert [dict(scores) for scores in first] == [{"clip": c, "other": o} for _, c, o in ROWS[0]]


def test_nothing_is_read_that_no_selector_asks_for(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "pairs")
    source = open_source(str(folder), None, config_of(folder, TextSelector()))
    assert source.read(0)["scores"].to_pylist() == [None] * 3
    assert TextSelector().identity().keys() == {"kind", "language", "p"}
    assert TextSelector(min_score=SCORED).identity()["min_score"] == SCORED


def run_of(folder: Path, *, written: bool = True, own_filters: bool = False) -> Path:
    """The tables of a run with a selection `good` that keeps the first two rows of each of two shards."""
    store = Store(str(folder))
    behind = "-good" if own_filters else ""
    for shard in range(2):
        texts = [[one[0] for one in row] for row in ROWS]
        new = [[{"text": text, "kind": "short"} for text in row[1:]] for row in texts]
        scores = [[one[1] for one in row] for row in ROWS]
        uids = {"uid": [f"{3 * shard + at:032x}" for at in range(3)]}
        # Of the last row kept, no model wrote anything: another selection was packed.
        scores_of_texts = pa.array([scores[0], None, None], pa.list_(pa.float32()))
        tables: dict[str, dict[str, Any]] = {
            "images": {"image": [jpeg(at) for at in range(3)], "sha256": [f"{at:064x}" for at in range(3)]},
            "columns/filter": {"caption": [row[0] for row in texts], "language": ["en"] * 3},
            f"columns/embed-clip{behind}": {"score_clip": pa.array([row[0] for row in scores], pa.float32())},
            "columns/recaption": {"recaptions": pa.array([new[0], [], []], pa.list_(RECAPTION))},
            "columns/embed_texts-clip": {"score_clip_texts": scores_of_texts},
            "selections/good": {"keep": [True, True, False], "reason": [None, None, "where"]},
        }
        if not written:
            del tables["columns/embed_texts-clip"]
        for name, columns in tables.items():
            facts = {"stages": {"select": {"rows_kept": 2}}}
            store.commit(name, shard, "0" * 16, pa.table({**uids, **columns}), facts)
    return folder


@pytest.mark.parametrize("own_filters", [False, True])
@pytest.mark.parametrize("written", [True, False])
def test_a_selection_has_the_scores_of_its_tables(tmp_path: Path, written: bool, own_filters: bool) -> None:
    run = run_of(tmp_path / "run", written=written, own_filters=own_filters)
    found = chosen(run, TextSelector(min_score=SCORED), "good")
    one_shard: list[set[str]] = [{"caption 0", "new 0"} if written else {"caption 0"}, set()]
    assert found == [*one_shard, *one_shard]
    assert chosen(run, TextSelector(), "good")[0] == {"caption 0", "new 0", "new 1"}


def gate(store: Store, shard: int) -> None:
    """Verdicts on the texts of `run_of`: the first is refused, the second is changed."""
    nothing = dict.fromkeys(VERDICT.names)
    verdicts = [[nothing | {"refused_by": "length"}, nothing | {"text": "New 1", "edited_by": "opener"}], [], []]
    uids = store.load("selections/good", shard)["uid"]
    store.commit(
        "columns/gate", shard, "0" * 16, pa.table({"uid": uids, "gate": pa.array(verdicts, pa.list_(VERDICT))}), {}
    )


def test_what_a_gate_refused_is_not_trained_on(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    before = open_source(str(run), "good").fingerprint
    store = Store(str(run))
    for shard in range(2):
        gate(store, shard)
    assert chosen(run, TextSelector(), "good") == [{"caption 0", "New 1"}, {"caption 1"}] * 2
    # The scores are those of the texts that are left.
    assert chosen(run, TextSelector(min_score={"clip": 0.2}), "good")[0] == {"caption 0"}
    assert chosen(run, TextSelector(min_score={"clip": 0.1}), "good")[0] == {"caption 0", "New 1"}
    assert open_source(str(run), "good").fingerprint != before


def test_a_shard_without_verdicts_beside_others_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    gate(Store(str(run)), 0)
    with pytest.raises(RecipeError, match=r"columns/gate table(?s:.)*1 of 2 shards"):
        open_source(str(run), "good")


def test_verdicts_of_a_recipe_that_has_no_gates_any_more_do_not_count(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    store = Store(str(run))
    gate(store, 0)
    write_recipe(store, "gate: {enabled: false}")
    assert chosen(run, TextSelector(), "good")[0] == {"caption 0", "new 0", "new 1"}


def test_scores_are_part_of_what_a_selection_is_known_by(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    plain, scored = config_of(run, TextSelector()), config_of(run, TextSelector(min_score=SCORED))
    before = [open_source(str(run), "good", one).fingerprint for one in (plain, scored)]
    store = Store(str(run))
    table = store.load("columns/embed_texts-clip", 1)
    other = table.set_column(1, "score_clip_texts", pa.array([[0.0] * 3, None, None], pa.list_(pa.float32())))
    store.commit("columns/embed_texts-clip", 1, "0" * 16, other, {})
    after = [open_source(str(run), "good", one).fingerprint for one in (plain, scored)]
    assert before[0] == after[0] and before[1] != after[1]


def test_a_dataset_without_such_scores_is_refused_before_any_row_is_read(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "pairs")
    with pytest.raises(RecipeError, match=r"min_score and harder_by must name dual encoders .*\n.*none, in "):
        open_source(str(folder), None, config_of(folder, TextSelector(min_score={"none": 0.1})))
    run = run_of(tmp_path / "run")
    with pytest.raises(RecipeError, match=r"add embed\.none to its curation recipe"):
        open_source(str(run), "good", config_of(run, TextSelector(min_score={"none": 0.1})))
    tar = write_tar(tmp_path / "tars" / "0.tar", [("a", {"jpg": jpeg(0), "txt": b"a"})])
    with pytest.raises(RecipeError, match="which is of tars"):
        open_source(str(tar), None, config_of(tar, TextSelector(min_score=SCORED)))
    with pytest.raises(RecipeError):
        DataConfig.checked({"path": "x", "texts": [{"min_score": {"clip": float("nan")}}]})


def test_a_field_of_others_that_is_called_scores_is_none() -> None:
    found, problem = as_texts(
        [{"text": "a", "kind": "alt", "scores": [0.5, "x"]}, {"text": "b", "scores": {"clip": 1.0}}]
    )
    assert problem is None and [one.get("scores") for one in found] == [None, None]


def test_one_number_is_that_of_the_caption(tmp_path: Path) -> None:
    table = pq.read_table(pairs(tmp_path / "pairs") / "part-000000.parquet").drop_columns(["score_clip_texts"])
    (tmp_path / "other").mkdir()
    pq.write_table(table, tmp_path / "other" / "a.parquet")
    assert chosen(tmp_path / "other", TextSelector(min_score=SCORED)) == [{"caption 0"}, set(), {"caption 2"}]


def test_transforms_keep_the_scores_of_their_text() -> None:
    long = Text("A dog. A cat.", "en", "long", (("clip", 0.5),))
    selector = TextSelector(min_score=SCORED, transforms=({"name": "sentences"},))
    choose = TextChooser([(selector,)])
    drawn = {choose([long], np.random.default_rng(at))[0] for at in range(20)}
    assert {text.text for text in drawn if text} == {"A dog", "A cat"}


def test_a_row_without_a_text_that_fits_is_counted_and_not_trained_on(tmp_path: Path) -> None:
    config = DataConfig.checked(
        {"path": str(pairs(tmp_path / "pairs")), "batch_size": 3, "texts": [{"min_score": {"clip": 0.3}}]}
    )
    sources = open_sources(config)
    plan, reader = make_plan(config, sources, seed=1), reader_of(sources, slots=config.text_slots())
    with batches(plan, reader, config, rank=0, world=1, with_ray=False) as made:
        [batch] = itertools.islice(made, 1)
    valid = dict(zip(batch.sample_id_B.tolist(), batch.row_valid_B.tolist(), strict=True))
    assert valid == {sample_id(uid(0)): True, sample_id(uid(1)): False, sample_id(uid(2)): True}
    assert batch.skipped == {"no_text": 1}
