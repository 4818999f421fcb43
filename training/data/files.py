"""The files of a dataset: from a path, folder, glob or {a..b} pattern to sorted files of one ending."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow.fs as pafs

_BRACES = re.compile(r"\{([^{}]+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILD = "*?["


class Found(NamedTuple):
    """Files of a dataset on one file system.  names: relative to the dataset, so that they mean the same elsewhere."""

    filesystem: pafs.FileSystem
    paths: tuple[str, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..012}.tar` and `{x,y}.tar` as the names they stand for; a range keeps the width of its first number."""
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if at % 2 else [part] for at, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(inner: str) -> list[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        return inner.split(",")
    first, last = bounds.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def filesystem_of(path: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or s3://…, gs://… address, and the path in it."""
    if "://" in path:
        filesystem, root = pafs.FileSystem.from_uri(path)
        return filesystem, root.rstrip("/")
    # Readers run in other folders than the command did.
    return pafs.LocalFileSystem(), os.path.abspath(path)


def find(path: str, ending: str) -> Found:
    """The files below a folder, or those that a file name or pattern stands for; `paths` is empty if there are none.

    Hidden files and folders (`.x`, `_x`) below a folder are passed over, as Spark and pyarrow do.
    """
    filesystem, root = filesystem_of(path)
    infos: list[pafs.FileInfo] = []
    for name in expand_braces(root):
        infos += _matching(filesystem, name, ending)
    unique = sorted({info.path: info for info in infos}.values(), key=lambda info: info.path)
    base = _base([info.path for info in unique])
    names = tuple(info.path[len(base) :].lstrip("/") for info in unique)
    return Found(filesystem, tuple(info.path for info in unique), names, tuple(info.size for info in unique))


def _matching(filesystem: pafs.FileSystem, name: str, ending: str) -> Iterable[pafs.FileInfo]:
    if not any(c in name for c in _WILD):
        info = filesystem.get_file_info(name)
        if info.type == pafs.FileType.File:
            return [info] if info.path.endswith(ending) else []
        if info.type != pafs.FileType.Directory:
            return []
        inside = filesystem.get_file_info(pafs.FileSelector(name, recursive=True))
        return [f for f in _files(inside, ending) if not _hidden(f.path, name)]
    parts = PurePosixPath(name).parts
    first = next(at for at, part in enumerate(parts) if any(c in part for c in _WILD))
    folder = str(PurePosixPath(*parts[:first])) if first else "."
    inside = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=True))
    return [
        f
        for f in _files(inside, ending)
        if len(PurePosixPath(f.path).parts) == len(PurePosixPath(name).parts) and PurePosixPath(f.path).match(name)
    ]


def _files(infos: Iterable[pafs.FileInfo], ending: str) -> list[pafs.FileInfo]:
    return [f for f in infos if f.type == pafs.FileType.File and f.path.endswith(ending)]


def _hidden(path: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in path[len(root) :].strip("/").split("/"))


def _base(paths: list[str]) -> str:
    """The deepest folder that holds all of them."""
    if not paths:
        return ""
    folders = [PurePosixPath(path).parent.parts for path in paths]
    shared = [parts[0] for parts in zip(*folders, strict=False) if len(set(parts)) == 1]
    return str(PurePosixPath(*shared)) if shared else ""
