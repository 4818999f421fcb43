from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curation.engines.model_files import (
    PROJECT_ROOT,
    Checkpoint,
    folder_digest,
    load_arguments,
    local_folder,
    pick_dtype,
    resolve,
)
from pairmill.errors import UserError


def found(folder: Path) -> Checkpoint:
    return resolve(str(folder), None)


def test_a_relative_folder_is_looked_up_here_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_folder("curation/engines") == PROJECT_ROOT / "curation" / "engines"
    (tmp_path / "curation" / "engines").mkdir(parents=True)
    assert local_folder("curation/engines") == (tmp_path / "curation" / "engines").resolve()
    assert local_folder("Salesforce/blip-image-captioning-base") is None
    assert local_folder("gpt2") is None


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "samples/models/nothing", "../no/such/folder"])
def test_what_can_only_be_a_path_must_exist(path: str) -> None:
    with pytest.raises(UserError, match="folder"):
        local_folder(path)


def test_a_folder_digest_sees_weights_and_settings_but_not_the_model_card(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = folder_digest(tmp_path)
    (tmp_path / "README.md").write_text("new words")
    (tmp_path / "metrics.json").write_text("{}")
    assert folder_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    changed = folder_digest(tmp_path)
    (tmp_path / "generation_config.json").write_text("{}")
    assert len({before, changed, folder_digest(tmp_path)}) == 3


def test_large_files_are_hashed_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.engines.model_files._WHOLE_FILE_BYTES", 8)
    monkeypatch.setattr("curation.engines.model_files._EDGE_BYTES", 2)
    digests = set()
    for content in (b"ab------yz", b"Ab------yz", b"ab------yZ", b"ab-------yz"):
        (tmp_path / "model.safetensors").write_bytes(content)
        digests.add(folder_digest(tmp_path))
    assert len(digests) == 4


def test_a_pinned_folder_must_have_the_same_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    revision = found(tmp_path).revision
    assert resolve(str(tmp_path), revision).revision == revision
    (tmp_path / "config.json").write_text("{ }")
    with pytest.raises(UserError, match="digest"):
        resolve(str(tmp_path), revision)


def test_a_hub_model_is_pinned_to_the_commit_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / commit).mkdir(parents=True)
    (cached / "snapshots" / commit / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    checkpoint = resolve("owner/name", None)
    assert checkpoint == Checkpoint(source="owner/name", commit=commit, revision=commit)
    assert load_arguments(checkpoint) == {"revision": commit, "trust_remote_code": False}
    with pytest.raises(UserError, match="owner/unknown"):
        resolve("owner/unknown", None)


def test_a_full_commit_needs_no_hub() -> None:
    assert resolve("owner/name", "a" * 40).commit == "a" * 40


def test_half_precision_files_are_computed_in_float32_on_a_cpu() -> None:
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16
