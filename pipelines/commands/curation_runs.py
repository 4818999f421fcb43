"""Commands of curation: make a run, look at it, add to it, take from it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipelines.commands.arguments import Json, OtherCode, Overrides, Recipe, Run, Yes
from pipelines.opening import (
    check_outside,
    check_retried,
    check_suffix,
    given_recipe,
    local_target,
    opened_run,
    run_to_fit,
    selected_run,
    without_pandas,
)
from pipelines.output import counted, finish, rows_in_shards, say, show_funnel, show_verified

app = typer.Typer()


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
        check_suffix(file, ".parquet")
        check_outside(store, file)
        return {"rows": write_rows(store, file, selection=selection), "path": str(file)}

    finish(job, as_json, lambda done: say(f"{counted(done['rows'], 'row')} written to {done['path']}"))


@app.command("fit-filter")
def fit_filter(
    run: Run,
    embedding: Annotated[str, typer.Option("--embedding", help="name in the section embed of the run's recipe")],
    good: Annotated[
        str,
        typer.Option(
            "--good",
            help="examples: a selection of the run; or Parquet, tars, a run, a folder of pictures with NAME.txt",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="the .safetensors file to write or replace", show_default=False)],
    rows: Annotated[int, typer.Option("--rows", min=1, help="most pairs of each kind")] = 100_000,
    hidden: Annotated[int, typer.Option("--hidden", min=0, help="hidden units; 0: logistic regression")] = 0,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**31 - 1, help="decides what is held out, and the order of steps")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Learn a head of `score` that tells good pairs from the run's ordinary ones, measured on held-out pairs."""

    def job() -> dict[str, Any]:
        from pairmill.uris import absolute
        from pipelines.fit_filter import fit_filter as run_job

        elsewhere = absolute(good)
        store, recipe, file = run_to_fit(run, to)
        examples = good if good in store.folders("selections") else elsewhere
        return run_job(store, recipe, embedding, examples, file, rows=rows, hidden=hidden, seed=seed)

    def show(done: dict[str, Any]) -> None:
        low, high = done["auc_95"]
        say(f"area under the ROC curve {done['auc']:.3f} ({low:.3f} to {high:.3f}) on held-out pairs")
        say(f"cosine alone {done['cosine_auc']:.3f}; head: {done['path']}, card beside it")

    finish(job, as_json, show)


@app.command("fit-noise")
def fit_noise(
    run: Run,
    embedding: Annotated[str, typer.Option("--embedding", help="name in the section embed of the run's recipe")],
    score: Annotated[
        Literal["nevlp", "capro"],
        typer.Option("--score", help="nevlp: by the contrastive loss; capro: by prototypes of what captions are about"),
    ],
    to: Annotated[Path, typer.Option("--to", help="the .safetensors file to write or replace", show_default=False)],
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="most pairs of the sample; nevlp: 100,000; capro: 16,384")
    ] = None,
    selection: Annotated[str | None, typer.Option("--selection", help="of the run: draw from its rows alone")] = None,
    references: Annotated[
        int | None, typer.Option("--references", min=1, help="nevlp: pairs in every softmax (1,024)")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=1e-4, help="nevlp: of the softmax (0.01, CLIP's)")
    ] = None,
    concepts: Annotated[
        int | None, typer.Option("--concepts", min=2, help="capro: clusters of captions (one for each 256 pairs)")
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option("--neighbours", min=1, help="capro: pictures that complete a caption (5)")
    ] = None,
    top: Annotated[int | None, typer.Option("--top", min=1, help="capro: pairs that make a prototype (50)")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="decides which pairs are drawn")] = 0,
    as_json: Json = False,
) -> None:
    """Fit a head of `score` that says how likely a pair is noise, to a sample of the run."""

    def job() -> dict[str, Any]:
        from pipelines.fit_noise import fit_noise as run_job

        store, recipe, file = run_to_fit(run, to)
        keys = {"references": references, "temperature": temperature}
        keys |= {"concepts": concepts, "neighbours": neighbours, "top": top}
        return run_job(store, recipe, embedding, score, file, rows=rows, seed=seed, selection=selection, **keys)

    def show(done: dict[str, Any]) -> None:
        if done["score"] == "nevlp":
            low, high = done["mean_loss"]
            say(f"mean loss of clean pairs {low:.3f} and of noise {high:.3f}; {done['share'][1]:.1%} are noise")
        else:
            say(f"prototypes of {counted(done['concepts'], 'concept')} from {counted(done['pairs'], 'pair')}")
        say(f"head: {done['path']}; use it as score: {{NAME: {{name: {done['score']}, weights: {done['path']}}}}}")

    finish(job, as_json, show)


@app.command("fit-clusters")
def fit_clusters(
    run: Run,
    embedding: Annotated[str, typer.Option("--embedding", help="name in the section embed of the run's recipe")],
    to: Annotated[Path, typer.Option("--to", help="the .safetensors file to write or replace", show_default=False)],
    clusters: Annotated[
        int | None, typer.Option("--clusters", min=1, help="find about so many centroids in the run")
    ] = None,
    centroids: Annotated[
        Path | None, typer.Option("--centroids", help="take these instead: .npy, [clusters, numbers of a vector]")
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            help="embeddings of a reference set, which makes clusters near: .npy, Parquet, a run's columns/embed-NAME",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="most rows of the sample; 64 a cluster, 262,144 at most")
    ] = None,
    selection: Annotated[str | None, typer.Option("--selection", help="of the run: draw from its rows alone")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="decides which rows are drawn")] = 0,
    as_json: Json = False,
) -> None:
    """Fit a head of `score` that gives a picture's cluster, and whether a reference set is near to it."""

    def job() -> dict[str, Any]:
        from pipelines.fit_clusters import fit_clusters_of

        taken, near = (None if one is None else one.absolute() for one in (centroids, references))
        store, recipe, file = run_to_fit(run, to)
        return fit_clusters_of(
            *(store, recipe, embedding, file),
            clusters=clusters,
            centroids=taken,
            references=near,
            rows=rows,
            seed=seed,
            selection=selection,
        )

    def show(done: dict[str, Any]) -> None:
        near = f", {done['near']:,} of them near to {counted(done['references'], 'reference')}"
        say(f"{counted(done['clusters'], 'cluster')}{near if done['references'] else ''}: {done['path']}")

    finish(job, as_json, show)


@app.command("probe-source")
def probe_source(
    run: Run,
    embedding: Annotated[str, typer.Option("--embedding", help="name in the section embed of the run's recipe")],
    by: Annotated[
        str,
        typer.Option("--by", help="the groups: a column, an expression, or host; of the list: input.NAME"),
    ] = "source",
    selection: Annotated[str | None, typer.Option("--selection", help="of the run: ask about its rows alone")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="most rows of the sample")] = 50_000,
    groups: Annotated[int, typer.Option("--groups", min=2, help="most groups: the largest are told apart")] = 10,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**31 - 2, help="decides which rows are drawn, and held out")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Say whether the source of pictures can be told from their embeddings, by a linear probe on held-out rows."""

    def job() -> dict[str, Any]:
        from pipelines.probe_source import probe_source as run_job

        store, recipe = opened_run(run)
        return run_job(store, recipe, embedding, by, selection=selection, rows=rows, groups=groups, seed=seed)

    def show(done: dict[str, Any]) -> None:
        low, high = done["accuracy_95"]
        say(
            f"the probe names {done['by']} of {done['accuracy']:.1%} of held-out rows ({low:.1%} to {high:.1%}); "
            f"by chance {done['chance']:.1%}: it {'can' if done['tells'] else 'cannot'} tell"
        )
        say(f"written to {done['path']}")

    finish(job, as_json, show)


@app.command()
def verify(
    run: Run,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="keep damaged files in RUN/damaged/, so that the next job makes them again",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="with --set-aside: also files with pictures, which the next job fetches again"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every file of a run and compare it with its digest (reports have none); exit code 1 if one is damaged."""

    def job() -> dict[str, Any]:
        without_pandas()
        from pipelines.verify import verified

        done.update(verified(run, set_aside=set_aside, yes=yes))
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
