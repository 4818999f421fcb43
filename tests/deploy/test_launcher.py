"""The cluster launcher's files, by Ray's own schema, defaults and bin packing."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.pools import size_pools
from pipelines.recipe import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = ["cluster.yaml", "deploy/gcp.yaml", "deploy/on-premise.yaml"]
CLOUDS = FILES[:2]

MOST = {"head": 0, "download": 64, "caption": 16, "training": 2}


def load(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
    return config


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    done: dict[str, Any] = prepare_config(copy.deepcopy(config))
    return done


@pytest.mark.parametrize("name", FILES)
def test_ray_takes_it(name: str) -> None:
    validate_config(prepared(load(name)))


@pytest.mark.parametrize("name", FILES)
def test_ray_would_not_take_a_misspelt_one(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        validate_config(prepared(load(name) | {"idle_timeout_minute": 5}))


@pytest.mark.parametrize("name", FILES)
def test_every_ray_starts_with_tokens(name: str) -> None:
    config = prepared(load(name))
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    for place in ("head", "worker"):
        starts = [c for c in config[f"{place}_start_ray_commands"] if "ray start" in c]
        assert len(starts) == 1
        assert starts[0].startswith("export RAY_AUTH_MODE=token;")


@pytest.mark.parametrize("name", FILES)
def test_dashboard_and_prometheus_are_for_the_head_alone(name: str) -> None:
    commands = " ".join(prepared(load(name))["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in commands
    assert "--web.listen-address=127.0.0.1:9090" in commands
    assert "0.0.0.0" not in commands


def test_aws_opens_nothing_to_the_world() -> None:
    """A node type without a security group of its own gets Ray's, which lets everybody reach port 22."""
    config = prepared(load("cluster.yaml"))
    assert "security_group" not in config["provider"]
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_gcp_is_not_in_the_network_whose_firewall_is_open() -> None:
    for node in prepared(load("deploy/gcp.yaml"))["available_node_types"].values():
        for interface in node["node_config"]["networkInterfaces"]:
            assert "network" not in interface
            assert not interface["subnetwork"].endswith("/default")


@pytest.mark.parametrize("name", FILES)
def test_what_is_mounted_is_there(name: str) -> None:
    """Paths on this side are relative to where `ray up` is run: the project."""
    mounts = load(name)["file_mounts"]
    inside = {path for path in mounts.values() if not path.startswith("~")}
    assert inside == {"deploy"}
    assert (ROOT / "deploy/prometheus.yml").is_file()


@pytest.mark.parametrize("name", CLOUDS)
def test_pools_are_those_of_the_comments(name: str) -> None:
    config = prepared(load(name))
    types = config["available_node_types"]
    assert {pool: node["max_workers"] for pool, node in types.items()} == MOST
    assert config["max_workers"] == sum(MOST.values())
    assert [pool for pool, node in types.items() if node["min_workers"]] == ["download"]
    assert types["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        ([{"CPU": 1.0}] * 32, {"download": 2}),
        ([{"CPU": 0.5}] * 8, {"download": 1}),
        ([{"CPU": 1.0, "GPU": 0.5}] * 8, {"caption": 4}),
        ([{"CPU": 8.0, "GPU": 1.0}] * 8, {"training": 1}),
        ([{"CPU": 8.0, "GPU": 1.0}] * 16, {"training": 2}),
    ],
)
def test_stages_land_on_their_pools(name: str, demand: list[dict[str, float]], expected: dict[str, int]) -> None:
    types = prepared(load(name))["available_node_types"]
    scorer = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    added, unmet = get_nodes_for(types, {"head": 1}, "head", 82, demand, scorer)
    assert dict(added) == expected
    assert unmet == []


@pytest.mark.parametrize("name", CLOUDS)
def test_one_download_node_is_enough_to_size_a_job_by(name: str) -> None:
    """Of an empty cluster a job would conclude that it has one core, and give each actor one decoder instead of two."""
    kept = prepared(load(name))["available_node_types"]["download"]["resources"]
    recipe = parse_recipe("{run_dir: runs/x, input: {path: x.parquet}}", ["download.actors=32"])
    pools = size_pools(recipe.flow(), {k: float(v) for k, v in kept.items()}, grows=True)
    download = pools.of["download"]
    assert (download.actors, download.num_cpus, pools.decoders) == (32, 1.0, 2)
