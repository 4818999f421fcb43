"""Trackers are checked before a run starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pairmill.errors import RecipeError
from training.recipe import LogConfig
from training.trackers import check_trackers

NAMES = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a login, on a machine with W&B."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "wandb.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_missing_login_is_noticed_before_the_start(home: Path) -> None:
    check_trackers(LogConfig())
    with pytest.raises(RecipeError, match=r"log\.wandb must be null unless W&B has a login") as raised:
        check_trackers(LogConfig(wandb="mine"))
    assert "wandb login" in raised.value.fix


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_API_KEY", "k" * 40), ("WANDB_MODE", "offline"), ("WANDB_MODE", "Disabled")]
)
def test_a_key_or_a_mode_without_one_is_enough(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    check_trackers(LogConfig(wandb="mine"))


def test_an_entry_of_the_right_host_in_netrc_is_enough(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".netrc").write_text("machine api.wandb.ai login user password " + "k" * 40 + "\n")
    (home / ".netrc").chmod(0o600)
    check_trackers(LogConfig(wandb="mine"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com:8080")
    with pytest.raises(RecipeError, match=r"wandb\.example\.com"):
        check_trackers(LogConfig(wandb="mine"))
    (home / "other").write_text("machine wandb.example.com login user password k\n")
    (home / "other").chmod(0o600)
    monkeypatch.setenv("NETRC", str(home / "other"))
    check_trackers(LogConfig(wandb="mine"))


def test_a_tracker_that_is_not_installed_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for log in (LogConfig(wandb="mine"), LogConfig(mlflow="mine")):
        with pytest.raises(RecipeError, match="installed"):
            check_trackers(log)
