from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

from curation.flow import flow_of
from curation.pack import IMAGE, PackConfig, cut_parts, pack_rows, product_columns
from pairmill.layout import TEXT

COLUMNS = product_columns(flow_of({}).carried)

#: The product, as users have read it since the first release: names, order and types.
PRODUCT = pa.schema(
    [
        *[
            ("image", IMAGE),
            ("caption", pa.string()),
            ("texts", pa.list_(TEXT)),
            ("uid", pa.string()),
            ("url", pa.string()),
        ],
        *[("width", pa.int32()), ("height", pa.int32()), ("sha256", pa.string()), ("phash", pa.uint64())],
        *[("alt", pa.string()), ("language", pa.string()), ("language_score", pa.float32())],
        *[
            ("sharpness", pa.float32()),
            ("entropy", pa.float32()),
            ("nsfw", pa.float32()),
            ("text_quality", pa.float32()),
        ],
        *[("original_width", pa.int32()), ("original_height", pa.int32()), ("format", pa.string())],
        *[("content_type", pa.string()), ("final_url", pa.string())],
    ]
)

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)


def rows(**columns: list[object]) -> pa.Table:
    base: Mapping[str, pa.Array] = {
        "uid": pa.array(["u0", "u1", "u2"]),
        "url": pa.array(["http://a/0", "http://a/1", "http://a/2"]),
        "alt": pa.array(["red  apple", "x", "y"]),
        "caption": pa.array(["red apple", "x", "y"]),
        "language": pa.array(["en", "en", "en"]),
        "image": pa.array([PNG, None, PNG]),
        "width": pa.array([1, None, 1], pa.int32()),
        "drop_reason": pa.array([None, "nsfw", None], pa.string()),
    }
    return pa.table({**base, **{k: pa.array(v) for k, v in columns.items()}})


def test_huggingface_datasets_loads_the_product_with_pictures(tmp_path: Path) -> None:
    pq.write_table(pack_rows(rows(), PackConfig(), "png", COLUMNS), tmp_path / "part-000000.parquet")
    data = str(tmp_path / "part-*.parquet")
    loaded = load_dataset("parquet", data_files=data, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == PRODUCT.names
    assert [row["image"].size for row in loaded] == [(1, 1), (1, 1)]


def test_a_picture_of_an_earlier_format_has_its_own_ending() -> None:
    jpeg = b"\xff\xd8\xff\xe0..."
    packed = pack_rows(rows(image=[PNG, None, jpeg]), PackConfig(), "webp", COLUMNS)
    assert packed["image"].to_pylist() == [{"bytes": PNG, "path": "u0.png"}, {"bytes": jpeg, "path": "u2.jpg"}]


RECAPTIONS = [
    [
        {"text": "an apple", "kind": "short", "language": "en", "model": "m", "revision": "r", "prompt_id": "short"}
        | {"sampling": "greedy", "score": -0.1}
    ],
    None,
    [],
]
TRANSLATIONS = [
    [
        {"text": "红苹果", "language": "zh", "source_kind": "alt", "source_index": 0, "model": "t", "revision": "q"}
        | {"score": -0.2, "status": "success"},
        {"text": None, "language": "zh", "source_kind": "short", "source_index": 1, "model": "t", "revision": "q"}
        | {"score": None, "status": "wrong_language"},
    ],
    None,
    [],
]


def test_kept_rows_only_with_every_text_and_where_it_came_from() -> None:
    packed = pack_rows(rows(recaptions=RECAPTIONS, translations=TRANSLATIONS), PackConfig(), "png", COLUMNS)
    assert packed.schema.equals(PRODUCT)
    first, second = packed.to_pylist()
    assert [first["uid"], second["uid"]] == ["u0", "u2"]
    assert first["image"] == {"bytes": PNG, "path": "u0.png"}
    nothing = dict.fromkeys(("source_index", "model", "revision", "prompt_id", "sampling", "score", "edited_by"))
    assert first["texts"][0] == {**nothing, "text": "red apple", "language": "en", "kind": "alt"}
    assert first["texts"][1]["score"] == pytest.approx(-0.1)
    assert {**first["texts"][2], "score": None} == {
        **nothing,
        **{"text": "红苹果", "language": "zh", "kind": "translated", "source_index": 0, "model": "t", "revision": "q"},
    }
    assert len(first["texts"]) == 3, "a failed translation is a status, not a text"
    assert second["texts"] == [{**nothing, "text": "y", "language": "en", "kind": "alt"}]


def test_the_input_is_carried_through() -> None:
    packed = pack_rows(rows(input=[{"width": "a"}, {"width": "b"}, {"width": "c"}]), PackConfig(), "jpg", COLUMNS)
    assert packed["input"].to_pylist() == [{"width": "a"}, {"width": "c"}]


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 30)), st.integers(1, 40))
def test_parts_cover_every_shard_once_in_order(kept: dict[int, int], size: int) -> None:
    parts = cut_parts(kept, size)
    assert [s for part in parts for s in part.shards] == sorted(kept)
    assert [part.number for part in parts] == list(range(len(parts)))
    for part in parts[:-1]:
        assert sum(kept[s] for s in part.shards) >= size
        assert sum(kept[s] for s in part.shards[:-1]) < size


def test_the_product_loads_as_images(tmp_path: Path) -> None:
    import datasets

    pq.write_table(pack_rows(rows(), PackConfig(), "png", COLUMNS), tmp_path / "part-000000.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "part-*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded[0]["image"].size == (1, 1)
    assert loaded[0]["texts"][0]["text"] == "red apple"
