"""Data files of the packages that pairmill depends on."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from pairmill.errors import UserError


def package_file(package: str, name: str) -> Path:
    """A data file of an installed package, found without importing the package (open_clip would import torch).

    name: its path below the package's folder.  Raises UserError if the package is not installed on this node.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"{package}, a dependency of pairmill, must be installed on every node",
            value=f"no module {package} on {platform.node()}",
            fix="install pairmill with its dependencies there",
        )
    return Path(spec.origin).parent / name
