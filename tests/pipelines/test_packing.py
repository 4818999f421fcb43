from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from pairmill.errors import InputError
from pipelines.doctor import project_root
from pipelines.packing import UPLOAD_LIMIT_MIB, check_upload, packed_files


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, size in {
        "pyproject.toml": 10,
        "pipelines/cli.py": 20,
        "runs/first/images/shard.parquet": 4 * 2**20,
        "notes/draft.txt": 5,
        "notes/kept.txt": 6,
        "samples/huge.bin": 3 * 2**20,
        "samples/large.bin": 2**20,
        ".git/objects/pack": 100,
        ".venv/lib/torch.so": 2**20,
        "pipelines/__pycache__/cli.pyc": 30,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    (root / ".gitignore").write_text("runs/\n")
    (root / "notes" / ".rayignore").write_text("draft.txt\n")
    return root


def test_ignored_files_stay_here_and_the_rest_is_what_ray_packs(project: Path, tmp_path: Path) -> None:
    files = packed_files(project)
    assert files["pipelines/cli.py"] == 20
    assert files["notes/kept.txt"] == 6
    assert not [name for name in files if name.startswith(("runs", ".git/", ".venv")) or "pycache" in name]
    assert "notes/draft.txt" not in files
    package = tmp_path / "package.zip"
    create_package(str(project), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with ZipFile(package) as packed:
        assert {info.filename: info.file_size for info in packed.infolist()} == files


def test_too_much_is_refused_and_the_largest_files_are_named(project: Path) -> None:
    assert check_upload(project, 5) == sum(packed_files(project).values())
    with pytest.raises(InputError, match=r"at most 3 MiB") as error:
        check_upload(project, 3)
    said = str(error.value.value)
    assert said.index("samples/huge.bin (3.0 MiB)") < said.index("samples/large.bin (1.0 MiB)")
    assert "4.0 MiB in 7 files" in said


def test_a_folder_that_is_no_project_is_refused(project: Path) -> None:
    (project / "pyproject.toml").unlink()
    with pytest.raises(InputError, match="checkout"):
        check_upload(project)


def test_this_project_may_be_uploaded() -> None:
    files = packed_files(project_root())
    assert {"pipelines/cli.py", "pipelines/recipes/curate-demo.yaml", "samples/models/captioner/config.json"} <= set(
        files
    )
    assert check_upload(project_root()) < UPLOAD_LIMIT_MIB * 2**20
