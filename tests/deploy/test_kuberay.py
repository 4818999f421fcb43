"""KubeRay's manifests, by its API, by Kubernetes's, and by Ray's own reading of them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.client import models
from pydantic import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

HERE = Path(__file__).parent
KUBERAY = HERE.parents[1] / "deploy/kuberay"
SPECS = yaml.safe_load((HERE / "kuberay_v1.yaml").read_text(encoding="utf-8"))

KUBERNETES = {"NetworkPolicy": "V1NetworkPolicy", "ServiceAccount": "V1ServiceAccount"}
RAY = {"RayCluster": "cluster", "RayJob": "job"}


def objects(kind: str | None = None) -> list[dict[str, Any]]:
    found = [o for path in sorted(KUBERAY.glob("*.yaml")) for o in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [o for o in found if kind in (None, o["kind"])]


def cluster() -> dict[str, Any]:
    (found,) = objects("RayCluster")
    return found


def pods() -> list[dict[str, Any]]:
    spec = cluster()["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def problems(value: Any, kind: str) -> list[str]:
    """What of `value` Kubernetes's client does not take for a `kind`: its models are made from the API's own schema."""
    try:
        taken = getattr(models, kind).model_validate(value)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    # The models also take Python's spelling, `image_pull_policy`, which Kubernetes does not.
    if taken.model_dump(by_alias=True, exclude_unset=True) != value:
        return [f"{kind}: a field is not spelt as Kubernetes spells it"]
    return []


def _kubernetes(_: Any, kind: str, value: Any, __: Any) -> Any:
    for problem in problems(value, kind):
        yield jsonschema.ValidationError(problem)


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-kubernetes": _kubernetes})


def judge(spec: Any, schema: Any) -> list[str]:
    return [error.message for error in Validator(schema).iter_errors(spec)]


def test_all_kinds_are_known() -> None:
    assert {o["kind"] for o in objects()} == {*KUBERNETES, *RAY}


@pytest.mark.parametrize("found", objects(), ids=lambda o: f"{o['kind']}-{o['metadata'].get('name', 'job')}")
def test_it_is_what_the_api_takes(found: dict[str, Any]) -> None:
    if found["kind"] in KUBERNETES:
        assert problems(found, KUBERNETES[found["kind"]]) == []
    else:
        assert found["apiVersion"] == "ray.io/v1"
        assert found.keys() == {"apiVersion", "kind", "metadata", "spec"}
        assert problems(found["metadata"], "V1ObjectMeta") == []
        assert judge(found["spec"], SPECS[RAY[found["kind"]]]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["authOption"], {"mode": "token"}),
        (["authOptions", "mode"], "tokens"),
        (["headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["workerGroupSpecs", 0, "minReplica"], 1),
        (["workerGroupSpecs", 1, "template", "spec", "toleration"], []),
        (["workerGroupSpecs", 1, "template", "spec", "containers", 0, "resources", "limit"], {}),
        (["headGroupSpec", "template", "spec", "containers", 0, "env", 0, "name"], None),
        (["headGroupSpec", "template", "spec", "volumes", 0, "emptyDir", "size"], "1Gi"),
        (["headGroupSpec", "template", "spec", "containers", 0, "image_pull_policy"], "Always"),
    ],
)
def test_a_wrong_field_is_refused(path: list[Any], value: Any) -> None:
    spec = json.loads(json.dumps(cluster()["spec"]))  # anchors in the file become one object
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(judge(spec, SPECS["cluster"])) == 1


def test_ray_makes_of_it_the_pools_of_the_launcher() -> None:
    found = cluster()
    found["metadata"]["namespace"] = "pairmill"
    config = _derive_autoscaling_config_from_ray_cr(found)  # validates against Ray's own schema
    types = config["available_node_types"]
    assert config["idle_timeout_minutes"] == 10
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert {name: (t["min_workers"], t["max_workers"]) for name, t in types.items() if name != "headgroup"} == {
        "download": (1, 64),
        "caption": (0, 16),
        "training": (0, 2),
    }
    # Training asks for 8 CPUs beside each GPU: no caption node has them, a training node has eight times.
    assert types["caption"]["resources"]["CPU"] < 8 <= types["training"]["resources"]["CPU"] / 8
    assert (types["caption"]["resources"]["GPU"], types["training"]["resources"]["GPU"]) == (1, 8)


def test_tokens_everywhere() -> None:
    spec = cluster()["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    wanted = {"name": "RAY_AUTH_MODE", "value": "token"}
    assert wanted in spec["autoscalerOptions"]["env"]
    for pod in pods():
        assert all(wanted in container["env"] for container in pod["containers"])


def test_pods_may_do_little() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"] == container["resources"]["requests"]


def test_nobody_outside_comes_in() -> None:
    assert cluster()["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    policies = [o["spec"] for o in objects("NetworkPolicy")]
    inward = [p for p in policies if "Ingress" in p["policyTypes"]]
    assert inward
    for policy in inward:
        for rule in policy["ingress"]:
            assert rule["from"], "a rule without `from` lets everybody in"
            assert all("ipBlock" not in source for source in rule["from"])
            assert {} not in rule["from"]


def test_policies_are_about_these_pods() -> None:
    spec = cluster()["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    labels = [group["template"]["metadata"]["labels"] for group in groups]
    for policy in objects("NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        assert any(wanted.items() <= found.items() for found in labels)


def test_private_networks_are_closed_to_hostile_urls() -> None:
    (out,) = [o["spec"] for o in objects("NetworkPolicy") if o["metadata"]["name"] == "pairmill-out"]
    (world,) = [b["ipBlock"] for rule in out["egress"] for b in rule["to"] if b.get("ipBlock", {}).get("except")]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8"} <= set(world["except"])


def test_the_job_is_for_this_cluster() -> None:
    (job,) = objects("RayJob")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster()["metadata"]["name"]}
    assert job["spec"]["entrypoint"].startswith("python -m pipelines curate pipelines/recipes/curate.yaml ")
