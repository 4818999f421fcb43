from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import as_json, jpeg, uid, write_parquet, write_tar

from curation.flow import flow_of
from curation.pack import PackConfig, pack_rows, product_columns
from curation.schema import add_seconds
from curation.shards import Table, Work, commit_shard, read_shard
from pairmill.errors import RecipeError
from pairmill.store import Store
from training.data.config import DataConfig
from training.data.cursor import make_plan
from training.data.sample import SAMPLE, hex_id, sample_id
from training.data.source import open_source, open_sources

NOTHING = pa.nulls(4, pa.string())


def curated(root: Path) -> Path:
    """A run of two shards of four rows, as the stages commit them; the selection drops one row of each."""
    store = Store(str(root))
    stages = ("download", "filter", "deduplicate")
    drops = ("drop_stage", "drop_reason")
    tables = [
        Table("images", ("image", "sha256", *drops), 1, (), stages[:1]),
        Table("columns/filter", ("caption", "language", *drops), 1, ("images",), stages[1:2], stages[:1]),
        Table("selections/strict", ("keep", "reason"), 1, ("images",), stages[2:], stages[:2]),
        Table("columns/translate", ("translations",), 1, ("images",), ("translate",), stages),
    ]
    packed = []
    for shard in range(2):
        uids = [f"{4 * shard + row:032x}" for row in range(4)]
        plan = pa.table({"uid": uids, "url": uids, "alt": uids, "drop_stage": NOTHING, "drop_reason": NOTHING})
        store.write_table(f"plan/shard-{shard:06d}.parquet", plan)
        lost = [None, "duplicate_image", None, None]
        columns = {
            "image": pa.array([jpeg(4 * shard + row) for row in range(4)]),
            "sha256": pa.array([f"{7 * (shard + 1):016x}{row:048x}" for row in range(4)]),
            "caption": pa.array([f"caption {name}" for name in uids]),
            "language": pa.array(["en"] * 4),
            "translations": pa.array([[{"text": f"译文 {name}", "language": "zh"}] for name in uids]),
            "keep": pa.array([reason is None for reason in lost]),
            "reason": pa.array(lost, pa.string()),
        }
        rows = read_shard(store, Work(shard), {})
        for name, values in columns.items():
            rows = rows.append_column(name, values)
        reason = pa.array(lost, pa.string())
        stage = pa.array([None if r is None else "deduplicate" for r in lost], pa.string())
        rows = rows.set_column(rows.schema.get_field_index("drop_reason"), "drop_reason", reason)
        rows = rows.set_column(rows.schema.get_field_index("drop_stage"), "drop_stage", stage)
        commit_shard(store, tables, add_seconds(rows, "filter", 0.1), run=1)
        packed.append(pack_rows(rows, PackConfig(), "jpg", product_columns(flow_of({}).carried)))
    store.commit("pairs", 0, "0" * 16, pa.concat_tables(packed), {}, row_group_rows=4)
    return root


def test_packed_pairs_and_their_selection_are_the_same_samples(tmp_path: Path) -> None:
    run = str(curated(tmp_path / "run"))
    pairs, chosen = open_source(run), open_source(run, "strict")
    assert pairs.rows.tolist() == [4, 2] and chosen.rows.tolist() == [3, 3]
    one = pa.concat_tables([pairs.read(piece) for piece in range(pairs.pieces)])
    other = pa.concat_tables([chosen.read(piece) for piece in range(chosen.pieces)])
    assert one.schema == other.schema == SAMPLE and one.equals(other)
    assert one["uid"].to_pylist() == [f"{n:032x}" for n in (0, 2, 3, 4, 6, 7)]
    assert [[t["kind"] for t in texts] for texts in one["texts"].to_pylist()] == [["alt", "translated"]] * 6
    assert one["group_id"].to_pylist() == [7] * 3 + [14] * 3
    assert chosen.read(1, 1, 3).equals(chosen.read(1).slice(1, 2))
    assert pairs.fingerprint != chosen.fingerprint == open_source(run, "strict").fingerprint


def test_a_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one = open_source(str(curated(tmp_path / "a")), "strict").fingerprint
    assert one == open_source(str(curated(tmp_path / "b")), "strict").fingerprint
    foreign = [open_source(str(write_parquet(tmp_path / n / "x.parquet", 12))).fingerprint for n in ("c", "d")]
    assert foreign[0] == foreign[1] != open_source(str(write_parquet(tmp_path / "e/x.parquet", 13))).fingerprint


def test_an_unknown_selection_names_those_there_are(tmp_path: Path) -> None:
    run = str(curated(tmp_path))
    with pytest.raises(RecipeError, match="strict"):
        open_source(run, "stritc")


def test_foreign_parquet_in_its_usual_forms(tmp_path: Path) -> None:
    image = jpeg(0)
    forms: dict[str, dict[str, object]] = {
        "huggingface": {"image": [{"bytes": image, "path": "x"}], "text": ["a cat"]},
        "img2dataset": {"jpg": [image], "caption": ["a cat"], "sha256": ["00000000000000ff" + "0" * 48]},
        "several": {"image": [image], "captions": [["a cat", "eine Katze"]]},
        "ours": {"image": [image], "texts": [[{"text": "a cat", "language": "en", "kind": "short"}]]},
        "grouped": {"image": [image], "text": ["a cat"], "group_id": [41]},
    }
    found = {}
    for name, columns in forms.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "part.parquet")
        found[name] = open_source(str(tmp_path / name)).read(0).to_pylist()[0]
    assert all(row["image"] == image and row["texts"][0]["text"] == "a cat" for row in found.values())
    assert found["huggingface"]["uid"] == "part.parquet/0/0" and found["huggingface"]["group_id"] == -1
    assert found["img2dataset"]["group_id"] == 255 and found["grouped"]["group_id"] == 41
    assert [t["text"] for t in found["several"]["texts"]] == ["a cat", "eine Katze"]
    assert found["ours"]["texts"] == [{"text": "a cat", "language": "en", "kind": "short"}]


def test_row_groups_are_pieces_and_can_be_read_in_part(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", 25, first=100)
    write_parquet(tmp_path / "a.parquet", 10)
    source = open_source(str(tmp_path))
    assert source.rows.tolist() == [10, 10, 10, 5] and source.pieces == 4
    assert source.read(3, 1, 3)["uid"].to_pylist() == [uid(121), uid(122)]


def test_a_column_that_was_refused_is_not_proposed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b""], "caption": [1], "captions": ["x"], "title": ["y"]}), path)
    with pytest.raises(RecipeError, match="caption \\(int64\\)") as error:
        open_source(str(path), config=DataConfig(path=str(path), text_column="caption"))
    assert error.value.fix == "name one of captions, title; perhaps you mean captions"
    with pytest.raises(RecipeError) as error:
        open_source(str(path), config=DataConfig(path=str(path), text_column="nothing"))
    assert error.value.fix == "name one of captions, title"
    pq.write_table(pa.table({"image": [1], "caption": ["x"]}), path)
    with pytest.raises(RecipeError) as error:
        open_source(str(path), config=DataConfig(path=str(path), image_column="image"))
    assert "name one of" not in error.value.fix and "none is" in error.value.fix


def test_a_missing_column_is_named_with_its_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"picture": [b"x"], "txt": ["y"], "number": [1]}), path)
    with pytest.raises(RecipeError, match="picture"):
        open_source(str(path), config=DataConfig(path=str(path), image_column="pictures"))
    with pytest.raises(RecipeError, match="text_column"):
        open_source(str(path), config=DataConfig(path=str(path), image_column="picture", text_column="number"))
    config = DataConfig(path=str(path), image_column="picture", text_column="txt")
    assert open_source(str(path), config=config).read(0)["image"].to_pylist() == [b"x"]


def test_webdataset_samples_are_files_in_a_row_with_one_key(tmp_path: Path) -> None:
    texts = [{"text": "c", "language": "en", "kind": "long", "score": 0.5}]
    write_tar(
        tmp_path / "00000.tar",
        [
            ("a/0001", {"jpg": jpeg(1), "txt": b"one"}),
            ("a/0002", {"txt": b"no image", "json": b"{}"}),
            ("a/0003", {"json": as_json({"caption": "three", "uid": "u3", "sha256": "1" * 64}), "png": b"three"}),
        ],
    )
    write_tar(
        tmp_path / "00001.tar",
        [
            ("0004", {"seg.png": b"mask", "webp": b"four", "json": as_json({"caption": "x", "texts": texts})}),
            ("0005", {"jpg": jpeg(5), "json": b"{broken"}),
            ("0006", {"jpg": jpeg(6), "txt": b"six"}),
        ],
    )
    write_tar(tmp_path / "00002.tar", [("0007", {"txt": b"nothing to see"})])
    for path in (str(tmp_path), f"{tmp_path}/{{00000..00002}}.tar", f"{tmp_path}/0000*.tar"):
        source = open_source(path)
        assert source.rows.tolist() == [2, 3]
        assert source.left_out == {"no_sample": 2, "other": 1}
        rows = [row for piece in range(2) for row in source.read(piece).to_pylist()]
        assert [row["uid"] for row in rows] == [
            "00000.tar/a/0001",
            "u3",
            "00001.tar/0004",
            "00001.tar/0005",
            "00001.tar/0006",
        ]
        assert [row["image"] for row in rows] == [jpeg(1), b"three", b"four", jpeg(5), jpeg(6)]
        assert [[t["text"] for t in row["texts"]] for row in rows] == [["one"], ["three"], ["c"], [], ["six"]]
        assert rows[2]["texts"][0]["kind"] == "long" and rows[1]["group_id"] == hex_id("1" * 16)
        assert source.read(1, 1, 3).equals(source.read(1).slice(1))


def test_samples_whose_names_other_readers_lose(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "ODD.TAR",
        [
            ("v1.5", {"jpg": jpeg(1), "txt": b"one"}),
            ("v1.6", {"JPG": jpeg(2), "Caption": b"two"}),
            ("._x", {"jpg": b"Mac OS X"}),
            ("x", {"jpg": jpeg(3)}),
            ("._x", {"txt": b"Mac OS X"}),
            ("x", {"txt": b"three"}),
            ("x", {"jpg": jpeg(4), "txt": b"four"}),
            ("img.1", {"json": as_json({"caption": "five"}), "gif": b"GIF"}),
            (b"caf\xe9".decode("utf-8", "surrogateescape"), {"jpg": jpeg(5), "txt": b"six"}),
        ],
    )
    source = open_source(str(tmp_path))
    rows = source.read(0).to_pylist()
    assert [row["texts"][0]["text"] for row in rows] == ["one", "two", "three", "four", "five", "six"]
    assert [row["image"] for row in rows] == [jpeg(1), jpeg(2), jpeg(3), jpeg(4), b"GIF", jpeg(5)]
    names = ["v1.5", "v1.6", "x", "x#2", "img.1", "caf\\xe9"]
    assert [row["uid"] for row in rows] == [f"ODD.TAR/{name}" for name in names]
    assert source.left_out == {"hidden": 2}


def test_a_tar_with_all_images_before_all_texts_is_refused(tmp_path: Path) -> None:
    images = [(f"{n}", {"jpg": jpeg(n)}) for n in range(3)]
    write_tar(tmp_path / "x.tar", [*images, *((f"{n}", {"txt": b"a text"}) for n in range(3))])
    with pytest.raises(RecipeError, match="beside its image"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "does not exist"), ("folder", "none of these"), ("tar", "tar"), ("parquet", "parquet")],
)
def test_what_is_no_dataset_says_so(tmp_path: Path, content: str | None, named: str) -> None:
    path = tmp_path / "data"
    if content is not None:
        path.mkdir()
        if content != "folder":
            (path / f"x.{content}").write_bytes(b"0123456789" * 100)
    with pytest.raises(RecipeError, match=named):
        open_source(str(path))


def test_an_empty_dataset_is_an_error(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", 1)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(RecipeError, match="at least one row"):
        open_source(str(path))


def test_fewer_rows_than_a_batch_or_lanes_than_workers_is_an_error(tmp_path: Path) -> None:
    path = str(write_parquet(tmp_path / "x.parquet", 20))
    config = DataConfig(path=path, batch_size=20)
    sources = open_sources(config)
    assert make_plan(config, sources, seed=0, workers=5).steps_per_epoch == 1
    with pytest.raises(RecipeError, match="batch_size"):
        make_plan(DataConfig(path=path, batch_size=21), sources, seed=0)
    with pytest.raises(RecipeError, match="workers"):
        make_plan(config, sources, seed=0, workers=6)


def test_ids_are_63_bits() -> None:
    assert sample_id("f" * 32) == 2**63 - 1 and hex_id(None) == hex_id("xyz") == -1
    assert sample_id("a.tar/7") == sample_id("a.tar/7") != sample_id("a.tar/8") and sample_id("a.tar/7") >= 0
    assert np.array([sample_id("z" * 32)], np.int64)[0] >= 0
