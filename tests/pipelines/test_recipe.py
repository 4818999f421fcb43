from pathlib import Path

import pytest
import yaml

from pairmill.errors import RecipeError
from pipelines.recipe import CurateRecipe, load_recipe, parse_recipe
from training.recipe import TrainRecipe

RECIPES = Path(__file__).parents[2] / "pipelines" / "recipes"
LEAST = "run_dir: r\ninput: {path: list.parquet}\n"


KINDS = {"curate": CurateRecipe, "train": TrainRecipe}


@pytest.mark.parametrize(
    "path", sorted(p for p in RECIPES.glob("*.yaml") if p.stem.split("-")[0] in KINDS), ids=lambda p: p.name
)
def test_shipped_recipes_are_valid(path: Path) -> None:
    kind = KINDS[path.stem.split("-")[0]]
    recipe = load_recipe(path, kind=kind)
    assert parse_recipe(recipe.to_yaml(), kind=kind) == recipe


def test_the_least_recipe() -> None:
    recipe = parse_recipe(LEAST)
    assert recipe.download.allow_networks == ()
    assert not recipe.recaption.active
    assert not recipe.translate.active


#: Tools outside depend on these keys: they do not change.
FIXED = """
run_dir: r
input: {path: p, format: auto, url_column: URL, text_column: TEXT}
shards: {rows_per_shard: 10, seed: 1}
download: {engine: async, timeout_s: 5, retries: 1, max_bytes: 1000000, per_host_concurrency: 4,
  user_agent: "bot/1 (+http://example.com)",
  respect_robots: false, respect_opt_out: false, allow_networks: [127.0.0.0/8]}
image: {size: 256, resize: border, format: jpg, quality: 90, max_pixels: 1000000}
filter: {enabled: true, where: "width >= 256 and language == 'en'"}
deduplicate: {enabled: false}
recaption: {enabled: false, engine: transformers, model: m, prompts: {short: s}}
translate: {enabled: false, engine: transformers, model: m, targets: [zh]}
"""


def test_fixed_keys() -> None:
    given = yaml.safe_load(FIXED)
    recipe = parse_recipe(FIXED).model_dump(mode="json")
    for section, value in given.items():
        if not isinstance(value, dict):
            assert recipe[section] == value
            continue
        for key, wanted in value.items():
            found = recipe[section][key]
            # The name of an engine stands for all of its keys.
            assert (found["name"] if key == "engine" and isinstance(found, dict) else found) == wanted, (
                f"{section}.{key}"
            )


def test_overrides_are_yaml_at_dotted_keys() -> None:
    overrides = ["image.size=224", "download.allow_networks=[127.0.0.0/8]", "filter.languages=[en]", "run_dir=x=y"]
    recipe = parse_recipe(LEAST, overrides)
    assert (recipe.image.size, recipe.download.allow_networks) == (224, ("127.0.0.0/8",))
    assert (recipe.filter.languages, recipe.run_dir) == (("en",), "x=y")


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (LEAST, ["image.sise=224"], ["image.sise", "image", "size"]),
        (LEAST, ["imagge.size=224"], ["imagge", "image"]),
        (LEAST, ["image.size=big"], ["image.size", "big"]),
        (LEAST, ["image.size=-1"], ["image.size", "-1"]),
        (LEAST, ["shards.rows_per_shard=true"], ["shards.rows_per_shard must be", "integer", "true"]),
        (LEAST, ["download.timeout_s=true"], ["download.timeout_s must be", "number", "true"]),
        (LEAST, ["download.allow_ports=[true]"], ["download.allow_ports[0] must be", "integer", "true"]),
        (LEAST, ["image.size"], ["dotted.key=value"]),
        (LEAST, ["run_dir.x=1"], ["run_dir", "must be a section"]),
        (LEAST, ["image.size=[1"], ["YAML"]),
        (LEAST, ["filter.where=width >> 3"], ["filter", "where"]),
        (LEAST, ["filter.callables=[no.such:thing]"], ["no.such"]),
        (LEAST, ["download.allow_networks=[300.0.0.0/8]"], ["300.0.0.0/8"]),
        ("run_dir: r\n", [], ["input", "must be set"]),
        ("- a list", [], ["mapping"]),
        ("a: [", [], ["YAML"]),
    ],
)
def test_a_wrong_recipe_says_rule_value_and_fix(text: str, overrides: list[str], says: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(text, overrides)
    assert error.value.exit_code == 2
    for word in says:
        assert word in str(error.value)
    assert error.value.fix


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must be a readable file"):
        load_recipe(tmp_path / "no.yaml")


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_recipe(LEAST).run_dir = "other"  # type: ignore[misc]


def test_the_schema_describes_every_key() -> None:
    schema = CurateRecipe.model_json_schema()
    undescribed = [
        f"{name}.{key}"
        for name, section in schema["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if "description" not in value and key != "enabled"
    ]
    assert undescribed == []


def test_a_key_below_a_name_alone_is_of_what_it_names() -> None:
    text = "{run_dir: r, data: {path: p}, train: {steps: 1}, loss: {objective: siglip}}"
    recipe = parse_recipe(text, ["loss.objective.bias_init=-5"], TrainRecipe)
    assert recipe.loss.objective.model_dump() == {"name": "siglip", "bias_init": -5.0}
    assert parse_recipe(text, ["loss.objective=clip"], TrainRecipe).loss.objective.name == "clip"
