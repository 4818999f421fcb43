"""Which files of the project are uploaded with a job, and how much that may be."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pairmill.errors import InputError

#: MiB.  Ray takes up to 500; a project is code and recipes, so more than this means a folder not meant for upload.
UPLOAD_LIMIT_MIB = 100
RAY_LIMIT_MIB = 500

_NAMED = 5


def packed_files(root: Path) -> dict[str, int]:
    """The files that Ray uploads of a project, relative to its root, with their sizes in bytes.

    Left out are what .rayignore and .gitignore name, in any folder, and .git, .venv, venv and __pycache__.
    """
    # Ray has no public function for this; a walk of our own would differ where the ignore files are subtle.
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    # It logs every ignore file, each time.
    logging.getLogger(_dir_travel.__module__).setLevel(logging.WARNING)
    root = root.absolute()
    found: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            found[str(path.relative_to(root))] = path.stat().st_size

    _dir_travel(
        root,
        [_get_excludes(root, get_runtime_env_default_excludes())],
        note,
        include_gitignore=os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
    )
    return found


def check_upload(root: Path, limit_mib: int = UPLOAD_LIMIT_MIB) -> int:
    """Bytes that Ray uploads of a project.

    Raises InputError if `root` is no project, or holds more than `limit_mib` to upload: Ray stores files uncompressed.
    """
    if not (root / "pyproject.toml").is_file():
        raise InputError(
            "a job must be submitted from the project's folder, which is uploaded with it",
            value=f"{root} has no pyproject.toml",
            fix="run pairmill from a checkout, installed with `pip install --editable .`",
        )
    files = packed_files(root)
    size = sum(files.values())
    if size > limit_mib * 2**20:
        largest = sorted(files.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
        named = ", ".join(f"{name} ({_mib(bytes_)})" for name, bytes_ in largest)
        raise InputError(
            f"the upload with a job must be at most {limit_mib} MiB",
            value=f"{_mib(size)} in {len(files):,} files; the largest: {named}",
            fix="list in .rayignore what a job does not read, keep data on shared storage, or raise --upload-limit "
            f"(MiB, Ray takes up to {RAY_LIMIT_MIB})",
        )
    return size


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
