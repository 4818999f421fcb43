"""All files agree on one image, and it holds the Ray and a Python that the project is for."""

import re
from pathlib import Path

import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
YAML = ["cluster.yaml", "deploy/gcp.yaml", "deploy/on-premise.yaml", "deploy/kuberay/raycluster.yaml"]


def found(pattern: str, text: str) -> tuple[str, ...]:
    """The groups of the one place where `pattern` is at home."""
    (match,) = re.finditer(pattern, text, re.MULTILINE)
    return match.groups()


(VERSION,) = found(r'^version = "([^"]+)"', PROJECT)
IMAGE = f"REPLACE_ME/pairmill:{VERSION}-ray{ray.__version__}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("name", YAML)
def test_one_image(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert set(re.findall(r"image: (\S+)", text)) == {IMAGE}


def test_the_dockerfile_is_of_this_ray() -> None:
    assert f"FROM rayproject/ray:{ray.__version__}-py" in DOCKERFILE
    assert f"-t {IMAGE} ." in DOCKERFILE


def test_kuberay_names_the_same_ray() -> None:
    manifest = yaml.safe_load((ROOT / "deploy/kuberay/raycluster.yaml").read_text(encoding="utf-8"))
    assert manifest["spec"]["rayVersion"] == ray.__version__


def test_this_ray_is_the_one_that_the_project_pins() -> None:
    low, high = found(r"^    .ray\[data\S*\]>=([\d.]+),<([\d.]+)", PROJECT)
    assert _numbers(low) <= _numbers(ray.__version__) < _numbers(high)


def test_its_python_is_one_of_the_projects() -> None:
    major, minor = found(r"^FROM rayproject/ray:\S*-py(\d)(\d+)", DOCKERFILE)
    low, high = found(r"^requires-python = .>=([\d.]+),<([\d.]+)", PROJECT)
    assert _numbers(low) <= (int(major), int(minor)) < _numbers(high)


def test_its_containers_start_with_tokens() -> None:
    assert re.search(r"^ENV RAY_AUTH_MODE=token$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)[-1] == "ray"
