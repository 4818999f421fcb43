"""Commands of training: learn a model, search for a recipe, measure and export what was learnt."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.arguments import Average, Json, Overrides
from pipelines.opening import (
    MODEL_FORMATS,
    check_format,
    check_outside,
    check_suffix,
    given_recipe,
    local_target,
    opened_run,
)
from pipelines.output import counted, finish, say, show_losses, show_records, show_sweep, show_training

app = typer.Typer()


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
def losses(as_json: Json = False) -> None:
    """List the objectives that a recipe's `loss.objective` and `loss.terms` can name."""

    def job() -> dict[str, Any]:
        from training.objectives.reference import losses as known

        return {"losses": known()}

    finish(job, as_json, show_losses)


@app.command("count-words")
def count_words(
    recipe: Annotated[Path, typer.Argument(help="a training recipe, whose data are read", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="the .tsv file to write or replace", show_default=False)],
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="rows to read, spread over the datasets")] = 200_000,
    top: Annotated[int, typer.Option("--top", min=1, help="words of each language")] = 3000,
    common: Annotated[
        float, typer.Option("--common", min=0, max=1, help="leave out words in more than this share of the texts")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """List the significant words of a dataset, for the transform `mask_words` of `data.texts`."""

    def job() -> dict[str, Any]:
        from pairmill.atomic import whole_file
        from pipelines.recipe import load_recipe
        from training.data import word_counts
        from training.data.source import open_sources
        from training.data.word_list import word_list_text
        from training.recipe import TrainRecipe

        file = local_target(to)
        check_suffix(file, ".tsv")
        loaded = load_recipe(recipe, overrides or [], TrainRecipe)
        counter = word_counts.WordCounter()
        read = word_counts.count_words(open_sources(loaded.data), rows=rows, seed=loaded.train.seed, counter=counter)
        words = counter.significant(top=top, common=common)
        with whole_file(file) as stream:
            stream.write(word_list_text(words).encode())
        return {"path": str(file), "rows": read, "words": len(words)}

    def told(done: dict[str, Any]) -> None:
        say(f"{counted(done['words'], 'word')} of {counted(done['rows'], 'row')} written to {done['path']}")

    finish(job, as_json, told)
