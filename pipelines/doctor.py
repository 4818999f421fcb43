"""What this machine has, and what would go wrong on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Our top level.  PyPI has other packages called `tune` and `pipelines`.
OUR_PACKAGES = ("pairmill", "pipelines", "curation", "training", "tune")

_VERSIONS = ("ray", "torch", "transformers", "open_clip_torch", "deepspeed", "pyarrow", "aiohttp", "fasttext-predict")


def project_root() -> Path:
    """The folder that our packages lie in."""
    return Path(__file__).resolve().parent.parent


def shadowed() -> dict[str, str]:
    """Our packages that Python would import from elsewhere: name -> where it found them."""
    found = {}
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or project_root() not in origin.parents:
            found[name] = str(origin)
    return found


def check_packages() -> None:
    """Exit with code 2 if another package hides one of ours: everything after would be a riddle."""
    for name, where in shadowed().items():
        print(
            f"pairmill: the package `{name}` must be the one in {project_root()}\n  got: {where}\n"
            f"  fix: uninstall the other package, or put {project_root()} first on PYTHONPATH",
            file=sys.stderr,
        )
        raise SystemExit(2)


def diagnose(run_dir: str) -> dict[str, Any]:
    """Everything `pairmill doctor` prints; `problems` is empty when all is well."""
    import torch

    problems = [f"{name} is imported from {where}" for name, where in shadowed().items()]
    versions = {}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
            problems.append(f"{package} is not installed")
    writable = _writable(run_dir)
    if writable is not True:
        problems.append(f"{run_dir} cannot be written: {writable}")
    return {
        "python": platform.python_version(),
        **versions,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": torch.cuda.device_count(),
        "ray_address": os.environ.get("RAY_ADDRESS", "none: a local cluster will be started"),
        "ray_auth_mode": os.environ.get("RAY_AUTH_MODE", "token (set by us for a local cluster)"),
        "project": str(project_root()),
        "run_dir_writable": writable,
        "problems": problems,
    }


def _writable(run_dir: str) -> bool | str:
    if "://" in run_dir:
        from pairmill.store import Store

        store = Store(run_dir)
        try:
            store.write_json("doctor.json", {})
        except OSError as error:
            return str(error)
        return True
    folder = Path(run_dir)
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return str(error)
