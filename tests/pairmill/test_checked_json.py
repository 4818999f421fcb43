"""Objects with a digest of themselves: what was written is read again, and everything else is named as damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pairmill.checked_json import checked, read_checked, write_checked
from pairmill.damage import DamagedError
from pairmill.store import Store

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
#: All that `json.loads` returns: with infinities, and texts that are no Unicode.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
OBJECT = {"run": 1, "at": 1e-07, "names": ["ü", "\n"], "inner": {"2": None, "1": True}}


@SAME_FOLDER
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
        max_size=4,
    )
)
def test_what_was_written_is_read(tmp_path: Path, data: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    data.pop("check", None)
    write_checked(store, "a.json", data)
    assert read_checked(store, "a.json", "thing") == data


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_checked(Store(str(tmp_path)), "a.json", "thing") is None


@SAME_FOLDER
@given(VALUES | st.dictionaries(st.text(), VALUES).map(lambda data: {**data, "check": "0" * 16}))
def test_any_other_json_is_damaged(tmp_path: Path, data: Any) -> None:
    store = Store(str(tmp_path))
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(DamagedError):
        read_checked(store, "a.json", "thing")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"check": ' + "[" * 100_000, "9" * 5000, '{"check": "\\ud800"}', "null", "", "NaN", '"check"'],
)
def test_odd_json_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedError):
        read_checked(Store(str(tmp_path)), "a.json", "thing")


@pytest.mark.parametrize("bit", range(8))
def test_every_bit_that_has_changed_is_noticed(tmp_path: Path, bit: int) -> None:
    store = Store(str(tmp_path))
    sound = json.dumps(checked(OBJECT), ensure_ascii=False).encode()
    for place in range(len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << bit
        (tmp_path / "a.json").write_bytes(flipped)
        try:
            found = read_checked(store, "a.json", "thing")
        except DamagedError as error:
            assert error.value
        else:
            assert found == OBJECT, "another spelling of the same, as 1E-07 is"
