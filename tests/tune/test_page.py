"""The sweep's page: every trial in it, nothing of a name taken for markup, figures that any XML reader reads."""

import json
import math
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from pairmill.axes import axis
from tune.coordinates import categorical, numeric, parallel
from tune.page import MOST_FAILED, MOST_ROWS, render
from tune.wording import metric_word, span

RECALL = "google/image_retrieval_recall@1"
SPEED = "samples_per_second"
SPACE: dict[str, Any] = {
    "loss.objective": {"grid": ["clip", "one_to_k", "siglip"], "when": {}},
    "temperature.init": {"loguniform": [0.01, 0.2], "when": {}},
    "temperature.learnable": {"choice": [True, False]},
    "temperature.final": {"loguniform": [0.01, 0.1], "when": {"temperature.learnable": False}},
    "optim.lr": {"loguniform": [1e-4, 1e-2]},
}
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


def some_point(draw: random.Random, number: int) -> dict[str, Any]:
    point: dict[str, Any] = {
        "loss.objective": SPACE["loss.objective"]["grid"][number % 3],
        "temperature.init": round(math.exp(draw.uniform(math.log(0.01), math.log(0.2))), 5),
        "temperature.learnable": draw.random() < 0.6,
    }
    if not point["temperature.learnable"]:
        point["temperature.final"] = round(math.exp(draw.uniform(math.log(0.01), math.log(0.1))), 5)
    return {**point, "optim.lr": round(math.exp(draw.uniform(math.log(1e-4), math.log(1e-2))), 6)}


def some_trial(
    draw: random.Random, name: str, point: dict[str, Any], *, steps: int = 60, **more: Any
) -> dict[str, Any]:
    """A trial whose recall saturates at what its point allows: best at a temperature of 0.05 and a rate of 1e-3."""
    off = math.log(point["temperature.init"] / 0.05) ** 2 / 2 + math.log(point["optim.lr"] / 1e-3) ** 2 / 3
    reach = {"clip": 0.046, "one_to_k": 0.06, "siglip": 0.038}[point["loss.objective"]] * math.exp(-off / 2)
    pace = draw.uniform(0.75, 0.95)
    curve = [
        {"step": step, RECALL: round(0.001 + reach * (1 - math.exp(-step / 25)) * draw.uniform(0.95, 1.05), 5)}
        for step in range(0, steps + 1, 10)
    ]
    start = {"clip": 4.85, "one_to_k": 5.4, "siglip": 7.1}[point["loss.objective"]]
    losses = [
        [step, round(start * (0.55 + 0.45 * math.exp(-step * reach / 0.9)) + draw.gauss(0, 0.04), 4)]
        for step in range(1, steps + 1)
    ]
    trial = {
        "id": name,
        "role": "search",
        "of": None,
        "seed": 0,
        "point": point,
        "recipe": {"name": "demo", "temperature": {"init": point["temperature.init"]}},
        "status": "finished",
        "metrics": {RECALL: curve[-1][RECALL], SPEED: round(128 / pace, 1)},
        "steps": steps,
        "seconds": round(steps * pace + 6, 1),
        "error": None,
        "curve": curve,
        "losses": losses,
    }
    return {**trial, **more}


def make_sweep(trials: int = 12, *, repeats: int = 2, seed: int = 0) -> dict[str, Any]:
    """A sweep in which every ninth trial fails, half are stopped early, and the best two are repeated."""
    draw = random.Random(seed)
    everyone = []
    for number in range(trials):
        point, name = some_point(draw, number), f"{number:03d}"
        if number % 9 == 7:
            error = f"TrainingError: the loss is not a number at step {5 + number % 7}\n  fix: lower optim.lr"
            failed = some_trial(draw, name, point, steps=0, status="failed", error=error, curve=[], metrics={})
            everyone.append(failed | {"losses": [[step, 4.8 + step] for step in range(1, 6)]})
        else:
            everyone.append(some_trial(draw, name, point))
    running = [trial for trial in everyone if trial["status"] == "finished"]
    for rung in (20, 40):
        running.sort(key=lambda trial: -next(p[RECALL] for p in trial["curve"] if p["step"] == rung))
        for trial in running[-(len(running) // 3) or len(running) :]:
            cut_short(trial, rung)
        running = [trial for trial in running if trial["status"] == "finished"]
    ranking = []
    order = sorted(running, key=lambda trial: -trial["metrics"][RECALL])
    for number, trial in enumerate(order):
        runs = [trial["metrics"][RECALL]]
        for again in range(repeats if number < 2 else 0):
            name = f"{trials + 2 * number + again:03d}"
            repeat = some_trial(draw, name, trial["point"], role="repeat", of=trial["id"], seed=again + 1)
            everyone.append(repeat)
            runs.append(repeat["metrics"][RECALL])
        mean, half = sum(runs) / len(runs), 1.3 * (max(runs) - min(runs))
        single = len(runs) == 1
        ranking.append(
            {
                "trial": trial["id"],
                "point": trial["point"],
                "mean": mean,
                "low": None if single else mean - half,
                "high": None if single else mean + half,
                "runs": len(runs),
                "tied_with_best": False,
            }
        )
    ranking.sort(key=lambda entry: (entry["runs"] == 1, -entry["mean"]))
    first = ranking[0]["trial"] if ranking else None
    front = [
        trial["id"]
        for trial in order
        if not any(
            other["metrics"][RECALL] > trial["metrics"][RECALL] and other["metrics"][SPEED] > trial["metrics"][SPEED]
            for other in order
        )
    ]
    return {
        "name": "sweep-demo",
        "run_dir": "runs/sweep-demo",
        "seed": 0,
        "finished": True,
        "created": "2026-11-22T08:00:00+00:00",
        "search": {"method": "random", "scheduler": "asha", "trials": trials, "steps": 60},
        "objectives": [{"metric": RECALL, "mode": "max"}, {"metric": SPEED, "mode": "max"}],
        "space": SPACE,
        "trials": everyone,
        "ranking": ranking,
        "pareto": front,
        "importance": {
            "optim.lr": 0.41,
            "loss.objective": 0.33,
            "temperature.init": 0.22,
            "temperature.learnable": 0.04,
        },
        "best": {"trial": first, "tied_with": [], "metrics": {}} if first else None,
        "steps_total": sum(trial["steps"] for trial in everyone if trial["role"] == "search"),
        "steps_full": 60 * trials,
        "seconds_total": sum(trial["seconds"] for trial in everyone) / 2,
    }


def cut_short(trial: dict[str, Any], step: int) -> None:
    """Make of a finished trial one that was stopped at a step."""
    trial["seconds"] *= step / trial["steps"]
    trial["steps"], trial["status"] = step, "stopped"
    trial["curve"] = [point for point in trial["curve"] if point["step"] <= step]
    trial["losses"] = [point for point in trial["losses"] if point[0] <= step]
    trial["metrics"][RECALL] = trial["curve"][-1][RECALL]


class Page(HTMLParser):
    """Elements, attributes, the table's cells and the words of a page; fails on tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def marks(self, kind: str) -> list[str]:
        """Paths of the figures that have all of these classes."""
        wanted = set(kind.split())
        found = [attrs for tag, attrs in self.tags if tag == "path" and wanted <= set((attrs["class"] or "").split())]
        return [attrs["d"] or "" for attrs in found]


def checked(sweep: dict[str, Any]) -> Page:
    """The page of a sweep as it is read back from JSON, held to what every page must be."""
    html = render(json.loads(json.dumps(sweep)))
    html.encode()
    page = Page(html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        for path in ET.fromstring(svg).iter("path"):
            assert not re.search("nan|inf|None", path.attrib["d"])
    names = {name for _, attrs in page.tags for name in attrs}
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "link", "img", "form", "base"}
    assert not {"src", "href", "srcset", "xlink:href", "action", "background"} & names
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"url\(|@import", html)
    policy = next(attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
    assert policy is not None and policy.startswith("default-src 'none'") and "script" not in policy
    return page


def named(page: Page) -> set[str]:
    """First words of the rows of all tables: rank and trial, or trial."""
    return {cell.removesuffix("tie").strip() for row in page.rows for cell in row[:2]}


def test_every_trial_of_the_search_is_in_the_tables() -> None:
    sweep = make_sweep()
    page = checked(sweep)
    assert {trial["id"] for trial in sweep["trials"] if trial["role"] == "search"} <= named(page)
    statuses = [trial["status"] for trial in sweep["trials"] if trial["role"] == "search"]
    assert {status: statuses.count(status) for status in statuses} == {"finished": 6, "stopped": 5, "failed": 1}
    assert "12trials: 6 finished, 5 stopped early, 1 failed; and 4 repeats" in page.words
    assert "the loss is not a number at step 5" in page.words


def test_ranks_points_and_values_stand_in_their_columns() -> None:
    sweep = make_sweep()
    page = checked(sweep)
    head, *rows = page.rows[: 1 + len(sweep["ranking"])]
    assert head == ["#", "Trial", RECALL, "", SPEED, *SPACE, "Steps", "Time", "Status"]
    for number, (entry, row) in enumerate(zip(sweep["ranking"], rows, strict=True), start=1):
        assert row[:3] == [str(number), entry["trial"], f"{100 * entry['mean']:.2f} %"]
        assert row[5] == entry["point"]["loss.objective"]
        assert row[7] == json.dumps(entry["point"]["temperature.learnable"])
        assert (row[8] == "–") == ("temperature.final" not in entry["point"])


def test_the_headline_gives_the_best_with_its_interval_and_what_was_spent() -> None:
    sweep = make_sweep()
    best = sweep["ranking"][0]
    words = checked(sweep).words
    assert f"{100 * best['mean']:.2f} %best {RECALL}, mean of 3 runs" in words
    assert f"95 % interval {100 * best['low']:.2f} – {100 * best['high']:.2f} %" in words
    spent = sum(trial["steps"] for trial in sweep["trials"] if trial["role"] == "search")
    assert f"{spent}training steps, {100 * spent / 720:.0f} % of the 720 of every trial" in words


def test_a_tie_is_said_and_names_with_whom() -> None:
    sweep = make_sweep()
    alone = checked(sweep)
    assert "tie." not in alone.words and not [attrs for _, attrs in alone.tags if attrs.get("class") == "tie"]
    names = [entry["trial"] for entry in sweep["ranking"][:3]]
    sweep["best"]["tied_with"] = names[1:]
    for entry in sweep["ranking"][1:3]:
        entry["tied_with_best"] = True
    page = checked(sweep)
    said = " ".join(page.words.split())
    assert f"The winner is a tie. Trial {names[0]} is ranked first" in said
    assert f"it cannot be distinguished from {names[1]} and {names[2]}." in said
    assert [row[1] for row in page.rows if row[1:2] and row[1].endswith("tie")] == [f"{name}tie" for name in names]


def test_a_winner_of_one_run_is_said_to_be_one_rather_than_tied_with_all() -> None:
    sweep = make_sweep(repeats=0)
    for entry in sweep["ranking"][1:]:
        entry["tied_with_best"] = True
        sweep["best"]["tied_with"].append(entry["trial"])
    words = checked(sweep).words
    assert "The winner was trained once." in words and "The winner is a tie." not in words
    assert "The winner was trained once." not in checked(make_sweep()).words


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "</title></svg>{{ 7*7 }}"]
)
def test_nothing_is_taken_for_markup(text: str) -> None:
    sweep = make_sweep(9)
    metric = f"{text}/recall@1"
    sweep = json.loads(json.dumps(sweep).replace(json.dumps(RECALL)[1:-1], json.dumps(metric)[1:-1]))
    sweep["name"] = sweep["run_dir"] = sweep["created"] = text
    renamed = {trial["id"]: f"{trial['id']}{text}" for trial in sweep["trials"]}
    sweep["space"][text] = {"choice": [text, {"nested": text}], "when": {text: text}}
    sweep["importance"] = {text: 1.0}
    for trial in sweep["trials"]:
        trial["id"], trial["of"] = renamed[trial["id"]], renamed.get(trial["of"])
        trial["point"][text] = text
        trial["recipe"] = {text: text}
        trial["error"] = text if trial["status"] == "failed" else None
    for entry in sweep["ranking"]:
        entry["trial"], entry["tied_with_best"] = renamed[entry["trial"]], True
    sweep["pareto"] = [renamed[name] for name in sweep["pareto"]]
    sweep["best"] = {"trial": renamed[sweep["best"]["trial"]], "tied_with": [text], "metrics": {}}
    page = checked(sweep)
    assert set(renamed.values()) - {t["id"] for t in sweep["trials"] if t["role"] == "repeat"} <= named(page)
    assert page.words.count(text) > 20


def test_control_characters_and_halves_of_pairs_are_replaced() -> None:
    sweep = make_sweep(9)
    sweep["name"] = "a\x00b\x1bc\ud800d"
    sweep["trials"][0]["point"]["loss.objective"] = "\x08\udfff"
    assert "a�b�c�d" in checked(sweep).words


def test_a_curve_is_drawn_for_each_trial_and_ends_where_it_was_stopped() -> None:
    sweep = make_sweep()
    page = checked({**sweep, "trials": [{**trial, "losses": []} for trial in sweep["trials"]], "space": {}})
    drawn = [line for line in page.marks("line") if "L" in line]
    assert len(drawn) == sum(bool(trial["curve"]) for trial in sweep["trials"] if trial["role"] == "search") + 2
    assert len([line for line in page.marks("line best") if "L" in line]) == 1 + 2  # with its repeats
    stopped = [line for line in page.marks("line stopped") if "L" in line]
    assert sorted(line.count("L") for line in stopped) == [2, 2, 2, 4, 4]
    ends = {line.rsplit("L", 1)[-1] for line in stopped}
    assert {end.split()[0] for end in ends} == {"33.33", "66.67"}
    assert {f"M{end}h0" for end in ends} <= set(page.marks("dot stopped"))


def test_the_response_to_temperature_is_split_by_loss() -> None:
    page = checked(make_sweep(30))
    at = page.words.index("temperature.init · log by loss.objective")
    panels = page.words[at : page.words.index("optim.lr · log", at)]
    assert all(name in panels for name in SPACE["loss.objective"]["grid"])


def test_three_trials_and_three_hundred() -> None:
    assert {"000", "001", "002"} <= named(checked(make_sweep(3)))
    sweep = make_sweep(300)
    page = checked(sweep)
    failed = sum(trial["status"] == "failed" for trial in sweep["trials"])
    assert failed > MOST_FAILED
    assert f"{300 - MOST_ROWS - MOST_FAILED} more trials are in sweep.json" in page.words
    assert sum(row[-1] in ("finished", "stopped early") for row in page.rows) == MOST_ROWS
    assert "120 of the 300 trials" in page.words


def test_every_trial_failed() -> None:
    sweep = make_sweep(3, repeats=0)
    for trial in sweep["trials"]:
        trial |= {"status": "failed", "metrics": {}, "curve": [], "losses": [], "steps": 0, "error": "out of memory"}
    sweep |= {"ranking": [], "pareto": [], "importance": None, "best": None}
    page = checked(sweep)
    assert "Every trial failed." in page.words and page.words.count("out of memory") == 3
    assert "Ranking" not in page.words and "Learning curves" not in page.words


def test_a_sweep_that_has_just_begun() -> None:
    nothing: dict[str, Any] = {"trials": [], "ranking": [], "pareto": [], "importance": None, "best": None}
    sweep = make_sweep(3) | nothing | {"finished": False, "steps_total": 0, "seconds_total": None}
    assert "This sweep is not finished." in checked(sweep).words
    waiting = some_trial(random.Random(0), "000", some_point(random.Random(0), 0), steps=0)
    waiting |= {"status": "unfinished", "metrics": {}, "curve": [], "losses": [], "seconds": None, "seed": None}
    page = checked(sweep | {"trials": [waiting]})
    assert "1trials: 1 unfinished" in page.words and "000" in named(page)


def test_a_space_without_numbers_and_an_objective_to_be_small() -> None:
    sweep = make_sweep(9)
    sweep["space"] = {"loss.objective": SPACE["loss.objective"]}
    sweep["objectives"] = [{"metric": "google/loss", "mode": "min"}]
    sweep = json.loads(json.dumps(sweep).replace(RECALL, "google/loss"))
    sweep["ranking"].sort(key=lambda entry: entry["mean"])
    sweep["best"]["trial"] = sweep["ranking"][0]["trial"]
    sweep["trials"] = [trial for trial in sweep["trials"] if trial["status"] == "finished"]
    for trial in sweep["trials"]:
        trial["point"] = {"loss.objective": trial["point"]["loss.objective"]}
    page = checked(sweep)
    assert "Response" not in page.words and "Trade-offs" not in page.words and "lower is better" in page.words
    assert " %" not in page.rows[1][2]
    assert len(page.marks("line v5 best")) == 1


def test_values_that_are_no_numbers_are_left_out() -> None:
    sweep = make_sweep(9)
    sweep["trials"][0]["losses"] = [[1, 4.8], [2, math.nan], [3, math.inf]]
    sweep["trials"][1]["curve"][1][RECALL] = None
    sweep["trials"][2]["metrics"][SPEED] = math.nan
    checked(sweep)


def test_the_trade_off_names_what_no_other_beats() -> None:
    sweep = make_sweep()
    words = checked(sweep).words
    named = words[words.index("Beaten in both by no other trial: ") :].split(".")[0].split(": ")[1].split(", ")
    assert sorted(named) == sorted(sweep["pareto"]) and len(named) > 1


def test_lines_without_a_value_pass_below_and_end_before_the_last_upright() -> None:
    first = categorical("loss", ["a", "b", "a"], ["a", "b"])
    assert [word for _, word in first.rungs] == ["a", "b"]
    assert first.shares[0] != first.shares[2] and first.shares[1] == 25
    scale = axis([0, 1], str)
    drawn = parallel(
        [first, numeric("t", "", [0, None, 1], scale), numeric("o", "", [1, 1, None], scale)], [("", "")] * 3
    )
    assert drawn.bottom < 100 and drawn.uprights[1].rungs[-1][1] == "–"
    assert [mark.path.count("C") for mark in drawn.marks] == [2, 2, 1]
    through = float(drawn.marks[1].path.split("C")[1].split()[-1])
    assert drawn.bottom < through < 100


def test_shares_are_percentages_and_other_metrics_are_not() -> None:
    def word(metric: str, value: float) -> str:
        return metric_word(metric, [{"metrics": {metric: value}, "curve": []}])(value)

    assert word(RECALL, 0.0513) == "5.13 %" and word("birds/acc1", 0.5132) == "51.3 %"
    assert word("birds/mean_per_class_recall", 0.5) == "50.0 %" and word("x/rank_variance", 0.5) == "0.5"
    assert word("x/recall@1", 31.0) == "31" and word("seconds_per_step", 0.412) == "412 ms"
    assert span(3725) == "1 h 02 min" and span(None) == "–"
