"""What a recipe chooses by name: stages, objectives, engines, evaluators, transforms.

An entry is the object itself or `module:attribute`, which is imported when its name is first looked up.  A user's own
object needs no registration: its import path, `mypackage.module:Thing`, is a name too.  What a process adds to a
registry reaches its workers with the configurations that name it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pairmill.config import OF_ENTRY, Config, bytes_digest
from pairmill.errors import RecipeError, UserError, nearest

T = TypeVar("T")

#: Entries added to registries while this process ran, by key and name; a pickled configuration carries its own.
_ADDED: dict[tuple[str, str], Any] = {}


class Registry(Generic[T]):
    """Entries by name, in the order of registration; a name may be registered once."""

    def __init__(
        self,
        key: str,
        entries: Mapping[str, str] | None = None,
        *,
        check: Callable[[str, Any], None] = lambda name, found: None,
    ) -> None:
        """key: the key of the recipe that names an entry, for messages.  entries: name -> `module:attribute`.

        check: raises UserError for an object at an import path (name, object) that cannot be an entry.
        """
        self.key = key
        self._check = check
        self._entries: dict[str, T | str] = dict(entries or {})

    def add(self, name: str, entry: T | str) -> None:
        """Register an object, or the `module:attribute` that leads to it.  Raises ValueError for a taken name."""
        if name in self._entries:
            raise ValueError(f"{self.key}: a name must be registered once, {name!r} already is; choose another name")
        self._entries[name] = _ADDED[self.key, name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    @contextmanager
    def extended(self, name: str, entry: T | str) -> Iterator[None]:
        """Keep an entry for as long as the block runs."""
        self.add(name, entry)
        try:
            yield
        finally:
            del self._entries[name], _ADDED[self.key, name]

    def get(self, name: str) -> T:
        """The object of this name, or at this import path.

        Raises RecipeError for an unknown name and for an import path that leads nowhere.
        """
        entry = self._entries.get(name, _ADDED.get((self.key, name)))
        if entry is None:
            if not is_import_path(name):
                raise RecipeError(
                    f"{self.key} must be {_known(self.names)}an import path package.module:attribute",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, self.names)}" if self.names else "write the import path",
                )
            found = load_object(name, key=self.key)
            self._check(name, found)
            return cast(T, found)
        if isinstance(entry, str):
            loaded = cast(T, load_object(entry, key=self.key))
            self._entries[name] = loaded
            return loaded
        return entry

    @property
    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)


def is_import_path(name: str) -> bool:
    """Whether a name of an entry is an import path, `package.module:attribute`: then the entry is a user's own."""
    return ":" in name


def derived_from(base: type, *, key: str) -> Callable[[str, Any], None]:
    """A registry's `check`: what an import path leads to must be a subclass of `base` that defines what is abstract."""

    def check(name: str, found: Any) -> None:
        if not (isinstance(found, type) and issubclass(found, base) and found is not base):
            raise RecipeError(
                f"an entry of {key} must be a subclass of {base.__module__}.{base.__qualname__}",
                value=f"{name}: {found!r}",
                fix=f"name the class, and derive it from {base.__qualname__}",
            )
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise RecipeError(
                f"an entry of {key} must define {', '.join(missing)}",
                value=f"{name} does not define {missing[0]}",
                fix=f"write def {missing[0]}(self, …)",
            )

    return check


def require_names(name: str, found: Any, attribute: str, *, what: str, example: str) -> None:
    """Raise RecipeError unless a class declares an attribute as a tuple of names.

    what: what the class must be, in words.  example: of such a tuple, as written.
    """
    given = getattr(found, attribute, None)
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise RecipeError(
            f"{what} must declare `{attribute}` as a tuple of names",
            value=f"{name}: {given!r}",
            fix=f"write {attribute} = {example}",
        )


def with_methods(*names: str, key: str) -> Callable[[str, Any], None]:
    """A registry's `check`: what an import path leads to must have these methods."""

    def check(name: str, found: Any) -> None:
        if missing := [method for method in names if not callable(getattr(found, method, None))]:
            raise RecipeError(
                f"an entry of {key} must have the methods {', '.join(names)}",
                value=f"{name}: {found!r} has no {missing[0]}",
                fix=f"define {missing[0]}, or correct the import path",
            )

    return check


def _known(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}, or " if names else ""


def load_object(path: str, *, key: str) -> Any:
    """The object at `package.module:attribute`.

    key: the key of the recipe that names it, for messages.  Raises RecipeError if there is no such module or attribute.
    """
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # the module is a user's, and may fail in any way
        raise RecipeError(
            f"{key} must be an import path package.module:attribute that can be imported",
            value=f"{path}: {type(error).__name__}: {error}",
            fix="correct the path; here and where the job runs, install its package or set PYTHONPATH to its folder",
        ) from error
    return found


def look_in(folders: Iterable[str]) -> None:
    """Let import paths lead into these folders too: `sys.path` of the process that names the entries."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def source_digest(path: str) -> str | None:
    """Hash of the file that defines what is at an import path, so that a user's edited code counts as other code.

    None where there is no source, as for a compiled module.  Raises RecipeError if the path leads nowhere.
    """
    found = load_object(path, key="an entry of the recipe")
    module = sys.modules.get(getattr(found, "__module__", None) or "", sys.modules[path.partition(":")[0]])
    try:
        return bytes_digest(inspect.getsource(module).encode())
    except (OSError, TypeError):
        return None


class NamedConfig(Config):
    """Base of a configuration that belongs to one entry of a registry and names it."""

    name: str = Field(description="registered name of the entry, or its import path package.module:attribute")

    def __reduce__(self) -> tuple[object, ...]:
        added = {place: entry for place, entry in _ADDED.items() if place[1] == self.name}
        return _unpickled, (type(self), added), self.__getstate__()


def _unpickled(kind: type[NamedConfig], added: Mapping[tuple[str, str], Any]) -> NamedConfig:
    _ADDED.update(added)
    return kind.__new__(kind)


class ChosenBy:
    """Annotation of a recipe's field that holds an entry's own configuration, discriminated by `name`.

        engine: Annotated[NamedConfig, ChosenBy(ENGINES)]

    In a recipe it is a mapping with `name` and that entry's keys, or just the name.  Entries have an attribute
    `Config`, a subclass of NamedConfig.

    default: the entry that a mapping without `name` means; None: a mapping must have `name`.
    """

    def __init__(self, registry: Registry[Any], *, default: str | None = None) -> None:
        self.registry = registry
        self.default = default

    def parse(self, value: object) -> NamedConfig:
        """The entry's configuration.  Raises RecipeError for an unknown name and for keys that break a rule."""
        if isinstance(value, NamedConfig):
            return value
        data = {"name": value} if isinstance(value, str) else value
        if self.default is not None and isinstance(data, Mapping):
            data = {"name": self.default, **data}
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise RecipeError(
                f"{self.registry.key} must be a name, or a mapping with a key `name`",
                value=value,
                fix=f"set it to {_known(self.registry.names)}an import path package.module:attribute",
            )
        kind = getattr(self.registry.get(data["name"]), "Config", None)
        if not (isinstance(kind, type) and issubclass(kind, NamedConfig)):
            raise RecipeError(
                f"an entry of {self.registry.key} must have an attribute Config, a subclass of NamedConfig",
                value=data["name"],
                fix="add `Config = NamedConfig` to it where it has no keys of its own",
            )
        return kind.checked(dict(data), at=self.registry.key)

    def _located(self, value: object) -> NamedConfig:
        """`parse` for a field, whose place in the recipe pydantic adds to the error."""
        try:
            return self.parse(value)
        except UserError as error:
            raise PydanticCustomError(OF_ENTRY, "{key}", {"key": self.registry.key, "error": error}) from error

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._located, serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        configs = [self.registry.get(name).Config for name in self.registry.names]
        if not configs:  # there are only import paths
            return {"anyOf": [{"type": "string"}, {"type": "object"}]}
        names = {"type": "string", "enum": self.registry.names}
        return {"anyOf": [names, *(handler(config.__pydantic_core_schema__) for config in configs)]}


def _dumped(value: NamedConfig, info: Any) -> dict[str, Any]:
    return value.model_dump(mode=info.mode)


def chosen_at(model: type[BaseModel], path: Sequence[str]) -> int | None:
    """How many parts of `path`, keys of nested sections, lead to the first field that is chosen by name; None if none.

    The parts after it are keys of the chosen entry.
    """
    for depth, part in enumerate(path, start=1):
        field = model.model_fields.get(part)
        if field is None:
            return None
        if any(isinstance(extra, ChosenBy) for extra in field.metadata):
            return depth
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        model = field.annotation
    return None
