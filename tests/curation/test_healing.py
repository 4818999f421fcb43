"""Every damaged file of a run is named, and kept aside so that exactly its rows are made again."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_fixture import make_run

from curation.healing import examine, heal, parts_of_another_size
from curation.inputs import InputConfig
from curation.plan import ShardsConfig, extend, open_plan
from curation.plan_file import read_plan_file, restore_plan
from curation.replan import plan_again
from curation.schema import set_columns
from curation.table import COLUMNS, tables_there
from pairmill import sealed_parquet
from pairmill.damage import DamagedError, damaged
from pairmill.errors import UserError
from pairmill.layout import PLAN_COPY, PLAN_JSON
from pairmill.recipe_file import run_recipe, write_recipe
from pairmill.store import Store, manifest_file, shard_file
from pairmill.yaml_text import write_yaml

#: What may become of the bytes of a file; None: it is gone.
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda old: None,
    "empty": lambda old: b"",
    "cut off": lambda old: old[: len(old) // 2],
    "a bit flipped": lambda old: old[: len(old) // 2] + bytes([old[len(old) // 2] ^ 4]) + old[len(old) // 2 + 1 :],
    "of zeros": lambda old: bytes(len(old)),
}

#: Files that are made from the rest, and hold no row.
DERIVED = ("report.json", "report.html", "README.md", ".lock")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_run(tmp_path_factory.mktemp("run"))
    restore_plan(store, open_plan(store))
    return store


def _files(store: Store) -> list[str]:
    root = Path(store.uri)
    found = [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()]
    return sorted(name for name in found if not name.endswith(DERIVED))


def _damage(store: Store, name: str, change: Callable[[bytes], bytes | None]) -> bytes:
    """Returns the bytes as they were."""
    path = Path(store.path(name))
    before = path.read_bytes()
    after = change(before)
    path.unlink() if after is None else path.write_bytes(after)
    return before


def test_a_sound_run_has_no_damage(store: Store) -> None:
    examined = examine(store)
    assert examined.damaged == []
    data = [Path(store.path(name)) for name in _files(store) if name.endswith(".parquet")]
    assert (examined.files, examined.bytes) == (len(data), sum(file.stat().st_size for file in data))


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damage_of_every_file_is_named(store: Store, how: str) -> None:
    unnoticed = []
    for name in _files(store):
        before = _damage(store, name, DAMAGES[how])
        found = {one.name for one in examine(store).damaged}
        Path(store.path(name)).write_bytes(before)
        commit = re.fullmatch(r"(?:_manifest/(pairs)|(.+)/_manifest)/0000/shard-([0-9]+)-.*", name)
        if commit is not None and how == "gone":  # named by its data
            name = shard_file(commit[1] or commit[2], int(commit[3]))
        if name not in found:
            unnoticed.append(name)
    if how == "gone":
        unnoticed = [name for name in unnoticed if not name.startswith("runs/")]
    assert unnoticed == []


@pytest.mark.parametrize("column", ["uid", "image", "phash", "drop_reason"])
def test_a_bit_that_has_changed_is_noticed_by_whoever_reads_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.setattr(sealed_parquet, "_SMALL_BYTES", 0)  # as of a file that is not compared as a whole
    store = make_run(tmp_path, upto="images")
    name = shard_file("images", 1)
    data = bytearray(store.read_bytes(name))
    chunks = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0)
    leaf = next(chunks.column(n) for n in range(chunks.num_columns) if chunks.column(n).path_in_schema == column)
    assert store.read_table(name, [column]).num_rows == 7
    # The last byte of its last page.
    start = leaf.dictionary_page_offset or leaf.data_page_offset
    data[start + leaf.total_compressed_size - 1] ^= 1
    store.write_bytes(name, bytes(data))
    with pytest.raises(DamagedError, match=r"images/shard-000001\.parquet: .*integrity"):
        store.read_table(name, [column])
    others = [other for other in ("uid", "image", "phash", "drop_reason") if other != column]
    assert store.read_table(name, others).num_rows == 7


def test_a_damaged_shard_is_kept_aside_and_no_longer_committed(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    name, sound = shard_file("columns/filter", 2), store.index("columns/filter")
    for number, kept in enumerate(["", ".1"]):
        content = bytes([number])
        store.write_bytes(name, content)
        said = heal(store, damaged(store.path(name), "as asked"), yes=False)
        assert said == (
            f"{name} is damaged and kept as damaged/columns.filter.shard-000002.parquet{kept} (as asked): "
            "it is made again"
        )
        assert store.read_bytes(f"damaged/columns.filter.shard-000002.parquet{kept}") == content
        assert not store.exists(name)
        assert store.index("columns/filter") == {n: entry for n, entry in sound.items() if n != 2}
    assert heal(store, damaged(store.path(name), "it is gone"), yes=False).startswith(f"{name} is gone")


def test_a_damaged_commit_leaves_its_data_to_be_taken_over(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    [name] = [
        f"images/_manifest/0000/{n}" for n in store.names("images/_manifest/0000") if n.startswith("shard-000003")
    ]
    store.write_bytes(name, b"{")
    with pytest.raises(DamagedError) as found:
        store.manifests("images")
    heal(store, found.value, yes=False)
    assert 3 not in store.index("images")
    assert store.exists(shard_file("images", 3))


def test_pixels_are_not_fetched_again_without_consent(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    name = shard_file("images", 0)
    store.write_bytes(name, b"PAR1")
    error = damaged(store.path(name), "cut off")
    with pytest.raises(UserError, match="--yes") as refused:
        heal(store, error, yes=False)
    assert name in str(refused.value.value)
    assert (store.read_bytes(name), 0 in store.index("images")) == (b"PAR1", True)
    heal(store, error, yes=True)
    assert (store.exists(name), 0 in store.index("images")) == (False, False)


@pytest.mark.parametrize("name", ["forgotten.parquet", "recipe.yaml"])
def test_what_nothing_here_can_make_again_stays(tmp_path: Path, name: str) -> None:
    store = make_run(tmp_path)
    store.write_bytes(name, b"x")
    store.write_bytes("recipe-copy.yaml", b"x")
    with pytest.raises(DamagedError):
        heal(store, damaged(store.path(name), "of one byte"), yes=True)
    assert store.read_bytes(name) == b"x"
    assert name in {one.name for one in examine(store).damaged}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [PLAN_JSON, PLAN_COPY])
def test_a_damaged_plan_is_restored_from_its_copy(tmp_path: Path, name: str, how: str) -> None:
    store = make_run(tmp_path, upto="plan")
    before = open_plan(store)
    was = _damage(store, name, DAMAGES[how])
    assert open_plan(store) == before
    restore_plan(store, before)
    assert store.read_bytes(name) == was
    assert read_plan_file(store, PLAN_JSON) == read_plan_file(store, PLAN_COPY) == before
    assert len(store.names("damaged")) == (how != "gone")


def test_parts_that_are_gone_or_cut_off_are_found_by_a_listing(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    assert parts_of_another_size(store, store.index("pairs")) == []
    store.write_bytes(shard_file("pairs", 0), b"")
    store.remove(shard_file("pairs", 1))
    found = parts_of_another_size(store, store.index("pairs"))
    assert [(Path(error.path).name, error.why.split(",")[0]) for error in found] == [
        ("part-000000.parquet", "it has 0 bytes"),
        ("part-000001.parquet", "it is gone"),
    ]


@pytest.mark.parametrize("lost", ["data", "commit", "both", "cut off"])
def test_a_shard_of_the_plan_is_planned_again_from_the_lists(tmp_path: Path, lost: str) -> None:
    store, replan = _with_two_lists(tmp_path)
    before = {n: store.read_bytes(shard_file("plan", n)) for n in store.index("plan")}
    index = store.index("plan")
    shard = max(index)
    if lost in ("data", "both"):
        store.remove(shard_file("plan", shard))
    if lost in ("commit", "both"):
        store.remove(manifest_file("plan", shard, index[shard]))
    if lost == "cut off":
        store.write_bytes(shard_file("plan", shard), before[shard][:-9])
    said = heal(store, damaged(store.path(shard_file("plan", shard)), lost), yes=False, replan=replan)
    assert "planned again" in said
    assert store.index("plan") == index
    assert {n: store.read_bytes(shard_file("plan", n)) for n in index} == before
    assert examine(store).damaged == []


@pytest.mark.parametrize("change", ["another list", "no list", "forgotten rows"])
def test_it_is_not_if_that_gives_other_rows(tmp_path: Path, change: str) -> None:
    store, replan = _with_two_lists(tmp_path)
    name = shard_file("plan", 0)
    if change == "another list":
        (tmp_path / "more.jsonl").write_text("")
        (tmp_path / "input.jsonl").write_text(json.dumps({"url": "http://a.example/ok/1", "text": "a ball", "id": 1}))
    elif change == "no list":
        (tmp_path / "input.jsonl").unlink()
    else:
        rows = store.load("plan", 0)
        blank = set_columns(rows, {"url": pa.array([""] * len(rows))})
        store.commit("plan", 0, store.index("plan")[0].key, blank, {"list": 0})
    store.write_bytes(name, b"x")
    with pytest.raises(DamagedError):
        heal(store, damaged(store.path(name), "of one byte"), yes=True, replan=replan)
    assert store.read_bytes(name) == b"x"


def _with_two_lists(folder: Path) -> tuple[Store, Callable[[int], bool]]:
    """A planned run of two lists, and what plans a shard of it again."""
    store = make_run(folder, upto="plan")
    more = folder / "more.jsonl"
    more.write_text(
        "".join(json.dumps({"url": f"http://m.example/ok/{n}", "text": f"{n}", "id": n}) + "\n" for n in range(9))
    )
    inputs = InputConfig(path=str(folder / "input.jsonl"), format="jsonl")
    shards = ShardsConfig(rows_per_shard=7)
    extend(store, [str(more)], inputs, shards)
    return store, lambda shard: plan_again(store, open_plan(store), inputs, shards, shard)


def test_a_manifest_with_another_number_is_noticed(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    name = manifest_file("columns/filter", 1, store.index("columns/filter")[1])
    text = store.read_bytes(name).decode()
    changed = text.replace('"rows_in": 7', '"rows_in": 6')
    store.write_bytes(name, (changed if changed != text else text.replace('"rows": 7', '"rows": 6')).encode())
    with pytest.raises(DamagedError, match="its digest"):
        store.manifests("columns/filter")
    assert [one.name for one in examine(store).damaged] == [name]


def test_a_damaged_note_of_a_rewriting_makes_its_shard_again(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    name = "rewriting/000002-columns.filter.json"
    store.write_bytes(name, b"{")
    [found] = examine(store).damaged
    assert found.name == name
    assert "shard 000002 of columns/filter is made again" in heal(store, damaged(store.path(name), "cut"), yes=False)
    assert 2 not in store.index("columns/filter") and not store.exists(name)
    assert store.exists(shard_file("columns/filter", 2))


def test_a_commit_that_is_gone_leaves_its_data_where_they_are(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    store.retract("images", 2)
    name = shard_file("images", 2)
    [found] = examine(store).damaged
    assert (found.name, "commits it again" in found.remedy) == (name, True)
    heal(store, damaged(store.path(name), found.why), yes=True)
    assert store.exists(name) and not store.names("damaged")


def test_a_run_that_was_killed_may_lack_commits(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="filter", shards_upto=3)
    assert examine(store).damaged == []


@pytest.mark.parametrize("instead", ["a folder", "a link to itself"])
def test_what_is_no_file_is_named_and_set_aside(tmp_path: Path, instead: str) -> None:
    store = make_run(tmp_path)
    name = shard_file("columns/filter", 1)
    path = Path(store.path(name))
    path.unlink()
    path.mkdir() if instead == "a folder" else path.symlink_to(path)
    assert [one.name for one in examine(store).damaged] == [name]
    if instead == "a folder":
        heal(store, damaged(store.path(name), "a folder"), yes=False)
        assert not path.exists()


def test_a_table_of_an_earlier_recipe_may_lack_shards(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    store.remove_shard("columns/recaption", 1)
    assert [one.name for one in examine(store).damaged] == [shard_file("columns/recaption", 1)]
    recipe = run_recipe(store) | {"recaption": {"enabled": False}}
    write_recipe(store, write_yaml(recipe))
    assert examine(store).damaged == []


def test_the_tables_of_a_run_are_those_it_has(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="select")
    (tmp_path / "run" / "columns" / ".blur.0123.partial").mkdir()
    store.commit("columns/blur", 0, "k", pa.table({"uid": ["a"]}), {})  # of a stage that is off
    store.commit("selections/other", 0, "k", pa.table({"uid": ["a"]}), {})
    columns = ["columns/blur", "columns/filter", "columns/policy"]
    assert tables_there(store, COLUMNS) == columns
    selections = ["selections/default", "selections/other"]
    assert tables_there(store) == ["plan", "images", *columns, *selections, "pairs"]
