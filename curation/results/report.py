"""The run report: what became of the rows of a run, counted twice, as data and as a page.

reads: every table of the run, its manifests, the journal and the recipe
adds:  report.json, report.html

For every stage `rows_in = rows_kept + Σ dropped`, and the rows of the run are those kept, those dropped and those still
to be processed.  The counts come from the rows' own drop columns and must equal those of the manifests.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc

from curation.forget.tombstones import Tombstones
from curation.pack import Pack, cut_parts
from curation.parts import sizes
from curation.results.contamination import reference_pictures
from curation.results.data import Tally, read_gallery
from curation.results.insights import Insights, shown_in
from curation.results.outcome import Outcome, Run, open_run, read_outcome
from curation.results.page import render
from curation.results.shown_rows import read_shown
from curation.results.throughput import throughput
from curation.results.thumbnails import characters_left, thumbnails
from curation.results.withheld import Withheld
from pairmill.errors import IntegrityError, PairmillError
from pairmill.faults import fault_point
from pairmill.layout import PAIRS
from pairmill.pending import refuse_pending
from pairmill.store import Store

#: The files of a run that are written here.
REPORTS = ("report.json", "report.html")


class _Kept(NamedTuple):
    """The rows of one shard that all stages kept: how many, and which (a digest of their uids)."""

    rows: int
    digest: bytes


def write_report(store: Store, *, selection: str = "default") -> dict[str, Any]:
    """Write RUN/report.json and RUN/report.html; returns the former's data.

    Rows that are forgotten meanwhile are in neither: both are removed and built again.
    Raises as `build_report`, and RunDirError while rows are being taken out.
    """
    while (report := _written(store, selection)) is None:
        refuse_pending(store)
    return report


def _written(store: Store, selection: str) -> dict[str, Any] | None:
    """The report, written; None if rows were forgotten meanwhile, which it may show."""
    before = Tombstones.read(store)
    try:
        report = build_report(store, selection=selection)
        shown = [
            *report["gallery"]["kept"],
            *(entry for group in report["gallery"]["dropped"] for entry in group["rows"]),
            *shown_in(report),
        ]
        pictures = thumbnails(store, shown)
        references = reference_pictures(store, report, pictures, characters_left(shown, pictures))
        page = render(report, pictures, references)
        fault_point("report.built")
        store.write_json(REPORTS[0], report)
        store.write_bytes(REPORTS[1], page.encode())
    except (PairmillError, OSError):
        if Tombstones.read(store).same_as(before):
            raise
    else:
        if Tombstones.read(store).same_as(before):
            return report
    for name in REPORTS:
        store.remove(name)
    return None


def build_report(store: Store, *, selection: str = "default") -> dict[str, Any]:
    """What became of the rows of a run, finished or not, as plain data.

    `stages`: the counts of each stage that ran, in flow order.  `complete`: whether every row went through all stages
    of the recipe.  If not, `rows_pending` rows are neither dropped nor through the last stage that ran, and a stage's
    own `rows_pending` wait in front of it.  `seconds` are those of its workers (of the wall clock for pack);
    `images_per_second` is by the wall clock.

    Raises RunDirError if nothing is planned; IntegrityError, naming the shard, if two counts disagree.
    """
    run = open_run(store, selection)
    tally, insights = Tally(run.pack_config, run.tables.flow), Insights(run)
    columns = tuple(dict.fromkeys([*tally.columns, *insights.columns]))
    counted: dict[str, Counter[str]] = {}
    seconds: dict[str, float] = defaultdict(float)
    worked: Counter[str] = Counter()  # rows on which those seconds were spent
    kept: dict[int, _Kept] = {}
    for shard in run.plan.shard_numbers():
        outcome = read_outcome(run, shard, columns)
        tally.add(outcome)
        insights.add(outcome)
        for name, counts in outcome.counts.items():
            counted.setdefault(name, Counter()).update(counts)
        for table in outcome.tables:
            manifest = run.manifests[table][shard]
            for name, spent in manifest["seconds"].items():
                seconds[name] += spent
                worked[name] += manifest["worked"][name].get("rows", manifest["stages"][name]["rows_in"])
        if len(outcome.tables) == len(run.chain):
            kept[shard] = _kept(outcome)
    whole = len(kept) == run.plan.shards
    if run.packs:
        packed, packs_all = _packed(run, kept)
        whole = whole and packs_all
        if packed is not None:
            counted[Pack.name] = Counter(rows_in=packed, rows_kept=packed)
            worked[Pack.name] = packed
            seconds[Pack.name] = _pack_seconds(run)
    stages = _stages(run.tables.flow.order, counted, seconds, worked)
    speed = throughput(run)
    report = {
        "run_dir": store.uri,
        "selection": selection,
        "fingerprint": run.plan.fingerprint,
        "files": run.plan.files[:100],
        "complete": whole and (run.settled or not run.records),
        "rows_in": run.plan.rows,
        # Planning alone keeps nothing: no row was processed.
        "rows_kept": stages[-1]["rows_kept"] if len(stages) > 1 else 0,
        "rows_dropped": sum(sum(stage["dropped"].values()) for stage in stages),
        "stages": stages,
        "shards": {"planned": run.plan.shards, "complete": len(kept)},
        "images_per_second": speed["images_per_second"],
        "throughput": speed,
        "bytes": {
            "fetched": tally.fetched_bytes,
            **{table: sum(m["bytes"] for m in found.values()) for table, found in run.manifests.items()},
        },
        **tally.data(),
        **insights.data(),
        "gallery": _gallery(run, tally, insights.withheld),
        "runs": [dict(record) for record in run.records],
        "runs_lost": list(run.lost),
    }
    report["rows_pending"] = report["rows_in"] - report["rows_kept"] - report["rows_dropped"]
    _check_identity(report)
    return report


def _stages(
    order: Sequence[str],
    counted: Mapping[str, Counter[str]],
    seconds: Mapping[str, float],
    worked: Mapping[str, int],
) -> list[dict[str, Any]]:
    """The stages that ran, in flow order, each with its counts and the rows waiting in front of it."""
    stages: list[dict[str, Any]] = []
    for name in order:
        if name not in counted:
            continue
        counts = dict(counted[name])
        rows_in, rows_kept = counts.pop("rows_in"), counts.pop("rows_kept")
        spent = float(seconds.get(name, 0.0))
        stages.append(
            {
                "name": name,
                "rows_in": rows_in,
                "rows_kept": rows_kept,
                "rows_pending": stages[-1]["rows_kept"] - rows_in if stages else 0,
                "dropped": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
                "seconds": round(spent, 3),
                "rows_per_second": round(worked[name] / spent, 2) if spent else None,
            }
        )
    return stages


def _check_identity(report: Mapping[str, Any]) -> None:
    """No row vanishes: within each stage, from each stage to the next, and over the whole run."""
    before = report["rows_in"]
    for stage in report["stages"]:
        name, dropped = stage["name"], sum(stage["dropped"].values())
        _promise(stage["rows_in"] == stage["rows_kept"] + dropped, f"{name}: rows in must equal rows kept and dropped")
        _promise(
            stage["rows_in"] + stage["rows_pending"] == before,
            f"{name}: rows in must equal rows kept before it",
        )
        _promise(stage["rows_pending"] >= 0, f"{name}: it must not have more rows than the stage before it kept")
        before = stage["rows_kept"]
    _promise(report["rows_pending"] >= 0, "rows kept and dropped must not exceed the planned rows")
    whole = not (report["complete"] and report["rows_pending"])
    _promise(whole, "every row of a complete run must be kept or dropped")


def _promise(kept: bool, rule: str) -> None:
    if not kept:
        raise IntegrityError(rule)


def _kept(outcome: Outcome) -> _Kept:
    rows = outcome.rows
    uids = rows["uid"].filter(pc.is_null(rows["drop_reason"])).to_pylist()
    return _Kept(len(uids), _digest(uids))


def _digest(uids: list[str]) -> bytes:
    return hashlib.blake2b("\n".join(uids).encode(), digest_size=16).digest()


def _packed(run: Run, kept: Mapping[int, _Kept]) -> tuple[int | None, bool]:
    """How many rows are in parts that hold exactly the kept rows (None: no such part), and whether all parts do.

    Raises IntegrityError, naming the part, if it holds other rows although the run ended well.
    """
    selected = run.manifests[run.tables.selection]
    committed = run.manifests[PAIRS]
    # The shards of a part are known only when all are through the selection; packing starts after that.
    if len(selected) < run.plan.shards or not committed:
        return None, False
    parts = cut_parts(sizes(selected.values(), Tombstones.read(run.store)), run.pack_config.rows_per_part)
    rows = good = 0
    for part in parts:
        manifest = committed.get(part.number)
        if manifest is None:
            continue
        uids = run.store.load(PAIRS, part.number, ["uid"])["uid"].to_pylist()
        if len(uids) != manifest["rows"]:
            raise IntegrityError(
                f"pairs part {part.number} must have the {manifest['rows']} rows of its manifest, has {len(uids)}"
            )
        if _holds(uids, [kept.get(shard) for shard in part.shards]):
            rows, good = rows + len(uids), good + 1
        elif run.settled:
            raise IntegrityError(f"pairs part {part.number} must have just the rows that its shards {part.shards} keep")
    return rows if good else None, good == len(parts) == len(committed)


def _holds(uids: list[str], kept: list[_Kept | None]) -> bool:
    at = 0
    for shard in kept:
        if shard is None or _digest(uids[at : at + shard.rows]) != shard.digest:
            return False
        at += shard.rows
    return at == len(uids)


def _pack_seconds(run: Run) -> float:
    spans = [record["segments"].get("pack") or (0.0, None) for record in run.records]
    return float(sum(end - start for start, end in spans if end is not None))


def _gallery(run: Run, tally: Tally, withheld: Withheld) -> dict[str, Any]:
    order = {name: at for at, name in enumerate(run.tables.flow.order)}
    groups = sorted(tally.dropped.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    picks = [*tally.kept, *(pick for _, picks in groups for pick in picks)]
    hidden = read_shown(run, picks, withheld) if withheld.columns else {}
    found = read_gallery(run, picks)
    for pick, entry in zip(picks, found, strict=True):
        entry["withheld"] = pick in hidden and hidden[pick]["withheld"]
    entries = iter(found)
    return {
        "kept": [next(entries) for _ in tally.kept],
        "dropped": [
            {"stage": stage, "reason": reason, "rows": [next(entries) for _ in picks]}
            for (stage, reason), picks in groups
        ],
    }
