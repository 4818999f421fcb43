"""What every stage's configuration shares: frozen, no unknown keys, and a hash that leaves out how it was run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

#: `Field(..., json_schema_extra=EXECUTION)` marks a field that says how a stage runs (concurrency, deadlines, rates),
#: not what it computes: changing it does not make committed shards stale.
EXECUTION: dict[str, Any] = {"execution": True}


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed, as plain JSON data."""
        fields = type(self).model_fields
        data = self.model_dump(mode="json")
        kept = {}
        for name, value in data.items():
            if _is_execution(fields[name]):
                continue
            inner = getattr(self, name)
            kept[name] = inner.identity() if isinstance(inner, Config) else value
        return kept


def _is_execution(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution"))


def digest(data: object, *, size: int = 8) -> str:
    """Hex BLAKE2b (of `size` bytes) of plain JSON data, independent of key order."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()
