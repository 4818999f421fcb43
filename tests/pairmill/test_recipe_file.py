"""A run keeps its recipe: what was edited or damaged since does not count, and is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pairmill.damage import DamagedError
from pairmill.layout import RECIPE_COPY, RECIPE_FILE
from pairmill.origin import origin_of, with_origin
from pairmill.recipe_file import read_recipe_file, recipe_text, restore_recipe, run_recipe, sealed, write_recipe
from pairmill.run_records import write_record
from pairmill.store import Store
from pairmill.yaml_text import read_mapping
from pipelines.consent import Acceptance

RECIPE = "image: {size: 256}\nseeds: [1, 2]\n"
RECORD = {
    **{"run": 1, "command": "c", "started_at": 1.0, "finished_at": None},
    **{"segments": {}, "versions": {}, "cluster": {}},
}
EDITS = {
    "another value": lambda old: old.replace(b"256", b"512"),
    "one more line": lambda old: old + b"nope: 3\n",
    "a line less": lambda old: b"\n".join(old.split(b"\n")[1:]),
    "a comment": lambda old: b"# mine\n" + old,
    "no digest": lambda old: b"\n".join(old.split(b"\n")[:-2]),
    "cut off": lambda old: old[:-1],
    "empty": lambda old: b"",
    "no text": lambda old: b"\xff\xfe",
    "other line ends": lambda old: old.replace(b"\n", b"\r\n"),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "run"))
    write_recipe(store, RECIPE)
    write_record(store, RECORD)
    return store


def test_what_was_written_is_the_recipe(store: Store) -> None:
    assert run_recipe(store) == {"image": {"size": 256}, "seeds": [1, 2]}
    assert store.read_bytes(RECIPE_FILE) == store.read_bytes(RECIPE_COPY)
    # A person, or the command that is given the file, reads the same.
    assert read_mapping(store.read_text(RECIPE_FILE) or "", "recipe") == run_recipe(store)


def test_it_keeps_where_its_paths_start(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(store, with_origin(RECIPE))
    assert origin_of(recipe_text(store) or "") == str(tmp_path)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", [RECIPE_FILE, RECIPE_COPY])
def test_an_edit_does_not_count_and_is_kept_aside(store: Store, name: str, edit: str) -> None:
    edited = EDITS[edit](store.read_bytes(name))
    store.write_bytes(name, edited)
    with pytest.raises(DamagedError, match=name):
        read_recipe_file(store, name)
    assert recipe_text(store) == sealed(RECIPE)
    restore_recipe(store)
    assert store.read_bytes(RECIPE_FILE) == store.read_bytes(RECIPE_COPY) == sealed(RECIPE).encode()
    assert store.read_bytes(f"damaged/{name}") == edited


@pytest.mark.parametrize("name", [RECIPE_FILE, RECIPE_COPY])
def test_one_that_is_gone_is_written_again(store: Store, name: str) -> None:
    store.remove(name)
    assert recipe_text(store) == sealed(RECIPE)
    restore_recipe(store)
    assert store.read_bytes(name) == sealed(RECIPE).encode()
    assert store.names("damaged") == []


@pytest.mark.parametrize("edit", EDITS)
def test_where_neither_is_whole_that_is_said(store: Store, edit: str) -> None:
    for name in (RECIPE_FILE, RECIPE_COPY):
        store.write_bytes(name, EDITS[edit](store.read_bytes(name)))
    with pytest.raises(DamagedError, match=RECIPE_FILE):
        run_recipe(store)
    before = {name: store.read_bytes(name) for name in (RECIPE_FILE, RECIPE_COPY)}
    restore_recipe(store)
    assert {name: store.read_bytes(name) for name in before} == before, "they wait for the next job's recipe"


def test_of_two_that_are_whole_the_one_that_was_written_first_counts(store: Store) -> None:
    store.write_bytes(RECIPE_FILE, sealed("image: {size: 64}").encode())  # and then the job was killed
    assert run_recipe(store) == {"image": {"size": 64}}
    restore_recipe(store)
    assert store.read_bytes(RECIPE_COPY) == sealed("image: {size: 64}\n").encode()


def test_every_bit_of_it_counts(store: Store) -> None:
    sound = store.read_bytes(RECIPE_FILE)
    for place in range(len(sound)):
        Path(store.path(RECIPE_FILE)).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(DamagedError):
            read_recipe_file(store, RECIPE_FILE)


def test_somebodys_own_recipe_where_a_run_will_be_is_none_of_the_run(store: Store) -> None:
    store.remove(RECIPE_COPY)
    shutil.rmtree(store.path("runs"))
    store.write_bytes(RECIPE_FILE, RECIPE.encode())
    assert recipe_text(store) is None


@pytest.mark.parametrize("foreign", [b"image: {size: 64}\n", b"", b"\xff\xfe"])
@pytest.mark.parametrize("copy", [None, b"x"])
def test_what_a_job_writes_its_recipe_over_is_kept_aside(store: Store, foreign: bytes, copy: bytes | None) -> None:
    shutil.rmtree(store.path("runs"))
    store.write_bytes(RECIPE_FILE, foreign)
    store.remove(RECIPE_COPY)
    if copy is not None:
        store.write_bytes(RECIPE_COPY, copy)
    accepted = Acceptance(store, RECIPE)
    accepted.accept()
    accepted.accept()
    assert run_recipe(store)["seeds"] == [1, 2]
    assert store.read_bytes(f"damaged/{RECIPE_FILE}") == foreign
    kept = [RECIPE_FILE] if copy is None else [RECIPE_COPY, RECIPE_FILE]
    assert store.names("damaged") == kept
    accepted.withdraw()
    assert store.read_bytes(RECIPE_FILE) == foreign and store.names("damaged") == []


def test_a_recipe_of_ours_that_another_replaces_is_not_damaged(store: Store) -> None:
    Acceptance(store, "image: {size: 64}\n").accept()
    assert store.names("damaged") == [] and run_recipe(store) == {"image": {"size": 64}}
