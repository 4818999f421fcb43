"""Commands of a cluster and its jobs, and the check of a machine."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from pipelines.commands.arguments import Address, JobId, Json, OtherCode, Overrides, Yes
from pipelines.doctor import diagnose
from pipelines.output import finish, say, show_jobs, show_machine

app = typer.Typer()


@app.command()
def submit(
    kind: Annotated[str, typer.Argument(help="curate, train, sweep or evaluate", show_default=False)],
    recipe: Annotated[str, typer.Argument(help="the recipe, a YAML file; for evaluate, a model", show_default=False)],
    overrides: Overrides = None,
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", help="print the job's id and do not wait for its end")] = False,
    install: Annotated[
        bool,
        typer.Option("--install", help="pip-install the project's dependencies there; default: the image has them"),
    ] = False,
    upload_limit: Annotated[int, typer.Option(min=1, max=500, help="MiB of the project that may be uploaded")] = 100,
    yes: Yes = False,
    other_code: OtherCode = False,
    as_json: Json = False,
) -> None:
    """Run a job on a cluster and follow its log; submitted again after a failure or a stop, it resumes."""

    def job() -> dict[str, Any]:
        from pipelines.dashboard import check_dashboard
        from pipelines.jobs import connect, follow, outcome
        from pipelines.submit import prepare
        from pipelines.submit import submit as submit_job

        flags = [flag for flag, given in (("--yes", yes), ("--accept-code-change", other_code)) if given]
        prepared = prepare(kind, recipe, overrides or [], flags=flags)
        client = connect(address)
        check_dashboard(address)  # no job goes to a cluster that accepts jobs from anyone
        job_id = submit_job(client, prepared, install=install, limit_mib=upload_limit)
        if detach:
            return {"id": job_id}
        print(f"submitted {job_id}", file=sys.stderr)
        return outcome(follow(client, job_id, lambda text: print(text, end="", file=sys.stderr, flush=True)))

    finish(job, as_json, lambda done: say(done["id"] if detach else f"{done['id']} succeeded"))


@app.command()
def jobs(address: Address = None, as_json: Json = False) -> None:
    """List the jobs that were submitted to a cluster, the newest last."""

    def job() -> dict[str, Any]:
        from pipelines.jobs import connect, list_jobs

        return {"jobs": [found._asdict() for found in list_jobs(connect(address))]}

    finish(job, as_json, show_jobs)


@app.command()
def logs(job_id: JobId, address: Address = None) -> None:
    """Print a job's log and follow it to its end; exit as the job did.  Ctrl-C leaves the job running."""

    def job() -> dict[str, Any]:
        from pipelines.jobs import connect, follow, outcome

        return outcome(follow(connect(address), job_id, lambda text: say(text, end="")))

    finish(job, False, lambda _: None)


@app.command()
def stop(job_id: JobId, address: Address = None, as_json: Json = False) -> None:
    """Stop a job and wait until it has ended; training saves a checkpoint first."""

    def job() -> dict[str, Any]:
        from pipelines.jobs import connect
        from pipelines.jobs import stop as stop_job

        return stop_job(connect(address), job_id)._asdict()

    finish(job, as_json, lambda done: say(f"{done['id']}: {done['status'].lower()}"))


@app.command()
def dashboard(address: Address = None, as_json: Json = False) -> None:
    """Print the URL of a cluster's dashboard, and check that it requires a token; exit 1 if it does not."""
    found: dict[str, Any] = {}

    def job() -> dict[str, Any]:
        from pipelines.dashboard import check_dashboard

        found.update(check_dashboard(address))
        return found

    finish(job, as_json, lambda done: say(done["url"]))
    if not found["protected"]:
        print("pairmill: the dashboard asks for no token: anyone on this machine can run code", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def doctor(
    run_dir: Annotated[str, typer.Option(help="run directory to check for write access")] = ".",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Report what this machine has, and the cluster at --address or RAY_ADDRESS: versions, cores, GPUs, Python."""
    found = diagnose(run_dir, address)
    if as_json:
        say(json.dumps(found, indent=2))
    else:
        show_machine(found)
    if found["problems"]:
        raise typer.Exit(1)
