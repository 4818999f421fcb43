"""What an import path leads to is checked alike by every registry, when the recipe is read."""

from __future__ import annotations

from typing import Any

import pytest

from curation.stages import CHOSEN_STAGES
from pairmill.errors import RecipeError
from pairmill.registry import NamedConfig, Registry, load_object
from pipelines.registry_page import REGISTRIES
from training.evaluate.metrics import Metric
from training.objectives.config import OBJECTIVES

ALL: dict[str, Registry[Any]] = {
    "stages": CHOSEN_STAGES,
    "loss.objective": OBJECTIVES,
    **{title: load_object(path, key="REGISTRIES") for title, path in REGISTRIES},
}


class OnlyAConfig:
    Config = NamedConfig


class Abstract(Metric):
    needs = ("image_ND",)


class NeedsWithoutAComma(Metric):
    needs = "image_ND"  # type: ignore[assignment]

    def __call__(self, *args: Any, **features: Any) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("title", ALL)
@pytest.mark.parametrize("path", ["builtins:len", "builtins:dict", f"{__name__}:OnlyAConfig", f"{__name__}:__doc__"])
def test_what_is_no_entry_is_refused(title: str, path: str) -> None:
    registry = ALL[title]
    with pytest.raises(RecipeError) as raised:
        registry.get(path)
    assert registry.key in raised.value.rule
    assert path in str(raised.value.value)


@pytest.mark.parametrize("title", ALL)
def test_an_entry_of_another_registry_is_refused(title: str) -> None:
    for other, registry in ALL.items():
        if other == title or not registry.names or registry.key.endswith(".engine"):
            continue  # what captions and what translates differ only in what they load
        if other.startswith("Image heads") and title.startswith("Image heads"):
            continue  # the filter's are some of all
        entry = registry.get(registry.names[0])
        with pytest.raises(RecipeError, match="must"):
            ALL[title].get(f"{entry.__module__}:{entry.__qualname__}")  # type: ignore[attr-defined]


def test_what_is_not_defined_yet_is_named() -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.metrics must define __call__\n"):
        ALL["Evaluation metrics"].get(f"{__name__}:Abstract")
    with pytest.raises(RecipeError, match=r"must declare `needs` as a tuple of names\n.*'image_ND'"):
        ALL["Evaluation metrics"].get(f"{__name__}:NeedsWithoutAComma")
