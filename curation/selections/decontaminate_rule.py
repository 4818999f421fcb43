"""The rule `decontaminate` of a selection: rows that match an evaluation set of the recipe go.

selections:
  clean: {decontaminate: coco}
  strict: {decontaminate: {against: [coco, flickr], kinds: [same_image, near_image]}}

reads: matches_NAME of each set
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from curation.decontamination.match_kinds import KINDS
from pairmill.config import Config
from pairmill.errors import RecipeError, nearest
from pairmill.registry import is_import_path

DECONTAMINATE = "decontaminate"

_MATCHES = "matches_"


class DecontaminateRule(Config):
    """Against which sets, and by which matches."""

    against: tuple[str, ...] = Field(min_length=1, description="names of the section `decontaminate`")
    kinds: tuple[str, ...] | None = Field(
        None, min_length=1, description="kinds of matches that count; null: all that the set has"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return tuple(f"{_MATCHES}{name}" for name in self.against)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it leaves rows out: one reason for each set."""
        return tuple(f"contaminated_{name}" for name in self.against)

    def check(self, columns: Collection[str], key: str) -> None:
        """Raise RecipeError for a set or a kind that there is not.  key: of the recipe, for the message."""
        for name in self.against:
            if f"{_MATCHES}{name}" not in columns:
                known = [one.removeprefix(_MATCHES) for one in columns if one.startswith(_MATCHES)]
                raise RecipeError(
                    f"{key} must name evaluation sets of the section decontaminate",
                    value=name,
                    fix=f"perhaps you mean: {nearest(name, known)}" if known else "add the section decontaminate",
                )
        for kind in self.kinds or ():
            if kind not in KINDS.names and not is_import_path(kind):
                raise RecipeError(
                    f"{key}.kinds must name kinds of matches",
                    value=kind,
                    fix=f"perhaps you mean: {nearest(kind, KINDS.names)}",
                )

    def check_kinds(self, compared: Mapping[str, Collection[str]], key: str) -> None:
        """Raise RecipeError for a kind that none of the sets is compared by: nothing would go for it.

        compared: the kinds of each set of the recipe, by name.
        """
        known = sorted({kind for name in self.against for kind in compared.get(name, ())})
        for kind in self.kinds or ():
            if known and KINDS.get(kind).name not in known:
                raise RecipeError(
                    f"{key}.kinds must name kinds of matches that its sets are compared by",
                    value=f"{kind}; {', '.join(self.against)}: {', '.join(known)}",
                    fix=f"add it to decontaminate.{self.against[0]}.kinds, or leave it out",
                )

    def left_out(self, rows: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
        """Mask of the rows that match each set, by reason; a row that matches several is in several."""
        return {reason: self._matching(rows[name]) for name, reason in zip(self.reads, self.reasons, strict=True)}

    def _matching(self, matches: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        if self.kinds is None:
            found: npt.NDArray[np.bool_] = np.asarray(matches.is_valid())
            return found
        names = pa.array([KINDS.get(kind).name for kind in self.kinds], pa.string())
        whole = matches.combine_chunks()
        counts = pc.is_in(pc.struct_field(whole.flatten(), "kind"), value_set=names)
        mask = np.zeros(len(matches), np.bool_)
        mask[np.asarray(pc.list_parent_indices(whole))[np.asarray(counts)]] = True
        return mask


def _mapping(value: Any) -> Any:
    if isinstance(value, str):
        return {"against": [value]}
    return {"against": value} if isinstance(value, list | tuple) else value


#: The rule as a recipe may give it: a name or names alone are its `against`.
DecontaminateBy = Annotated[
    DecontaminateRule, BeforeValidator(_mapping, json_schema_input_type=str | list[str] | DecontaminateRule)
]
