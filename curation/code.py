"""The code that a table is made by: which, and whether other code made some of its rows.

A key says with which configuration and models a shard was made, and with which version of a stage (`Stage.version`).
That leaves changes that nobody declared: an edited module, a helper of a user's own stage, another release of a codec.
What they make may differ, so rows of both must not be mixed unnoticed.  `RUN/code.json` has, for each table, every code
that made rows of it: the digests of the modules that its stages reach by imports, and the versions of the libraries
that decide its values (`libraries` of a stage or of an engine; of a user's own, all that it imports).
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from curation.stage import Stage
from pairmill.checked_json import read_as, write_as
from pairmill.config import Config, bytes_digest
from pairmill.errors import RunDirError
from pairmill.registry import ChosenBy, NamedConfig, Registry, is_import_path, load_object
from pairmill.store import Store

logger = logging.getLogger("pairmill")

#: The record of the code behind each table of a run.
CODE_FILE = "code.json"

#: Our packages, wherever they are installed.
_OURS = ("pairmill", "curation", "training", "pipelines", "tune")
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_NAMED = 3


class _Recorded(Config):
    """A code as `CODE_FILE` holds it."""

    sources: dict[str, str]
    libraries: dict[str, str]


#: What `CODE_FILE` is, and its type: table -> the codes that made rows of it.
_WHAT, _LOG = "record of code", dict[str, list[_Recorded]]


class Code(NamedTuple):
    """What decides the values of a table beside configuration and models.

    sources: module -> digest of its file.  libraries: distribution -> version.
    """

    sources: Mapping[str, str]
    libraries: Mapping[str, str]


def code_of(stages: Sequence[Stage]) -> Code:
    """The code of some stages, with that of the entries that their configurations name and of a user's functions."""
    modules: set[str] = set()
    libraries: set[str] = set()
    for stage in stages:
        entries = [stage, *stage.entries(), *chosen_entries(stage.config)]
        entries += [load_object(path, key="an entry of the recipe") for path in stage.own_code()]
        for entry in entries:
            module = getattr(entry, "__module__", None) or type(entry).__module__
            reached = reachable(module)
            modules |= reached
            libraries.update(getattr(entry, "libraries", ()))
            if not _ours(module) and not getattr(entry, "libraries", ()):
                libraries.update(name for one in reached if not _ours(one) for name in _distributions(one))
    sources = {name: found for name in sorted(modules) if (found := _digest(name)) is not None}
    return Code(sources, {name: _version(name) for name in sorted(libraries)})


def chosen_entries(config: BaseModel) -> Iterator[Any]:
    """The entries of registries that a configuration chooses by name, at any depth."""
    for named, registries in _named(config):
        if registries:
            yield registries[0].get(named.name)


def own_entries(config: BaseModel) -> Iterator[str]:
    """The import paths by which a configuration names entries of a user's own, at any depth."""
    for named, _ in _named(config):
        if is_import_path(named.name):
            yield named.name


def _named(config: BaseModel) -> Iterator[tuple[NamedConfig, list[Registry[Any]]]]:
    """The configurations of entries within a configuration, at any depth, and the registries that they are of."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        registries = [
            extra.registry for extra in _extras(field.annotation, field.metadata) if isinstance(extra, ChosenBy)
        ]
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, NamedConfig):
                yield one, registries
            if isinstance(one, BaseModel):
                yield from _named(one)


def _extras(annotation: Any, metadata: Iterable[Any]) -> Iterator[Any]:
    yield from metadata
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _extras(inner, ())


class CodeLog:
    """Which code made the rows of each table of a run."""

    def __init__(self, store: Store, *, accept: bool) -> None:
        """accept: rows of one table may be of several codes; that is recorded, and a warning says so."""
        self._store, self._accept = store, accept

    def begin(self, table: str, stages: Sequence[Stage], *, there: bool) -> None:
        """Note that rows of a table are about to be made.  there: the table keeps rows that were made earlier.

        Raises RunDirError if those were made by other code, unless that is accepted.
        """
        log = read_code_log(self._store)
        known = log.get(table, []) if there else []
        mine = code_of(stages)
        others = [code for code in known if _conflict(code, mine)]
        if others and mine not in known:
            changes = differences(others[-1], mine)
            if not self._accept:
                raise RunDirError(
                    "all rows of a table must be made by the same code, unless you accept the change",
                    value=f"{self._store.uri}: {table} has rows made before {changes}",
                    fix="give --accept-code-change to keep those rows and make the others by today's code, "
                    "install what made them, or give another run_dir",
                )
            logger.warning("%s keeps rows that were made before %s", table, changes)
        if not there or mine not in known:
            log[table] = [*known, mine]
            plain = {name: [one._asdict() for one in codes] for name, codes in log.items()}
            write_as(self._store, CODE_FILE, plain, _WHAT, _LOG, "code.log")


def read_code_log(store: Store) -> dict[str, list[Code]]:
    """Table -> the codes that made rows of it, the first one first.  Raises DamagedError."""
    tables = read_as(store, CODE_FILE, _WHAT, _LOG) or {}
    return {name: [Code(dict(one.sources), dict(one.libraries)) for one in codes] for name, codes in tables.items()}


def _conflict(old: Code, new: Code) -> bool:
    """Whether another code made some rows: other modules, or another release of a library that both use.

    What only one of them uses belongs to a choice of the recipe, such as `download.engine`, which a row names.
    """
    both = old.libraries.keys() & new.libraries.keys()
    return old.sources != new.sources or any(old.libraries[name] != new.libraries[name] for name in both)


def differences(old: Code, new: Code) -> str:
    """How two codes differ, in words: `curation.images.decode changed, pillow became 12.0 (was 11.3)`."""
    names = sorted(old.sources.keys() | new.sources.keys())
    modules = [name for name in names if old.sources.get(name) != new.sources.get(name)]
    found = [f"{', '.join(modules[:_NAMED])}{_more(len(modules) - _NAMED)} changed"] if modules else []
    for name in sorted(old.libraries.keys() | new.libraries.keys()):
        was, now = (code.libraries.get(name, "not used") for code in (old, new))
        found += [f"{name} became {now} (was {was})"] if was != now else []
    return " and ".join(found)


def _more(count: int) -> str:
    return f" and {count} more modules" if count > 0 else ""


@cache
def reachable(module: str) -> frozenset[str]:
    """The modules that `module` reaches by import statements, with itself: its package's, ours, and a user's others.

    Modules of other installed packages are none of them.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or not (_is_source(name) or (_same_package(name, module) and _file(name))):
            continue
        found.add(name)
        waiting += _imports(name)
    return frozenset(found)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The modules that the import statements of a module name, also those within functions; some may be no modules."""
    file = _file(module)
    if file is None or file.suffix != ".py":
        return ()
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # of another Python, which is imported nowhere here
        return ()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


def _same_package(one: str, other: str) -> bool:
    return one.partition(".")[0] == other.partition(".")[0]


def _ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS


@cache
def _is_source(module: str) -> bool:
    """Whether a name is that of a module with a source file that is ours or a user's own."""
    file = _file(module)
    if file is None or file.suffix != ".py":
        return False
    return _ours(module) or not any(file.is_relative_to(folder) for folder in _INSTALLED)


@cache
def _file(module: str) -> Path | None:
    """The file of a module; None if there is no such module, or it has none."""
    top = module.partition(".")[0]
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return None
    loaded = sys.modules.get(module)
    origin = getattr(loaded, "__file__", None)
    if origin is None and top != module:
        parent = _file(module.rpartition(".")[0])  # without importing it, as `find_spec` would
        if parent is None or parent.name != "__init__.py":
            return None
        base = parent.parent / module.rpartition(".")[2]
        there = [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
        return there[0].resolve() if there else None
    if origin is None:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        origin = spec.origin if spec else None
    return Path(origin).resolve() if origin and Path(origin).is_file() else None


def _digest(module: str) -> str | None:
    file = _file(module)
    return None if file is None else bytes_digest(file.read_bytes())


def _distributions(module: str) -> Iterator[str]:
    """The distributions of the installed packages that a module imports."""
    known = _installed()
    for name in _imports(module):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue  # a backport may be installed under that name, but is not what is imported
        if not _same_package(top, module) and not _ours(top) and not _is_source(top):
            yield from known.get(top, ())


@cache
def _installed() -> Mapping[str, list[str]]:
    """Top-level module -> the distributions that have it; reads the metadata of all, in seconds."""
    return packages_distributions()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
