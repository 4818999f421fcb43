"""`README.md` of exported tars: which files Hugging Face's `datasets` reads, and what their columns are.

Without it `load_dataset(FOLDER)` takes `sizes.json` for data, and infers the columns of tars from their first samples,
in which a value that comes later may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pairmill.atomic import whole_file

CARD = "README.md"

_TEXT = """---
{front}---

# Image-text pairs

Exported by pairmill.  `load_dataset` of this folder reads {files}.
"""


def write_export_card(folder: Path, files: str, features: list[Mapping[str, Any]] | None) -> Path:
    """Write the card of an export; returns its path.

    files: a pattern.  features: as `features_of` gives them; None: they are left to the reader.
    """
    front: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}]}
    if features is not None:
        front["dataset_info"] = {"features": features}
    with whole_file(folder / CARD) as stream:
        stream.write(_TEXT.format(front=yaml.safe_dump(front, sort_keys=False), files=f"`{files}`").encode())
    return folder / CARD


def features_of(fields: Iterable[pa.Field], pictures: Iterable[str]) -> list[Mapping[str, Any]] | None:
    """The columns that `datasets` makes of tars, in the form of its cards; None where it has no form for them.

    fields: the keys of `.json`, with the types that their values have there.  pictures: the endings of pictures.
    """
    endings = list(pictures)
    if len(endings) != 1:  # a sample without one of the columns is refused
        return None
    try:
        inner = [_feature(field.name, field.type) for field in fields]
    except TypeError:
        return None
    return [
        *({"name": name, "dtype": "string"} for name in ("__key__", "__url__")),
        {"name": endings[0], "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": inner},
    ]


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    form = _form(kind)
    return {"name": name, **(form if isinstance(form, dict) else {"dtype": form})}


def _form(kind: pa.DataType) -> Any:
    """A type in the form of a card: a name, or what a list or a struct holds.  Raises TypeError for a type without."""
    if pa.types.is_struct(kind):
        return {"struct": [_feature(field.name, field.type) for field in kind]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _form(kind.value_type)
        return {"list": inner["struct"] if isinstance(inner, dict) and "struct" in inner else inner}
    if pa.types.is_nested(kind):
        raise TypeError(f"{kind} has no form")
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return "null" if pa.types.is_null(kind) else "string"
