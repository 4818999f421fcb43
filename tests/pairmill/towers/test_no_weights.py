"""Files that are taken for weights and are something else, or a part of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pairmill.errors import RecipeError
from pairmill.towers.weights import load_weights, read_weights

STATE = {"logit_scale": torch.tensor(1.0), "weight": torch.zeros(64, 64)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605157884\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors", "w.npz", "w.pth"])
@pytest.mark.parametrize(
    ("content", "what", "fix"),
    [
        (b"", "empty", "again"),
        (POINTER, "Git LFS pointer", "git lfs pull"),
        (b"/annex/objects/SHA256E-s605157884--4d7a.pt\n", "git-annex", "git annex get"),
        (PAGE, "HTML page", "download"),
        (b"\xef\xbb\xbf<!-- x --><HTML lang=en>" + b"x" * 70_000, "HTML page", "download"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "AccessDenied", "download"),
        (b"Entry not found", "'Entry not found'", "download"),
        (b'{"error": "Repository not found"}', "Repository not found", "download"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_named(
    tmp_path: Path, name: str, content: bytes, what: str, fix: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_weights(nn.Linear(2, 2), file)
    assert what in str(error.value.value) and str(file) in str(error.value.value) and fix in error.value.fix


def saved(folder: Path, form: str) -> Path:
    file = folder / f"w.{form.split()[0]}"
    if form == "safetensors":
        save_file(STATE, file)
    elif form == "npz":
        np.savez(file, **{name: value.numpy() for name, value in STATE.items()})
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=form == "pt")
    return file


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("form", ["pt", "pt old", "safetensors", "npz"])
def test_a_file_that_was_cut_off_is_named_so(tmp_path: Path, form: str, share: float) -> None:
    file = saved(tmp_path, form)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RecipeError) as error:
        load_weights(nn.Linear(2, 2), file)
    assert "cut off" in str(error.value.value) and "again" in error.value.fix


def test_a_pickled_module_is_named_by_its_class(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(RecipeError, match="state dict") as error:
        read_weights(file)
    assert "torch.nn.modules.linear.Linear" in str(error.value.value) and "_Inert" not in str(error.value)
    assert "torch.save(model.state_dict(), FILE)" in error.value.fix


def test_a_dictionary_of_modules_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"net": nn.Linear(2, 2)}, file)
    with pytest.raises(RecipeError, match="state dict") as error:
        read_weights(file)
    assert "dict without logit_scale" in str(error.value.value) and "_Inert" not in str(error.value)
