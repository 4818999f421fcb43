"""The samples of a webdataset tar: consecutive files that share a key.

The key is a member's path up to the first dot of its last part, the ending is what follows that dot, in lower case:
`train/0001.seg.png` has the key `train/0001` and the ending `seg.png`.  So do webdataset, open_clip and `datasets`.
Where they lose samples or differ, the rules here are:

- A sample of which no file has a wanted ending is cut again at the last dot: `v1.5.jpg` and `v1.5.txt` are the sample
  `v1.5`.  Those three give it the key `v1` and the endings `5.jpg` and `5.txt`, which nobody asks for.
- A file of the ending of one before it begins another sample, as in open_clip.  webdataset raises an error, `datasets`
  keeps the later file.
- Hidden files (`._0001.jpg`, which macOS puts into tars) and files without an ending are no part of a sample, nor its
  end.
- Endings are alike in upper and lower case.

What is left out is counted, by reason:

hidden      file whose name begins with a dot
no_ending   file without a dot in its name
no_content  link or sparse file, which has no bytes of its own in the tar
other       file of a sample with an ending that is not asked for, or of a kind that the sample has already
no_sample   sample without the files that make one, or of which they say nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from tarfile import TarInfo
from typing import TypeVar

T = TypeVar("T")

#: Endings of files with an image that Pillow reads, and of files with text.
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jfif")
TEXT_ENDINGS = ("txt", "caption", "text", "captions")

#: Files of one key after which the sample is taken to be many, whose names have a dot.
_MANY = 64


def split_name(name: str) -> tuple[str, str]:
    """Key and ending of a member."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending.lower()


def printable(name: str) -> str:
    """A member's name as text that can be stored: bytes that are not UTF-8 as `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def samples(
    tar: Iterable[TarInfo],
    kinds: Mapping[str, str],
    load: Callable[[TarInfo], T],
    makes: Callable[[Collection[str]], bool],
    left_out: Counter[str],
) -> Iterator[tuple[str, dict[str, T]]]:
    """Key and files of each sample by their kind, in the order of the tar.

    tar: an open `tarfile.TarFile`, which may be a stream that can only be read forwards.
    kinds: the kind of each ending asked for; of two files of one kind, the ending listed first counts.
    load: called for every member with such an ending before the next member is looked at.
    makes: whether files of these kinds make a sample.
    left_out: is added to.
    Raises tarfile.TarError where the tar is damaged.
    """
    key, files = "", dict[str, T]()

    def ended(*, whole: bool = True) -> Iterator[tuple[str, dict[str, T]]]:
        """The samples among the files of a key; if they are not whole, without those of the last name, which stay."""
        if makes(_kinds_of(files, kinds)):
            stems = {"": dict(files)}
        else:
            stems = {}
            for ending, loaded in files.items():
                stem, _, last = ending.rpartition(".")
                stems.setdefault(stem, {})[last] = loaded
        files.clear()
        if not whole:
            stem, parts = stems.popitem()
            files.update({f"{stem}.{last}" if stem else last: loaded for last, loaded in parts.items()})
        for stem, parts in stems.items():
            if not makes(_kinds_of(parts, kinds)):
                left_out["no_sample"] += 1
                continue
            found: dict[str, T] = {}
            for ending, kind in kinds.items():
                if ending in parts:
                    found.setdefault(kind, parts[ending])
            left_out["other"] += len(parts) - len(found)
            yield f"{key}.{stem}" if stem else key, found

    for member in tar:
        if member.isdir():
            continue
        if reason := _no_part(member):
            left_out[reason] += 1
            continue
        own, ending = split_name(printable(member.name))
        if own != key or ending in files:
            yield from ended()
            key = own
        asked = ending.rpartition(".")[2] in kinds
        files[ending] = load(member) if asked else None  # type: ignore[assignment]  # never looked at
        if len(files) > _MANY and not makes(_kinds_of(files, kinds)):
            yield from ended(whole=False)
    yield from ended()


def _no_part(member: TarInfo) -> str | None:
    """Why a member is no part of any sample; None if it is."""
    base = member.name.rpartition("/")[2]
    if base.startswith("."):
        return "hidden"
    if "." not in base:
        return "no_ending"
    return None if member.isreg() and not member.issparse() else "no_content"


def _kinds_of(endings: Iterable[str], kinds: Mapping[str, str]) -> set[str]:
    return {kinds[ending] for ending in endings if ending in kinds}
