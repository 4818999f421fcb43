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
REQUIREMENTS = {
    Requirement(line).name: Requirement(line)
    for line in (*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"])
}


def pinned(name: str) -> list[Requirement]:
    """The lines of a constraints file."""
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


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


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_are_of_what_the_project_requires(name: str) -> None:
    found = {canonicalize_name(line.name): line for line in pinned(name)}
    for requirement in REQUIREMENTS.values():
        line = found.get(canonicalize_name(requirement.name))
        assert line is not None, f"{requirement.name} is not in {name}: `make constraints`, `make oldest`"
        version = str(line.specifier).removeprefix("==")
        assert requirement.specifier.contains(version), (
            f"{line} is not {requirement}: `make constraints`, `make oldest`"
        )


def test_every_requirement_has_a_lowest_version() -> None:
    for requirement in REQUIREMENTS.values():
        assert any(one.operator in (">=", "==") for one in requirement.specifier), f"{requirement} has none"


def test_the_version_is_the_changelogs_newest() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]"
    assert headings[1].startswith(f"## [{PROJECT['project']['version']}] - ")
    released = [Version(line.partition("[")[2].partition("]")[0]) for line in headings[1:]]
    assert released == sorted(released, reverse=True)


def test_the_workflow_tests_every_python_that_is_promised() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert jobs["test"]["strategy"]["matrix"]["python"] == promised
    targets = {
        step["run"].split()[1] for job in jobs.values() for step in job["steps"] if "make" in step.get("run", "")
    }
    assert targets == {"check", "test", "test-integrity", "coverage"}
