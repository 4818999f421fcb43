"""What is installed: our five packages with their data, and nothing else of the project."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipelines.doctor import OUR_PACKAGES

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = {
    Requirement(line).name: Requirement(line)
    for line in (*PROJECT["project"]["dependencies"], *EXTRAS["img2dataset"], *EXTRAS["dev"])
}
#: The versions of Python that are promised.
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
#: Constraints -> the versions of Python that they are for.
CONSTRAINTS = {"constraints.txt": PYTHONS, "constraints-oldest.txt": PYTHONS[:1]}


def pinned(name: str, python: str) -> dict[str, Version]:
    """Package -> the version that a constraints file names for a version of Python."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pins = [pin for pin in map(Requirement, lines) if wanted(pin, python)]
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


def wanted(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("package", OUR_PACKAGES)
def test_a_package_and_its_data_are_installed(package: str) -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    assert f"{package}*" in setuptools["packages"]["find"]["include"]
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", package], capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.splitlines()]
    assert files
    for file in files:
        if file.suffix != ".py":
            patterns = setuptools["package-data"].get(package, [])
            assert any(fnmatch(str(file.relative_to(package)), pattern) for pattern in patterns), f"{file} is left out"
        else:
            assert (ROOT / file).with_name("__init__.py").exists(), f"{file.parent} is no package"


@pytest.mark.parametrize(("name", "python"), [(name, python) for name in CONSTRAINTS for python in CONSTRAINTS[name]])
def test_constraints_are_of_what_the_project_requires(name: str, python: str) -> None:
    found = pinned(name, python)
    for requirement in REQUIREMENTS.values():
        version = found.get(canonicalize_name(requirement.name))
        if wanted(requirement, python):
            assert version is not None, f"{requirement.name} is not in {name}: `make constraints`, `make oldest`"
            assert requirement.specifier.contains(version), (
                f"{version} is not {requirement}: `make constraints`, `make oldest`"
            )
        else:
            assert version is None, f"{requirement.name} is in {name} for Python {python}: `make constraints`"


def test_the_lowest_version_of_every_requirement_is_tested() -> None:
    oldest = pinned("constraints-oldest.txt", PYTHONS[0])
    for requirement in REQUIREMENTS.values():
        lowest = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")]
        assert lowest == [oldest[canonicalize_name(requirement.name)]], (
            f"{requirement}: raise its bound, or run `make oldest`"
        )


def test_the_version_is_the_changelogs_newest() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]"
    assert headings[1].startswith(f"## [{PROJECT['project']['version']}] - ")
    released = [Version(line.partition("[")[2].partition("]")[0]) for line in headings[1:]]
    assert released == sorted(released, reverse=True)


def test_the_workflow_tests_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == PYTHONS
    targets = {
        step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "make" in step.get("run", "")
    }
    assert targets == {"check", "test", "test-integrity", "coverage"}
