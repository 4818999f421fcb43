"""Which files a model name means, their revision, and how they are loaded.

A name is a folder (relative to the working directory, else to the project root) or a Hugging Face hub id.  Weights
are pinned to a commit or a content digest, and code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pairmill.errors import UserError

if TYPE_CHECKING:
    import torch

PROJECT_ROOT = Path(__file__).resolve().parents[2]

DType = Literal["auto", "float32", "bfloat16", "float16"]

#: Files that change what a model computes; model cards and training metrics do not.
_HASHED_SUFFIXES = frozenset(
    {".json", ".safetensors", ".bin", ".pt", ".pth", ".npz", ".onnx", ".model", ".spm", ".txt", ".jinja", ".py"}
)
_UNHASHED_NAMES = frozenset({"metrics.json"})
_WHOLE_FILE_BYTES = 64 << 20
_EDGE_BYTES = 4 << 20


class Checkpoint(NamedTuple):
    """A model that was found: the arguments of `from_pretrained`, and the revision to store."""

    source: str
    """Folder or hub id."""
    commit: str | None
    """The hub commit to load; None for a folder."""
    revision: str
    """Stored with each text: the commit, or `sha256:` and 16 hex digits of a folder's content."""


def resolve(model: str, revision: str | None) -> Checkpoint:
    """Find `model`, without loading it.

    Raises UserError if there is neither such a folder nor such a model on the hub (or in its local cache).
    """
    folder = local_folder(model)
    if folder is not None:
        content = f"sha256:{folder_digest(folder)}"
        if revision not in (None, content):
            raise UserError(
                "revision must be the digest of the folder's content where model is a folder",
                value=f"revision {revision}, but {folder} is {content}",
                fix="remove revision, or restore the files",
            )
        return Checkpoint(source=str(folder), commit=None, revision=content)
    commit = _hub_commit(model, revision)
    return Checkpoint(source=model, commit=commit, revision=commit)


def local_folder(model: str) -> Path | None:
    """The folder `model` names, or None if it looks like a hub id.

    Raises UserError if it can only be a path, and there is no such folder.
    """
    for candidate in (_at_home(Path(model)), PROJECT_ROOT / model):
        if candidate.is_dir():
            return candidate.resolve()
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model):
        raise UserError(
            "model must be a folder or a hub id (owner/name)",
            value=model,
            fix=f"check the path; relative ones are looked up in {Path.cwd()} and {PROJECT_ROOT}",
        )
    return None


def _at_home(path: Path) -> Path:
    """The path, with ~ as the home of a user there is."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def folder_digest(folder: Path) -> str:
    """16 hex digits of SHA-256 over the names, sizes and content of a checkpoint's files.

    Only the first and last 4 MiB of files over 64 MiB are read: safetensors keep the layout of all tensors at the
    start, and a training step changes every tensor.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix not in _HASHED_SUFFIXES or path.name in _UNHASHED_NAMES or name.startswith("."):
            continue
        total.update(f"{name}\0{path.stat().st_size}\0{_content(path)}\n".encode())
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """16 hex digits of SHA-256 of a file of weights: of all of it, whoever made it and however.

    Raises UserError if it cannot be read.
    """
    try:
        whole = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_EDGE_BYTES):
                whole.update(chunk)
        return whole.hexdigest()[:16]
    except (OSError, ValueError) as error:  # ValueError: a character that no path has
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            "a file of weights must be readable", value=f"{str(path)!r}: {why}", fix="correct the path"
        ) from error


def _content(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            return hashlib.sha256(file.read()).hexdigest()
        content = hashlib.sha256(file.read(_EDGE_BYTES))
        file.seek(-_EDGE_BYTES, 2)
        content.update(file.read())
    return content.hexdigest()


def _hub_commit(model: str, revision: str | None) -> str:
    """The current commit of `revision` (default: main) of a hub model; the cached one if the hub is unreachable."""
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import hf_hub_download

    try:
        # The cache keeps each file under snapshots/<commit>/, online and offline alike.
        return Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
    except Exception as error:  # the hub client raises its own, requests', httpx' and OS errors
        raise UserError(
            "model must be a folder, or a model on the Hugging Face hub or in its cache",
            value=f"{model} (revision {revision or 'main'}): {type(error).__name__}",
            fix="check the name and the network, or download the model and give its folder",
        ) from error


def load_arguments(checkpoint: Checkpoint) -> dict[str, object]:
    """Keyword arguments for every `from_pretrained` of this checkpoint."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # actors write to log files
    pinned = {} if checkpoint.commit is None else {"revision": checkpoint.commit}
    return {**pinned, "trust_remote_code": False}


def pick_device(wanted: str) -> torch.device:
    """`wanted`, or for `auto` the GPU that Ray gave this process, or else the CPU."""
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(wanted: DType, device: torch.device) -> torch.dtype:
    """`wanted`, or for `auto` bfloat16 on a GPU and float32 on a CPU, whatever the files hold.

    Small checkpoints are stored as float16 to save space; computing in it is slow on a CPU, and overflows.
    """
    import torch

    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def free_memory(device: torch.device) -> None:
    """Give back what a failed call left allocated on a GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
