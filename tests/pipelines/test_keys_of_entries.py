"""A mistake in an entry that a recipe chooses by name is reported with its whole key, the known names and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from pairmill.errors import UserError
from pipelines.recipe import CurateRecipe, parse_recipe
from training.recipe import TrainRecipe

CURATE = "run_dir: x\ninput: {path: x}\n"
TRAIN = (Path(__file__).parents[2] / "pipelines" / "recipes" / "train-demo.yaml").read_text()

#: Override -> the beginning of the rule, and words of the fix.
WRONG = {
    "recaption.engine=transformer": ("recaption.engine must be one of transformers, vllm, openai, or", "transformers"),
    "recaption.engine={bath: 3}": ("recaption.engine.bath is not a key", "batch_size"),
    "recaption.engine={name: openai, urll: x}": ("recaption.engine.urll is not a key", "url"),
    "recaption.engine.batch_size=x": ("recaption.engine.batch_size must be a valid integer", "docs/recipe.md"),
    "deduplicate.kinds=[nope]": ("deduplicate.kinds[0] must be one of duplicate_pair,", "duplicate_image"),
    "deduplicate.kinds=[{nam: duplicate_image}]": ("deduplicate.kinds[0] must be a name, or", "duplicate_image"),
    "deduplicate.kinds=[duplicate_image, {name: near_duplicate_image, max_distanc: 3}]": (
        "deduplicate.kinds[1].max_distanc is not a key",
        "max_distance",
    ),
    "deduplicate.kinds={near_image: {}}": ("deduplicate.kinds must be a list", "curate --schema"),
    "stages=[{nam: x}]": ("stages[0] must be a name, or a mapping", "an import path"),
    "download.actors=0": ("download.actors must be greater than or equal to 1 or be 'auto'", "curate --schema"),
    "input.format=nope": ("input.format must be 'auto' or be 'parquet', 'csv'", "curate --schema"),
    "stages=a:b": ("stages must be a list", "curate --schema"),
    "loss.objective={name: clip, tilde: 2}": ("loss.objective.tilde is not a key", "name"),
    "loss.objective=clipp": ("loss.objective must be one of clip,", "clip"),
    "evaluate.metrics=[{name: recall, att: 3}]": ("evaluate.metrics[0].att is not a key", "at"),
    "evaluate.datasets.a={path: x, kind: zeroshot}": ("evaluate.datasets.a.kind must be one of", "zero_shot"),
    "evaluate.datasets.a={path: x, kind: {name: zero_shot, label: x}}": (
        "evaluate.datasets.a.kind.class_names must be set",
        "evaluate.datasets.a.kind.class_names=",
    ),
    "data.texts=[{transforms: [sentence]}]": ("data.texts[0].transforms[0] must be one of sentences", "sentences"),
}


@pytest.mark.parametrize("override", WRONG)
def test_the_whole_key_is_named(override: str) -> None:
    rule, fix = WRONG[override]
    curates = override.split(".")[0].split("=")[0] in CurateRecipe.model_fields
    with pytest.raises(UserError) as raised:
        parse_recipe(CURATE if curates else TRAIN, [override], CurateRecipe if curates else TrainRecipe)
    assert raised.value.rule.startswith(rule)
    assert fix in raised.value.fix
