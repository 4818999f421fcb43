"""The sweep's report as one page: no script, nothing from outside, and no name or error that is taken for markup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pairmill.axes import axis
from pairmill.pages import page_template
from pairmill.yaml_text import write_yaml
from tune import plots, wording
from tune.standings import STATUSES, Standings, Trial

#: What the table of many trials shows of them; all are in sweep.json.
MOST_ROWS, MOST_FAILED = 60, 20


class Track(NamedTuple):
    """Where an interval, its mean and its runs lie, in percent of what the ranking spans."""

    low: float
    mean: float
    high: float
    runs: list[float]


class Row(NamedTuple):
    """A line of the table; rank and track: of ranked trials only.  value: the objective, as it is written."""

    trial: Trial
    value: str
    rank: int | None = None
    track: Track | None = None
    runs: int = 1
    tied: bool = False


class Cost(NamedTuple):
    """What a group of trials took."""

    name: str
    kind: str
    trials: int
    steps: int
    seconds: float


def render(sweep: Mapping[str, Any]) -> str:
    """The page of RUN/sweep.json, of a sweep that is finished or still running."""
    standings = Standings(wording.clean(sweep))
    filters = {
        "breakable": wording.breakable,
        "count": wording.count,
        "may_be": wording.may_be,
        "setting": wording.setting,
        "share": wording.share,
        "span": wording.span,
    }
    template = page_template(Path(__file__).with_name("sweep.html.j2"), filters)
    rows, failed = _rows(standings), _failed(standings)
    shown = {trial["id"] for trial in failed} | {row.trial["id"] for row in rows}
    return template.render(
        sweep=standings.sweep,
        standings=standings,
        statuses=STATUSES,
        headline=_headline(standings),
        kinds={standings.kind(trial) for trial in standings.sweep["trials"]},
        rows=rows,
        failed=failed,
        hidden=sum(trial["id"] not in shown for trial in standings.search),
        recipe=_recipe(standings),
        learning=plots.learning(standings),
        losses=plots.losses(standings),
        coordinates=plots.coordinates(standings),
        most_lines=plots.MOST_LINES,
        shades=plots.SHADES,
        responses=plots.responses(standings),
        trades=plots.trades(standings),
        costs=_costs(standings),
        saved=_saved(standings),
    )


def _headline(standings: Standings) -> dict[str, Any]:
    """The best value, its interval, and the trials of the search by status."""
    by_status = {status: sum(t["status"] == status for t in standings.search) for status in STATUSES}
    headline: dict[str, Any] = {"best": None, "interval": "", "runs": 0, "statuses": by_status}
    if standings.ranking:
        first, word = standings.ranking[0], standings.words[standings.objective]
        headline |= {"best": word(first["mean"]), "runs": first["runs"]}
        if first["low"] is not None and first["high"] is not None:
            low, high = word(first["low"]), word(first["high"])
            headline["interval"] = f"{low.removesuffix(' %') if high.endswith(' %') else low} – {high}"
    return headline


def _recipe(standings: Standings) -> str:
    """The winner's recipe as YAML; empty without one."""
    recipe = standings.by_id[standings.best["trial"]]["recipe"] if standings.best else None
    return write_yaml(recipe) if recipe else ""


# The table


def _rows(standings: Standings) -> list[Row]:
    """Ranked trials, then those that did not reach the end, the furthest first; none that failed."""
    rows = _ranked(standings)
    rest = [t for t in standings.search if t["id"] not in standings.ranks and t["status"] != "failed"]
    rest.sort(key=lambda trial: (-(trial["steps"] or 0), -standings.goodness(trial)))
    return rows + [Row(trial, standings.said(trial)) for trial in rest[: MOST_ROWS - len(rows)]]


def _ranked(standings: Standings) -> list[Row]:
    entries = standings.ranking[:MOST_ROWS]
    if not entries:
        return []
    values = []
    for entry in entries:
        runs = [standings.by_id[entry["trial"]], *standings.repeats_of(entry["trial"])]
        values.append([v for run in runs if (v := standings.value(run)) is not None])
    ends = [entry[end] for entry in entries for end in ("low", "mean", "high") if entry[end] is not None]
    scale = axis([*ends, *(v for group in values for v in group)], wording.number, snug=True)
    rows = []
    for rank, (entry, group) in enumerate(zip(entries, values, strict=True), start=1):
        low, high = (entry["mean"] if entry[end] is None else entry[end] for end in ("low", "high"))
        track = Track(scale.at(low), scale.at(entry["mean"]), scale.at(high), [scale.at(v) for v in group])
        value = standings.words[standings.objective](entry["mean"])
        tied = entry["trial"] in standings.tied or (rank == 1 and bool(standings.tied))
        rows.append(Row(standings.by_id[entry["trial"]], value, rank, track, entry["runs"], tied))
    return rows


def _failed(standings: Standings) -> list[Trial]:
    """Trials that failed, repeats too."""
    return [trial for trial in standings.sweep["trials"] if trial["status"] == "failed"][:MOST_FAILED]


# What it took


def _costs(standings: Standings) -> list[Cost]:
    """Steps and seconds by what became of the trials; repeats apart."""
    groups = [(name, key, [t for t in standings.search if t["status"] == key]) for key, name in STATUSES.items()]
    groups.append(("repeats with other seeds", "repeat", standings.repeats))
    return [
        Cost(name, kind, len(group), sum(t["steps"] or 0 for t in group), sum(t["seconds"] or 0.0 for t in group))
        for name, kind, group in groups
        if group
    ]


def _saved(standings: Standings) -> Cost:
    """What trials stopped early did not train: steps, and seconds at each trial's own pace."""
    finished = (trial["steps"] for trial in standings.search if trial["status"] == "finished")
    whole = standings.sweep["search"].get("steps") or max(finished, default=0)
    stopped = [t for t in standings.search if t["status"] == "stopped" and 0 < (t["steps"] or 0) < whole]
    steps = sum(whole - t["steps"] for t in stopped)
    seconds = sum((whole - t["steps"]) * (t["seconds"] or 0.0) / t["steps"] for t in stopped)
    return Cost("saved by stopping early", "saved", len(stopped), steps, seconds)
