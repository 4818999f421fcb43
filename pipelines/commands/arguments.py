"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
