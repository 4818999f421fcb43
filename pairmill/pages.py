"""Pages from Jinja templates: foreign text is never markup, and a missing value is an error."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket


class _CompiledTemplates(jinja2.FileSystemBytecodeCache):
    """Jinja's folder of compiled templates below the user's temporary one; compiling takes longer than the report."""

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            super().load_bytecode(bucket)
        except Exception:  # damaged: Jinja 3.1 raises what pickle and marshal do
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):  # a full disk costs the cache, not the page
            super().dump_bytecode(bucket)


def page_template(file: Path, filters: Mapping[str, Any]) -> jinja2.Template:
    """The template in `file`, with the autoescaping of HTML whatever the file's name is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(file.parent),
        bytecode_cache=_compiled(),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(file.name)


def _compiled() -> _CompiledTemplates | None:
    """None where no folder can be made that belongs to the user alone."""
    try:
        return _CompiledTemplates()
    except (OSError, RuntimeError):
        return None
