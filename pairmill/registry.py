"""Names to things that a recipe chooses by name: stages, objectives, engines, evaluators, transforms.

An entry is given as the thing itself or as `module:attribute`, which is imported when the name is first asked for.  A
user's own thing needs no registration: its import path, `mypackage.module:Thing`, is a name too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pairmill.config import Config
from pairmill.errors import RecipeError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name, in the order in which they were given; a name is given once."""

    def __init__(self, key: str, entries: Mapping[str, str] | None = None) -> None:
        """key: the key of the recipe that names an entry, for messages.  entries: name -> `module:attribute`."""
        self.key = key
        self._entries: dict[str, T | str] = {}
        for name, path in (entries or {}).items():
            self.add(name, path)

    def add(self, name: str, entry: T | str) -> None:
        """Register a thing, or the `module:attribute` that leads to it.  Raises ValueError for a name that is taken."""
        if name in self._entries:
            raise ValueError(f"{self.key} {name!r} is registered already")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """As `add`, as a decorator."""

        def decorate(entry: T) -> T:
            self.add(name, entry)
            return entry

        return decorate

    @contextmanager
    def extended(self, name: str, entry: T | str) -> Iterator[None]:
        """Have an entry for as long as the block runs."""
        self.add(name, entry)
        try:
            yield
        finally:
            del self._entries[name]

    def get(self, name: str) -> T:
        """The thing of this name, or at this import path.

        Raises RecipeError for an unknown name and for an import path that leads nowhere.
        """
        entry = self._entries.get(name)
        if entry is None:
            if ":" not in name:
                raise RecipeError(
                    f"{self.key} must be one of {', '.join(self.names)}, or an import path package.module:attribute",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, self.names)}",
                )
            return cast(T, load_object(name, key=self.key))
        if isinstance(entry, str):
            loaded = cast(T, load_object(entry, key=self.key))
            self._entries[name] = loaded
            return loaded
        return entry

    @property
    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)


def load_object(path: str, *, key: str) -> Any:
    """The object at `package.module:attribute`.

    key: what names it, for messages.  Raises RecipeError if there is no such module or attribute.
    """
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"{key} must be an import path package.module:attribute that can be imported",
            value=f"{path}: {type(error).__name__}: {error}",
            fix="install the package where the job runs, or correct the path",
        ) from error
    return found


class NamedConfig(Config):
    """Base of a configuration that belongs to one entry of a registry, and says which."""

    name: str = Field(description="whose keys these are: a registered name, or an import path package.module:attribute")


class ChosenBy:
    """Annotation of a recipe's field that holds an entry's own configuration, discriminated by `name`.

        engine: Annotated[NamedConfig, ChosenBy(ENGINES)]

    In a recipe it is a mapping with `name` and that entry's keys, or the name alone.  Entries have an attribute
    `Config`, a subclass of NamedConfig.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def parse(self, value: object) -> NamedConfig:
        """The entry's configuration.  Raises RecipeError for an unknown name and for keys that break a rule."""
        if isinstance(value, NamedConfig):
            return value
        data = {"name": value} if isinstance(value, str) else value
        if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
            raise RecipeError(
                f"{self.registry.key} must be a name, or a mapping with a key `name`",
                value=value,
                fix=f"name one of {', '.join(self.registry.names)}",
            )
        kind: type[NamedConfig] = self.registry.get(data["name"]).Config
        return kind.checked(dict(data), at=self.registry.key)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        configs = [self.registry.get(name).Config for name in self.registry.names]
        names = {"type": "string", "enum": self.registry.names}
        return {"anyOf": [names, *(handler(config.__pydantic_core_schema__) for config in configs)]}


def _dumped(value: NamedConfig, info: Any) -> dict[str, Any]:
    return value.model_dump(mode=info.mode)
