"""The stages, in the order in which a row passes them.  A stage is its declaration (`curation.stage`)."""

from __future__ import annotations

from typing import Any

from curation.stage import Stage
from pairmill.errors import RecipeError
from pairmill.registry import Registry

#: Those of every recipe; each has its own section there.
STAGES: Registry[type[Stage]] = Registry(
    "stages",
    {
        "plan": "curation.plan:Planned",
        "download": "curation.download:Download",
        "inspect": "curation.images.stage:Inspect",
        "policy": "curation.policy:Policy",
        "filter": "curation.filters.stage:Filter",
        "deduplicate": "curation.duplicates.stage:Deduplicate",
        "recaption": "curation.recaption:Recaption",
        "translate": "curation.translate:Translate",
        "pack": "curation.pack:Pack",
    },
)


def _check_is_stage(name: str, found: Any) -> None:
    if not (isinstance(found, type) and issubclass(found, Stage) and found is not Stage):
        raise RecipeError(
            "stages must name subclasses of curation.stage.Stage",
            value=f"{name}: {found!r}",
            fix="name the class, and derive it from Stage",
        )


#: Those that a recipe's list `stages` may name; a user's own needs no line here, only its import path.
CHOSEN_STAGES: Registry[type[Stage]] = Registry("stages", check=_check_is_stage)
