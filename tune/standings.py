"""The trials of a sweep as its report sees them: what each reached, its rank, and what to call it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pairmill.axes import thinned
from tune.wording import count, metric_word, setting, tick_word

Trial = Mapping[str, Any]

STATUSES = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "unfinished": "unfinished"}


class Standings:
    """RUN/sweep.json, by the first objective.

    search, repeats: trials by role.  by_id: all.  ranks: of finished trials of the search, from 0.
    tied: names of those that cannot be distinguished from a repeated best one.
    """

    def __init__(self, sweep: Mapping[str, Any]) -> None:
        self.sweep = sweep
        self.objective: str = sweep["objectives"][0]["metric"]
        self.lower_is_better: bool = sweep["objectives"][0]["mode"] == "min"
        self.words = {o["metric"]: metric_word(o["metric"], sweep["trials"]) for o in sweep["objectives"]}
        self.ticks = {o["metric"]: tick_word(o["metric"], sweep["trials"]) for o in sweep["objectives"]}
        self.search: list[Trial] = [trial for trial in sweep["trials"] if trial["role"] == "search"]
        self.repeats: list[Trial] = [trial for trial in sweep["trials"] if trial["role"] == "repeat"]
        self.by_id: dict[str, Trial] = {trial["id"]: trial for trial in sweep["trials"]}
        self.ranking: Sequence[Mapping[str, Any]] = sweep["ranking"]
        self.ranks = {entry["trial"]: number for number, entry in enumerate(self.ranking)}
        self.best: Mapping[str, Any] = sweep["best"] or {}
        # A winner with one run says nothing about noise: it would be tied with all.
        known = bool(self.ranking) and self.ranking[0]["runs"] > 1
        self.tied = {entry["trial"] for entry in self.ranking[1:] if entry["tied_with_best"]} if known else set()

    def repeats_of(self, name: str | None) -> list[Trial]:
        """The further runs of a trial's point."""
        return [trial for trial in self.repeats if trial["of"] == name]

    def value(self, trial: Trial) -> float | None:
        """The objective where the trial ended, or last had it measured; None if it never had."""
        on_the_way = (point.get(self.objective) for point in reversed(trial["curve"]))
        return next((v for v in (trial["metrics"].get(self.objective), *on_the_way) if v is not None), None)

    def measured(self, trial: Trial) -> float:
        """The objective of a trial that has one."""
        value = self.value(trial)
        assert value is not None
        return value

    def goodness(self, trial: Trial) -> float:
        """The objective, so that more is better."""
        value = self.value(trial)
        return -math.inf if value is None else -value if self.lower_is_better else value

    def said(self, trial: Trial, metric: str | None = None) -> str:
        """The objective, or another one, as it is written."""
        value = self.value(trial) if metric is None else trial["metrics"].get(metric)
        return "–" if value is None else self.words[metric or self.objective](value)

    def title(self, trial: Trial) -> str:
        """A trial in one line, for the pointer."""
        point = ", ".join(f"{key} {setting(value)}" for key, value in trial["point"].items())
        course = f"{self.said(trial)} after {count(trial['steps'])} steps, {STATUSES[trial['status']]}"
        return f"{trial['id']}: {course} · {point}"

    def kind(self, trial: Trial) -> str:
        """The CSS classes of a trial's marks."""
        repeat = trial["role"] == "repeat"
        name = trial["of"] if repeat else trial["id"]
        if name == self.best.get("trial"):
            return "best repeat" if repeat else "best"
        if trial["status"] == "finished":
            return "tied" if name in self.tied else "finished"
        return str(trial["status"])

    def back_to_front(self, most: int, head: int) -> list[Trial]:
        """At most so many trials of the search, the best last; of more, an even choice and all of the best `head`."""

        def place(trial: Trial) -> tuple[bool, float]:
            rank = self.ranks.get(trial["id"])
            return (False, self.goodness(trial)) if rank is None else (True, -rank)

        ordered = sorted(self.search, key=place)
        return thinned(ordered[:-head], most - head) + ordered[-head:]
