"""Where data is: local paths and s3://, gs://, file:// addresses, and which files a path or a pattern stands for.

    list.parquet            that file
    folder                  every file below it
    part-*.parquet          `*`, `?` and `[…]` as in a shell: within one part of the path; `**` is any number of folders
                            (a matching folder NAME.parquet, as Spark writes one, stands for the files below it)
    part-{000..012}.tar     each of these names; {train,test} likewise

A file that exists under the literal name is taken, whatever characters the name has.  Hidden files and folders (`.x`,
`_x`) are skipped, as in Spark and pyarrow, unless the path or that part of the pattern begins like that itself.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from pairmill.errors import RecipeError, UserError
from pairmill.redaction import redact
from pairmill.secret_names import is_secret_parameter

_WILD = frozenset("*?[")
_BRACES = re.compile(r"\{((?:[^{}]*,[^{}]*)|\d+\.\.\d+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
#: Where the options of an address begin (`?region=…`): a `?` elsewhere is part of a pattern.
_OPTIONS = re.compile(r"\?[A-Za-z_]+=")
#: An address that has lost a slash, be it to pathlib.
_ONE_SLASH = re.compile(r"^(?!file:)([A-Za-z][A-Za-z0-9+.-]+):/(?!/)", re.IGNORECASE)
_SLIP = re.compile(r"(?:s3|s3a|gs|gcs|az|abfss?|hdfs|https?):(?!//)", re.IGNORECASE)
#: How addresses begin that we open.  pyarrow takes more, which are another library's (hf://) or for its tests (mock://).
_SCHEMES = frozenset({"s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"})
_LISTING_THREADS = 16


class Found(NamedTuple):
    """Files on one file system, sorted by path.

    paths: as the file system names them.  names: relative to the deepest folder that holds all of them, so that they
    mean the same elsewhere.  sizes: bytes.  modified_ns: time of the last change, ns since the epoch; None if unknown.
    root: the path that was given, or the folders of a pattern before its first wildcard.
    """

    filesystem: pafs.FileSystem
    paths: tuple[str, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    modified_ns: tuple[int | None, ...] = ()
    root: str = ""

    def ending_in(self, ending: str) -> Found:
        """The files whose path ends in `ending`, a lower-case one, in upper or lower case."""
        files = zip(self.paths, self.sizes, self.modified_ns, strict=True)
        return _found(self.filesystem, [file for file in files if file[0].lower().endswith(ending)])


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or an address, and the path in it, without a slash at the end.

    Raises UserError for an address of no known kind, or one that cannot be reached.
    """
    uri = absolute(uri)
    local = _local_path(uri)
    if local is not None:
        return pafs.LocalFileSystem(), local
    try:
        filesystem, path = pafs.FileSystem.from_uri(_quoted(uri))
    except (pa.ArrowException, ValueError, ImportError) as error:
        raise _unknown(uri, str(error)) from None
    except OSError as error:
        raise _unreachable(uri, error) from error
    return filesystem, path.rstrip("/")


def _unknown(uri: str, why: str = "") -> UserError:
    return UserError(
        "a path must be local or an address that begins with s3://, gs:// or file://",
        value=f"{redact(uri)} ({redact(why)})" if why else redact(uri),
        fix="correct the address, or copy the data to one of these",
    )


def _unreachable(uri: str, error: Exception) -> UserError:
    return UserError(
        "an address must lead to a place that this machine reaches",
        value=f"{redact(uri)} ({redact(str(error))})",
        fix="correct the address, the credentials or the network",
    )


def absolute(uri: str) -> str:
    """The same place, independent of the current folder: local paths are made absolute, with `~` expanded.

    The network is not asked.  Raises UserError for an address of no known kind, for one without a bucket, for one with
    credentials, and for the home of a user that there is not.
    """
    local = _local_path(uri)
    if local is not None:
        return local
    scheme, _, rest = uri.partition("://")
    if scheme.lower() not in _SCHEMES:
        raise _unknown(uri)
    _refuse_keys(uri)
    # HDFS has a place that its configuration names: hdfs:///folder.
    named = rest if scheme.lower() in ("hdfs", "viewfs") else rest.split("/")[0]
    if not named.strip("/"):
        raise UserError("an address must name a bucket", value=redact(uri), fix="write s3://BUCKET/…, or gs://BUCKET/…")
    return f"{scheme.lower()}://{rest}".rstrip("/")


def absolute_in_recipe(uri: str, key: str, what: str) -> str:
    """As `absolute`, for the value of a recipe's key.  what: what it must do or be.  Raises RecipeError."""
    try:
        return absolute(uri)
    except UserError as error:
        raise RecipeError(f"{key} must {what}", value=f"{error.value}: {error.rule}", fix=error.fix) from None


def expanded(path: str) -> str:
    """A local path with the home of a user for `~` and `~NAME`; a file that begins like that is meant if it is there.

    Raises UserError if there is no such user: a folder `~NAME` would be made.
    """
    home = os.path.expanduser(path)
    if home.startswith("~") and not os.path.lexists(home.split("/")[0]):
        raise UserError(
            "a path that begins with ~NAME must name a user of this machine",
            value=path,
            fix=f"correct the name, or write ./{path} for a folder of that name",
        )
    return home


def local_path(given: str | os.PathLike[str], what: str) -> Path:
    """The place of a file or folder to write on this machine, with `~` expanded.

    what: how the user calls it, for messages.  Raises UserError for an address of another place, which would become a
    folder `s3:`.
    """
    # pathlib makes one slash of two.
    uri = _ONE_SLASH.sub(r"\1://", os.fspath(given))
    local = _local_path(uri)
    if local is None:
        raise UserError(
            f"{what} must be a path on this machine",
            value=redact(uri),
            fix="give a local path, and copy what is written there to the bucket",
        )
    return Path(local)


def _local_path(uri: str) -> str | None:
    """The absolute path on this machine; None for other addresses."""
    if "\0" in uri:
        raise UserError("a path must not hold a NUL character", value=repr(uri), fix="correct the path")
    # `file:/folder` is an address too (RFC 8089); with other schemes it is a slip that would make a folder `s3:`.
    uri = re.sub(r"^file:/(?!/)", "file:///", uri, flags=re.IGNORECASE)
    if _SLIP.match(uri) or _ONE_SLASH.match(uri):
        raise UserError(
            "an address must have two slashes behind its scheme",
            value=redact(uri),
            fix="write s3://BUCKET/…, gs://BUCKET/…, or ./… for a folder of that name",
        )
    if "://" not in uri:
        return os.path.abspath(expanded(uri))
    scheme, _, path = uri.partition("://")
    if scheme.lower() != "file":
        return None
    path = path.removeprefix("localhost")
    if not path.startswith("/"):
        raise UserError(
            "a file:// address must hold an absolute path", value=uri, fix="write file:///folder/…, or a plain path"
        )
    # People write a space as it is; programs write %20.
    return os.path.abspath(unquote(path))


def _quoted(uri: str) -> str:
    """The address with what pyarrow refuses in a path (spaces, braces, brackets, letters beyond ASCII) as %XX."""
    scheme, _, rest = uri.partition("://")
    options = _OPTIONS.search(rest)
    end = options.start() if options else len(rest)
    authority, slash, path = rest[:end].partition("/")
    path = quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path), safe="/%:@!$&'()*+,;=~")
    return f"{scheme}://{authority}{slash}{path}{rest[end:]}"


#: KEY:SECRET@ before a bucket.
_KEYS = re.compile(r"[^/]*:[^@]*@")


def _refuse_keys(uri: str) -> None:
    """Raise UserError for an address with credentials: it is printed, and kept with the run."""
    rest = uri.partition("://")[2]
    options = _OPTIONS.search(rest)
    named = [] if options is None else [one.partition("=")[0] for one in rest[options.start() + 1 :].split("&")]
    if _KEYS.match(rest) or any(map(is_secret_parameter, named)):
        raise UserError(
            "an address must not hold keys: it is printed, and kept with the run",
            value=redact(uri),
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) in the environment of every node; "
            "for gs:// GOOGLE_APPLICATION_CREDENTIALS",
        )


# Patterns


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..012}.tar` and `{x,y}.tar` as the names they stand for, as bash does; other braces stay as they are.

    The numbers of a range have the width of the wider bound where one begins with a zero; it may count down.
    """
    parts = _BRACES.split(pattern)
    if len(parts) == 1:
        return [pattern]
    choices = [_choices(part) if at % 2 else [part] for at, part in enumerate(parts)]
    names = ("".join(chosen) for chosen in itertools.product(*choices))
    # What is left are outer braces, whose inner ones are now expanded.
    return list(dict.fromkeys(inner for name in names for inner in expand_braces(name)))


def _choices(inner: str) -> list[str]:
    bounds = _RANGE.fullmatch(inner)
    if bounds is None:
        return inner.split(",")
    first, last = bounds.groups()
    padded = any(bound != "0" and bound.startswith("0") for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]


def find(uri: str, *, below: Callable[[str], bool] = lambda path: True) -> Found:
    """The files that a path or a pattern stands for; none if there are none.

    below: which of the files below a folder are meant; a file that a name or a pattern matches itself is always meant.
    Raises what `filesystem_of` raises.
    """
    filesystem, root = filesystem_of(uri)
    try:
        named = files_at(filesystem, root, below)
    except UnicodeDecodeError as error:
        raise UserError(
            "the names of files and folders must be UTF-8, which pyarrow reads alone",
            value=f"{error.object!r}, at {root}",
            fix="rename it (`convmv -f latin1 -t utf8` renames many), or give a path that leads past it",
        ) from None
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(filesystem, pafs.LocalFileSystem):
            raise
        raise _unreachable(uri, error) from None
    found = _found(filesystem, sorted({info.path: (info.path, info.size, info.mtime_ns) for info in named}.values()))
    literal = re.split(r"[*?\[{]", root, maxsplit=1)[0]
    return found._replace(root=root if literal == root else literal.rpartition("/")[0])


def files_at(filesystem: pafs.FileSystem, path: str, below: Callable[[str], bool]) -> list[pafs.FileInfo]:
    """The files that `path`, a name or a pattern, stands for in a file system; some may be listed twice."""
    names = [path]
    infos = filesystem.get_file_info(names)
    if infos[0].type == pafs.FileType.NotFound:
        names = expand_braces(path)
        infos = filesystem.get_file_info(names)
    found: list[pafs.FileInfo] = []
    for name, info in zip(names, infos, strict=True):
        if info.type == pafs.FileType.File:
            found.append(info)
        elif info.type == pafs.FileType.Directory:
            found += [f for f in _below(filesystem, name) if below(f.path)]
        elif not _WILD.isdisjoint(name):
            found += _glob(filesystem, name)
    return found


def _below(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """All files below a folder that are not hidden in it."""
    inside = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    return [f for f in inside if f.type == pafs.FileType.File and not any(map(_hidden, _parts(f.path, folder)))]


def _glob(filesystem: pafs.FileSystem, pattern: str) -> list[pafs.FileInfo]:
    """Files by a pattern with wildcards: only the folders that its parts lead to are listed."""
    parts = pattern.split("/")
    first = next(at for at, part in enumerate(parts) if not _WILD.isdisjoint(part))
    folders = ["/".join(parts[:first]) or ("/" if pattern.startswith("/") else "")]
    for at, part in enumerate(parts[first:], start=first):
        if part == "**":
            inside = _listed(filesystem, folders, recursive=True)
            return [f for f, folder in inside if _is_file(f) and _fits(_parts(f.path, folder), parts[at:])]
        if _WILD.isdisjoint(part):
            found = filesystem.get_file_info([posixpath.join(folder, part) for folder in folders])
        else:
            inside = _listed(filesystem, folders)
            literal = [info for info, _ in inside if info.base_name == part]
            found = literal or [info for info, _ in inside if _part_fits(info.base_name, part)]
        if at == len(parts) - 1:
            # Spark and others write a table as a folder with the name of a file.
            tables = [info.path for info in found if not _is_file(info) and info.base_name.endswith(".parquet")]
            return [*filter(_is_file, found), *(file for table in tables for file in _below(filesystem, table))]
        folders = [info.path for info in found if info.type == pafs.FileType.Directory]
    return []


def _listed(
    filesystem: pafs.FileSystem, folders: Sequence[str], *, recursive: bool = False
) -> list[tuple[pafs.FileInfo, str]]:
    """The content of each of the folders, with the folder; object stores answer many requests at a time."""

    def listed(folder: str) -> list[tuple[pafs.FileInfo, str]]:
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
        try:
            return [(info, folder) for info in filesystem.get_file_info(selector)]
        except NotADirectoryError:
            return []

    with ThreadPoolExecutor(_LISTING_THREADS) as pool:
        return [item for items in pool.map(listed, folders) for item in items]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path are what the parts of a pattern, `**` among them, stand for."""
    if not pattern:
        return not parts
    if pattern[0] != "**":
        return bool(parts) and _part_fits(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
    if len(pattern) == 1:
        return bool(parts) and not any(map(_hidden, parts))
    skipped = itertools.takewhile(lambda at: at == 0 or not _hidden(parts[at - 1]), range(len(parts) + 1))
    return any(_fits(parts[at:], pattern[1:]) for at in skipped)


def _part_fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and not (_hidden(name) and part[:1] != name[:1])


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _is_file(info: pafs.FileInfo) -> bool:
    return bool(info.type == pafs.FileType.File)


def _parts(path: str, folder: str) -> list[str]:
    """The parts of a path below a folder."""
    return path[len(folder) :].strip("/").split("/")


def _found(filesystem: pafs.FileSystem, files: Iterable[tuple[str, int, int | None]]) -> Found:
    """files: (path, bytes, modified), sorted by path."""
    files = list(files)
    paths = tuple(path for path, _, _ in files)
    folders = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    base = "/".join(parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, folders))
    names = tuple(path[len(base) :].lstrip("/") for path in paths)
    return Found(
        filesystem, paths, names, tuple(size for _, size, _ in files), tuple(modified for _, _, modified in files)
    )
