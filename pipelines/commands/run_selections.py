"""`pairmill select`: make, compare and export selections of a curated run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.commands.arguments import Json, Overrides, Run
from pipelines.opening import check_outside, check_suffix, local_target, opened_run, without_pandas
from pipelines.output import counted, finish, say

app = typer.Typer()


@app.command()
def select(
    run: Run,
    recipe: Annotated[
        Path | None, typer.Argument(help="a recipe with a section selections, a YAML file", show_default=False)
    ] = None,
    overrides: Overrides = None,
    diff: Annotated[
        tuple[str, str], typer.Option("--diff", help="compare two selections", metavar="A B", show_default=False)
    ] = ("", ""),
    export: Annotated[
        str | None, typer.Option("--export", help="write the uids of a selection, as DataComp does", metavar="NAME")
    ] = None,
    uid_column: Annotated[
        str, typer.Option(help="with --export: uid, or a column of the list with other uids, such as input.uid")
    ] = "uid",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="with --export: the .npy file; with --diff: a page with pictures, .html"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make selections of a curated run by the rules of a recipe, compare two, or export one; the product stays."""

    def job() -> dict[str, Any]:
        _check_one_of(recipe, any(diff), export)
        if recipe is not None:
            _check_alone(to, uid_column)
            return _make(run, recipe, overrides or [], quiet=as_json)
        without_pandas()
        return _export(run, export, uid_column, to) if export is not None else _compare(run, *diff, to)

    finish(job, as_json, _show)


def _make(run: str, recipe: Path, overrides: list[str], *, quiet: bool) -> dict[str, Any]:
    from pipelines.selecting import load_selections, select_in

    section = load_selections(recipe, overrides)
    store, of_run = opened_run(run)
    kept = select_in(of_run, section, command=shlex.join(sys.argv), quiet=quiet)
    return {"run_dir": store.uri, "rows_kept": kept}


def _compare(run: str, a: str, b: str, to: Path | None) -> dict[str, Any]:
    from curation.selections.compare import TwoSelections
    from pairmill.pending import refuse_pending
    from pairmill.store import Store

    file = None if to is None else _target(Store(run), to, ".html")
    store = Store(run)
    refuse_pending(store)
    two = TwoSelections(store, a, b)
    found = two.data()
    if file is not None:
        from pairmill.atomic import whole_file

        with whole_file(file) as stream:
            stream.write(two.page().encode())
        found["path"] = str(file)
    return found


def _export(run: str, name: str, column: str, to: Path | None) -> dict[str, Any]:
    from curation.selections.compare import selection_uids
    from curation.selections.uids import write_uids
    from pairmill.errors import UserError
    from pairmill.pending import refuse_pending
    from pairmill.store import Store

    if to is None:
        raise UserError("--export must come with --to", value="nothing", fix="give --to FILE.npy")
    store = Store(run)
    file = _target(store, to, ".npy")
    refuse_pending(store)
    uids = selection_uids(store, name, column)
    write_uids(file, uids)
    return {"selection": name, "rows": len(uids), "path": str(file)}


def _target(store: Any, to: Path, suffix: str) -> Path:
    from pairmill.errors import UserError

    file = local_target(to)
    if file.suffix.lower() != suffix:
        raise UserError(f"--to must end in {suffix} here", value=file, fix=f"give {file.with_suffix(suffix)}")
    check_outside(store, file)
    return file.absolute()


def _check_one_of(recipe: Path | None, diff: bool, export: str | None) -> None:
    from pairmill.errors import UserError

    given = [name for name, is_given in (("RECIPE", recipe), ("--diff", diff), ("--export", export)) if is_given]
    if len(given) != 1:
        raise UserError(
            "`select` must be given one of RECIPE, --diff A B and --export NAME",
            value=" and ".join(given) or "nothing",
            fix="give one of them",
        )


def _check_alone(to: Path | None, uid_column: str) -> None:
    from pairmill.errors import UserError

    if to is not None or uid_column != "uid":
        raise UserError(
            "--to and --uid-column must come with --export or --diff",
            value=f"--to {to}" if to is not None else f"--uid-column {uid_column}",
            fix="leave it out: a selection is written into the run",
        )


def _show(done: dict[str, Any]) -> None:
    if "rows_kept" in done:
        for name, rows in done["rows_kept"].items():
            say(f"{name:<24} {rows:>12,} rows kept")
    elif "selection" in done:
        say(f"{counted(done['rows'], 'uid')} written to {done['path']}")
    else:
        _show_difference(done)


def _show_difference(found: dict[str, Any]) -> None:
    a, b = found["a"], found["b"]
    say(f"{'both':<32} {found['both']:>12,} rows")
    for name, other in ((a, b), (b, a)):
        say(f"{name + ' alone':<32} {found['only'][name]['rows']:>12,} rows")
        for reason, rows in found["only"][name]["reasons"].items():
            say(f"    {other + ': ' + str(reason):<28} {rows:>12,}")
    say(f"\n{'language':<12} {'both':>12} {a + ' alone':>20} {b + ' alone':>20}")
    for language, rows in found["languages"].items():
        say(f"{language:<12} {rows['both']:>12,} {rows['only'][a]:>20,} {rows['only'][b]:>20,}")
    if "path" in found:
        say(f"\npage: {found['path']}")


@app.command()
def metadata(
    titles: Annotated[
        list[Path],
        typer.Argument(help="tsv or csv with a header: title, count, and language if several", show_default=False),
    ],
    to: Annotated[Path, typer.Option("--to", help="the .json file to write or replace", show_default=False)],
    least: Annotated[int, typer.Option("--least", min=0, help="least count of a title over all files")] = 70,
    language: Annotated[str, typer.Option("--language", help="of titles without one; default: for all others")] = "",
    without: Annotated[
        list[str] | None, typer.Option("--without", help="leave out titles with this text; default: a colon")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the metadata of a selection's rule `balance` from titles and counts, such as Wikipedia's page views."""

    def job() -> dict[str, Any]:
        from curation.balancing.matching import never_named
        from curation.balancing.metadata import build, metadata_text, shown_name
        from pairmill.atomic import whole_file

        file = local_target(to)
        check_suffix(file, ".json")
        found = build(titles, least=least, language=language, without=(":",) if without is None else without)
        with whole_file(file) as stream:
            stream.write(metadata_text(found).encode())
        return {
            "path": str(file),
            "entries": {shown_name(name): len(entries) for name, entries in found.items()},
            "never_named": {shown_name(name): never_named(entries) for name, entries in found.items()},
        }

    def show(done: dict[str, Any]) -> None:
        for name, entries in done["entries"].items():
            never = done["never_named"][name]
            more = (
                f", of which no caption can name {never:,}: marks inside them stand apart in captions" if never else ""
            )
            say(f"{name:<6} {entries:,} entries{more}")
        say(f"written to {done['path']}")

    finish(job, as_json, show)
