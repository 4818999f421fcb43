"""What the sweep's report draws: its trials as lines and dots, for `pairmill.charts` to place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pairmill.axes import Axis, axis, thinned
from pairmill.charts import Course, Mark, Plot, Spot, curves, scatter, stairs
from tune.coordinates import Dimension, Parallel, categorical, numeric, parallel
from tune.standings import Standings, Trial
from tune.wording import count, given, is_number, number, setting

#: What a figure of many trials shows of them.
MOST_LINES, _MOST_POINTS, _LABELS, _MOST_PANELS = 120, 60, 6, 8

#: Shades of the parallel coordinates' lines, from the worst ranks to the best ones.
SHADES = 6

#: Kinds of trials, back to front.
_DEPTH = ("failed", "unfinished", "stopped", "finished", "tied", "best repeat", "best")


class Panel(NamedTuple):
    """The objective over a key, for one loss variant.  best: its best value, as it is written."""

    name: str
    trials: int
    best: str
    plot: Plot


class Response(NamedTuple):
    """The objective over a key, in panels by `variant`, another key, or in one where that is None."""

    key: str
    log: bool
    variant: str | None
    panels: list[Panel]
    left_out: int


class Trade(NamedTuple):
    """The first objective over another one.  front: trials that no other beats in both."""

    metric: str
    lower_is_better: bool
    plot: Plot
    front: list[str]


# Lines over steps


def learning(standings: Standings) -> Plot | None:
    """The objective over the steps, of the search's trials and of the winner's repeats."""

    def points(trial: Trial) -> list[tuple[float, float]]:
        found = ((point["step"], point.get(standings.objective)) for point in trial["curve"])
        return [(step, value) for step, value in found if value is not None]

    trials = standings.repeats_of(standings.best.get("trial")) + standings.back_to_front(MOST_LINES, _LABELS)
    word = standings.ticks[standings.objective]
    return curves([_course(standings, trial, points) for trial in trials], count, word, zero=True)


def losses(standings: Standings) -> Plot | None:
    """The training loss over the steps."""

    def points(trial: Trial) -> list[tuple[float, float]]:
        return [(step, value) for step, value in trial["losses"] if value is not None]

    trials = standings.back_to_front(MOST_LINES, _LABELS)
    return curves([_course(standings, trial, points) for trial in trials], count, number)


def _course(standings: Standings, trial: Trial, points: Callable[[Trial], list[tuple[float, float]]]) -> Course:
    named = standings.ranks.get(trial["id"], _LABELS) < _LABELS
    label = str(trial["id"]) if named else ""
    return Course(thinned(points(trial), _MOST_POINTS), standings.kind(trial), standings.title(trial), label)


# The space


def coordinates(standings: Standings) -> Parallel | None:
    """An upright for each key of the space and one for the objective; None without a trial or a key.

    A line's class v0 … v5 is the sixth of the measured trials that it is in, v5 the best.
    """
    trials = standings.back_to_front(MOST_LINES, _LABELS)
    if not trials or not standings.sweep["space"]:
        return None
    dimensions = [_dimension(key, parameter, trials) for key, parameter in standings.sweep["space"].items()]
    values = [standings.value(trial) for trial in trials]
    measured = [value for value in values if value is not None]
    note = "lower is better" if standings.lower_is_better else ""
    if measured:
        scale = axis(measured, standings.ticks[standings.objective])
        dimensions.append(numeric(standings.objective, note, values, scale))
    else:
        dimensions.append(Dimension(standings.objective, note, [None] * len(trials), []))
    ordered = sorted(map(standings.goodness, trials), reverse=True)
    lines = []
    for trial, value in zip(trials, values, strict=True):
        better = ordered.index(standings.goodness(trial))
        shade = "" if value is None else f"v{SHADES - 1 - SHADES * better // len(measured)} "
        lines.append((shade + standings.kind(trial), standings.title(trial)))
    return parallel(dimensions, lines)


def _dimension(key: str, parameter: Mapping[str, Any], trials: Sequence[Trial]) -> Dimension:
    kind, known = given(parameter)
    if kind not in ("grid", "choice"):
        values = [trial["point"].get(key) for trial in trials]
        scale = _key_axis(parameter, [value for value in values if value is not None])
        return numeric(key, "log" if scale.log else "", values, scale)
    if all(map(is_number, known)):
        known = sorted(known, reverse=True)
    words = [setting(trial["point"][key]) if key in trial["point"] else None for trial in trials]
    return categorical(key, words, [setting(value) for value in known])


def _key_axis(parameter: Mapping[str, Any], values: Sequence[float]) -> Axis:
    """Logarithmic for a range drawn so, and for listed values of which the largest is 10 times the smallest."""
    kind, known = given(parameter)
    listed = kind in ("grid", "choice")
    # Population-based training leaves the range that it began in: the values count too.
    ends = [*(known if listed else known[:2]), *values]
    log = kind == "loguniform" or (listed and min(ends) > 0 and max(ends) >= 10 * min(ends))
    return axis(ends, number, log=log, snug=True)


# Dots


def responses(standings: Standings) -> list[Response]:
    """The objective over each numeric key.

    temperature.init comes first and is shown by objective: loss.objective, else the first key that is not numeric.
    Without temperature.init, every key is.
    """
    space = standings.sweep["space"]
    keys = [key for key, parameter in space.items() if _is_numeric(parameter)]
    others = [key for key in space if key not in keys]
    variant = next((key for key in ("loss.objective", *others) if key in others), None)
    first = "temperature.init" if "temperature.init" in keys else None
    found = []
    for key in sorted(keys, key=lambda key: key != first):
        response = _response(standings, key, variant if first in (None, key) else None)
        if response is not None:
            found.append(response)
    return found


def _is_numeric(parameter: Mapping[str, Any]) -> bool:
    return all(map(is_number, given(parameter)[1]))


def _response(standings: Standings, key: str, variant: str | None) -> Response | None:
    trials = [t for t in standings.sweep["trials"] if key in t["point"] and standings.value(t) is not None]
    if not trials:
        return None
    x = _key_axis(standings.sweep["space"][key], [trial["point"][key] for trial in trials])
    y = axis(map(standings.measured, trials), standings.ticks[standings.objective], zero=True)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        name = "" if variant is None else setting(trial["point"].get(variant, "–"))
        groups.setdefault(name, []).append(trial)
    names = sorted(groups, key=lambda name: (-max(map(standings.goodness, groups[name])), name))
    panels = []
    for name in names[:_MOST_PANELS]:
        group = groups[name]
        spots = [_spot(standings, t, t["point"][key], standings.kind(t) == "best") for t in group]
        spots.sort(key=lambda spot: _DEPTH.index(spot.kind))
        best = standings.said(max(group, key=standings.goodness))
        panels.append(Panel(name, len(group), best, scatter(spots, x, y)))
    return Response(key, x.log, variant, panels, len(names) - len(panels))


def _spot(standings: Standings, trial: Trial, x: float, named: bool) -> Spot:
    label = str(trial["id"]) if named else ""
    return Spot(x, standings.measured(trial), standings.kind(trial), standings.title(trial), label)


def trades(standings: Standings) -> list[Trade]:
    """The first objective over each other one that was measured."""
    found = (_trade(standings, objective) for objective in standings.sweep["objectives"][1:])
    return [trade for trade in found if trade is not None]


def _trade(standings: Standings, objective: Mapping[str, Any]) -> Trade | None:
    metric, less_x = objective["metric"], objective["mode"] == "min"
    pairs = [
        (trial, trial["metrics"][metric])
        for trial in sorted(standings.search, key=lambda trial: _DEPTH.index(standings.kind(trial)))
        if trial["metrics"].get(metric) is not None and standings.value(trial) is not None
    ]
    if not pairs:
        return None
    x = axis((value for _, value in pairs), standings.ticks[metric])
    y = axis((standings.measured(trial) for trial, _ in pairs), standings.ticks[standings.objective])

    def beats(one: tuple[Trial, float], other: tuple[Trial, float]) -> bool:
        gains = [(other[1] - one[1]) if less_x else (one[1] - other[1])]
        gains.append(standings.goodness(one[0]) - standings.goodness(other[0]))
        return min(gains) >= 0 and max(gains) > 0

    # Of more than two objectives, `pareto` holds trials that are beaten in these two.
    known = [pair for pair in pairs if pair[0]["id"] in standings.sweep["pareto"]]
    front = [pair for pair in known if not any(beats(other, pair) for other in known)]
    names = [str(trial["id"]) for trial, _ in sorted(front, key=lambda pair: -standings.goodness(pair[0]))]
    plot = scatter([_spot(standings, trial, value, trial["id"] in names) for trial, value in pairs], x, y)
    if len(front) > 1:
        corners = [(value, standings.measured(trial)) for trial, value in front]
        edge = stairs(corners, x, y, less_x=less_x)
        plot.marks.insert(0, Mark("line edge", edge, "no trial is better in both"))
    return Trade(metric, less_x, plot, names)
