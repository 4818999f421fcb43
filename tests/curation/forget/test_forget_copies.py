"""Exports and other copies of the product: what --also may name, and what becomes of them."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forgotten_run import (
    GONE,
    URLS,
    WANTED,
    Made,
    state,
)
from traces import of_rows, traces

from curation.forget.request import Request
from pairmill.errors import UserError
from pipelines.forget import forget


def test_a_copy_that_cannot_be_cleaned_is_refused_before_anything_is(made: Made) -> None:
    pq.write_table(pa.table({"url": [URLS[0]]}), made.folder / "own.parquet")
    before = state(made.folder / "run")
    for place, rule in (
        (made.folder / "own.parquet", "must have its uid"),
        (made.folder / "none", "must name an export"),
    ):
        with pytest.raises(UserError, match=rule):
            forget(made.store, WANTED, [place], sure=True)
    assert state(made.folder / "run").keys() == before.keys()


def test_a_copy_may_be_named_later(made: Made) -> None:
    forget(made.store, WANTED, sure=True)
    needles = of_rows(made.folder / "parquet", GONE)
    assert needles
    done = forget(made.store, Request(), made.copies, sure=True)
    assert (done["rows"], len(done["copies"])) == (0, 5)
    assert traces([made.folder], needles) == {}
    assert not forget(made.store, WANTED, made.copies, sure=True)["copies"]


def links(made: Made) -> dict[str, Path]:
    """Ways to name the run, a part of it, or a folder that contains it."""
    ways = {name: made.folder / name for name in ("run", "run/pairs", "run/images/shard-000000.parquet", "run/../run")}
    (made.folder / "link").symlink_to(made.folder / "run")
    (made.folder / "more").mkdir()
    shutil.copy(made.folder / "rows.parquet", made.folder / "more")
    (made.folder / "more" / "link.parquet").symlink_to(made.folder / "run/pairs/part-000000.parquet")
    (made.folder / "around" / "deep").mkdir(parents=True)
    (made.folder / "around" / "deep" / "link").symlink_to(made.folder / "run")
    return ways | {name: made.folder / name for name in ("link", "link/pairs", "more", "around")}


WAYS = ("run", "run/pairs", "run/images/shard-000000.parquet", "run/../run", "link", "link/pairs", "more", "around")


@pytest.mark.parametrize("way", [*WAYS, ".", "relative"])
def test_a_run_is_never_taken_for_a_copy(made: Made, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    ways = links(made)
    assert tuple(ways) == WAYS
    monkeypatch.chdir(made.folder / "tars")
    place = {".": made.folder, "relative": Path("../run")}.get(way) or ways[way]
    before = state(made.folder)
    with pytest.raises(UserError, match="no part of any run"):
        forget(made.store, WANTED, [made.folder / "parquet", place], sure=True)
    assert state(made.folder) == before


def test_another_run_is_no_copy_either(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.folder / "run", tmp_path / "elsewhere" / "other")
    (tmp_path / "elsewhere" / "other" / "plan" / "plan.json").unlink()  # damaged, but worth what it cost
    before = state(tmp_path)
    with pytest.raises(UserError, match="no part of any run"):
        forget(made.store, WANTED, [tmp_path / "elsewhere"], sure=True)
    assert state(tmp_path) == before


def test_a_table_that_was_copied_out_of_a_run_is_cleaned(made: Made, needles: set[bytes]) -> None:
    shutil.copytree(made.folder / "run/pairs", made.folder / "mine")
    (made.folder / "mine" / "_manifest").mkdir()  # as in a table that is not the product
    with pytest.raises(UserError, match="delete _manifest/ first"):
        forget(made.store, WANTED, [made.folder / "mine"])
    shutil.rmtree(made.folder / "mine" / "_manifest")
    assert forget(made.store, WANTED, [*made.copies, made.folder / "mine"], sure=True)["rows"] == 6
    assert traces([made.folder], needles) == {}


def test_tars_joined_in_one_file_are_cleaned_to_the_end(made: Made, needles: set[bytes]) -> None:
    tars = sorted((made.folder / "tars").glob("*.tar"))
    assert len(tars) > 1
    (made.folder / "joined").mkdir()
    joined = made.folder / "joined" / "all.tar"
    joined.write_bytes(b"".join(tar.read_bytes() for tar in tars))
    forget(made.store, WANTED, [*made.copies, joined], sure=True)
    assert traces([made.folder], needles) == {}
    left = []
    for tar in tars:
        with tarfile.open(tar) as opened:
            left += opened.getnames()
    with tarfile.open(joined) as opened:
        assert opened.getnames() == left


def no_parquet(file: Path) -> None:
    file.write_bytes(b"PAR1 and nothing else")


def not_text(file: Path) -> None:
    pq.write_table(pa.table({"uid": [1, 2]}), file)


def no_uid(file: Path) -> None:
    pq.write_table(pa.table({"url": [URLS[0]]}), file)


def samples_of(described: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with tarfile.open(file, "w") as tar:
            header = tarfile.TarInfo("0.json")
            header.size = len(described)
            tar.addfile(header, io.BytesIO(described))

    return write


UNFIT = {
    "no parquet.parquet": (no_parquet, "must be readable"),
    "no tar.tar": (no_parquet, "must be readable"),
    "numbers.parquet": (not_text, "must have its uid"),
    "no uid.parquet": (no_uid, "must have its uid"),
    "list.tar": (samples_of(b"[]"), "must have its uid"),
    "no json.tar": (samples_of(b"{"), "must be readable"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_file_that_is_no_copy_is_refused_before_anything_changes(made: Made, name: str) -> None:
    write, rule = UNFIT[name]
    write(made.folder / "tars" / name)
    before = state(made.folder)
    with pytest.raises(UserError, match=rule) as refused:
        forget(made.store, WANTED, [made.folder / "tars"], sure=True)
    assert name in str(refused.value)
    assert state(made.folder) == before


def test_unrelated_files_stay_as_they_are(made: Made) -> None:
    theirs = {
        "other.parquet": pa.table({"uid": ["a", None]}),
        "large.parquet": pa.table({"uid": pa.array(["b"], pa.large_string())}),
    }
    for name, table in theirs.items():
        pq.write_table(table, made.folder / "parquet" / name)
    (made.folder / "tars" / "deep").mkdir()
    (made.folder / "tars" / "deep" / "sizes.json").write_text("[1, 2]")
    before = state(made.folder)
    forget(made.store, WANTED, made.copies, sure=True)
    after = state(made.folder)
    for name in ("parquet/other.parquet", "parquet/large.parquet", "tars/deep/sizes.json"):
        assert after[name] == before[name]


def test_text_of_other_types_is_searched_too(made: Made) -> None:
    rows = pq.read_table(made.folder / "rows.parquet")
    for name, kind in (("large", pa.large_string()), ("dictionary", pa.dictionary(pa.int32(), pa.string()))):
        file = made.folder / f"{name}.parquet"
        pq.write_table(rows.set_column(rows.schema.get_field_index("uid"), "uid", rows["uid"].cast(kind)), file)
        forget(made.store, WANTED, [file], sure=True)
        left = pq.read_table(file)
        assert left.schema.field("uid").type == kind
        assert set(left["uid"].to_pylist()) == set(rows["uid"].to_pylist()) - GONE


def test_a_file_is_known_by_its_ending_in_any_case(made: Made, needles: set[bytes]) -> None:
    for name in ("rows.parquet", "tars/00000.tar"):
        (made.folder / name).rename((made.folder / name).with_suffix(Path(name).suffix.upper()))
    places = [made.folder / "rows.PARQUET", *made.copies[:2]]
    forget(made.store, WANTED, places, sure=True)
    assert traces([made.folder], needles) == {}


def test_what_is_not_searched_in_a_copy_is_named(made: Made, tmp_path: Path) -> None:
    (made.folder / "tars" / "more").symlink_to(made.folder / "parquet")
    shutil.copy(made.folder / "tars" / "00000.tar", made.folder / "tars" / "00000.tar.old")
    done = forget(made.store, WANTED, [made.folder / "tars"])
    assert done["not_looked_into"] == [str(made.folder / "tars" / name) for name in ("00000.tar.old", "more")]


def test_a_link_to_a_copy_stays_one(made: Made, needles: set[bytes], tmp_path: Path) -> None:
    (made.folder / "rows.parquet").rename(tmp_path / "elsewhere.parquet")
    (made.folder / "rows.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    forget(made.store, WANTED, made.copies, sure=True)
    assert (made.folder / "rows.parquet").is_symlink()
    assert traces([tmp_path], needles) == {}


def test_only_unfinished_files_of_what_is_cleaned_are_removed(made: Made) -> None:
    """Any process may be writing the others at this moment."""
    hidden = "." + "0" * 32 + ".partial"
    theirs = [
        made.folder / name
        for name in (
            f".else.parquet{hidden}",
            f"more/.rows.parquet{hidden}",
            f"tars/.new.tar{hidden}",
            f".tars{hidden}",
        )
    ]
    mine = [made.folder / name for name in (f".rows.parquet{hidden}", f"tars/.00000.tar{hidden}")]
    for file in (*theirs, *mine):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    done = forget(made.store, WANTED, made.copies, sure=True)
    assert [file.exists() for file in theirs] == [True] * 4
    assert [file.exists() for file in mine] == [False] * 2
    assert done["not_looked_into"] == [str(theirs[2])]  # it may hold the rows
