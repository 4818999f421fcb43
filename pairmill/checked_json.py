"""JSON objects that carry a digest of themselves, so that a bit that has changed is noticed where they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pairmill.config import digest
from pairmill.damage import damaged, undamaged

if TYPE_CHECKING:
    from pairmill.store import Store

#: The entry that holds the digest of all others.
CHECK = "check"


def checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with the digest of what it says."""
    return {**data, CHECK: _check(json.loads(json.dumps(data)))}


def require_check(path: str, data: object, what: str) -> dict[str, Any]:
    """What `checked` was given, of any JSON data.

    path: the file that holds it.  what: what it must be, for the message.
    Raises DamagedError for anything that `checked` did not make.
    """
    if not (isinstance(data, dict) and isinstance(data.get(CHECK), str)):
        raise damaged(path, f"it is no {what}")
    with undamaged(path, local=True):  # texts that are no Unicode, or too deep
        same = data[CHECK] == _check(data)
    if not same:
        raise damaged(path, f"its digest is that of another {what}")
    return {name: value for name, value in data.items() if name != CHECK}


def write_checked(store: Store, name: str, data: Mapping[str, Any], fault: str = "write") -> None:
    """Write an object with its digest, all or nothing."""
    store.write_json(name, checked(data), fault)


def read_checked(store: Store, name: str, what: str) -> dict[str, Any] | None:
    """The object that `write_checked` wrote; None if there is no such file.  Raises DamagedError as `require_check`."""
    data = store.read_json(name)
    return require_check(store.path(name), data, what) if data is not None or store.exists(name) else None


def _check(data: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in data.items() if name != CHECK})
