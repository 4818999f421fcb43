"""The order of the stages of a recipe: by segment, by what they follow, and by whose columns they read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from curation.selections.stage import Select
from curation.stage import SEGMENTS, NamedStage, Stage
from pairmill.errors import RecipeError, nearest


def active(stages: Iterable[Stage]) -> list[Stage]:
    """Those that have something to do: no stage that works only with others, and has none of them."""
    found = [stage for stage in stages if stage.active]
    there = {stage.name for stage in found}
    return [stage for stage in found if not stage.only_with or there & {*stage.only_with}]


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Each after the stage that it follows; the others after the last one of their segment or an earlier one."""
    placed: list[Stage] = []
    for stage in stages:
        if stage.after:
            # One of the recipe's selections may stand in the place of the deduplication.
            names = ["deduplicate" if isinstance(other, Select) else other.name for other in placed]
            if stage.after not in names:
                raise RecipeError(
                    f"stage {stage.name} must follow a stage of the recipe",
                    value=f"after = {stage.after}",
                    fix=f"perhaps you mean: {nearest(stage.after, names)}",
                )
            placed.insert(names.index(stage.after) + 1, stage)
            continue
        rank = SEGMENTS.index(stage.segment)
        at = max((n + 1 for n, other in enumerate(placed) if SEGMENTS.index(other.segment) <= rank), default=0)
        placed.insert(at, stage)
    return placed


def readers_last(stages: Sequence[NamedStage]) -> list[NamedStage]:
    """The same stages, each after those of them whose columns it reads; otherwise in their order."""
    makers = {column.name: stage for stage in stages for column in stage.adds}
    placed: dict[str, NamedStage] = {}

    def place(stage: NamedStage, above: tuple[NamedStage, ...]) -> None:
        for name in stage.reads:
            maker = makers.get(name)
            # Of stages that need each other, the flow refuses the first.
            if maker is not None and maker not in above and maker.name not in placed:
                place(maker, (*above, stage))
        placed.setdefault(stage.name, stage)

    for stage in stages:
        place(stage, (stage,))
    return list(placed.values())
