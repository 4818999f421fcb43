import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairmill.recipe_file import write_recipe
from pairmill.store import Store
from pipelines.doctor import OUR_PACKAGES, diagnose, project_root, shadowed


def pairmill(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or project_root(),
        env=os.environ | env,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"url": ["http://a/1", "http://a/2"], "text": ["x", "y"]}), tmp_path / "list.parquet")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\ninput: {{path: {tmp_path / 'list.parquet'}}}\n")
    return path


@pytest.mark.slow
def test_plan_prints_one_json_object(recipe: Path) -> None:
    done = pairmill("plan", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["curate", "train", "sweep"])
def test_a_missing_recipe_is_an_error_like_others(command: str) -> None:
    done = pairmill(command, "--json")
    assert done.returncode == 2, done.stderr
    said = json.loads(done.stdout)
    assert (said["rule"], said["value"]) == ("RECIPE must be given", "nothing")
    assert (project_root() / said["fix"].rpartition(" ")[2]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["input.url_column=URL"], ["URL", "url", "fix"]),
        (["input.path=nowhere.parquet"], ["nowhere.parquet", "fix"]),
        (["downlaod.retries=1"], ["downlaod", "download"]),
        (["recaption.model=no/such/folder/here"], ["no/such/folder/here", "fix"]),
        (["deduplicate.score=widht"], ["widht", "width"]),
    ],
)
def test_what_is_wrong_is_said_before_any_work_with_exit_2(recipe: Path, overrides: list[str], says: list[str]) -> None:
    done = pairmill("curate", str(recipe), *overrides, "--json", HF_HUB_OFFLINE="1")
    assert done.returncode == 2, done.stderr
    for word in says:
        assert word in done.stderr
    assert json.loads(done.stdout)["fix"]
    assert not (recipe.parent / "run" / "images").exists()


@pytest.mark.slow
def test_schema_is_json() -> None:
    done = pairmill("curate", "--schema")
    assert done.returncode == 0
    assert {"run_dir", "input", "download", "filter"} <= json.loads(done.stdout)["properties"].keys()


def test_losses_are_listed_with_what_they_need() -> None:
    listed = {one["name"]: one for one in json.loads(pairmill("losses", "--json").stdout)["losses"]}
    assert listed["clip"]["needs"] == [] and listed["siglip"]["keys"] == ["bias_init"]
    assert "Zhai et al. 2023" in pairmill("losses").stdout


@pytest.mark.slow
def test_doctor_is_content_here(tmp_path: Path) -> None:
    done = pairmill("doctor", "--run-dir", str(tmp_path), "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize("package", ["eldc", "ftfy", "simplejpeg"])
def test_doctor_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert f"{package} is not installed" in diagnose(str(tmp_path))["problems"]


@pytest.mark.slow
def test_doctor_says_what_a_shell_here_calls_python(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "python").write_text("#!/bin/sh\necho /elsewhere\n")
    (other / "python").chmod(0o755)
    for folder, says in ((Path(sys.executable).parent, "this one"), (other, "another one")):
        found = json.loads(pairmill("doctor", "--json", PATH=f"{folder}:/usr/bin:/bin").stdout)
        assert found["python_on_path"] == f"{folder / 'python'} ({says})"
        assert "cluster_python" not in found


@pytest.mark.slow
def test_doctor_reports_a_cluster_that_does_not_answer() -> None:
    done = pairmill("doctor", "--address", "http://127.0.0.1:9", "--json")
    assert done.returncode == 1
    assert "127.0.0.1:9" in " ".join(json.loads(done.stdout)["problems"])


def test_report_of_no_run_is_exit_2(tmp_path: Path) -> None:
    done = pairmill("report", str(tmp_path))
    assert done.returncode == 2
    assert "run_dir" in done.stderr


def test_our_packages_are_ours() -> None:
    assert shadowed() == {}


@pytest.mark.parametrize("name", OUR_PACKAGES)
def test_a_package_that_shadows_ours_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    # Our command as it is installed, with the other package first on the path.
    code = f"import sys; sys.path.insert(0, {str(project_root())!r}); import pipelines.doctor as d; "
    code += f"sys.path.insert(0, {str(tmp_path)!r}); sys.modules.pop({name!r}, None); d.check_packages()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert f"`{name}`" in done.stderr


@pytest.mark.slow
def test_extend_plans_more_rows_of_a_run_that_was_moved_and_whose_list_is_gone(recipe: Path, tmp_path: Path) -> None:
    assert pairmill("plan", str(recipe), "--json").returncode == 0
    write_recipe(Store(str(tmp_path / "run")), recipe.read_text())  # as `curate` keeps it
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "list.parquet").unlink()
    (tmp_path / "more.csv").write_text("link,text\nhttp://a/2,y\nhttp://a/3,z\n")
    arguments = ("extend", "moved", "more.csv", "--url-column", "link", "--plan-only", "--json")
    done = pairmill(*arguments, cwd=tmp_path, PYTHONPATH=str(project_root()))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "run_dir": str(tmp_path / "moved"),
        "rows": 4,
        "shards": 2,
        "files_added": [str(tmp_path / "more.csv")],
    }
    again = pairmill(*arguments, cwd=tmp_path, PYTHONPATH=str(project_root()))
    assert json.loads(again.stdout)["files_added"] == []
    assert "part of the run already" in again.stderr
    assert not (tmp_path / "run").exists()
    wrong = pairmill("extend", str(tmp_path / "moved"), str(tmp_path / "no.csv"), "--json")
    assert wrong.returncode == 2
    assert "no.csv" in wrong.stderr
