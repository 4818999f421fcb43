"""Scores, thresholds and balance in the report, against reading the run by hand; the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selected_run import select, selected_run

from curation.results import shown_rows, thumbnails
from curation.results.report import build_report, write_report
from curation.results.score_tally import SHOWN
from curation.selections.compare import TwoSelections
from pairmill.layout import RECIPE_FILE
from pairmill.origin import with_origin, working_in
from pairmill.recipe_file import write_recipe
from pairmill.store import Store

HOSTILE = "<script>alert(1)</script>"
WORDS = ["ball", "tree", "house", "river"]


def listed(number: int = 150) -> list[dict[str, Any]]:
    """Rows of a list with scores of its own: two languages, ties, and a few without a score."""
    rng = np.random.default_rng(5)
    rows = []
    for n in range(number):
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 4)), p=[0.6, 0.2, 0.15, 0.05]))
        rows.append(
            {
                "url": f"http://a.example/{'timeout' if n % 19 == 0 else 'ok'}/{n}",
                "text": f"{'红球' if n % 4 == 0 else HOSTILE} {words} {n}",
                "quality": None if n % 23 == 0 else float(np.round(rng.normal(), 1)),
                "punsafe": float(np.round(rng.random(), 3)),
                "site": f"s{n % 3}",
            }
        )
    return rows


SELECTIONS: dict[str, Any] = {
    "good": {"where": "quality > quantile(quality, 0.4, by=language) and 0.2 <= punsafe"},
    "best": {"from": "good", "top": {"by": "quality", "rows": 20}},
    "unsafe": {"where": "punsafe > 0.7"},
    "even": {"from": "~unsafe", "balance": {"metadata": "metadata.json", "t": 9}},
    "safe": {"where": "punsafe < 0.9"},
}


def made_in(folder: Path, rows_per_shard: int = 7) -> Store:
    folder.mkdir()
    (folder / "metadata.json").write_text(json.dumps([*WORDS, "nothing"]))
    even = {**SELECTIONS["even"], "balance": {"metadata": str(folder / "metadata.json"), "t": 9}}
    return selected_run(folder, {**SELECTIONS, "even": even}, rows=listed(), rows_per_shard=rows_per_shard)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made_in(tmp_path_factory.mktemp("insights") / "of")


@pytest.fixture(scope="module")
def report(run: Store) -> dict[str, Any]:
    return write_report(run)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """The rows that come to the selections, with what became of them in each."""
    rows = []
    for shard in sorted(store.index("plan")):
        plan, language = store.load("plan", shard).to_pylist(), store.load("columns/filter", shard).to_pylist()
        chosen = {name: store.load(f"selections/{name}", shard).to_pylist() for name in SELECTIONS}
        for at, row in enumerate(plan):
            if language[at]["drop_reason"] is None:
                found = {name: (here[at]["keep"], here[at]["reason"]) for name, here in chosen.items()}
                rows.append({**row["input"], "uid": row["uid"], "language": language[at]["language"], **found})
    return rows


def threshold(report: dict[str, Any], selection: str, subject: str) -> dict[str, Any]:
    [found] = [t for t in report["thresholds"] if (t["selection"], t["subject"]) == (selection, subject)]
    return dict(found)


def test_every_number_that_a_selection_compares_is_counted(run: Store, report: dict[str, Any]) -> None:
    rows = rows_of(run)
    assert [score["name"] for score in report["scores"]] == ["quality", "punsafe"]
    for score in report["scores"]:
        values = [row[score["name"]] for row in rows if row[score["name"]] is not None]
        assert (score["rows"], score["missing"]) == (len(values), len(rows) - len(values))
        assert (score["min"], score["max"]) == (min(values), max(values))
        expected = np.histogram(values, [-np.inf, *score["edges"], np.inf])[0]
        assert score["all"] == expected.tolist() == score["kept"]
        assert score["p50"] == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"), rel=score["error"])


def test_a_quantile_is_drawn_at_its_value_in_each_group(run: Store, report: dict[str, Any]) -> None:
    found = threshold(report, "good", "quality")
    expected = []
    for language in ("en", "zh"):
        here = [r["quality"] for r in rows_of(run) if r["language"] == language and r["quality"] is not None]
        value = float(np.quantile(here, 0.4, method="inverted_cdf"))
        expected.append({"group": language, "value": value, "rows": len(here)})
    assert found["limits"] == expected and found["by"] == "language" and found["groups"] == 2


@pytest.mark.parametrize(
    ("selection", "subject", "passes"),
    [
        ("good", "punsafe", lambda row, limit: row["punsafe"] >= limit),
        ("unsafe", "punsafe", lambda row, limit: row["punsafe"] > limit),
        ("safe", "punsafe", lambda row, limit: row["punsafe"] < limit),
        ("best", "quality", lambda row, limit: (row["quality"] or -9) >= limit),
    ],
)
def test_the_rows_nearest_to_a_threshold_are_shown(
    run: Store, report: dict[str, Any], selection: str, subject: str, passes: Any
) -> None:
    found = threshold(report, selection, subject)
    [limit] = found["limits"]
    rows = [row for row in rows_of(run) if row[subject] is not None]
    sides = {
        "passing": [r for r in rows if passes(r, limit["value"]) and r[selection][0]],
        # Of equal scores, not all are among the best.
        "failing": [
            row
            for row in rows
            if (found["rule"] == "top" or not passes(row, limit["value"])) and row[selection][1] == found["rule"]
        ],
    }
    for side, here in sides.items():
        nearest = sorted(here, key=lambda row: (abs(row[subject] - limit["value"]), row["uid"]))[:SHOWN]
        assert found[side]["rows"] == len(here) > 0
        assert [row["uid"] for row in found[side]["shown"]] == [row["uid"] for row in nearest]
        assert [row["value"] for row in found[side]["shown"]] == [row[subject] for row in nearest]


def test_pictures_that_the_strictest_threshold_calls_unsafe_are_shown_nowhere(
    run: Store, report: dict[str, Any]
) -> None:
    # `good` keeps 0.2 and more, so all from there on are above a threshold of that number.
    unsafe = {row["uid"] for row in rows_of(run) if row["punsafe"] >= 0.2}
    shown = [row for t in report["thresholds"] for side in ("passing", "failing") for row in t[side]["shown"]]
    shown += report["gallery"]["kept"]
    assert {row["uid"] for row in shown if row["withheld"]} == {row["uid"] for row in shown} & unsafe
    assert not thumbnails.thumbnails(run, [row for row in shown if row["withheld"]])
    assert thumbnails.thumbnails(run, [row for row in shown if not row["withheld"]])
    page = TwoSelections(run, "unsafe", "safe").page()
    assert "picture withheld" in page and page.count("<img") < page.count("<article>")


def test_mentions_are_counted_before_and_after(run: Store, report: dict[str, Any]) -> None:
    found = report["balance"]["even"]
    rows = [row for row in rows_of(run) if not row["unsafe"][0]]
    plan = {
        row["uid"]: row["alt"] for shard in sorted(run.index("plan")) for row in run.load("plan", shard).to_pylist()
    }
    texts = {row["uid"]: f" {plan[row['uid']]} " for row in rows}
    before = {word: sum(f" {word} " in text for text in texts.values()) for word in WORDS}
    after = {word: sum(f" {word} " in texts[row["uid"]] for row in rows if row["even"][0]) for word in WORDS}
    [of_all] = found["lists"]
    assert {one["entry"]: (one["before"], one["after"]) for one in of_all["head"]} == {
        word: (before[word], after[word]) for word in WORDS
    }
    assert before != after and of_all["mentions"] == {"before": sum(before.values()), "after": sum(after.values())}
    assert found["captions"] == {"before": len(rows), "named": len(rows), "after": sum(r["even"][0] for r in rows)}
    assert of_all["entries"] == 5 and of_all["named"]["before"] == 4
    ranked = sorted(before.values(), reverse=True), sorted(after.values(), reverse=True)
    assert [(p["before"], p["after"]) for p in of_all["curve"]] == [(ranked[0][r], ranked[1][r]) for r in (0, 1, 3)]


def test_the_report_does_not_depend_on_how_rows_are_divided(report: dict[str, Any], tmp_path: Path) -> None:
    def plain(found: dict[str, Any]) -> Any:
        chosen = {name: found[name] for name in ("scores", "thresholds", "balance")}
        text = json.loads(json.dumps(chosen))
        for one in text["thresholds"]:
            for side in ("passing", "failing"):
                for row in one[side]["shown"]:
                    del row["shard"], row["row"]
        return text

    for rows_per_shard in (23, 500):
        assert plain(build_report(made_in(tmp_path / str(rows_per_shard), rows_per_shard))) == plain(report)


def test_the_page_shows_them_and_its_bytes_are_the_same_again(run: Store, report: dict[str, Any]) -> None:
    page = run.read_text("report.html") or ""
    assert HOSTILE not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('class="limit"') == sum(len(t["limits"]) for t in report["thresholds"])
    for words in ("At the thresholds", "just below · left out", "just above · kept", "withheld", "Balance", "river"):
        assert words in page
    assert json.loads(run.read_text("report.json") or "") == report
    write_report(run)
    assert run.read_text("report.html") == page


def test_a_large_run_shows_rows_of_some_of_its_shards(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_rows, "MOST_SHARDS", 3)
    found = build_report(run)
    shards = {row["shard"] for t in found["thresholds"] for side in ("passing", "failing") for row in t[side]["shown"]}
    planned = found["shards"]["planned"]
    assert shards <= {0, int(planned / 3), int(2 * planned / 3)} and len(shards) == 3
    assert threshold(found, "best", "quality")["passing"]["rows"] == 20


def test_a_page_has_no_more_of_pictures_than_its_bound(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"shard": shard, "row": row, "width": 96, "drop_reason": None}
        for shard in sorted(run.index("plan"))
        for row in range(len(run.load("plan", shard)))
        if run.load("images", shard, ["image"])["image"][row].is_valid
    ]
    whole = thumbnails.thumbnails(run, entries)
    bound = sum(len(uri) for uri in whole.values()) // 2
    monkeypatch.setattr(thumbnails, "MOST_CHARACTERS", bound)
    some = thumbnails.thumbnails(run, entries)
    assert list(some) == list(whole)[: len(some)] and 0 < len(some) < len(whole)
    assert sum(map(len, some.values())) <= bound
    # One that is shown twice counts twice.
    assert len(thumbnails.thumbnails(run, [*entries[:9], *entries])) < len(some)


def test_a_run_without_scores_and_selections_shows_none(tmp_path: Path) -> None:
    store = selected_run(tmp_path, {})
    report = write_report(store)
    assert (report["scores"], report["thresholds"], report["balance"], report["clusters"]) == ([], [], {}, [])
    assert "At the thresholds" not in (store.read_text("report.html") or "")


def test_metadata_that_is_another_now_is_not_counted(tmp_path: Path) -> None:
    store = made_in(tmp_path / "of")
    (tmp_path / "of" / "metadata.json").write_text('["tree"]')
    assert build_report(store)["balance"]["even"]["missing"] == "the metadata is another now"
    (tmp_path / "of" / "metadata.json").unlink()
    assert "cannot be read here" in build_report(store)["balance"]["even"]["missing"]


def test_metadata_lies_where_the_recipe_was_given(tmp_path: Path) -> None:
    store = made_in(tmp_path / "of")
    recipe = (store.read_text(RECIPE_FILE) or "").replace(f"{tmp_path / 'of'}/metadata.json", "metadata.json")
    assert "metadata: metadata.json" in recipe
    with working_in(str(tmp_path / "of")):
        write_recipe(store, with_origin(recipe))
    assert build_report(store)["balance"]["even"]["captions"]["before"] > 0


def test_a_selection_that_is_not_made_yet_has_no_thresholds(tmp_path: Path) -> None:
    store = made_in(tmp_path / "of")
    for shard in sorted(store.index("plan")):
        store.remove_shard("selections/best", shard)
    assert {t["selection"] for t in build_report(store)["thresholds"]} == {"good", "unsafe", "safe"}
    select(store, {})
