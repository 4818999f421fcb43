"""Files of a run that are not what pairmill wrote: cut off, overwritten, of another version, or gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyarrow import ArrowException

from pairmill.errors import RunDirError


class Damage(NamedTuple):
    """What is wrong with a file: its path, as its file system names it, and why it cannot be what was written."""

    path: str
    why: str

    def __str__(self) -> str:
        """For a message: the path in quotes if its end could not be told otherwise."""
        plain = ": " not in self.path and self.path.isprintable() and not self.path.startswith('"')
        return f"{self.path if plain else json.dumps(self.path, ensure_ascii=False)}: {self.why}"

    @classmethod
    def said(cls, text: str) -> Damage:
        """What `str` made a text of: Ray Data keeps of a worker's error the message only."""
        if not text.startswith('"'):
            return cls(*text.partition(": ")[::2])
        path, end = json.JSONDecoder().raw_decode(text)
        return cls(path, text[end:].removeprefix(": "))


class DamagedError(RunDirError):
    """A file of a run is not what pairmill wrote.  path, why: as of `Damage`."""

    def __init__(self, rule: str, *, value: object, fix: str) -> None:
        super().__init__(rule, value=value, fix=fix)
        self.path, self.why = value if isinstance(value, Damage) else Damage.said(str(value))

    def __reduce__(self) -> tuple[object, ...]:
        return damaged, (self.path, self.why)


def damaged(path: str, why: object) -> DamagedError:
    """The error for a file of a run that cannot be what pairmill wrote.  why: what is wrong with it."""
    return DamagedError(
        "the files of a run must be as this version of pairmill writes them",
        value=Damage(path, one_line(why)),
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
