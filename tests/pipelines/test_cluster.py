import pytest

from pipelines.cluster import Pool, size_pools
from pipelines.recipe import parse_recipe

LEAST = "run_dir: r\ninput: {path: list.parquet}\n"


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
    pools = size_pools(parse_recipe(LEAST), resources)
    assert (pools.download, pools.recaption, pools.translate) == (download, model, model)


@pytest.mark.parametrize("resources", [{"CPU": float(c)} for c in (1, 2, 3, 4, 8, 17, 100)])
def test_something_is_left_for_the_short_tasks(resources: dict[str, float]) -> None:
    # Reading, filtering and committing take half a core each; pools that took all would wait for them for ever.
    pools = size_pools(parse_recipe(LEAST), resources)
    assert pools.download.actors * pools.download.num_cpus <= resources["CPU"] - 0.5
    both = sum(pool.actors * pool.num_cpus for pool in (pools.recaption, pools.translate))
    assert both <= resources["CPU"] - 0.5


@pytest.mark.parametrize("node", [1.0, 2.0, 4.0])
def test_a_node_that_has_a_captioner_and_a_translator_has_room_for_a_short_task(node: float) -> None:
    pools = size_pools(parse_recipe(LEAST), {"CPU": 8 * node}, smallest=node)
    assert pools.recaption.num_cpus + pools.translate.num_cpus <= node - 0.5


def test_the_recipe_has_the_last_word() -> None:
    pools = size_pools(
        parse_recipe(LEAST, ["cluster.download_actors=3", "recaption.actors=5"]), {"CPU": 8.0, "GPU": 1.0}
    )
    assert (pools.download.actors, pools.recaption.actors, pools.translate.actors) == (3, 5, 1)
