"""Submission without a cluster: what is checked before, what is sent, and what is made of the answers."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml

import pipelines.jobs as jobs_module
import pipelines.output as output
from pairmill.errors import InputError, JobError, RecipeError, RunDirError, UserError
from pipelines.doctor import project_root
from pipelines.jobs import SubmittedJob, SubmittedJobError, cause, connect, exit_code, follow, list_jobs, outcome, stop
from pipelines.submit import Prepared, entrypoint, environment, next_id, prepare, resolve_run_dir, submit

TRICKY = ["input.path=/data/it's here/*.parquet", 'filter.where=text == "a $HOME `b`"', "pack.prefer=[short, alt]"]


class Cluster:
    """Stands for Ray's client: keeps what was submitted, and tells what it was given."""

    def __init__(self, *jobs: SubmittedJob, hosts: Sequence[str] = (), log: Sequence[str | Exception] = ()) -> None:
        self.jobs = {job.id: job for job in jobs}
        self.hosts, self.log = hosts, list(log)
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def _do_request(self, method: str, path: str) -> Any:
        return SimpleNamespace(json=lambda: {"data": {"hostNameList": list(self.hosts)}})

    def list_jobs(self) -> list[Any]:
        return [self.get_job_info(name) for name in self.jobs]

    def get_job_info(self, job_id: str) -> Any:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        job = self.jobs[job_id]
        return SimpleNamespace(
            submission_id=job.id,
            status=job.status,
            message=job.message,
            start_time=1000 * (job.started or 0),
            driver_exit_code=job.exit_code,
            metadata={"kind": job.kind, "run_dir": job.run_dir},
        )

    def submit_job(self, **job: Any) -> str:
        if job["submission_id"] in self.jobs:
            raise RuntimeError("Request failed: ValueError: Job with submission_id x already exists.")
        self.submitted.append(job)
        return str(job["submission_id"])

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        self.jobs[job_id] = self.jobs[job_id]._replace(status="STOPPED")
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        while self.log:
            part = self.log.pop(0)
            if isinstance(part, Exception):
                raise part
            yield part

    def get_job_logs(self, job_id: str) -> str:
        return "one\ntwo\nthree\n"


def a_job(status: str = "RUNNING", code: int | None = None, run_dir: str = "/runs/a", **more: Any) -> SubmittedJob:
    return SubmittedJob(
        **{"id": "train-a-1", "kind": "train", "started": 5.0, "message": "", **more},
        **{"run_dir": run_dir, "status": status, "exit_code": code},
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("run_dir: runs/mine\ninput: {path: urls.parquet}\n")
    return path


# ------------------------------------------------------------------------------------------------------------ before


def test_a_wrong_recipe_is_reported_before_a_cluster_is_asked(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="downlaod"):
        prepare("curate", str(recipe), ["downlaod.retries=1"])
    with pytest.raises(RecipeError, match="must be one of `pairmill train`"):
        prepare("train", str(recipe), [])
    with pytest.raises(RecipeError, match="batch_sise"):
        prepare("evaluate", "/runs/a", ["evaluate.batch_sise=3"])
    with pytest.raises(InputError, match="curate, train, sweep, evaluate"):
        prepare("demo", str(recipe), [])


@pytest.mark.parametrize("override", ["recaption.openai.api_key=sk-1", "input.path=s3://me:mine@bucket/urls"])
def test_an_override_with_a_secret_is_refused_and_not_shown(recipe: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="must not hold a secret") as error:
        prepare("curate", str(recipe), [override])
    assert "sk-1" not in str(error.value)
    assert "mine@" not in str(error.value)


def test_equal_recipes_have_equal_digests_and_others_do_not(recipe: Path) -> None:
    digests = [prepare("curate", str(recipe), more).digest for more in ([], ["image.size=224"], [])]
    assert digests[0] == digests[2] != digests[1]


def test_no_address_but_a_url() -> None:
    with pytest.raises(UserError, match="http://HOST:8265"):
        connect("10.0.0.1:8265")


# --------------------------------------------------------------------------------------------------------------- sent


def run_in_shell(command: str, env: dict[str, str]) -> list[str]:
    """What the command `python -m pipelines` sees of its arguments, with what it reads from stdin as the last."""
    script = "import sys, json; print(json.dumps([*sys.argv[1:], sys.stdin.read()]))"
    fake = shlex.join([sys.executable, "-c", script])
    assert "python -m pipelines " in command
    shell = command.replace("python -m pipelines ", f"{fake} ", 1)
    done = subprocess.run(shell, shell=True, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return list(json.loads(done.stdout))


def test_overrides_survive_the_shell() -> None:
    prepared = prepare("curate", str(project_root() / "pipelines/recipes/curate.yaml"), [*TRICKY, "run_dir=/runs/a"])
    seen = run_in_shell(entrypoint(prepared, "/runs/a"), {"HOME": "/nowhere"})
    assert seen == ["curate", "pipelines/recipes/curate.yaml", *TRICKY, "run_dir=/runs/a", ""]


def test_yes_goes_with_the_job_that_asks_and_with_no_other() -> None:
    recipe = str(project_root() / "pipelines/recipes/curate.yaml")
    prepared = prepare("curate", recipe, ["run_dir=/runs/a"], flags=["--yes"])
    seen = run_in_shell(entrypoint(prepared, "/runs/b"), {})
    assert seen == ["curate", "pipelines/recipes/curate.yaml", "run_dir=/runs/a", "run_dir=/runs/b", "--yes", ""]
    with pytest.raises(InputError, match="for curate only"):
        prepare("train", str(project_root() / "pipelines/recipes/train-demo.yaml"), [], flags=["--yes"])


def test_a_run_dir_that_was_made_absolute_overrides_the_recipes(recipe: Path) -> None:
    prepared = prepare("curate", str(project_root() / "pipelines/recipes/curate.yaml"), ["input.path=x"])
    [*_, last, _] = run_in_shell(entrypoint(prepared, "/run dirs/a: b"), {})
    key, _, value = last.partition("=")
    assert (key, yaml.safe_load(value)) == ("run_dir", "/run dirs/a: b")


def test_a_recipe_from_elsewhere_travels_in_the_environment(recipe: Path) -> None:
    prepared = prepare("curate", str(recipe), ["image.size=64"])
    variables = environment(prepared)
    assert "urls.parquet" not in entrypoint(prepared, "runs/mine")
    seen = run_in_shell(entrypoint(prepared, "runs/mine"), {"PATH": "/usr/bin:/bin", **variables})
    assert seen[:3] == ["curate", "/dev/stdin", "image.size=64"]
    assert yaml.safe_load(seen[-1]) == yaml.safe_load(recipe.read_text())


def test_so_does_a_recipe_of_the_project_that_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / ".rayignore").write_text("runs/\n")
    for folder in ("runs", "recipes"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "r.yaml").write_text("run_dir: /a\ninput: {path: x}\n")
    assert prepare("curate", str(tmp_path / "runs/r.yaml"), [], tmp_path).recipe == "/dev/stdin"
    assert prepare("curate", str(tmp_path / "recipes/r.yaml"), [], tmp_path).recipe == "recipes/r.yaml"


def test_a_recipe_too_long_for_the_environment_is_refused(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "# " + "x" * 100_000)
    assert "x" * 99 not in str(prepare("curate", str(recipe), []).text)  # a comment stays here
    recipe.write_text(recipe.read_text() + '\nfilter: {where: "' + "x" * 100_000 + '"}')
    with pytest.raises(RecipeError, match="at most"):
        prepare("curate", str(recipe), [])


def test_evaluation_is_of_a_checkpoint() -> None:
    prepared = prepare("evaluate", "/runs/a", ["evaluate.batch_size=3"])
    assert run_in_shell(entrypoint(prepared, "/runs/a"), {}) == ["evaluate", "/runs/a", "evaluate.batch_size=3", ""]


HERE = {socket.gethostname()}


@pytest.mark.parametrize("hosts", [HERE, {"another"}, set()])
@pytest.mark.parametrize("run_dir", ["s3://bucket/run", "/shared/run"])
def test_a_run_dir_that_outlives_the_job_is_taken_anywhere(run_dir: str, hosts: set[str]) -> None:
    assert resolve_run_dir(run_dir, hosts, Path("/project")) == run_dir


def test_a_relative_run_dir_is_in_the_project_where_all_nodes_are_this_machine() -> None:
    assert resolve_run_dir("runs/a/", HERE, Path("/project")) == "/project/runs/a"


@pytest.mark.parametrize("hosts", [{"another"}, HERE | {"another"}, set()])
def test_elsewhere_it_would_vanish_and_is_refused(hosts: set[str]) -> None:
    with pytest.raises(RunDirError, match="must outlive"):
        resolve_run_dir("runs/a", hosts, Path("/project"))


def a_project(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text("")
    return folder


def test_what_is_submitted(tmp_path: Path) -> None:
    cluster = Cluster(hosts=[socket.gethostname()])
    prepared = Prepared("train", "runs/My Run", "r.yaml", None, (), "d1")
    job_id = submit(cluster, prepared, root=a_project(tmp_path))
    [job] = cluster.submitted
    assert job_id == job["submission_id"]
    assert job_id.startswith("train-my-run-")
    assert job["runtime_env"]["working_dir"] == str(tmp_path)
    # Training saves a checkpoint when it is asked to stop, which takes longer than Ray waits by itself.
    assert int(job["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
    assert "pip" not in job["runtime_env"]
    run_dir = str(tmp_path / "runs/My Run")
    assert job["metadata"] == {"kind": "train", "run_dir": run_dir, "recipe": "d1", "git_commit": "unknown"}


def test_installing_asks_for_the_projects_dependencies_and_no_extras(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, Prepared("train", "/r", "r.yaml", None, (), "d"), install=True, root=a_project(tmp_path))
    names = {requirement.split(">")[0].split("<")[0] for requirement in cluster.submitted[0]["runtime_env"]["pip"]}
    assert {"deepspeed", "pydantic"} <= names
    assert "pytest" not in names


class ByPath(Cluster):
    """A cluster whose head was started by the path of its `ray`."""

    def _do_request(self, method: str, path: str) -> Any:
        head = {
            "raylet": {"isHeadNode": True, "state": "ALIVE"},
            "cmdline": ["raylet", "--python_worker_command=/opt/env/bin/python worker.py"],
        }
        return SimpleNamespace(json=lambda: {"data": {"hostNameList": list(self.hosts), "summary": [head]}})


def test_the_command_is_run_by_the_python_of_the_head(tmp_path: Path) -> None:
    cluster = ByPath()
    submit(cluster, Prepared("train", "/r", "r.yaml", None, (), "d"), root=a_project(tmp_path))
    assert cluster.submitted[0]["entrypoint"].startswith("/opt/env/bin/python -m pipelines train ")


def test_where_the_cluster_installs_the_command_is_run_by_the_environment_it_makes(tmp_path: Path) -> None:
    cluster = ByPath()
    submit(cluster, Prepared("train", "/r", "r.yaml", None, (), "d"), install=True, root=a_project(tmp_path))
    assert cluster.submitted[0]["entrypoint"].startswith("python -m pipelines train ")


def test_credentials_of_a_run_dir_are_not_kept_with_the_job(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, Prepared("curate", "s3://me:mine@b/run", "r.yaml", None, (), "d"), root=a_project(tmp_path))
    assert "mine" not in json.dumps(cluster.submitted)


# -------------------------------------------------------------------------------------------------------- one at a time


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_run_that_is_at_work_is_refused(status: str, tmp_path: Path) -> None:
    cluster = Cluster(a_job(status, run_dir="/runs/a"))
    with pytest.raises(RunDirError, match="pairmill stop train-a-1"):
        submit(cluster, Prepared("train", "/runs/a/", "r.yaml", None, (), "d"), root=a_project(tmp_path))
    assert not cluster.submitted
    assert submit(cluster, Prepared("train", "/runs/b", "r.yaml", None, (), "d"), root=tmp_path)
    assert submit(cluster, Prepared("evaluate", "/runs/a", "/runs/a", None, (), "d"), root=tmp_path)


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_one_that_ended_is_submitted_again_as_the_next_attempt(status: str) -> None:
    first = next_id("train", "/runs/a", [])
    ended = a_job(status, id=first, run_dir="/runs/a")
    assert first.endswith("-1")
    assert next_id("train", "/runs/a", [ended]) == first[:-1] + "2"
    assert next_id("train", "/other/a", [ended]) not in (first, first[:-1] + "2")


def test_of_two_at_once_the_cluster_takes_one(tmp_path: Path) -> None:
    class Racing(Cluster):
        def list_jobs(self) -> list[Any]:
            return []  # the other one came after this answer

    cluster = Racing(a_job(id=next_id("train", "/runs/a", [])))
    with pytest.raises(RunDirError, match="one job at a time"):
        submit(cluster, Prepared("train", "/runs/a", "r.yaml", None, (), "d"), root=a_project(tmp_path))


# ------------------------------------------------------------------------------------------------------------- after


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 137, 1),
        ("FAILED", -9, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_code_is_the_jobs(status: str, code: int | None, expected: int) -> None:
    job = a_job(status, code)
    assert exit_code(job) == expected
    if expected == 0:
        assert outcome(job)["id"] == job.id
    else:
        with pytest.raises(SubmittedJobError) as error:
            outcome(job)
        assert error.value.exit_code == expected


def test_the_cause_is_what_pairmill_said_else_the_last_line() -> None:
    message = (
        "Job entrypoint command failed with exit code 2, last available logs:\nx\npairmill: a rule\n  got: b\n  fix: c"
    )
    assert cause(message) == "a rule; got: b"
    assert cause("first\nlast\n") == "last"
    assert cause("") == ""


def test_a_job_that_lacks_a_package_says_how_to_get_it() -> None:
    with pytest.raises(SubmittedJobError, match=r"typer(?s:.*)--install(?s:.*)pairmill doctor"):
        outcome(a_job("FAILED", 1, message="ModuleNotFoundError: No module named 'typer'"))


def test_jobs_of_others_are_listed_and_messages_hold_no_secrets() -> None:
    cluster = Cluster(a_job(id="b", started=9.0), a_job(id="a", started=3.0, message="x: token=abc"))
    found = list_jobs(cluster)
    assert [job.id for job in found] == ["a", "b"]
    assert "abc" not in found[0].message


def test_a_log_that_breaks_off_is_gone_on_with_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "_RECONNECT_S", 0)
    log = ["one\n", "tw", RuntimeError("closed"), "one\n", "two\n", "three\n"]
    cluster = Cluster(a_job("RUNNING"), log=log)
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if "three" in text:
            cluster.jobs["train-a-1"] = a_job("SUCCEEDED", 0)

    assert follow(cluster, "train-a-1", show).status == "SUCCEEDED"
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_log_that_falls_silent_is_left_when_the_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Cluster):
        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            yield "one\n"
            await asyncio.Event().wait()

    monkeypatch.setattr(jobs_module, "_SILENCE_S", 0.01)
    monkeypatch.setattr(jobs_module, "_RECONNECT_S", 0)
    shown: list[str] = []
    assert follow(Silent(a_job("FAILED", 2)), "train-a-1", shown.append).exit_code == 2
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky(Cluster):
        failures = 2

        def get_job_info(self, job_id: str) -> Any:
            if self.log == [] and self.failures:
                self.failures -= 1
                raise ConnectionError("refused")
            return super().get_job_info(job_id)

    monkeypatch.setattr(jobs_module, "_RECONNECT_S", 0)
    assert follow(Flaky(a_job("SUCCEEDED", 0), log=["one\n"]), "train-a-1", print).status == "SUCCEEDED"
    gone = Flaky(a_job("RUNNING"), log=["one\n"])
    gone.failures = 1000
    with pytest.raises(JobError, match="did not answer"):
        follow(gone, "train-a-1", print)


def test_an_unknown_job_names_those_there_are() -> None:
    with pytest.raises(InputError, match="train-a-1"):
        follow(Cluster(a_job()), "train-b-1", print)


def test_stopping_waits_for_the_end_and_leaves_ended_jobs_alone() -> None:
    cluster = Cluster(a_job("RUNNING"))
    assert stop(cluster, "train-a-1").status == "STOPPED"
    assert cluster.stopped == ["train-a-1"]
    assert stop(cluster, "train-a-1").status == "STOPPED"
    assert cluster.stopped == ["train-a-1"]


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Request failed with status code 500: no agent\nhttp://u:hidden@h"),
        requests.exceptions.ConnectionError("no connection to http://u:hidden@h:8265"),
    ],
)
def test_a_cluster_that_takes_nothing_is_a_failure_of_the_job(tmp_path: Path, failure: Exception) -> None:
    class Broken(Cluster):
        def submit_job(self, **job: Any) -> str:
            raise failure

    with pytest.raises(JobError, match="did not accept") as error:
        submit(Broken(), Prepared("train", "/r", "r.yaml", None, (), "d"), root=a_project(tmp_path))
    assert "hidden" not in str(error.value)


def test_a_head_whose_agent_is_not_up_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(Cluster):
        refusals = 2

        def submit_job(self, **job: Any) -> str:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("Request failed with status code 500: No available agent to submit job")
            return super().submit_job(**job)

    waited: list[float] = []
    monkeypatch.setattr("pipelines.submit.time.sleep", waited.append)
    head = Starting()
    submit(head, Prepared("train", "/r", "r.yaml", None, (), "d"), root=a_project(tmp_path))
    assert len(head.submitted) == 1 and len(waited) == 2
    monkeypatch.setattr("pipelines.submit.AGENT_WAIT_S", -1)
    head.refusals = 1
    with pytest.raises(JobError, match="did not accept"):
        submit(head, Prepared("train", "/r2", "r.yaml", None, (), "d"), root=a_project(tmp_path))


def test_the_ids_of_jobs_are_whole_however_narrow_the_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    job = a_job("FAILED", 2)._replace(
        id="curate-a-long-name-of-a-run-00ff00-12", run_dir="s3://bucket/runs/a-long-name-of-a-run", message="why " * 20
    )
    monkeypatch.setattr(output, "_stdout", sys.stdout)
    output.show_jobs({"jobs": [job._asdict()]})
    [_, line] = capsys.readouterr().out.splitlines()
    assert job.id in line and job.run_dir in line
