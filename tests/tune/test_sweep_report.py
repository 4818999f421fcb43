"""The journal of a sweep and its report: from files as a training run leaves them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pairmill.store import Store
from tests.tune.test_proposals import METRIC, recipe
from training.recipe import TrainRecipe
from tune.halving import Halving, Leg
from tune.journal import Journal, Trial
from tune.progress import Progress, counted_by_status
from tune.recipe import ObjectiveConfig, SweepRecipe
from tune.report import apart, build_report, interval, write_report

SPACE = {"optim.lr": {"grid": [0.1, 0.2, 0.3]}}


def left(journal: Journal, trial: Trial, values: list[float], *, finished: bool = True) -> None:
    """What a run leaves: evaluations at steps 0, 10, 20 … with steps between them."""
    journal.record(trial)
    lines: list[dict[str, Any]] = []
    for number, value in enumerate(values):
        first = number * 10 - 9 if number else 1
        lines += [{"step": s, "loss": 1.0 / s, "samples_per_second": 8.0} for s in range(first, number * 10 + 1)]
        lines.append({"step": number * 10, METRIC: value})
    folder = Path(journal.folder(trial.id))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')
    checkpoint = folder / f"sweep-{trial.id}" / "step-000000040"
    checkpoint.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("written: by training")
    step = (len(values) - 1) * 10
    result = {"finished": finished, "step": step, "steps": step if finished else 40, "checkpoint": str(checkpoint)}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(Store(str(tmp_path)))


def sweep(journal: Journal, **sections: Any) -> SweepRecipe:
    return recipe(SPACE, **sections).model_copy(update={"run_dir": journal.store.uri})


def test_status_follows_from_what_is_there(journal: Journal) -> None:
    journal.record(Trial("new", {}))
    assert journal.state("new").status == "unfinished"
    left(journal, Trial("half", {}), [0.1, 0.2], finished=False)
    assert journal.state("half")[:3] == ("unfinished", {METRIC: 0.2, "samples_per_second": 8.0}, 10)
    left(journal, Trial("whole", {}), [0.1, 0.2, 0.3, 0.4, 0.5])
    assert journal.state("whole").status == "finished"
    journal.fail("half", "no disk")
    assert journal.state("half")[0::4] == ("failed", "no disk")


def test_the_end_of_a_search_is_counted_in_the_words_of_the_report(journal: Journal) -> None:
    left(journal, Trial("000", {}), [0.1, 0.2, 0.3, 0.4, 0.5])
    left(journal, Trial("003", {}, role="repeat", of="000"), [0.1, 0.2, 0.3, 0.4, 0.5])
    for name in ("001", "002"):
        left(journal, Trial(name, {}), [0.1, 0.2], finished=False)
        journal.stop(name, 10)
    assert counted_by_status(journal) == "1 finished, 2 stopped early"


def test_a_trial_that_continues_is_shown_at_the_step_it_has_reached(journal: Journal) -> None:
    left(journal, Trial("000", {}), [0.1, 0.2], finished=False)
    progress = Progress(journal, sweep(journal), 1, quiet=True)
    progress.on_trial_start(0, [], SimpleNamespace(config={"trial": "000"}))
    table = progress._table()
    assert [list(column.cells) for column in table.columns][:4] == [["000"], ["running"], ["10"], ["0.2000"]]


def test_a_stopped_trial_is_what_it_was_when_it_was_compared(journal: Journal) -> None:
    left(journal, Trial("a", {}), [0.0, 0.1, 0.9], finished=False)
    journal.stop("a", 10)
    state = journal.state("a")
    assert (state.status, state.metrics[METRIC], state.steps) == ("stopped", 0.1, 10)


def test_a_segment_is_done_where_it_was_to_end(journal: Journal) -> None:
    left(journal, Trial("g00", {}, until=20), [0.0, 0.1, 0.2], finished=False)
    left(journal, Trial("g01", {}, until=30), [0.0, 0.1, 0.2], finished=False)
    assert [journal.state(name).status for name in ("g00", "g01")] == ["finished", "unfinished"]


def test_a_standing_is_the_objective_at_each_rung(journal: Journal) -> None:
    best, least = ObjectiveConfig(metric=METRIC), ObjectiveConfig(metric=METRIC, mode="min")
    left(journal, Trial("a", {}), [0.0, 0.1, 0.2, 0.3], finished=False)
    assert journal.standing("a", [10, 20, 40], best) == ([0.1, 0.2], 30)
    assert journal.standing("a", [10, 25, 30], least) == ([-0.1], 30), "a rung that was not evaluated ends it"
    assert journal.at_step("a", 20)[:3] == ("stopped", {METRIC: 0.2, "samples_per_second": 8.0}, 20)
    left(journal, Trial("short", {}), [0.0, 0.1, float("nan")])
    assert journal.standing("short", [10, 40], best) == ([0.1, -math.inf], 20), "it has fewer steps, and is done"
    journal.record(Trial("new", {}))
    assert journal.standing("new", [10, 40], best) == ([], 0)


def test_a_leg_that_was_killed_before_its_checkpoint_counts_for_nothing(journal: Journal) -> None:
    best = ObjectiveConfig(metric=METRIC)
    left(journal, Trial("a", {}), [0.0, 0.1, 0.2], finished=False)
    result = Path(journal.folder("a")) / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"step": 10}))
    standing = journal.standing("a", [10, 20], best)
    assert standing == ([0.1], 20)
    assert Halving([10, 20], 2, finalists=1).broken_off({"a": standing}) == Leg("a", 20)
    result.unlink()
    assert journal.standing("a", [10, 20], best) == ([], 20)


def test_segments_of_a_population_are_counted_once_and_named_with_the_winner(journal: Journal) -> None:
    for member in range(4):
        first = f"g00-m{member:02d}"
        left(journal, Trial(first, {"optim.lr": 0.1}, until=20), [0.0, 0.1, 0.2 + member], finished=False)
        own = Trial(f"g01-m{member:02d}", {"optim.lr": 0.2}, of=first, begin="there", until=40)
        left(journal, own, [0.0, 0.1, 0.2, 0.3, 0.4 + member])
    pbt = {"method": "pbt", "trials": 4, "segment_steps": 20}
    wanted = recipe({"optim.lr": {"uniform": [0.1, 0.2]}}, search=pbt)
    report = build_report(wanted, journal, finished=True, seconds=1.0)
    assert report["steps_total"] == report["steps_full"] == 4 * 40
    assert report["best"]["trial"] == "g01-m03" and len(report["ranking"]) == 4
    assert [s["trial"] for s in report["best"]["segments"]] == ["g00-m03", "g01-m03"]


def test_a_finished_trial_is_not_stopped_afterwards(journal: Journal) -> None:
    left(journal, Trial("a", {}), [0.0, 0.1])
    journal.stop("a", 0)
    assert journal.state("a").status == "finished"


def test_the_report_counts_every_trial_and_ranks_the_finished_ones(journal: Journal) -> None:
    left(journal, Trial("000", {"optim.lr": 0.1}), [0.0, 0.1, 0.2, 0.3, 0.4])
    left(journal, Trial("001", {"optim.lr": 0.2}), [0.0, 0.1, 0.2, 0.3, 0.6])
    left(journal, Trial("002", {"optim.lr": 0.3}), [0.0, 0.9], finished=False)
    journal.stop("002", 10)
    left(journal, Trial("001-seed1", {"optim.lr": 0.2}, "repeat", "001", 1), [0.0, 0.1, 0.2, 0.3, 0.5])
    wanted = sweep(journal)
    report = write_report(wanted, journal, finished=True, seconds=3.0)
    assert report == json.loads((Path(journal.store.uri) / "sweep.json").read_text())
    assert [(t["id"], t["status"], t["steps"]) for t in report["trials"]] == [
        ("000", "finished", 40),
        ("001", "finished", 40),
        ("001-seed1", "finished", 40),
        ("002", "stopped", 10),
    ]
    assert [(e["trial"], e["runs"], e["mean"]) for e in report["ranking"]] == [("001", 2, 0.55), ("000", 1, 0.4)]
    assert report["steps_total"] == 130 and report["steps_full"] == 160 and report["finished"]
    assert (Path(journal.store.uri) / "sweep.html").read_text().startswith("<!doctype html>")


def test_the_best_recipe_is_one_that_trains(journal: Journal) -> None:
    left(journal, Trial("000", {"optim.lr": 0.1}), [0.0, 0.4])
    left(journal, Trial("001", {"optim.lr": 0.2}), [0.0, 0.6])
    write_report(sweep(journal), journal, finished=True, seconds=1.0)
    best = TrainRecipe.checked(yaml.safe_load((Path(journal.store.uri) / "best-recipe.yaml").read_text()))
    assert best.optim.lr == 0.2
    assert best.run_dir == f"{journal.store.uri}/best", "a run of its own, beside the trials"


def test_a_finished_sweep_keeps_the_checkpoints_of_its_best_trials(journal: Journal) -> None:
    for number, value in enumerate([0.3, 0.5, 0.4]):
        left(journal, Trial(f"{number:03d}", {"optim.lr": 0.1 * (number + 1)}), [0.0, value])

    def kept() -> set[str]:
        return {t.id for t in journal.trials() if Path(journal.state(t.id).checkpoint or "").exists()}

    write_report(sweep(journal), journal, finished=False, seconds=1.0)
    assert kept() == {"000", "001", "002"}, "a sweep that was stopped may resume any"
    write_report(sweep(journal), journal, finished=True, seconds=1.0)
    assert kept() == {"001", "002"}


def test_a_sweep_without_a_finished_trial_has_no_best(journal: Journal) -> None:
    journal.record(Trial("000", {"optim.lr": 0.1}))
    journal.fail("000", "the rule\n  got: x")
    report = write_report(sweep(journal), journal, finished=True, seconds=1.0)
    assert report["best"] is None and report["ranking"] == [] and report["importance"] is None
    assert not (Path(journal.store.uri) / "best-recipe.yaml").exists()


def test_the_pareto_front_is_what_no_other_beats(journal: Journal) -> None:
    objectives = [{"metric": METRIC}, {"metric": "samples_per_second"}]
    for name, value in (("000", 0.4), ("001", 0.6)):
        left(journal, Trial(name, {"optim.lr": 0.1}), [0.0, value])
    report = build_report(sweep(journal, objectives=objectives), journal, finished=True, seconds=1.0)
    assert report["pareto"] == ["001"], "as fast, and better"


def test_importance_finds_the_key_that_matters(journal: Journal) -> None:
    space = {"optim.lr": {"uniform": [0.1, 0.9]}, "optim.eps": {"uniform": [0.1, 0.9]}}
    for number in range(16):
        lr, eps = 0.1 + 0.05 * number, 0.1 + 0.05 * (number * 7 % 16)
        left(journal, Trial(f"{number:03d}", {"optim.lr": lr, "optim.eps": eps}), [0.0, lr])
    wanted = recipe(space).model_copy(update={"run_dir": journal.store.uri})
    importance = build_report(wanted, journal, finished=True, seconds=1.0)["importance"]
    assert importance["optim.lr"] > 0.8 and sum(importance.values()) == pytest.approx(1)


def test_an_interval_is_students() -> None:
    # 2, 4, 6: mean 4, standard deviation 2; t(0.975, 2 degrees) = 4.3027 (Student's table).
    low, high = interval([2.0, 4.0, 6.0])
    assert low is not None and high is not None
    assert (low, high) == pytest.approx((4 - 4.3027 * 2 / 3**0.5, 4 + 4.3027 * 2 / 3**0.5), abs=1e-3)
    assert interval([1.0]) == (None, None)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0.5, 0.51, 0.49], [0.1, 0.11, 0.09], True),
        ([0.5, 0.6, 0.4], [0.45, 0.55, 0.35], False),
        ([0.5], [0.1], False),  # two single runs say nothing of noise
        ([0.5, 0.51, 0.49], [0.1], True),
        ([0.5, 0.51, 0.49], [0.48], False),
        ([0.5, 0.5], [0.5, 0.5], False),
        ([0.5, 0.5], [0.4, 0.4], True),
    ],
)
def test_points_within_noise_are_not_apart(one: list[float], other: list[float], expected: bool) -> None:
    assert apart(one, other) is expected
    assert apart(other, one) is expected


def test_a_metric_that_is_no_number_never_wins(journal: Journal) -> None:
    # In an order with NaN, what stands first stays there.
    left(journal, Trial("000", {"optim.lr": 0.1}), [0.1, 0.2, 0.3, 0.4, math.nan])
    left(journal, Trial("001", {"optim.lr": 0.2}), [0.1, 0.2, 0.3, 0.4, 0.5])
    left(journal, Trial("001-seed1", {"optim.lr": 0.2}, role="repeat", of="001", seed=1), [0.1, math.nan])
    report = build_report(sweep(journal), journal, finished=True, seconds=1.0)
    assert report["best"]["trial"] == "001"
    assert [entry["trial"] for entry in report["ranking"]] == ["001"]
    assert "NaN" not in json.dumps(report)
    assert journal.standing("000", [40], ObjectiveConfig(metric=METRIC)).values == [-math.inf]
