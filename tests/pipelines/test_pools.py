import json
from typing import Any

import pyarrow as pa
import pytest

from curation.stage import Column, Stage
from pairmill.errors import RecipeError
from pipelines.pools import Pool, check_placement, check_pools, check_room, connected, size_pools
from pipelines.recipe import parse_recipe

LEAST = "run_dir: r\ninput: {path: list.parquet}\n"
MODELS = LEAST + "recaption: {model: m}\ntranslate: {model: m}\n"


@pytest.mark.parametrize(
    ("resources", "download", "model"),
    [
        ({"CPU": 1}, Pool(1, 0.5), Pool(1, 0.25, 0.0)),
        ({"CPU": 2}, Pool(1, 1.0), Pool(1, 0.5, 0.0)),
        ({"CPU": 64}, Pool(32, 1.0), Pool(15, 2.0, 0.0)),
        ({"CPU": 64, "GPU": 8}, Pool(32, 1.0), Pool(8, 1.0, 0.5)),
    ],
)
def test_pools_fill_the_cluster(resources: dict[str, float], download: Pool, model: Pool) -> None:
    pools = size_pools(parse_recipe(MODELS).flow(), resources).of
    assert (pools["download"], pools["recaption"], pools["translate"]) == (download, model, model)


@pytest.mark.parametrize("resources", [{"CPU": float(c)} for c in (1, 2, 3, 4, 8, 17, 100)])
def test_something_is_left_for_the_short_tasks(resources: dict[str, float]) -> None:
    # Reading, filtering and committing take half a core each; pools that took all would wait for them for ever.
    pools = size_pools(parse_recipe(MODELS).flow(), resources).of
    assert pools["download"].actors * pools["download"].num_cpus <= resources["CPU"] - 0.5
    both = sum(pool.actors * pool.num_cpus for pool in (pools["recaption"], pools["translate"]))
    assert both <= resources["CPU"] - 0.5


@pytest.mark.parametrize("actors", [1, 2, 3, 7])
@pytest.mark.parametrize("cpus", [1.0, 2.0, 4.0])
def test_something_is_left_however_many_actors_a_recipe_asks_for(cpus: float, actors: int) -> None:
    keys = [f"{stage}.actors={actors}" for stage in ("download", "recaption", "translate")]
    flow = parse_recipe(MODELS, keys).flow()
    pools = size_pools(flow, {"CPU": cpus})
    assert {pool.actors for pool in pools.of.values()} == {actors}
    taken = {name: pool.actors * pool.num_cpus for name, pool in pools.of.items()}
    if actors <= 2 or cpus > 1:  # 0.1 core each is the least
        assert taken["download"] <= cpus - 0.5 + 1e-9
        assert taken["recaption"] + taken["translate"] <= cpus - 0.5 + 1e-9
        check_room(flow, pools, cpus)


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        (["download.actors=2", "download.num_cpus=1"], True),
        (["download.actors=1", "download.num_cpus=2"], True),
        (["download.actors=3", "download.num_cpus=0.5"], False),
        (["recaption.num_cpus=1.5", "translate.num_cpus=0.5"], True),
        (["recaption.num_cpus=1", "translate.num_cpus=0.5"], False),
    ],
)
def test_actors_that_leave_no_room_for_a_short_task_are_refused(keys: list[str], refused: bool) -> None:
    flow = parse_recipe(MODELS, keys).flow()
    pools = size_pools(flow, {"CPU": 2.0})
    if not refused:
        check_room(flow, pools, 2.0)
        return
    with pytest.raises(RecipeError, match=r"must leave 0\.5 of the cluster's cores(.|\n)* 2 of 2 CPU"):
        check_room(flow, pools, 2.0)


@pytest.mark.parametrize("node", [1.0, 2.0, 4.0])
def test_a_node_that_has_a_captioner_and_a_translator_has_room_for_a_short_task(node: float) -> None:
    pools = size_pools(parse_recipe(MODELS).flow(), {"CPU": 8 * node}, smallest=node).of
    assert pools["recaption"].num_cpus + pools["translate"].num_cpus <= node - 0.5


def test_the_recipe_has_the_last_word() -> None:
    recipe = parse_recipe(MODELS, ["download.actors=3", "recaption.actors=5"])
    pools = size_pools(recipe.flow(), {"CPU": 8.0, "GPU": 1.0}).of
    assert {name: pool.actors for name, pool in pools.items()} == {"download": 3, "recaption": 5, "translate": 1}


def test_a_stage_reserves_what_its_recipe_says() -> None:
    keys = ["recaption.memory_gb=20", "recaption.accelerator_type=A100", "recaption.actors=8", "recaption.actors_min=2"]
    pool = size_pools(parse_recipe(MODELS, keys).flow(), {"CPU": 64.0, "GPU": 8.0}).of["recaption"]
    assert pool.reserves() == {"num_cpus": 1.0, "num_gpus": 0.5, "memory": 20e9, "accelerator_type": "A100"}
    assert pool.sizes(100) == {"min_size": 2, "max_size": 8}
    assert pool.sizes(2) == {"size": 2}, "two shards have work for two"
    assert Pool(3, 1.0).sizes(100) == {"size": 3} and Pool(3, 1.0).reserves() == {"num_cpus": 1.0}


NODES = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 16.0, "GPU": 1.0, "memory": 64e9, "accelerator_type:L4": 1.0}]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["download.num_cpus=17"], r"download.*\n?.*17 CPU"),
        (["recaption.model=m", "recaption.num_gpus=2"], "recaption"),
        (["recaption.model=m", "recaption.memory_gb=65"], "65.0 GB"),
        (["recaption.model=m", "recaption.accelerator_type=H100"], "H100.*4 CPU, 8.0 GB"),
        (
            ["translate.model=m", "translate.targets=[zh]", "translate.num_cpus=5", "translate.accelerator_type=A100"],
            "A100",
        ),
    ],
)
def test_actors_that_fit_on_no_node_are_refused(keys: list[str], said: str) -> None:
    recipe = parse_recipe(LEAST, keys)
    with pytest.raises(RecipeError, match=f"(?s){said}"):
        check_pools(recipe.flow(), size_pools(recipe.flow(), {"CPU": 20.0, "GPU": 1.0}), NODES)


def test_actors_that_fit_are_not() -> None:
    keys = ["recaption.model=m", "recaption.accelerator_type=L4", "recaption.memory_gb=64", "recaption.num_cpus=16"]
    # translate has no model: it does not run
    flow = parse_recipe(LEAST, [*keys, "translate.num_gpus=9"]).flow()
    check_pools(flow, size_pools(flow, {"CPU": 20.0, "GPU": 1.0}), NODES)


class Short(Stage):
    """A user's own stage in the default pool."""

    name, segment = "short", "score"
    reads = ("caption",)
    adds = (Column("short", pa.string()),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows.append_column(self.name, rows["caption"])


class Held(Stage):
    """One with a model."""

    name, segment, pool = "held", "score", "model"
    reads = ("caption",)
    adds = (Column("held", pa.string()),)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return rows.append_column(self.name, rows["caption"])


PLACED = {
    **{"actors": 3, "actors_min": 1, "num_cpus": 2.0, "num_gpus": 1.0, "memory_gb": 4.0},
    "accelerator_type": "A100",
}


def own(kind: str, **keys: Any) -> str:
    return f"stages={json.dumps([{'name': f'{__name__}:{kind}', **keys}])}"


@pytest.mark.parametrize("key", PLACED)
def test_a_stage_without_actors_is_refused_keys_of_actors(key: str) -> None:
    placed = {key: PLACED[key]}
    with pytest.raises(RecipeError, match=f"(?s)stage short must .*{key}.*{PLACED[key]}, and pool = 'tasks'"):
        check_placement(parse_recipe(LEAST, [own("Short", **placed)]).flow())
    check_placement(parse_recipe(LEAST, [own("Held", **placed)]).flow())


def test_the_recipe_that_a_run_keeps_sets_no_more_keys_than_the_one_that_was_given() -> None:
    recipe = parse_recipe(LEAST, [own("Short"), "download.actors=3"])
    check_placement(parse_recipe(recipe.to_yaml()).flow())


def test_keys_of_actors_are_refused_before_a_job_connects() -> None:
    recipe = parse_recipe(LEAST, [own("Short", actors=2), "cluster.address=ray-of-nobody:1"])
    with pytest.raises(RecipeError, match="stage short must"), connected(recipe):
        pass
