"""Which Python runs a job on a cluster, and whether it has pairmill's dependencies.

Ray runs a job's command in a shell of the head.  If the head was started by the path of its `ray`, not from an
activated environment, the `python` of that shell is not Ray's own but usually the system's.
"""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Sequence
from typing import Any

from pairmill.errors import JobError
from pairmill.redaction import redact
from pipelines.jobs import ENDED, find_job, last_line

#: What every job imports, by the names of modules.
MODULES = (
    *("typer", "pydantic", "yaml", "rich", "pyarrow", "ray", "aiohttp", "simplejpeg", "cv2", "fasttext"),
    *("torch", "transformers", "open_clip", "deepspeed"),
)

#: Seconds that a newly started head gets to describe itself; it does so every few seconds.
_DESCRIBED_S = 15.0
#: Seconds for the check of a cluster's Python: a cold import of everything takes half a minute on a slow disk.
_CHECKED_S = 180.0
_POLL_S = 1.0

_WORKER_COMMAND = "--python_worker_command="

# Prints one line: the interpreter, its version, and what it cannot import.
_CHECK = """
import importlib, json, platform, sys
failed = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps({"python": sys.executable, "version": platform.python_version(), "failed": failed}))
"""


def head_python(client: Any, *, patience_s: float = _DESCRIBED_S) -> str | None:
    """The path of the Python that Ray's own processes run on at the head; None if the cluster does not say."""
    until = time.monotonic() + patience_s
    while True:
        found, more = _described(client)
        if found is not None or not more or time.monotonic() > until:
            return found
        time.sleep(_POLL_S)


def _described(client: Any) -> tuple[str | None, bool]:
    """The path, and whether there is a head that has not described itself yet."""
    try:
        nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
        heads = [node for node in nodes if node["raylet"].get("isHeadNode") and node["raylet"].get("state") == "ALIVE"]
        commands = [word for node in heads for word in node.get("cmdline") or () if word.startswith(_WORKER_COMMAND)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, False
    words = shlex.split(commands[0].removeprefix(_WORKER_COMMAND)) if commands else []
    return (words[0], False) if words else (None, bool(heads))


def check_python(client: Any, python: str, modules: Sequence[str] = MODULES) -> dict[str, Any]:
    """Import pairmill's dependencies on the head, as a job that uploads nothing: `python`, `version`, `failed`.

    python:  the command that the job runs.  modules: what it imports.
    failed:  module -> the error that importing it raised.
    Raises JobError if the cluster does not run the job.
    """
    job_id = f"doctor-{uuid.uuid4().hex[:8]}"
    client.submit_job(
        entrypoint=shlex.join([python, "-c", _CHECK, *modules]),
        submission_id=job_id,
        metadata={"kind": "doctor"},
    )
    until = time.monotonic() + _CHECKED_S
    while (job := find_job(client, job_id)).status not in ENDED:
        if time.monotonic() > until:
            client.stop_job(job_id)
            raise JobError(
                f"the cluster did not run {job_id}, which imports the dependencies, in {_CHECKED_S:.0f} s; try again"
            )
        time.sleep(_POLL_S)
    log = client.get_job_logs(job_id)
    client.delete_job(job_id)
    for line in reversed(log.splitlines()):
        if line.startswith('{"python"'):
            found: dict[str, Any] = json.loads(line)
            return found
    raise JobError(f"{python} cannot be run on the cluster's head: {last_line(redact(log)) or job.message}")
