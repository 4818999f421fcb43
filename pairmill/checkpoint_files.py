"""The files of a checkpoint with their digests.

    training.json    in each checkpoint: a digest of every other file, and one of itself

torch is not imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pairmill.config import digest
from pairmill.errors import InputError
from pairmill.store import Store

TRAINING_FILE = "training.json"

_CHUNK = 1 << 20


class Finding(NamedTuple):
    """A damaged file: its path within the run, and what is wrong with it."""

    path: str
    why: str


def sealed(folder: Path, data: Mapping[str, Any]) -> str:
    """The text of a checkpoint's TRAINING_FILE: `data`, and the digests of all other files of `folder`."""
    store = Store(str(folder))
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    whole = {**data, "files": {name: _digest(store, name) for name in names if name != TRAINING_FILE}}
    return json.dumps({**whole, "digest": digest(whole)}, indent=1)


def require_whole(folder: Path, only: str | None = None) -> None:
    """Raise InputError for a checkpoint that is not as it was written; other models have no digests.

    only: the one file that will be read; None: all.
    """
    if not (folder / TRAINING_FILE).exists():
        return
    if damage := checkpoint_findings(Store(str(folder)), only=only):
        raise InputError(
            "a checkpoint must be as it was written",
            value=f"{folder / damage[0].path}: {damage[0].why}",
            fix="restore the file from a copy, or give an earlier checkpoint",
        )


def checkpoint_findings(store: Store, folder: str = "", *, only: str | None = None) -> list[Finding]:
    """What is damaged of a checkpoint.  folder: its path in `store`.  only: the file to look at; None: all.

    Of a checkpoint without digests, which an earlier version wrote, only TRAINING_FILE is looked at.
    """
    inner = f"{folder}/" if folder else ""
    try:
        data = read_training(store, f"{inner}{TRAINING_FILE}")
    except ValueError as error:
        return [Finding(f"{inner}{TRAINING_FILE}", str(error))]
    found = []
    for name, wanted in data.get("files", {}).items():
        if only not in (None, name):
            continue
        try:
            there = _digest(store, f"{inner}{name}")
        except FileNotFoundError:
            found.append(Finding(f"{inner}{name}", "it is gone"))
            continue
        if there["bytes"] != wanted["bytes"]:
            found.append(Finding(f"{inner}{name}", f"it has {there['bytes']:,} bytes of {wanted['bytes']:,}"))
        elif there != wanted:
            found.append(Finding(f"{inner}{name}", "its content has changed"))
    return found


def read_training(store: Store, name: str) -> dict[str, Any]:
    """The content of a TRAINING_FILE, without its digest.  Raises ValueError that says what is wrong with it."""
    data = read_json(store, name)
    if not (isinstance(data, dict) and {"step", "plan", "metrics"} <= data.keys()):
        raise ValueError("it is not a checkpoint's")
    kept = data.pop("digest", None)
    if kept is not None and kept != digest(data):
        raise ValueError("its content has changed")
    return data


def _digest(store: Store, name: str) -> dict[str, Any]:
    """Size and BLAKE2b-128 of a file."""
    hashed, size = hashlib.blake2b(digest_size=16), 0
    with store.filesystem.open_input_stream(store.path(name)) as stream:
        while chunk := stream.read(_CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return {"bytes": size, "blake2b": hashed.hexdigest()}


def read_json(store: Store, name: str) -> Any:
    """Raises ValueError that says what is wrong with the file."""
    try:
        return json.loads(store.read_bytes(name))
    except FileNotFoundError:
        raise ValueError("it is gone") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON ({error})") from None
