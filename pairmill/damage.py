"""Files of a run that are not what pairmill wrote: cut off, overwritten, or of another version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pairmill.errors import RunDirError


def damaged(path: str, why: object) -> RunDirError:
    """The error for a file of a run that cannot be what pairmill wrote.  why: what is wrong with it."""
    return RunDirError(
        "the files of a run must be as this version of pairmill writes them",
        value=f"{path}: {why}",
        fix="restore the file from a copy, or start again in another run_dir",
    )


@contextmanager
def undamaged(path: str, *, local: bool) -> Iterator[None]:
    """Raise RunDirError if the block, which reads a file, finds other content: text, JSON or parquet.

    local: whether it is a file of this machine; an object store's own errors look like those of its content.
    """
    try:
        yield
    except ValueError as error:
        raise damaged(path, error) from error
    except OSError as error:
        # Without a number: pyarrow found bytes that are no parquet, or a folder, and not that the disk fails.
        if error.errno is not None or not local:
            raise
        raise damaged(path, error) from error
