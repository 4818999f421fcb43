"""Write a file or a folder that is there whole or not at all.

Both fill a hidden `.NAME.….partial` beside the destination and rename it once it is complete.  An exception removes it;
only a killed process leaves one behind, and no reader takes that for data.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pairmill.errors import UserError
from pairmill.faults import fault_point

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{32}\.partial", re.DOTALL)
#: Bytes of a name up to which it is part of the hidden one; file systems take 255 for the whole.
_LONGEST = 200

#: The file that marks a folder into which an export is being written, or was when it was killed.
_UNFINISHED = ".unfinished"


@contextmanager
def whole_file(path: Path, *, fault: str = "write") -> Iterator[IO[bytes]]:
    """A stream into `path`, which appears (or is replaced) when the block ends without an exception.

    fault: the fault point `FAULT.before_rename` is passed once the bytes are on disk under the hidden name.
    Raises OSError (disk full, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        fault_point(f"{fault}.before_rename")
        partial.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            error.filename = str(path)  # a full disk does not say for which file
        # The caller must see the first error, not that the clean-up failed as well.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `folder` when the block ends without an exception.

    What killed processes left of earlier ones is removed.
    Raises UserError if `folder` exists and is not empty; OSError if it cannot be written.
    """
    require_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in partials_of([folder]):
        with contextlib.suppress(BlockingIOError), _held(left):  # else its writer is at work
            shutil.rmtree(left, ignore_errors=True)
    partial = _partial(folder)
    partial.mkdir()
    try:
        with _held(partial):
            yield partial
            partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def unfinished_folder(folder: Path, ours: re.Pattern[str]) -> Iterator[None]:
    """An empty folder to write files into, marked by a hidden file as unfinished until the block ends.

    ours: the names of the files that the block writes; those that a killed process left in a marked folder are removed.
    Raises UserError if `folder` holds anything else, or if another process is writing into it.
    """
    mark = folder / _UNFINISHED
    if not mark.exists():
        require_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        with _held(mark):
            for file in folder.iterdir():
                if ours.fullmatch(file.name) or is_partial(file):
                    file.unlink()
            require_empty(folder, but=_UNFINISHED)
            try:
                yield
            finally:
                mark.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # it holds what was written
                    folder.rmdir()
    except BlockingIOError:
        raise UserError(
            "an export must be written into a folder of its own, and another process is writing into this one",
            value=folder,
            fix="wait for it, or give another folder",
        ) from None


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file or folder until the block, or this process, ends.  Raises BlockingIOError if another process does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def require_empty(folder: Path, *, but: str | None = None) -> None:
    """Raise UserError unless an export can be written to `folder`: it must be new or empty, except for `but`."""
    if folder.exists() and not (folder.is_dir() and not any(file.name != but for file in folder.iterdir())):
        raise UserError(
            "an export must be written into a new or an empty folder, so that no file of an earlier one stays in it",
            value=folder,
            fix="give another folder, or empty this one",
        )


def partials_of(paths: Iterable[Path]) -> list[Path]:
    """What writers of these files and folders have not finished: of killed processes, or of running ones."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(_shown(path))
    found = []
    for folder, wanted in names.items():
        for file in folder.iterdir() if folder.is_dir() else ():
            if (match := _PARTIAL.fullmatch(file.name)) and match[1] in wanted:
                found.append(file)
    return sorted(found)


def is_partial(path: Path) -> bool:
    """Whether a path is what a writer has not finished."""
    return _PARTIAL.fullmatch(path.name) is not None


def _partial(path: Path) -> Path:
    return path.parent / f".{_shown(path)}.{uuid.uuid4().hex}.partial"


def _shown(path: Path) -> str:
    name = os.fsencode(path.name)
    return path.name if len(name) <= _LONGEST else hashlib.blake2b(name, digest_size=16).hexdigest()
