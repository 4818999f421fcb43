"""Files of a run that are not what pairmill wrote: cut off, overwritten, of another version, or gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow import ArrowException

from pairmill.errors import RunDirError


class DamagedError(RunDirError):
    """A file of a run is not what pairmill wrote."""

    @property
    def path(self) -> str:
        """The file, as its file system names it."""
        return str(self.value).partition(": ")[0]

    @property
    def why(self) -> str:
        """What is wrong with it."""
        return str(self.value).partition(": ")[2]


def damaged(path: str, why: object) -> DamagedError:
    """The error for a file of a run that cannot be what pairmill wrote.  why: what is wrong with it."""
    return DamagedError(
        "the files of a run must be as this version of pairmill writes them",
        value=f"{path}: {' '.join(str(why).split())}",
        fix="run `pairmill verify` on the run: it names every such file, and how each is made again",
    )


@contextmanager
def undamaged(path: str, *, local: bool) -> Iterator[None]:
    """Raise DamagedError if the block, which reads a file, finds other content: text, JSON or parquet.

    local: whether it is a file of this machine; an object store's own errors look like those of its content.
    """
    try:
        yield
    except (ValueError, KeyError, RecursionError, ArrowException) as error:
        raise damaged(path, error) from error
    except OSError as error:
        # Without a number: pyarrow found bytes that are no parquet, or a folder, and not that the disk fails.
        if error.errno is not None or not (local or "page integrity" in str(error)):
            raise
        raise damaged(path, error) from error
