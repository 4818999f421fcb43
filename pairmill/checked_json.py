"""JSON objects that carry a digest of themselves, so that a bit that has changed is noticed where they are read."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from pairmill.config import digest
from pairmill.damage import damaged, undamaged
from pairmill.errors import IntegrityError

if TYPE_CHECKING:
    from pairmill.store import Store

T = TypeVar("T")

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


def write_as(store: Store, name: str, data: Mapping[str, Any], what: str, kind: Hashable, fault: str = "write") -> None:
    """Write an object that `read_as` reads again as `kind`.  what: as there.

    Raises IntegrityError for one that it would take for damage; nothing is written then.
    """
    try:
        _adapter(kind).validate_python(json.loads(json.dumps(data)))
    except ValidationError as error:
        raise IntegrityError(f"{store.path(name)} must be written as it is read: {_first(error, what)}") from error
    write_checked(store, name, data, fault)


def read_checked(store: Store, name: str, what: str) -> dict[str, Any] | None:
    """The object that `write_checked` wrote; None if there is no such file.  Raises DamagedError as `require_check`."""
    data = store.read_json(name)
    return require_check(store.path(name), data, what) if data is not None or store.exists(name) else None


def read_as(store: Store, name: str, what: str, kind: type[T]) -> T | None:
    """The object that `write_checked` wrote, as `kind`: a type that pydantic knows; None if there is no such file.

    what: what it must be, for the message.  Raises DamagedError for everything else that the file may hold.
    """
    data = read_checked(store, name, what)
    return None if data is None else validated(store.path(name), data, what, kind)


def validated(path: str, data: object, what: str, kind: type[T]) -> T:
    """Plain data as `kind`.  Raises DamagedError, which names the file and the entry, if it is something else."""
    try:
        return cast(T, _adapter(cast(Hashable, kind)).validate_python(data))
    except ValidationError as error:
        raise damaged(path, _first(error, what)) from error


def _first(error: ValidationError, what: str) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"it is no {what}: {where} {first['msg']}".replace(":  ", ": ")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def _check(data: Mapping[str, Any]) -> str:
    return digest({name: value for name, value in data.items() if name != CHECK})
