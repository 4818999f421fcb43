"""What the packages that pairmill depends on have, and one line where one of them is missing."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pairmill.errors import UserError


def package_file(package: str, name: str) -> Path:
    """A data file of an installed package, found without importing the package (open_clip would import torch).

    name: its path below the package's folder.  Raises UserError if the package is not installed on this node.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise _missing(package)
    return Path(spec.origin).parent / name


def package_version(distribution: str) -> str:
    """The version of an installed distribution.  Raises UserError if it is not installed on this node."""
    try:
        return version(distribution)
    except PackageNotFoundError as error:
        raise _missing(distribution) from error


@contextmanager
def needed(package: str) -> Iterator[None]:
    """Around the import of a package within a function.  Raises UserError if it is not installed on this node."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise _missing(package) from error


def _missing(package: str) -> UserError:
    return UserError(
        f"{package}, a dependency of pairmill, must be installed on every node",
        value=f"no module {package} on {platform.node()}",
        fix="install pairmill with its dependencies there",
    )
