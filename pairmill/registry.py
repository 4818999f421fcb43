"""Names to functions, for each kind of part that a loss is composed of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pairmill.errors import RecipeError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; a name is given once."""

    def __init__(self, kind: str) -> None:
        """kind: what the entries are, for messages: the key of the recipe that names them."""
        self._kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator.  Raises ValueError for a name that is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self._kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """Raises RecipeError for an unknown name."""
        if name not in self._entries:
            raise RecipeError(
                f"{self._kind} is one of {', '.join(self.names)}",
                value=name,
                fix=f"perhaps you mean: {nearest(name, self.names)}",
            )
        return self._entries[name]

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)
