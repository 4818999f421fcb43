"""Submit a job: check the recipe, pack the project, send both to a running cluster.

    prepare -> jobs.connect -> submit -> jobs.follow -> exit code

A job's metadata say what it is and what it works on: kind, run_dir, recipe (a digest), git_commit.  Its id,
`KIND-NAME-DIGEST-ATTEMPT`, is made from the run directory, so the cluster accepts one of two simultaneous submissions.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairmill.config import digest
from pairmill.errors import InputError, JobError, RecipeError, RunDirError
from pairmill.redaction import redact
from pairmill.uris import absolute
from pairmill.yaml_text import write_yaml
from pipelines.doctor import project_root
from pipelines.interpreter import head_python
from pipelines.jobs import ENDED, SubmittedJob, cluster_hosts, last_line, list_jobs
from pipelines.packing import UPLOAD_LIMIT_MIB, check_upload, packed_files
from pipelines.recipe import CurateRecipe, load_recipe, parse_section, read_mapping

if TYPE_CHECKING:
    from training.evaluate.config import EvaluateConfig

KINDS = ("curate", "train", "sweep", "evaluate")

#: Seconds that a newly started head gets to accept a job.
AGENT_WAIT_S = 60.0

#: Seconds from SIGTERM to SIGKILL when a job is stopped; Ray's 3 are too few to save a checkpoint.  A job that ends
#: sooner costs no wait.
STOP_WAIT_S = 600

#: Bytes of a recipe that is not uploaded with the project; Linux takes 128 KiB in one environment variable.
_RECIPE_LIMIT = 100_000
_RECIPE_VARIABLE = "PAIRMILL_RECIPE"


@dataclass(frozen=True)
class Prepared:
    """A job that was checked before any cluster is contacted."""

    kind: str
    run_dir: str  # as in the recipe; of `evaluate`, the checkpoint
    recipe: str  # the command's argument in the copy of the project; of `evaluate`, the checkpoint
    text: str | None  # the recipe itself, where it is not uploaded with the project
    overrides: tuple[str, ...]
    digest: str
    flags: tuple[str, ...] = ()  # of `curate`: what its user consents to


def prepare(
    kind: str, recipe: str, overrides: Sequence[str], root: Path | None = None, *, flags: Sequence[str] = ()
) -> Prepared:
    """Check a job of `kind` as its command would.

    recipe: a file; of `evaluate`, a checkpoint.  flags: of `curate`, `--yes` and `--accept-code-change`.

    Raises RecipeError for a wrong recipe, and for a secret in an override: everyone who sees the job sees its command.
    """
    if kind not in KINDS:
        raise InputError(f"a submitted job must be one of {', '.join(KINDS)}", value=kind, fix="choose one of them")
    if flags and kind != "curate":
        given = flags[0]
        raise InputError(f"{given} must be given for curate only", value=f"{kind} {given}", fix=f"leave {given} out")
    for override in overrides:
        if redact(override) != override:
            raise RecipeError(
                "an override must not hold a secret: the cluster shows the command and keeps it in its logs",
                value=redact(override),
                fix="set it in the cluster's environment, and name the variable (`…_env`) or leave the override out",
            )
    if kind == "evaluate":
        absolute(recipe)
        return Prepared(kind, recipe, recipe, None, tuple(overrides), digest(_evaluation(overrides).identity()))
    loaded = _load(kind, Path(recipe), overrides)
    absolute(str(loaded.run_dir))
    root, path, text = root or project_root(), Path(recipe).resolve(), None
    name = str(path.relative_to(root)) if path.is_relative_to(root) else None
    if name not in packed_files(root):
        # A sweep is sent with the training recipe that it names, which is beside it here and not there.
        name, text = "/dev/stdin", loaded.to_yaml() if kind == "sweep" else _without_comments(path)
        if len(text.encode()) > _RECIPE_LIMIT:
            raise RecipeError(
                f"a recipe outside the uploaded project must have at most {_RECIPE_LIMIT:,} bytes",
                value=f"{recipe} has {len(text.encode()):,}",
                fix=f"copy it into {root}",
            )
    return Prepared(kind, str(loaded.run_dir), name, text, tuple(overrides), digest(loaded.identity()), tuple(flags))


def _without_comments(path: Path) -> str:
    """The recipe's data: the cluster shows the environment of a job, and a comment may hold anything."""
    return write_yaml(read_mapping(path))


def _load(kind: str, path: Path, overrides: Sequence[str]) -> Any:
    if kind == "curate":
        return load_recipe(path, overrides, CurateRecipe)
    if kind == "train":
        from training.recipe import TrainRecipe

        return load_recipe(path, overrides, TrainRecipe)
    from pipelines.sweep import load_sweep

    return load_sweep(path, overrides)


def _evaluation(overrides: Sequence[str]) -> EvaluateConfig:
    from training.evaluate.config import EvaluateConfig

    return parse_section(EvaluateConfig, "evaluate", {}, overrides)


def resolve_run_dir(run_dir: str, hosts: set[str], root: Path) -> str:
    """The run directory as the cluster must see it: a URI or an absolute path.

    A relative one is in the project if all nodes are this machine.  Raises RunDirError otherwise: a job's working
    directory is a copy of the project that the cluster deletes after it.
    """
    if "://" in run_dir:
        return run_dir.rstrip("/")
    run_dir = os.path.expanduser(run_dir)
    if os.path.isabs(run_dir):
        return os.path.normpath(run_dir)
    if hosts == {socket.gethostname()}:
        return os.path.normpath(root / run_dir)
    raise RunDirError(
        "run_dir must outlive the job on a cluster of other machines: s3://…, gs://…, or an absolute path on storage "
        "that all nodes share",
        value=run_dir,
        fix=f"give, for example, run_dir=/shared/{run_dir}",
    )


def submit(
    client: Any,
    prepared: Prepared,
    *,
    install: bool = False,
    limit_mib: int = UPLOAD_LIMIT_MIB,
    root: Path | None = None,
) -> str:
    """Send the project and start the job; returns its id.

    install: make the cluster install the project's dependencies; else its image must have them.
    Raises RunDirError if another job runs in the run_dir, and for a run_dir that would vanish; InputError for a project
    that is too large.
    """
    root = root or project_root()
    run_dir = resolve_run_dir(prepared.run_dir, cluster_hosts(client), root)
    # With `pip`, Ray makes an environment for the job and puts its python first on the PATH.
    python = "python" if install else head_python(client) or "python"
    job_id = next_id(prepared.kind, redact(run_dir), list_jobs(client))
    check_upload(root, limit_mib)
    runtime_env: dict[str, Any] = {"working_dir": str(root), "env_vars": environment(prepared)}
    if install:
        runtime_env["pip"] = dependencies()
    job: dict[str, Any] = {
        "entrypoint": entrypoint(prepared, run_dir, python),
        "submission_id": job_id,
        "runtime_env": runtime_env,
        "metadata": {
            "kind": prepared.kind,
            "run_dir": redact(run_dir),
            "recipe": prepared.digest,
            "git_commit": git_commit(root),
        },
    }
    until = time.monotonic() + AGENT_WAIT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except (RuntimeError, OSError) as error:  # refused, or no answer
            if "already exists" in str(error):
                raise _busy(run_dir, job_id) from None
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise JobError(f"the cluster did not accept the job: {last_line(redact(str(error)))}") from error
            # The dashboard answers seconds before the head's agent, which starts jobs, has registered with it.
            time.sleep(1)


def entrypoint(prepared: Prepared, run_dir: str, python: str = "python") -> str:
    """The job's shell command, run in the copy of the project.

    python: the interpreter on the cluster; by default the first on the PATH there.
    """
    command = [python, "-m", "pipelines", prepared.kind]
    if prepared.kind == "evaluate":
        return shlex.join([*command, run_dir, *prepared.overrides])
    last = [] if run_dir == prepared.run_dir else [f"run_dir={_as_yaml(run_dir)}"]
    job = shlex.join([*command, prepared.recipe, *prepared.overrides, *last, *prepared.flags])
    # A recipe's text stays out of the command, which the cluster shows: it may be long, or private.
    return job if prepared.text is None else f"printenv {_RECIPE_VARIABLE} | {job}"


def _as_yaml(text: str) -> str:
    from pairmill.yaml_text import read_yaml

    return text if read_yaml(text, "run_dir") == text else json.dumps(text)


def environment(prepared: Prepared) -> dict[str, str]:
    """Environment variables of the job."""
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
    return variables if prepared.text is None else variables | {_RECIPE_VARIABLE: prepared.text}


def dependencies() -> list[str]:
    """What pip installs for the project itself, without its extras."""
    return [requirement for requirement in requires("pairmill") or [] if "extra ==" not in requirement]


def next_id(kind: str, run_dir: str, jobs: Sequence[SubmittedJob]) -> str:
    """The id of the next attempt at a run.

    Raises RunDirError if one is pending or running; an evaluation only reads, so it may run beside any.
    """
    if kind != "evaluate":
        for job in jobs:
            if job.run_dir == run_dir and job.kind != "evaluate" and job.status not in ENDED:
                raise _busy(run_dir, job.id)
    name = re.sub(r"[^a-z0-9]+", "-", run_dir.rstrip("/").rpartition("/")[2].lower()).strip("-")[:24]
    stem = "-".join(part for part in (kind, name, digest(run_dir, size=3)) if part)
    numbers = [int(job.id.rpartition("-")[2]) for job in jobs if re.fullmatch(rf"{stem}-\d+", job.id)]
    return f"{stem}-{max(numbers, default=0) + 1}"


def _busy(run_dir: str, job_id: str) -> RunDirError:
    return RunDirError(
        "run_dir must be used by one job at a time",
        value=f"{redact(run_dir)}, in which {job_id} is running",
        fix=f"follow it (`pairmill logs {job_id}`), stop it (`pairmill stop {job_id}`), or give another run_dir",
    )


def git_commit(root: Path) -> str:
    """The project's commit, with `-dirty` if files differ from it; `unknown` without git."""
    try:
        ask = ["git", "-C", str(root)]
        commit = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*ask, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed.strip() else commit
