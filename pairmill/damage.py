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
        value=f"{path}: {one_line(why)}",
        fix="run `pairmill verify` on the run: it names every such file, and how each is made again",
    )


def one_line(why: object) -> str:
    """What libraries say in several lines, for a message."""
    return " ".join(str(why).split())


@contextmanager
def undamaged(path: str, *, local: bool) -> Iterator[None]:
    """Raise DamagedError if the block, which reads a file, finds other content: text, JSON or parquet.

    local: whether it is a file of this machine; an object store's own errors look like those of its content.
    """
    try:
        yield
    except (*_OF_CONTENT, OSError) as error:
        if not of_content(error, local=local):
            raise
        raise damaged(path, error) from error


#: What readers of text, JSON and parquet raise for bytes that are none.
_OF_CONTENT = (ValueError, KeyError, RecursionError, ArrowException)


def of_content(error: BaseException, *, local: bool) -> bool:
    """Whether what was raised while a file was read says that its bytes are wrong, and not that the disk fails.

    local: as for `undamaged`.
    """
    if isinstance(error, OSError):  # without a number: pyarrow found bytes that are no parquet, or a folder
        return error.errno is None and (local or "page integrity" in str(error))
    return isinstance(error, _OF_CONTENT)
