"""The command `pairmill`.

Exit codes: 0 done, or training that saved because it was asked to stop; 1 the job failed or was stopped (what was
committed stays: run it again); 2 the recipe or the input is wrong.
Results go to stdout; progress, log lines and errors go to stderr.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.commands import clusters, curation_runs, model_runs, run_selections
from pipelines.commands.arguments import Json
from pipelines.doctor import check_packages
from pipelines.output import finish, show_demo, show_version
from pipelines.startup import prepare_process

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and stop", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Curate web image-text pairs and train dual encoders on them, on Ray."""


for part in (curation_runs, run_selections, model_runs):
    app.add_typer(part.app)


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


app.add_typer(clusters.app)


def main() -> None:
    """Entry point: stdout is kept for results, whatever libraries print."""
    prepare_process()
    check_packages()
    app(prog_name="pairmill")


if __name__ == "__main__":
    main()
