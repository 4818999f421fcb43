"""Trackers that a run logs to besides its own files, checked before anything starts."""

from __future__ import annotations

import importlib.util
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from pairmill.errors import RecipeError
from training.recipe import LogConfig

#: Modes of W&B (`WANDB_MODE`) in which nothing is sent, so that no login is needed.
_WITHOUT_LOGIN = ("offline", "disabled", "dryrun")


def check_trackers(log: LogConfig) -> None:
    """Raises RecipeError if a tracker of the recipe is not installed, or W&B has no login."""
    for key, project, package in (("log.wandb", log.wandb, "wandb"), ("log.mlflow", log.mlflow, "mlflow")):
        if project is not None and importlib.util.find_spec(package) is None:
            raise RecipeError(
                f"{key} must be null unless {package} is installed",
                value=project,
                fix=f"`pip install {package}` where the run's workers are, or leave {key} out",
            )
    if log.wandb is not None and not _logged_in():
        raise RecipeError(
            "log.wandb must be null unless W&B has a login",
            value=f"{log.wandb}, with neither WANDB_API_KEY nor an entry of {_host()} in {_netrc()}",
            fix="run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline and `wandb sync` later",
        )


def _logged_in() -> bool:
    """Whether W&B would start without asking: it looks for its mode, its key, and an entry of its host in netrc."""
    if os.environ.get("WANDB_MODE", "").lower() in _WITHOUT_LOGIN or os.environ.get("WANDB_API_KEY"):
        return True
    # A key by workload identity, or in settings of W&B's own.
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        return netrc.netrc(_netrc()).authenticators(_host()) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _host() -> str:
    return urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""


def _netrc() -> str:
    given = os.environ.get("NETRC")
    if given:
        return os.path.expanduser(given)
    usual = [Path.home() / name for name in (".netrc", "_netrc")]
    return str(next((path for path in usual if path.exists()), usual[0]))
