"""Where a list may be, and what the folders of its files say of their rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from listed import own, read

from curation.inputs import InputConfig
from curation.plan import ShardsConfig, plan
from pairmill.errors import UserError
from pairmill.store import Store


def part(path: Path, **columns: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"url": f"http://a/{path.stem}", "text": "t"} | columns
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    return path


@pytest.mark.parametrize(
    "given",
    [
        "urls [2024].parquet",
        "./urls [2024].parquet",
        "urls [[]2024].parquet",
        "urls*.parquet",
        "file://{folder}/urls [2024].parquet",
        "file://{folder}/urls%20[2024].parquet",
        "file://localhost{folder}/urls%20%5B2024%5D.parquet",
        "file:{folder}/urls [2024].parquet",
    ],
)
def test_a_file_is_found_in_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    part(tmp_path / "urls [2024].parquet")
    monkeypatch.chdir(tmp_path)
    assert len(read(given.replace("{folder}", str(tmp_path)))) == 1


@pytest.mark.parametrize("given", ["list.csv", "./list.csv", "{folder}/list.csv", "file://{folder}/list.csv"])
def test_one_list_is_one_run_in_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (tmp_path / "list.csv").write_text("url,text\nhttp://a/1,t\n")
    monkeypatch.chdir(tmp_path)
    store = Store(str(tmp_path / "run"))
    first = plan(store, InputConfig(path="list.csv"), ShardsConfig())
    assert plan(store, InputConfig(path=given.replace("{folder}", str(tmp_path))), ShardsConfig()) == first


@pytest.mark.parametrize("given", ["s3:/bucket/list.csv", "gs:bucket", "https:/a/list.csv", "az:/a"])
def test_an_address_without_its_slashes_is_no_folder(given: str) -> None:
    with pytest.raises(UserError, match="two slashes"):
        read(given)


@pytest.mark.parametrize("given", ["https://a/list.csv", "az://a/list.csv", "ftp://a/list.csv", "hdfs://a/list.csv"])
def test_an_address_of_another_kind_is_a_mistake(given: str) -> None:
    with pytest.raises(UserError) as error:
        read(given)
    assert given in str(error.value.value)


def test_a_table_that_is_a_folder_matches_as_a_file_would(tmp_path: Path) -> None:
    part(tmp_path / "a.parquet")
    part(tmp_path / "b.parquet" / "part-0.parquet")
    (tmp_path / "b.parquet" / "_SUCCESS").write_text("")
    part(tmp_path / "nested" / "c.parquet")
    assert len(read(tmp_path / "*.parquet")) == 2


@pytest.mark.parametrize("given", ["", "year=*/*/*.parquet", "*/lang=*/*", "**/*.parquet"])
def test_folders_that_name_a_column_give_it_to_their_rows(tmp_path: Path, given: str) -> None:
    part(tmp_path / "year=2023" / "lang=de%20AT" / "1.parquet")
    part(tmp_path / "year=2024" / "lang=__HIVE_DEFAULT_PARTITION__" / "2.parquet")
    rows = read(f"{tmp_path}/{given}")
    assert (own(rows, "year"), own(rows, "lang")) == (["2023", "2024"], ["de AT", None])


def test_a_column_of_the_file_wins_over_its_folder(tmp_path: Path) -> None:
    part(tmp_path / "year=2023" / "1.parquet", year="1999")
    part(tmp_path / "year=2024" / "2.parquet")
    assert own(read(tmp_path), "year") == ["1999", "2024"]


def test_a_plain_list_has_the_columns_of_its_folders_too(tmp_path: Path) -> None:
    (tmp_path / "year=2023").mkdir()
    (tmp_path / "year=2023" / "1.txt").write_text("http://a/1\n")
    assert own(read(tmp_path), "year") == ["2023"]


def test_folders_above_the_list_say_nothing_of_it(tmp_path: Path) -> None:
    part(tmp_path / "a=b" / "1.parquet")
    assert read(tmp_path / "a=b").schema.names == ["url", "alt"]
    assert read(tmp_path / "a=b" / "1.parquet").schema.names == ["url", "alt"]
