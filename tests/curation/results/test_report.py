"""The run report: counts that close, of finished, unfinished and damaged runs, and a page that nothing can inject."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from run_fixture import make_run, retry_shard, shard_with, some_rows, write_record

from curation.gates.stage import GateConfig
from curation.results.data import DROPPED_SHOWN, KEPT_SHOWN
from curation.results.outcome import open_run
from curation.results.report import build_report, write_report
from curation.results.throughput import throughput
from curation.schema import set_columns
from pairmill.errors import RunDirError
from pairmill.layout import PAIRS
from pairmill.run_records import read_record
from pairmill.run_records import write_record as write_run_record
from pairmill.store import Store

STAGES = ["plan", "download", "inspect", "policy", "filter", "deduplicate", "recaption", "translate", "gate", "pack"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished run, of which only the report is written."""
    return make_run(tmp_path_factory.mktemp("finished"))


def closes(report: dict[str, Any]) -> bool:
    before = report["rows_in"]
    for stage in report["stages"]:
        if stage["rows_in"] + stage["rows_pending"] != before:
            return False
        if stage["rows_in"] != stage["rows_kept"] + sum(stage["dropped"].values()):
            return False
        before = stage["rows_kept"]
    return bool(report["rows_in"] == report["rows_kept"] + report["rows_dropped"] + report["rows_pending"])


def by_stage(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["name"]: stage for stage in report["stages"]}


def test_a_finished_run_accounts_for_every_row(finished: Store) -> None:
    report = build_report(finished)
    assert [stage["name"] for stage in report["stages"]] == STAGES
    assert report["complete"] and closes(report)
    assert (report["rows_in"], report["rows_kept"], report["rows_dropped"], report["rows_pending"]) == (40, 20, 20, 0)
    stages = by_stage(report)
    assert stages["plan"]["dropped"] == {"duplicate_input": 1}
    assert stages["download"]["dropped"]["http_client_error"] == 1
    assert stages["inspect"]["dropped"] == {"decode_error": 1, "not_an_image": 1, "too_many_pixels": 1}
    assert sum(stages["filter"]["dropped"].values()) == 7
    assert stages["deduplicate"]["dropped"] == {"duplicate_image": 2}
    assert stages["recaption"]["seconds"] == 2.0 * 6
    assert stages["recaption"]["rows_per_second"] == pytest.approx(20 / 12, abs=0.01)


def test_it_shows_no_secret_of_a_listed_url(tmp_path: Path) -> None:
    urls = [f"http://{fate}.example/{fate}/1?width=3&sig=hunter22x" for fate in ("ok", "timeout")]
    urls.append("http://me:hunter22x@b.example/ok/2")
    store = make_run(tmp_path, [{"url": url, "text": "a red ball in the grass"} for url in urls])
    report = json.dumps(write_report(store))
    page = (store.read_text("report.html") or "") + (store.read_text("report.json") or "")
    assert "hunter22x" not in report and "hunter22x" not in page
    assert "?width=3&sig=***" in report and "http://***@b.example/ok/2" in report


def test_it_counts_fetches_texts_and_languages(finished: Store) -> None:
    report = build_report(finished)
    assert report["fetch"]["status"]["success"] == 29
    assert report["fetch"]["http_status"] == {"200": 36, "404": 1, "429": 1}
    assert 0.02 <= report["fetch"]["latency_s"]["p50"] <= report["fetch"]["latency_s"]["p99"] <= 0.15
    assert sum(report["fetch"]["latency_s"]["counts"]) == 39
    assert report["fetch"]["hosts"][0]["host"] == "b.example" and report["fetch"]["hosts"][0]["errors"] == 7
    assert report["opt_out"] == {"x-robots-tag: noai": 1}
    assert report["languages"] == {"en": {"rows": 28, "kept": 19}, "zh": {"rows": 1, "kept": 1}}
    assert report["texts"] == {
        "alt": {"en": 19, "zh": 1},
        "short": {"en": 20},
        "long": {"en": 20},
        "translated": {"zh": 20},
    }
    assert report["translations"] == {"zh": {"bad_length": 20, "success": 20}}
    assert report["recaption_status"] == {"success": 20, "not_needed": 20}
    assert report["caption_length"]["after"]["max"] == len("ball")
    assert report["caption_length"]["before"]["max"] == len("a red ball, number 17")
    assert report["bytes"]["fetched"] == 39 * 1000 and report["bytes"]["pairs"] > 0


def test_it_counts_what_gates_refuse_by_model_and_prompt(finished: Store, tmp_path: Path) -> None:
    writers = build_report(finished)["gates"]["writers"]
    assert [(one["asked"], one["texts"], one["refused"]) for one in writers] == [
        ("long", 20, {}),
        ("short", 20, {}),
        ("into zh", 20, {}),
    ]
    gate = GateConfig.checked({"gates": ["opener", {"name": "length", "words": {"long": [1, 3], "short": [1, 3]}}]})
    report = write_report(make_run(tmp_path, gate=gate))
    long = report["gates"]["writers"][0]
    assert (long["model"], long["refused"]) == ("samples/models/captioner", {"length": 20})
    examples = report["gates"]["examples"]["length"]
    assert len(examples) == 6 and all(one["asked"] == "long" and one["alt"] in one["text"] for one in examples)
    assert "long" not in report["texts"] and report["texts"]["short"] == {"en": 20}
    shown = report["gallery"]["kept"][0]["texts"]
    assert [text["refused_by"] for text in shown] == [None, "length", None, None]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Gates</h2>" in page and "refused: length" in page


def test_every_row_broken(tmp_path: Path) -> None:
    rows = [{"url": f"http://h.example/dns_error/{n}", "text": "x"} for n in range(9)]
    rows += [{"url": "no url at all/invalid_url/", "text": ""}]
    report = write_report(make_run(tmp_path, rows))
    assert report["complete"] and closes(report)
    assert (report["rows_in"], report["rows_kept"]) == (10, 0)
    assert by_stage(report)["download"]["dropped"]["dns_error"] == 9
    assert report["images_per_second"] == 0.0
    assert report["gallery"]["kept"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("upto", "shards"),
    [
        ("images", 2),
        ("filter", 2),
        ("select", 2),
        ("recaption", 2),
        ("translate", 2),
        ("filter", None),
        ("translate", None),
    ],
)
def test_an_unfinished_run_says_what_is_still_to_be_done(tmp_path: Path, upto: str, shards: int | None) -> None:
    report = write_report(make_run(tmp_path, upto=upto, shards_upto=shards))
    assert not report["complete"] and closes(report)
    waiting = {stage["name"]: stage["rows_pending"] for stage in report["stages"] if stage["rows_pending"]}
    if shards is None:
        assert waiting == {}
    else:
        first = {"images": "download", "select": "deduplicate"}.get(upto, upto)
        assert list(waiting) == [first]
    assert report["shards"]["planned"] == 6


def test_a_run_that_is_only_planned_keeps_nothing_yet(tmp_path: Path) -> None:
    report = write_report(make_run(tmp_path, upto="plan"))
    assert [stage["name"] for stage in report["stages"]] == ["plan"]
    assert (report["rows_kept"], report["rows_pending"], report["complete"]) == (0, 39, False)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"plan\.json"):
        build_report(Store(str(tmp_path)))


def test_stages_that_are_off_are_left_out(tmp_path: Path) -> None:
    report = write_report(make_run(tmp_path, recaption=False, translate=False))
    assert [stage["name"] for stage in report["stages"]] == [*STAGES[:6], "pack"]
    assert report["complete"]
    assert report["recaption_status"] == {} and report["texts"] == {"alt": {"en": 19, "zh": 1}}


def test_another_selection_ends_where_it_differs(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    for shard in range(6):
        manifest = store.manifests("selections/default")[shard]
        store.commit("selections/other", shard, "k", store.load("selections/default", shard), manifest)
    report = build_report(store, selection="other")
    assert [stage["name"] for stage in report["stages"]] == STAGES[:6]
    assert closes(report) and report["rows_kept"] == 20


# Tables and parts that do not fit


def test_a_part_of_other_rows_counts_as_not_there_while_the_run_is_unfinished(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    rows = store.load(PAIRS, 1)
    swapped = pa.array([rows["uid"][0].as_py()[::-1], *rows["uid"].to_pylist()[1:]])
    store.commit(PAIRS, 1, "k", set_columns(rows, {"uid": swapped}), {})
    write_record(store, run=2, finished=False)
    unfinished = build_report(store)
    assert not unfinished["complete"] and closes(unfinished)
    assert by_stage(unfinished)["pack"]["rows_pending"] == len(rows)


def test_a_table_made_from_rows_that_changed_since_counts_as_not_there(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    retry_shard(store, shard_with(store, "timeout"))
    write_record(store, run=2, finished=False)
    report = build_report(store)
    assert not report["complete"] and closes(report)
    stages = by_stage(report)
    assert "timeout" not in stages["download"]["dropped"]
    assert stages["policy"]["rows_pending"] > 0
    assert report["shards"]["complete"] == 5


# Speed


def test_images_a_second_leave_out_the_time_between_runs(tmp_path: Path) -> None:
    store = make_run(tmp_path, upto="images")
    for shard, manifest in enumerate(store.manifests("images")):
        run = 1 if shard < 3 else 2
        facts = {**manifest, "run": run, "committed_at": 1000.0 + shard * 2 + (run - 1) * 5000}
        store.commit("images", shard, "k", store.load("images", shard), facts)
    for run, segment in ((1, [1000.0, None]), (2, [6000.0, 6016.0])):
        record = read_record(store, 1)
        write_run_record(store, {**record, "run": run, "segments": {"collect": segment}})
    speed = throughput(open_run(store))
    # The first was killed, so it ends with its last commit, 4 s after its start.
    assert (speed["seconds"], speed["images"]) == (20.0, 29)
    assert speed["images_per_second"] == 29 / 20
    assert [run["start_s"] for run in speed["runs"]] == [0.0, 4.0]
    assert sum(b["images_per_second"] for b in speed["bins"]) * speed["bin_seconds"] == pytest.approx(29, rel=0.01)


def test_a_run_without_a_journal_has_no_speed(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    Path(store.path("runs/run-0001.json")).unlink()
    report = write_report(store)
    assert report["images_per_second"] == 0.0 and report["complete"]


# Galleries


def test_galleries_are_bounded_and_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    rows = [{"url": f"http://a.example/{f}/{n}", "text": f"{f} {n}"} for n in range(60) for f in ("ok", "nsfw")]
    one = build_report(make_run(tmp_path / "one", rows, rows_per_shard=200))
    many = build_report(make_run(tmp_path / "many", rows, rows_per_shard=11))
    shown = [entry["uid"] for entry in one["gallery"]["kept"]]
    assert shown == [entry["uid"] for entry in many["gallery"]["kept"]] == sorted(shown)
    assert len(shown) == KEPT_SHOWN
    [group] = many["gallery"]["dropped"]
    assert (group["reason"], len(group["rows"])) == ("nsfw", DROPPED_SHOWN)


def test_a_kept_row_is_shown_with_all_its_texts(finished: Store) -> None:
    entry = build_report(finished)["gallery"]["kept"][0]
    assert [text["kind"] for text in entry["texts"]] == ["short", "long", "translated", "translated"]
    assert entry["texts"][2] | {"text": "球", "source_kind": "short", "score": -0.5} == entry["texts"][2]
    assert entry["texts"][3]["text"] is None and entry["texts"][3]["status"] == "bad_length"


# The page


class Page(HTMLParser):
    """What a browser would make of the page: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- -->&lt;b&gt;&amp;",
    "\u202egnp.evil",
    "<base href=//evil.example>",
    "x" * 5000,
    "𠮷\u0000\x1b[31m" + "́" * 50,
)


def test_no_text_of_a_stranger_becomes_markup(tmp_path: Path) -> None:
    fates = ("ok", "text_too_short", "timeout")
    rows = [
        {"url": f"http://<b>h.example/{fate}/{n}?{text}", "text": text}
        for n, text in enumerate(HOSTILE)
        for fate in fates
    ]
    store = make_run(tmp_path, rows)
    write_report(store)
    html = Path(store.path("report.html")).read_text(encoding="utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "object", "base", "link", "form", "b:"})
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    assert HOSTILE[0] in page.text and HOSTILE[4] in page.text
    assert "x" * 1000 not in html


def test_the_page_stands_alone(finished: Store) -> None:
    write_report(finished)
    html = Path(finished.path("report.html")).read_text(encoding="utf-8")
    page = Page(html)
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    # 20 kept and 2 + 6 dropped after they were decoded, and the 2 duplicates again; that of the nsfw row is withheld.
    assert len(pictures) == 20 + 2 + 6 + 2
    assert all(a["src"].startswith("data:image/webp;base64,") and a["alt"] for a in pictures if a["src"])
    assert "default-src 'none'" in html
    # The first characters of a folder's digest and of a hub's commit.
    assert "captioner@531ed012 " in page.text and "translator@beef0123 " in page.text
    assert "url(" not in html.replace("url(#", "") and "@import" not in html
    assert "沙滩上的一只狗" in page.text and "球" in page.text
    assert len(html) < 3_000_000


def test_a_picture_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    store = make_run(tmp_path)
    for shard, manifest in enumerate(store.manifests("images")):
        rows = store.load("images", shard)
        junk = pa.array([None if image is None else b"junk" for image in rows["image"].to_pylist()], pa.binary())
        store.commit("images", shard, "k", set_columns(rows, {"image": junk}), manifest)
    write_report(store)
    page = Page(Path(store.path("report.html")).read_text(encoding="utf-8"))
    assert not [tag for tag, _ in page.elements if tag == "img"]


def test_what_is_written_is_what_is_returned(tmp_path: Path) -> None:
    store = make_run(tmp_path, some_rows()[:5])
    report = write_report(store)
    text = Path(store.path("report.json")).read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == report
    assert build_report(store) == report
