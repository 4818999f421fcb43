"""One row per input row, in the order of the input."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_fixture import fate, make_run, some_rows

from curation.results import rows as rows_module
from curation.results.rows import input_columns, write_rows
from curation.schema import INSPECT_STATUSES, Status
from pairmill.errors import RunDirError
from pairmill.store import Store


def written(store: Store, path: Path) -> list[dict[str, object]]:
    write_rows(store, path)
    return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]


def test_every_input_row_is_there_once_and_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out" / "rows.parquet"
    rows = written(make_run(tmp_path), out)
    given = some_rows()
    assert [(row["url"], row["text"], row["id"]) for row in rows] == [(r["url"], r["text"], r["id"]) for r in given]
    assert list(rows[0])[:7] == ["uid", "url", "status", "http_status", "drop_stage", "drop_reason", "error"]
    assert [file.name for file in out.parent.iterdir()] == ["rows.parquet"]


def test_each_says_what_became_of_it(tmp_path: Path) -> None:
    rows = written(make_run(tmp_path), tmp_path / "rows.parquet")
    for row in rows[:-1]:
        name = fate(str(row["url"]))
        said = (row["status"], row["drop_stage"], row["drop_reason"])
        if name == "ok":
            assert said == ("success", None, None)
        elif name.startswith("same-"):
            assert said in {("success", None, None), ("success", "deduplicate", "duplicate_image")}
        elif name in {s.value for s in Status}:
            assert said == (name, "inspect" if name in {s.value for s in INSPECT_STATUSES} else "download", name)
            assert row["error"] == f"{name}: as asked"
        else:
            assert said == ("success", "filter", name)
    assert [row["drop_reason"] for row in rows].count("duplicate_image") == 2
    assert {row["http_status"] for row in rows if row["drop_reason"] == "http_client_error"} == {404}
    # The last has URL and text of the first: it was dropped before anything was fetched for it.
    assert (rows[-1]["uid"], rows[-1]["drop_reason"], rows[-1]["status"]) == (rows[0]["uid"], "duplicate_input", None)


@pytest.mark.parametrize("upto", ["plan", "images", "filter"])
def test_rows_not_processed_yet_have_no_status(tmp_path: Path, upto: str) -> None:
    store = make_run(tmp_path, upto=upto, shards_upto=2)
    rows = written(store, tmp_path / "rows.parquet")
    assert len(rows) == 40
    without = [row for row in rows if row["status"] is None and row["drop_reason"] is None]
    assert len(without) == {"plan": 39, "images": 26, "filter": 0}[upto]


def test_an_external_sort_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_run(tmp_path)
    in_memory = written(store, tmp_path / "one.parquet")
    monkeypatch.setattr(rows_module, "_RANGE_ROWS", 9)
    assert written(store, tmp_path / "five.parquet") == in_memory
    assert pq.ParquetFile(tmp_path / "five.parquet").num_row_groups == 5
    monkeypatch.setattr(rows_module, "_MAX_RANGES", 2)
    assert written(store, tmp_path / "two.parquet") == in_memory


def test_columns_that_have_our_names_get_a_prefix(tmp_path: Path) -> None:
    given = [{"link": f"http://a.example/ok/{n}", "status": f"alt {n}", "url": "u", "error": 7} for n in range(3)]
    store = make_run(tmp_path, given, url_column="link", text_column="status")
    rows = written(store, tmp_path / "rows.parquet")
    assert {name: rows[1][name] for name in ("url", "status", "error")} == {
        "url": "http://a.example/ok/1",
        "status": "success",
        "error": None,
    }
    assert {name: rows[1][name] for name in ("link", "input_status", "input_url", "input_error")} == {
        "link": "http://a.example/ok/1",
        "input_status": "alt 1",
        "input_url": "u",
        "input_error": 7,
    }


def test_a_prefix_can_clash_too() -> None:
    columns = input_columns(["status", "input_status"], {"url_column": "url", "text_column": None})
    assert columns == {"input_status": 0, "input_input_status": 1}


def test_a_list_without_texts_has_no_text_column(tmp_path: Path) -> None:
    store = make_run(tmp_path, [{"url": "http://a.example/ok/1"}], text_column=None)
    [row] = written(store, tmp_path / "rows.parquet")
    assert list(row) == ["uid", "url", "status", "http_status", "drop_stage", "drop_reason", "error"]


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    Path(store.path("images/shard-000005.parquet")).write_bytes(b"junk")
    with pytest.raises(Exception, match=r"[Pp]arquet"):
        write_rows(store, tmp_path / "out" / "rows.parquet")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        write_rows(Store(str(tmp_path)), tmp_path / "rows.parquet")
    assert list(tmp_path.iterdir()) == []
