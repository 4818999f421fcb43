"""Which Python runs a job: what the cluster says of its head, and what a check there finds."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pairmill.errors import JobError
from pipelines import interpreter
from pipelines.interpreter import check_python, head_python

WORKER = "--python_worker_command=/opt/the venv/bin/python /opt/site-packages/ray/default_worker.py --node-ip-address=1"


def node(*, head: bool, state: str = "ALIVE", python: str | None = "/opt/x/bin/python") -> dict[str, Any]:
    """A node as the dashboard of Ray 2.60 describes it, with what is read of it."""
    command = ["raylet", f"--python_worker_command={python} worker.py", "--temp_dir=/tmp/ray"] if python else []
    return {"raylet": {"isHeadNode": head, "state": state}, "cmdline": command}


class Cluster:
    """Stands for Ray's client: describes its nodes, and runs what is submitted as a shell of this machine does."""

    def __init__(self, *answers: Any, path: str = "/usr/bin:/bin") -> None:
        self.answers, self.path = list(answers), path
        self.jobs: dict[str, subprocess.CompletedProcess[str]] = {}
        self.deleted: list[str] = []

    def _do_request(self, method: str, path: str) -> Any:
        assert (method, path) == ("GET", "/nodes?view=summary")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(json=lambda: answer)

    def submit_job(self, *, entrypoint: str, submission_id: str, metadata: dict[str, str]) -> str:
        self.jobs[submission_id] = subprocess.run(
            entrypoint, shell=True, env={"PATH": self.path}, capture_output=True, text=True, check=False
        )
        return submission_id

    def get_job_info(self, job_id: str) -> Any:
        code = self.jobs[job_id].returncode
        return SimpleNamespace(
            submission_id=job_id,
            status="FAILED" if code else "SUCCEEDED",
            message="",
            start_time=0,
            driver_exit_code=code,
            metadata={},
        )

    def get_job_logs(self, job_id: str) -> str:
        return self.jobs[job_id].stdout + self.jobs[job_id].stderr

    def delete_job(self, job_id: str) -> bool:
        self.deleted.append(job_id)
        return True


def summary(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"summary": list(nodes)}}


def test_the_python_is_that_of_the_heads_workers() -> None:
    nodes = summary(node(head=False, python="/worker/python"), node(head=True, state="DEAD", python="/dead/python"))
    nodes["data"]["summary"].append(node(head=True) | {"cmdline": ["raylet", WORKER.replace("the venv", "venv")]})
    assert head_python(Cluster(nodes)) == "/opt/venv/bin/python"


def test_a_path_with_spaces_is_read_as_ray_wrote_it() -> None:
    command = subprocess.list2cmdline(["/opt/the venv/bin/python", "worker.py"])
    nodes = summary(node(head=True) | {"cmdline": [f"--python_worker_command={command}"]})
    assert head_python(Cluster(nodes)) == "/opt/the venv/bin/python"


def test_a_head_that_was_just_started_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_POLL_S", 0)
    starting = summary(node(head=True, python=None))
    assert head_python(Cluster(starting, starting, summary(node(head=True)))) == "/opt/x/bin/python"
    assert head_python(Cluster(starting), patience_s=0) is None


@pytest.mark.parametrize("answer", [OSError("gone"), {}, {"data": None}, summary(node(head=False)), ["what"]])
def test_a_cluster_that_does_not_say_is_not_waited_for(answer: Any) -> None:
    assert head_python(Cluster(answer), patience_s=60) is None


def test_what_cannot_be_imported_there_is_named(tmp_path: Path) -> None:
    cluster = Cluster()
    found = check_python(cluster, sys.executable, ["json", "no_such_module_here"])
    assert found["python"] == sys.executable
    assert found["failed"].keys() == {"no_such_module_here"}
    assert "No module named" in found["failed"]["no_such_module_here"]
    assert list(cluster.jobs) == cluster.deleted


def test_a_python_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nowhere"):
        check_python(Cluster(path=str(tmp_path)), str(tmp_path / "nowhere"), ["json"])


def test_the_check_is_one_shell_word_each() -> None:
    # What a shell makes of it must be what Python is given, quotes and all.
    words = shlex.split(shlex.join(["python", "-c", interpreter._CHECK, "typer"]))
    assert words[2] == interpreter._CHECK
    assert json.loads(subprocess.run([sys.executable, *words[1:3], "json"], capture_output=True).stdout)["failed"] == {}
