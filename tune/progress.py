"""Where a sweep stands, while it runs: a live table on a terminal, a line for every change elsewhere."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune.journal import Journal
from tune.recipe import SweepRecipe
from tune.standings import STATUSES

logger = logging.getLogger("pairmill")

#: Trials that a terminal shows at most: running ones first, then the best.
_SHOWN = 30


class Progress(Callback):  # type: ignore[misc]  # Ray has no types
    """Tune calls it on the driver.

    quiet: lines on a terminal too.
    """

    def __init__(self, journal: Journal, recipe: SweepRecipe, total: int, *, quiet: bool) -> None:
        self._journal, self._total = journal, total
        self._objective = recipe.objectives[0]
        self._rows: dict[str, tuple[str, int, float | None]] = {}  # status, step, objective
        terminal = sys.stderr.isatty() and not quiet
        self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True) if terminal else None

    def setup(self, *args: Any, **info: Any) -> None:
        """The sweep begins."""
        if self._live is not None:
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        name = trial.config["trial"]
        known = self._journal.state(name)  # a trial that continues has steps behind it
        self._show(trial, "running", known.steps, known.metrics.get(self._objective.metric))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was evaluated."""
        self._show(trial, "running", int(result.get("step", 0)), result.get(self._objective.metric))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial is done, or was stopped."""
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed."""
        self._ended(trial)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """The sweep is over."""
        if self._live is not None:
            self._live.stop()

    def _ended(self, trial: Any) -> None:
        name = trial.config["trial"]
        _, step, value = self._rows.get(name, ("", 0, None))
        status = self._journal.state(name).status
        # At a rung, or where it was asked to stop.
        self._show(trial, "waiting" if status == "unfinished" else status, step, value)

    def _show(self, trial: Any, status: str, step: int, value: float | None) -> None:
        name = trial.config["trial"]
        if self._rows.get(name) == (status, step, value):
            return  # the last evaluation is reported again at the end
        self._rows[name] = (status, step, value)
        if self._live is not None:
            self._live.update(self._table())
        else:
            said = "" if value is None else f", {self._objective.metric} {value:.4f}"
            logger.info("trial %s: %s at step %d%s; %s", name, status, step, said, self._counted())

    def _counted(self) -> str:
        counts: dict[str, int] = {}
        for status, *_ in self._rows.values():
            counts[status] = counts.get(status, 0) + 1
        return ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) + f" of {self._total}"

    def _table(self) -> Table:
        table = Table(caption=self._counted())
        for heading in ("trial", "status", "step", self._objective.metric, "point"):
            table.add_column(heading, justify="right" if heading in ("step", self._objective.metric) else "left")
        sign = -1 if self._objective.mode == "max" else 1
        ordered = sorted(
            self._rows.items(),
            key=lambda row: (row[1][0] != "running", sign * row[1][2] if row[1][2] is not None else float("inf")),
        )
        for name, (status, step, value) in ordered[:_SHOWN]:
            trial = self._journal.recorded(name)
            point = ", ".join(f"{k.rpartition('.')[2]} {brief(v)}" for k, v in trial.point.items()) if trial else ""
            table.add_row(name, status, str(step), "" if value is None else f"{value:.4f}", point)
        return table


def counted_by_status(journal: Journal) -> str:
    """How many trials of the search there are of each status, in the words of the report."""
    counts = Counter(journal.state(trial.id).status for trial in journal.trials() if trial.role == "search")
    return ", ".join(f"{counts[status]} {word}" for status, word in STATUSES.items() if counts[status])


def brief(value: Any) -> str:
    """A value of a point, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ranking_table(report: dict[str, Any]) -> Table:
    """The ranking of RUN/sweep.json, then what did not finish."""
    objective = report["objectives"][0]["metric"]
    table = Table(title=f"{report['name']}: {objective}")
    for heading in ("rank", "trial", "mean", "95 % interval", "runs", "point"):
        table.add_column(heading, justify="left" if heading in ("trial", "point") else "right")
    for number, entry in enumerate(report["ranking"][:_SHOWN], 1):
        spread = "" if entry["low"] is None else f"{entry['low']:.4f} … {entry['high']:.4f}"
        point = ", ".join(f"{key} {brief(value)}" for key, value in entry["point"].items())
        table.add_row(str(number), entry["trial"], f"{entry['mean']:.4f}", spread, str(entry["runs"]), point)
    others = [t for t in report["trials"] if t["status"] != "finished"]
    for trial in others[:_SHOWN]:
        point = ", ".join(f"{key} {brief(value)}" for key, value in trial["point"].items())
        said = f"{trial['status']} at step {trial['steps']}"
        table.add_row("", trial["id"], said, "", "", (trial["error"] or point).splitlines()[0])
    return table
