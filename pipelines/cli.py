"""The command `pairmill`.

Exit codes: 0 done, or training that saved because it was asked to stop; 1 the job failed or was stopped (what was
committed stays: run it again); 2 the recipe or the input is wrong.
Results go to stdout; progress, log lines and errors go to stderr.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.doctor import check_packages, diagnose
from pipelines.opening import (
    MODEL_FORMATS,
    check_format,
    check_outside,
    check_parquet,
    check_retried,
    given_recipe,
    local_target,
    opened_run,
    selected_run,
    without_pandas,
)
from pipelines.output import (
    counted,
    finish,
    rows_in_shards,
    say,
    show_demo,
    show_funnel,
    show_jobs,
    show_machine,
    show_records,
    show_sweep,
    show_training,
    show_verified,
    show_version,
)
from pipelines.startup import prepare_process

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="dotted.key=value …", show_default=False)]
Run = Annotated[str, typer.Argument(help="the run directory", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option("--address", help="URL of the cluster's dashboard; default: RAY_ADDRESS, else this machine's cluster"),
]
JobId = Annotated[str, typer.Argument(help="the job's id, as `pairmill jobs` prints it", show_default=False)]
Average = Annotated[bool, typer.Option("--average", help="use the averaged weights (model.ema_decay)")]
Yes = Annotated[
    bool, typer.Option("--yes", help="fetch and compute again what the recipe makes stale, however much it is")
]
OtherCode = Annotated[
    bool,
    typer.Option("--accept-code-change", help="keep rows that other code made, and make the rest by today's"),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout, and nothing else")]


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and stop", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Curate web image-text pairs and train dual encoders on them, on Ray."""


@app.command()
def curate(
    recipe: Annotated[Path | None, typer.Argument(help="the recipe, a YAML file", show_default=False)] = None,
    overrides: Overrides = None,
    yes: Yes = False,
    other_code: OtherCode = False,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the recipe's JSON schema and stop")] = False,
) -> None:
    """Run a curation job, or what is left of one; running it again resumes."""
    from pipelines.recipe import CurateRecipe, load_recipe

    if schema:
        say(json.dumps(CurateRecipe.model_json_schema(), indent=2))
        return

    def job() -> dict[str, Any]:
        loaded = load_recipe(given_recipe(recipe, "curate-demo"), overrides or [], CurateRecipe)
        # Imported once the recipe is known to be right: Ray alone takes longer than all checks.
        from pipelines.curate import curate as run_job

        command = shlex.join(sys.argv)
        return run_job(loaded, command=command, quiet=as_json, yes=yes, other_code=other_code)

    finish(job, as_json, show_funnel)


@app.command()
def plan(recipe: Recipe, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check the recipe, read the input and cut it into shards; fetch nothing."""

    def job() -> dict[str, Any]:
        from pipelines.recipe import CurateRecipe, load_recipe

        loaded = load_recipe(recipe, overrides or [], CurateRecipe)
        from curation.plan import plan as make_plan
        from pairmill.store import Store
        from pipelines.curate import tables_of

        store = Store(loaded.run_dir)
        made = make_plan(store, loaded.input, loaded.shards)
        tables_of(loaded, made, store)
        return made.model_dump() | {"run_dir": loaded.run_dir}

    finish(job, as_json, lambda p: say(f"{rows_in_shards(p)}, planned in {p['run_dir']}"))


@app.command()
def report(run: Run, as_json: Json = False) -> None:
    """Write report.json and report.html again, for a finished or an unfinished run."""

    def job() -> dict[str, Any]:
        without_pandas()
        store, selection = selected_run(run)
        from curation.results.report import write_report
        from pairmill.pending import refuse_pending

        refuse_pending(store)
        return write_report(store, selection=selection)

    finish(job, as_json, show_funnel)


@app.command()
def rows(
    run: Run,
    to: Annotated[Path, typer.Option("--to", help="the .parquet file to write or replace", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write what became of every input row: one row each, kept ones too."""

    def job() -> dict[str, Any]:
        without_pandas()
        store, selection = selected_run(run)
        from curation.results.rows import write_rows

        file = local_target(to)
        check_parquet(file)
        check_outside(store, file)
        return {"rows": write_rows(store, file, selection=selection), "path": str(file)}

    finish(job, as_json, lambda done: say(f"{counted(done['rows'], 'row')} written to {done['path']}"))


@app.command()
def verify(
    run: Run,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="keep damaged files in RUN/damaged/, so that the next job makes them, or fetches them, again",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every file of a run and compare it with its digest; exit code 1 if one is damaged."""

    def job() -> dict[str, Any]:
        without_pandas()
        from pipelines.verify import verified

        done.update(verified(run, set_aside=set_aside))
        return done

    done: dict[str, Any] = {}
    finish(job, as_json, show_verified)
    if done["damaged"]:
        raise typer.Exit(1)


@app.command("retry-failed")
def retry_failed(
    run: Run,
    overrides: Overrides = None,
    yes: Yes = False,
    other_code: OtherCode = False,
    as_json: Json = False,
) -> None:
    """Fetch again what failed for a reason that may have passed, or was refused by a policy that allows it now."""

    def job() -> dict[str, Any]:
        from pipelines.curate import curate as run_job

        check_retried(overrides or [])
        _, recipe = opened_run(run, overrides or [])
        given: dict[str, Any] = {"quiet": as_json, "yes": yes, "other_code": other_code}
        return run_job(recipe, command=shlex.join(sys.argv), retry_failed=True, planned=True, **given)

    finish(job, as_json, show_funnel)


@app.command()
def extend(
    run: Run,
    inputs: Annotated[list[str], typer.Argument(help="files, folders or globs of more rows", show_default=False)],
    url_column: Annotated[str | None, typer.Option(help="their column of URLs; default: as in the run")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="their column of alt texts, '' if they have none; default: as in the run")
    ] = None,
    form: Annotated[str | None, typer.Option("--format", help="format of the files; default: as in the run")] = None,
    quoting: Annotated[
        str | None, typer.Option(help="quotes in csv and tsv: auto, quoted or none; default: as in the run")
    ] = None,
    bad_files: Annotated[
        str | None, typer.Option(help="files that cannot be read whole: refuse or skip; default: as in the run")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="cut the new rows into shards and stop; `curate` does the rest")
    ] = False,
    yes: Yes = False,
    other_code: OtherCode = False,
    as_json: Json = False,
) -> None:
    """Add input files to a run: new shards behind the old ones, then bring the dataset up to date."""
    given = {"url_column": url_column, "text_column": text_column, "format": form}
    given |= {"quoting": quoting, "bad_files": bad_files}
    changes = {key: value or None for key, value in given.items() if value is not None}

    def job() -> dict[str, Any]:
        from pairmill.uris import absolute
        from pipelines.extend import extend_plan, extend_run

        paths = [absolute(path) for path in inputs]
        store, recipe = opened_run(run)
        if plan_only:
            made, added = extend_plan(store, recipe, paths, changes)
            return {"run_dir": store.uri, "rows": made.rows, "shards": made.shards, "files_added": added}
        given: dict[str, Any] = {"quiet": as_json, "yes": yes, "other_code": other_code}
        return extend_run(store, recipe, paths, changes, command=shlex.join(sys.argv), **given)

    def show(done: dict[str, Any]) -> None:
        if plan_only:
            say(f"{counted(len(done['files_added']), 'file')} added: {rows_in_shards(done)}")
        else:
            show_funnel(done)

    finish(job, as_json, show)


@app.command()
def forget(
    run: Run,
    uid: Annotated[list[str] | None, typer.Option(help="a row, by its uid", show_default=False)] = None,
    url: Annotated[list[str] | None, typer.Option(help="an image's URL, whatever its text", show_default=False)] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="a host; '*.example.com': every host below it", show_default=False)
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="a picture, by the SHA-256 of its original file", show_default=False)
    ] = None,
    listed: Annotated[
        list[Path] | None, typer.Option("--from", help="a file with any of these, one per line", show_default=False)
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(help="an export, or a file of `pairmill rows`, to take the rows out of too", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without it, only report what it would do")] = False,
    as_json: Json = False,
) -> None:
    """Take rows out of a run and its copies, and keep them out: URL, texts, picture and all that was made of it."""
    found: dict[str, Any] = {}

    def job() -> dict[str, Any]:
        from curation.forget.request import merged, read_request, request
        from pipelines.forget import forget as run_job

        store, _ = selected_run(run)
        given = request(uid=uid or (), url=url or (), host=host or (), sha256=sha256 or ())
        wanted = merged([given, *map(read_request, listed or ())])
        found.update(run_job(store, wanted, also or (), sure=yes))
        return found

    def show(done: dict[str, Any]) -> None:
        from pipelines.forget import lines

        say("\n".join(lines(done)))

    finish(job, as_json, show)
    if not found["done"]:
        print("pairmill: nothing was changed; give --yes to do it", file=sys.stderr)
        raise typer.Exit(2)


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="the recipe, a YAML file", show_default=False)] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the recipe's JSON schema and stop")] = False,
) -> None:
    """Train a dual encoder, or resume a run; Ctrl-C saves a checkpoint first."""
    from pipelines.recipe import load_recipe
    from training.recipe import TrainRecipe

    if schema:
        say(json.dumps(TrainRecipe.model_json_schema(), indent=2))
        return

    def job() -> dict[str, Any]:
        loaded = load_recipe(given_recipe(recipe, "train-demo"), overrides or [], TrainRecipe)
        from training.train import train as run_job

        return run_job(loaded)

    finish(job, as_json, show_training)


@app.command()
def sweep(
    recipe: Annotated[Path | None, typer.Argument(help="the recipe, a YAML file", show_default=False)] = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="only resume a sweep that was started")] = False,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the recipe's JSON schema and stop")] = False,
) -> None:
    """Search the recipes around a training recipe, or resume a sweep; Ctrl-C saves the running trials first."""
    if schema:
        from tune.recipe import SweepRecipe

        say(json.dumps(SweepRecipe.model_json_schema(), indent=2))
        return

    def job() -> dict[str, Any]:
        from pipelines.sweep import load_sweep, run_sweep

        loaded = load_sweep(given_recipe(recipe, "sweep-demo"), overrides or [])
        return run_sweep(loaded, command=shlex.join(sys.argv), quiet=as_json, resume=resume)

    finish(job, as_json, show_sweep)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="a checkpoint, an export, or a finished run", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(help="evaluate.key=value …", show_default=False)] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="recipe whose section `evaluate` to use; default: the run's")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="folder for the records, in CLIP_benchmark's form")] = None,
    average: Average = False,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint: retrieval, zero-shot classification, geometry of the embeddings."""

    def job() -> dict[str, Any]:
        folder = None if to is None else local_target(to)
        from pipelines.models import evaluate_model

        return {"records": evaluate_model(checkpoint, overrides or [], recipe, folder, average=average)}

    finish(job, as_json, show_records)


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="a curated run, or a checkpoint", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="the folder to write", show_default=False)],
    form: Annotated[
        str,
        typer.Option("--format", help="for a dataset: webdataset, img2dataset; for a model: open_clip, huggingface"),
    ] = "webdataset",
    average: Average = False,
    as_json: Json = False,
) -> None:
    """Write a dataset or a model in a form that other tools read."""

    def job() -> dict[str, Any]:
        folder = local_target(to)
        check_format(what, form)
        if form in MODEL_FORMATS:
            from pipelines.models import export_model

            files, found = export_model(what, folder, form, average=average)
            return {
                "files": files,
                "format": form,
                "differences": [one._asdict() | {"same": one.same} for one in found],
            }

        from curation.results.export import export_img2dataset, export_webdataset

        known = {"webdataset": export_webdataset, "img2dataset": export_img2dataset}
        store, _ = opened_run(what)
        check_outside(store, folder)
        return {"files": [str(f) for f in known[form](store, folder)], "format": form}

    def told(done: dict[str, Any]) -> None:
        say(f"{counted(len(done['files']), 'file')} written to {to}")
        for one in done.get("differences", ()):
            if not one["same"]:
                ids = f", {counted(one['other_ids'], 'text')} with other ids" if one["other_ids"] else ""
                what_differs = f"{one['kind']}: {one['group']} (cosine {one['cosine']:.2f}{ids})"
                say(f"not as in training: {what_differs}; see README.md")

    finish(job, as_json, told)


@app.command()
def demo(
    run_dir: Annotated[str, typer.Option(help="where to keep the run")] = "runs/demo",
    as_json: Json = False,
) -> None:
    """Curate the sample emoji from a local server that misbehaves as the web does, and train a small model on them."""

    def job() -> dict[str, Any]:
        from pipelines.demo import run_demo, train_demo

        report = run_demo(run_dir, quiet=as_json)
        return report | {"training": train_demo(run_dir, f"{run_dir.rstrip('/')}-train")}

    finish(job, as_json, show_demo)


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


def main() -> None:
    """Entry point: stdout is kept for results, whatever libraries print."""
    prepare_process()
    check_packages()
    app(prog_name="pairmill")


if __name__ == "__main__":
    main()
