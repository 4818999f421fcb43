"""Values of a recipe that stand in environment variables: `${NAME}` in a text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from pairmill.errors import UserError

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def resolved(data: Any, key: str) -> tuple[Any, list[str]]:
    """Plain data with the variables' values in place of each `${NAME}` of its texts, and these values.

    key: the key of the recipe that holds the data, for messages.  Raises UserError for a variable that is not set.
    """
    values: list[str] = []

    def value_of(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if not value:
            raise UserError(
                f"{key} must name environment variables that are set",
                value=f"{found[1]} is not set where the stage runs",
                fix=f"export {found[1]}=… on the workers (Ray: runtime_env env_vars)",
            )
        values.append(value)
        return value

    def inner(one: Any) -> Any:
        if isinstance(one, str):
            return _REFERENCE.sub(value_of, one)
        if isinstance(one, Mapping):
            return {name: inner(value) for name, value in one.items()}
        return [inner(value) for value in one] if isinstance(one, list | tuple) else one

    return inner(data), values
