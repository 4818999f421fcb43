"""Jobs on a running cluster: connect, follow, list, stop.

Ray itself finds its token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pairmill.errors import InputError, JobError, UserError
from pairmill.redaction import redact

logger = logging.getLogger("pairmill")

#: A job's last status.
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

_ENDING = {"FAILED": "failed", "STOPPED": "was stopped; submit it again to resume"}

_POLL_S = 1.0
_RECONNECT_S = 5.0
_ATTEMPTS = 12
_SILENCE_S = 30.0


class SubmittedJob(NamedTuple):
    """A line of `pairmill jobs`."""

    id: str
    kind: str
    run_dir: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    started: float | None  # seconds since the epoch
    message: str
    exit_code: int | None  # of the command; None while it runs, and where it never ran or was stopped


class SubmittedJobError(JobError):
    """A submitted job that failed or was stopped; the exit code is that of its command."""

    def __init__(self, job: SubmittedJob) -> None:
        why = job.message or "the cluster gives no reason"
        if "No module named" in why:
            why += (
                "\n  fix: use an image that has pairmill's dependencies, or submit with --install; `pairmill doctor "
                "--address …` names the cluster's Python and what it lacks"
            )
        super().__init__(f"{job.id} {_ENDING[job.status]}: {why}")
        self.exit_code = exit_code(job)


def connect(address: str | None) -> Any:
    """Ray's JobSubmissionClient.

    address: the dashboard's URL; None: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the cluster on this machine.
    Raises UserError if nothing answers there, or it refuses our token.
    """
    if address is not None:
        check_address(address)
    use_token()
    if address is not None:
        # Ray prefers its environment to the argument.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
    import ray
    from ray.job_submission import JobSubmissionClient

    # It logs the end of each connection, which a job's log does not need.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except ray.exceptions.AuthenticationError as error:
        raise UserError(
            "RAY_AUTH_TOKEN must hold the cluster's token",
            value=redact(str(error).splitlines()[0]),
            fix="print the token there (`ray get-auth-token`), and set RAY_AUTH_TOKEN or write it to ~/.ray/auth_token",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            "--address must be that of a Ray cluster with a dashboard",
            value=redact(str(error) or repr(error)).splitlines()[0],
            fix="give --address http://HOST:8265, or start one: RAY_AUTH_MODE=token ray start --head",
        ) from error


def check_address(address: str) -> None:
    """Raise UserError for anything but the URL of a web server."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, or an open bracket
        good = False
    if not good:
        raise UserError(
            "--address must be the URL of the cluster's dashboard", value=redact(address), fix="give http://HOST:8265"
        )


def use_token() -> None:
    """Make Ray's clients in this process send the token, if there is one; they do not do so by themselves."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray._raylet import Config  # type: ignore[attr-defined]  # a compiled class

    Config.initialize("")  # Ray read its environment when it was imported


def cluster_hosts(client: Any) -> set[str]:
    """Host names of the cluster's nodes that are alive; empty if it does not say."""
    try:
        answer = client._do_request("GET", "/nodes?view=hostNameList")
        return set(answer.json()["data"]["hostNameList"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def follow(client: Any, job_id: str, show: Callable[[str], None]) -> SubmittedJob:
    """Pass a job's log to `show`, from its beginning, until the job has ended; reconnects when it breaks off.

    Ctrl-C leaves the job running.  Raises InputError if there is no such job.
    """
    find_job(client, job_id)
    try:
        asyncio.run(_stream(client, job_id, show))
        return _wait(client, job_id)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{job_id} keeps running; `pairmill logs {job_id}` follows it, `pairmill stop {job_id}` stops it"
        ) from None


async def _stream(client: Any, job_id: str, show: Callable[[str], None]) -> None:
    import aiohttp

    shown, warned = 0, False

    def show_rest(log: str, begins: int) -> None:
        nonlocal shown
        # Each connection sends the log from its beginning.
        if rest := log[max(0, shown - begins) :]:
            show(redact(rest))
            shown = begins + len(log)

    while True:
        seen = 0
        try:
            async for chunk in _until_ended(client, job_id):
                show_rest(chunk, seen)
                seen += len(chunk)
            return
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            if not warned:
                logger.warning("the log broke off (%s); reconnecting", last_line(redact(str(error))))
            warned = True
            await asyncio.sleep(_RECONNECT_S)
            ended = _find_patiently(client, job_id).status in ENDED
            # The whole log: this works even where a proxy blocks streams.
            with _asking():
                show_rest(client.get_job_logs(job_id), 0)
            if ended:
                return


async def _until_ended(client: Any, job_id: str) -> AsyncIterator[str]:
    """The job's log; it also breaks off where a proxy dropped the connection and the job has ended meanwhile."""
    chunks = client.tail_job_logs(job_id)
    while True:
        following = asyncio.ensure_future(anext(chunks, None))
        while not (await asyncio.wait({following}, timeout=_SILENCE_S))[0]:
            if (await asyncio.to_thread(_find_patiently, client, job_id)).status in ENDED:
                following.cancel()
                raise RuntimeError("the job ended, and its log did not")
        chunk = following.result()
        if chunk is None:
            return
        yield chunk


def find_job(client: Any, job_id: str) -> SubmittedJob:
    """Raises InputError if there is no job of that id, and JobError if the cluster does not answer."""
    try:
        with _asking():
            return _job(client.get_job_info(job_id))
    except JobError as error:
        if "does not exist" not in str(error):
            raise
    known = [job.id for job in list_jobs(client)]
    raise InputError(
        "the job id must be one that `pairmill submit` printed",
        value=job_id,
        fix=f"give one of {', '.join(known)}" if known else "submit a job first: the cluster knows none",
    )


def list_jobs(client: Any) -> list[SubmittedJob]:
    """All jobs that were submitted to the cluster, by anyone, the newest last.  Raises JobError as `find_job`."""
    with _asking():
        found = [_job(details) for details in client.list_jobs() if details.submission_id]
    return sorted(found, key=lambda job: (job.started or 0, job.id))


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        answer = last_line(redact(str(error))) or repr(error)
        raise JobError(f"the cluster did not answer as expected: {answer}") from error


def _find_patiently(client: Any, job_id: str) -> SubmittedJob:
    """`find_job`, tolerating an interruption of a minute."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return find_job(client, job_id)
        except JobError:
            time.sleep(_RECONNECT_S)
    return find_job(client, job_id)


def _job(details: Any) -> SubmittedJob:
    metadata = details.metadata or {}
    return SubmittedJob(
        id=details.submission_id,
        kind=metadata.get("kind", ""),
        run_dir=metadata.get("run_dir", ""),
        status=str(getattr(details.status, "value", details.status)),
        started=details.start_time / 1000 if details.start_time else None,
        message=cause(redact(details.message or "")),
        exit_code=details.driver_exit_code,
    )


def cause(message: str) -> str:
    """The cause in a job's message: pairmill's own error at the end of the log, else the last line."""
    ours = message.rfind("\npairmill: ")
    if ours < 0:
        return last_line(message)
    rule, *more = message[ours + len("\npairmill: ") :].splitlines()
    got = [line.strip() for line in more if line.startswith("  got: ")]
    return "; ".join([rule, *got[:1]])


def outcome(job: SubmittedJob) -> dict[str, Any]:
    """The job, which succeeded.  Raises SubmittedJobError if it did not."""
    if job.status != "SUCCEEDED":
        raise SubmittedJobError(job)
    return job._asdict()


def exit_code(job: SubmittedJob) -> int:
    """The exit code of an ended job's command: 0, 1 or 2; 1 if it was stopped, killed, or never ran."""
    if job.status == "SUCCEEDED":
        return 0
    return 2 if job.status == "FAILED" and job.exit_code == 2 else 1


def stop(client: Any, job_id: str) -> SubmittedJob:
    """Stop a job and wait until it has ended; it gets SIGTERM first, on which training saves a checkpoint."""
    before = find_job(client, job_id)
    if before.status in ENDED:
        return before
    with _asking():
        client.stop_job(job_id)
    return _wait(client, job_id)


def _wait(client: Any, job_id: str) -> SubmittedJob:
    while (job := _find_patiently(client, job_id)).status not in ENDED:
        time.sleep(_POLL_S)
    return job


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
