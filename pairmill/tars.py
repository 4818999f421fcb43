"""The samples of a webdataset tar: consecutive files that share a key.

The key is a member's path up to the first dot of its last part; the ending is what follows that dot, in lower case:
`train/0001.seg.png` has the key `train/0001` and the ending `seg.png`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from tarfile import TarInfo


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def samples(tar: Iterable[TarInfo]) -> Iterator[tuple[str, Iterator[tuple[str, TarInfo]]]]:
    """Key of each sample, and (ending, member) of its files, in the order of the tar; folders and links are skipped.

    tar: an open `tarfile.TarFile`, which may be a stream that can only be read forwards: read a member's content before
    asking for the next member.
    Raises tarfile.TarError where the tar is damaged.
    """
    members = ((*split_name(member.name), member) for member in tar if member.isfile())
    for key, files in groupby(members, key=lambda member: member[0]):
        yield key, ((ending, member) for _, ending, member in files)
