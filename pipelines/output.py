"""What the command `pairmill` prints: results on stdout, for people or as one JSON object; errors on stderr."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

_stdout = sys.stdout


def keep_stdout() -> None:
    """Keep stdout for `say`; everything else that is printed goes to stderr.

    Ray's workers and native libraries write to file descriptor 1 as well, so the descriptor itself moves.
    """
    global _stdout
    _stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def say(text: str, *, end: str = "\n") -> None:
    """Print a result."""
    print(text, end=end, file=_stdout, flush=True)


def finish(job: Callable[[], dict[str, Any]], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """Run a command's job and print its result; turn a PairmillError into a message and an exit code."""
    from pairmill.errors import PairmillError, UserError
    from pairmill.redaction import redact
    from pairmill.stopping import STOPPED

    try:
        result = _result(job)
    except PairmillError as error:
        if as_json:
            parts = (
                {"rule": error.rule, "value": str(error.value), "fix": error.fix}
                if isinstance(error, UserError)
                else {}
            )
            said = {"error": str(error), **parts}
            say(json.dumps({name: redact(text) for name, text in said.items()}, ensure_ascii=False))
        print(f"pairmill: {redact(str(error))}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt as stopped:
        # Not a result: a script must not carry on as if the job were done.
        print(f"pairmill: {str(stopped) or STOPPED}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        say(json.dumps(result, ensure_ascii=False))
    else:
        show(result)


#: What an operating system says of a path that is not what it should be, as numbers of OSError.
_PATH_ERRORS = (
    *(errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EDQUOT, errno.ENOTEMPTY, errno.EINVAL, errno.EBUSY),
)


def _result(job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The job's result.  A path that cannot be used is a UserError, wherever it was met."""
    from pairmill.errors import UserError

    try:
        return job()
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        raise UserError(
            "every file and folder must be there or be writable, as the command needs it",
            value=error,
            fix="correct the path, its permissions, or the space on its disk",
        ) from error


def counted(n: int, what: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def show_machine(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if name != "problems":
            say(f"{name:>16}  {value}")
    say(f"{'problems':>16}  {len(found['problems']) or 'none'}")
    for problem in found["problems"]:
        say("\n".join(f"  {line}" for line in f"- {problem}".splitlines()))


def show_funnel(report: dict[str, Any]) -> None:
    say(f"{'stage':<12} {'rows in':>10} {'kept':>10} {'dropped':>10}   reasons")
    for stage in report["stages"]:
        reasons = ", ".join(f"{k} {v:,}" for k, v in sorted(stage["dropped"].items(), key=lambda i: (-i[1], i[0])))
        dropped = stage["rows_in"] - stage["rows_kept"]
        say(f"{stage['name']:<12} {stage['rows_in']:>10,} {stage['rows_kept']:>10,} {dropped:>10,}   {reasons}")
    say(f"\n{report['rows_kept']:,} of {report['rows_in']:,} rows kept; {report['images_per_second']:.1f} images/s")
    say(f"dataset: {report['run_dir']}/pairs    report: {report['run_dir']}/report.html")


def show_demo(result: dict[str, Any]) -> None:
    show_funnel(result)
    training = result["training"]
    say(f"\nretrieval on the same emoji as another artist drew them, {training['step']} steps: before -> after")
    for name, after in training["metrics"].items():
        if "retrieval_recall@" in name or "chance@1" in name:
            say(f"  {name:<55} {training['metrics_before'].get(name, float('nan')):>7.1%} -> {after:>6.1%}")
    say(f"model: {training['checkpoint']}")


def show_training(result: dict[str, Any]) -> None:
    state = "finished" if result["finished"] else "stopped; the same command resumes"
    say(f"step {result['step']} of {result['steps']}, {state}")
    if result["metrics"] and result.get("evaluated") != result["step"]:
        say(f"evaluated after step {result.get('evaluated', 'unknown')}:")
    for name, value in result["metrics"].items():
        say(f"  {name:<50} {value:.4f}")
    say(f"checkpoint: {result['checkpoint'] or 'none yet'}")


def show_sweep(result: dict[str, Any]) -> None:
    from rich.console import Console

    from tune.progress import ranking_table

    Console(file=_stdout).print(ranking_table(result))
    best = result["best"]
    if best is not None and best["tied_with"]:
        say(f"{best['trial']} is best, but within noise of {', '.join(best['tied_with'])}: a tie")
    if not result["finished"]:
        say("stopped; the same command resumes")
    say(f"report: {result['run_dir']}/sweep.html    best recipe: {result['run_dir']}/best-recipe.yaml")


def show_losses(result: dict[str, Any]) -> None:
    for one in result["losses"]:
        say(f"{one['name']}    {one['paper']}")
        say(f"    {one['what']}")
        for line in one["equation"].splitlines():
            say(f"        {line}")
        facts = [f"needs {', '.join(one['needs']) or 'nothing'}", f"modes {', '.join(one['modes'])}"]
        facts.append(f"forms {', '.join(one['forms'])}")
        if one["keys"]:
            facts.append(f"keys {', '.join(one['keys'])}")
        if one["cost"] is not None:
            cost = one["cost"]
            facts.append(f"a step takes {cost['time']:.2f} of clip's time and {cost['memory']:.2f} of its memory")
        say(f"    {'; '.join(facts)}")


def show_records(result: dict[str, Any]) -> None:
    from rich.console import Console

    from training.evaluate.results import results_table

    Console(file=_stdout).print(results_table(result["records"]))


def show_jobs(result: dict[str, Any]) -> None:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    # `logs` and `stop` need the whole id, and a run directory is there to be copied.
    table.add_column("id", no_wrap=True)
    table.add_column("kind")
    table.add_column("run_dir", overflow="fold")
    for name in ("status", "started", "message"):
        table.add_column(name)
    for job in result["jobs"]:
        started = datetime.fromtimestamp(job["started"]).strftime("%Y-%m-%d %H:%M:%S") if job["started"] else ""
        table.add_row(job["id"], job["kind"], job["run_dir"], job["status"].lower(), started, job["message"])
    console = Console(file=_stdout)
    if not console.is_terminal:  # a line per job, whole, for `grep`
        unlimited = console.options.update(max_width=100_000)
        console.width = max(console.width, console.measure(table, options=unlimited).maximum)
    console.print(table)


def show_verified(result: dict[str, Any]) -> None:
    for found in result["damaged"]:
        say(found.get("done") or f"{found['name']}: {found['why']}; {found['remedy']}")
    say(f"{counted(result['files'], 'file')}, {result['bytes']:,} bytes, {len(result['damaged'])} damaged")


def rows_in_shards(planned: dict[str, Any]) -> str:
    """How much is planned."""
    skipped = sum(len(one.get("skipped", ())) for one in planned.get("inputs", ()))
    left_out = f", {counted(skipped, 'file')} that cannot be read left out" if skipped else ""
    return f"{counted(planned['rows'], 'row')} in {counted(planned['shards'], 'shard')}{left_out}"


def show_version(wanted: bool) -> None:
    """Print the version and end the command, if that is `wanted`."""
    if wanted:
        from importlib.metadata import version

        say(f"pairmill {version('pairmill')}")
        raise typer.Exit
