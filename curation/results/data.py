"""The counts of the run report, streamed over the shards in memory that does not grow with the rows."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.best_text import best_text
from curation.flow import Flow
from curation.pack import PackConfig
from curation.policy import Policy
from curation.results.gate_tally import GateTally
from curation.results.outcome import Outcome, Run, read_outcome
from curation.results.tallies import Frequent, Histogram
from curation.schema import FORGOTTEN
from pairmill.layout import GATE, TEXT_SOURCES, row_texts, scored_by
from pairmill.redaction import redact

#: The columns to read, where their tables exist.
READS = (
    *("url", "alt"),
    *("status", "http_status", "elapsed_s", "original_bytes", "opt_out"),
    *("original_width", "original_height", "format"),
    *(*Policy.reads, *Policy.reads_for_retry, *(column.name for column in Policy.adds)),
    *("caption", "language"),
    *("recaptions", "recaption_status"),
    *("rewrites", "rewrite_status"),
    *("translations", "translate_status"),
    GATE,
)

#: Rows of a gallery: kept ones, and those dropped for one reason.
KEPT_SHOWN = 24
DROPPED_SHOWN = 6

_TOP = 10
_TEXT_CHARACTERS = 600
_HOST = r"^\s*[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?P<host>\[[^\]]*\]|[^/?#:]*)"

_LATENCY = 10.0 ** np.linspace(-3, 3, 241)  # seconds
_LATENCY_SHOWN = _LATENCY[::10]
_SIDE = 2.0 ** np.arange(4, 14.5, 0.5)  # pixels
_ASPECT = 2.0 ** np.arange(-3, 3.25, 0.25)  # width over height
_CHARACTERS = np.concatenate([np.arange(0, 100), np.arange(100, 1000, 10), np.arange(1000, 10_001, 100)])
_CHARACTERS_SHOWN = (1, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240, 320, 500, 1000)


class Pick(NamedTuple):
    """A row chosen for a gallery.  Rows of equal uid differ in shard and row."""

    uid: str
    shard: int
    row: int


class Tally:
    """Everything counted over the rows."""

    def __init__(self, pack: PackConfig, flow: Flow) -> None:
        self._pack, self._policy = pack, flow.of(Policy)
        self._scores = tuple(name for name in flow.columns if scored_by(name) is not None)
        #: The columns that are counted.
        self.columns = (*READS, *self._scores)
        self.gates = GateTally()
        self.status: Counter[str] = Counter()
        self.http_status: Counter[int] = Counter()
        self.latency = Histogram(_LATENCY)
        self.failures: Frequent[tuple[str, str]] = Frequent()  # (host, status)
        self.opt_out: Frequent[str] = Frequent()
        self.no_evidence: Counter[str] = Counter()  # key of the recipe
        self.retry: dict[str, Counter[str]] = defaultdict(Counter)  # why -> status
        self.fetched_bytes = 0
        self.formats: Frequent[str] = Frequent()
        self.sides = {"all": Histogram(_SIDE), "kept": Histogram(_SIDE)}
        self.aspects = {"all": Histogram(_ASPECT), "kept": Histogram(_ASPECT)}
        self.languages: dict[str, Frequent[str]] = {"all": Frequent(), "kept": Frequent()}
        self.characters = {"before": Histogram(_CHARACTERS), "after": Histogram(_CHARACTERS)}
        self.texts: Frequent[tuple[str, str]] = Frequent()  # (kind, language)
        self.recaption_status: Counter[str] = Counter()
        self.rewrite_status: Counter[str] = Counter()
        self.translate_status: Counter[str] = Counter()
        self.translations: Frequent[tuple[str, str]] = Frequent()  # (language, status)
        #: Column of statuses -> its count, and the stages before the one that adds it.
        self._statuses = {
            column: (counter, flow.before(stage))
            for stage, column, counter in (
                ("recaption", "recaption_status", self.recaption_status),
                ("rewrite_texts", "rewrite_status", self.rewrite_status),
                ("translate", "translate_status", self.translate_status),
            )
            if stage in flow
        }
        self.kept: list[Pick] = []
        self.dropped: dict[tuple[str, str], list[Pick]] = defaultdict(list)

    def add(self, outcome: Outcome) -> None:
        """Count one shard, as far as it is processed."""
        rows = outcome.rows
        alive = pc.is_null(rows["drop_reason"])
        self._add_picks(outcome)
        if "status" in rows.schema.names:
            self._add_fetches(rows)
            self._add_images(rows, alive)
            for why, mask in self._policy.retriable(rows).items():
                self.retry[why].update(_counts(rows["status"].filter(mask)))
        if "no_evidence" in rows.schema.names:
            for keys, n in _counts(rows["no_evidence"].filter(alive)).items():
                self.no_evidence.update(dict.fromkeys(keys.split(", "), n))
        if "language" in rows.schema.names:
            self.languages["all"].add(_counts(rows["language"]))
            self.languages["kept"].add(_counts(rows["language"].filter(alive)))
            self._add_texts(rows.filter(alive))
        for name, (counter, before) in self._statuses.items():
            if name in rows.schema.names:
                # What was made for a row before an earlier stage dropped it is kept, but not used.
                unused = pc.is_in(rows["drop_stage"], pa.array(before, pa.string()))
                counter.update(_counts(pc.if_else(unused, "not_needed", rows[name])))

    def _add_fetches(self, rows: pa.Table) -> None:
        self.status.update(_counts(rows["status"]))
        self.http_status.update(_counts(rows["http_status"]))
        self.latency.add(_numbers(rows["elapsed_s"]))
        self.fetched_bytes += pc.sum(rows["original_bytes"]).as_py() or 0
        opted_out = pc.utf8_slice_codeunits(rows["opt_out"], 0, 120)
        self.opt_out.add(_counts(opted_out.filter(pc.not_equal(opted_out, ""))))
        failed = rows.filter(pc.equal(rows["drop_stage"], "download"))
        found = pc.struct_field(pc.extract_regex(failed["url"], _HOST), "host")
        host = pc.utf8_slice_codeunits(pc.fill_null(pc.utf8_lower(found), ""), 0, 120)
        pairs = Counter(zip(host.to_pylist(), failed["status"].to_pylist(), strict=True))
        self.failures.add(pairs)

    def _add_images(self, rows: pa.Table, alive: pa.ChunkedArray) -> None:
        self.formats.add(_counts(rows["format"]))
        width, height = _numbers(rows["original_width"]), _numbers(rows["original_height"])
        kept = np.asarray(alive)
        side = np.minimum(width, height)
        aspect = width / height
        for histograms, values in ((self.sides, side), (self.aspects, aspect)):
            histograms["all"].add(values)
            histograms["kept"].add(values[kept])

    def _add_texts(self, rows: pa.Table) -> None:
        found: Counter[tuple[str, str]] = Counter()
        before, after = [], []
        names = ("uid", "alt", *TEXT_SOURCES, *self._scores)
        found_rows = rows.select([name for name in names if name in rows.schema.names]).to_pylist()
        self.gates.add(found_rows)
        for row in found_rows:
            texts = texts_of(row)
            before.append(len(row["alt"]))
            after.append(len(best_text(row, row_texts(row), self._pack) or ""))
            found.update(
                (text["kind"], text["language"] or "und")
                for text in texts
                if text["text"] and text.get("refused_by") is None
            )
            refused = Counter(
                (text["language"], text["status"] or "success") for text in texts if text["kind"] == "translated"
            )
            self.translations.add(refused)
        self.texts.add(found)
        self.characters["before"].add(before)
        self.characters["after"].add(after)

    def _add_picks(self, outcome: Outcome) -> None:
        columns = (outcome.rows[name].to_pylist() for name in ("uid", "drop_stage", "drop_reason"))
        groups: dict[tuple[str, str] | None, list[Pick]] = defaultdict(list)
        for row, (uid, stage, reason) in enumerate(zip(*columns, strict=True)):
            groups[None if reason is None else (stage, reason)].append(Pick(uid, outcome.shard, row))
        for group, picks in groups.items():
            if group is not None and group[1] == FORGOTTEN:
                continue
            if group is not None:
                self.dropped[group] = heapq.nsmallest(DROPPED_SHOWN, self.dropped[group] + picks)
            elif "caption" in outcome.rows.schema.names:
                self.kept = heapq.nsmallest(KEPT_SHOWN, self.kept + picks)

    def data(self) -> dict[str, Any]:
        """The counts as plain data, for report.json."""
        hosts: dict[str, Counter[str]] = defaultdict(Counter)
        for (host, status), n in self.failures.counts.items():
            hosts[host][status] += n
        worst = sorted(hosts.items(), key=lambda item: (-item[1].total(), item[0]))[:_TOP]
        return {
            "fetch": {
                "status": dict(self.status.most_common()),
                "http_status": {str(code): n for code, n in sorted(self.http_status.items())},
                "latency_s": self.latency.summary() | _bins(self.latency, _LATENCY_SHOWN),
                "hosts": [{"host": h, "errors": c.total(), "status": dict(c.most_common())} for h, c in worst],
            },
            "opt_out": self.opt_out.most_common(_TOP),
            "policy": {
                "no_evidence": dict(self.no_evidence.most_common()),
                "retry": {why: dict(counts.most_common()) for why, counts in self.retry.items()},
            },
            "formats": self.formats.most_common(),
            "languages": {
                code: {"rows": n, "kept": self.languages["kept"].counts[code]}
                for code, n in self.languages["all"].most_common().items()
            },
            "sizes": _compared(self.sides, _SIDE),
            "aspect": _compared(self.aspects, _ASPECT),
            "caption_length": {
                name: histogram.summary() | _bins(histogram, _CHARACTERS_SHOWN)
                for name, histogram in self.characters.items()
            },
            "texts": _nested(self.texts.most_common()),
            "recaption_status": dict(self.recaption_status.most_common()),
            "rewrite_status": dict(self.rewrite_status.most_common()),
            "translate_status": dict(self.translate_status.most_common()),
            "translations": _nested(self.translations.most_common()),
            "gates": self.gates.data(),
        }


def texts_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every text of a row, in the order of `source_index`, as models wrote it; a failed translation has no text.

    `refused_by` is the gate that refused it.
    """
    provenance = ("model", "revision", "prompt_id", "score", "status")
    nothing: dict[str, Any] = dict.fromkeys(provenance)
    texts = [nothing | {"text": row["caption"], "language": row["language"], "kind": "alt"}]
    texts += [nothing | dict(made) for name in ("recaptions", "rewrites") for made in row.get(name) or ()]
    texts += [nothing | dict(made) | {"kind": "translated"} for made in row.get("translations") or ()]
    there = [text for text in texts[1:] if text["text"] is not None]
    for text, verdict in zip(there, row.get(GATE) or (), strict=False):
        text["refused_by"] = verdict["refused_by"]
    return texts


def read_gallery(run: Run, picks: Iterable[Pick]) -> list[dict[str, Any]]:
    """What the report shows of the chosen rows, in their order, with their `shard` and `row`."""
    picks = list(picks)
    found: dict[Pick, dict[str, Any]] = {}
    for shard in sorted({pick.shard for pick in picks}):
        wanted = [pick for pick in picks if pick.shard == shard]
        rows = read_outcome(run, shard, (*READS, *_SHOWN)).rows.take(pa.array([pick.row for pick in wanted]))
        found |= {pick: _entry(pick, row) for pick, row in zip(wanted, rows.to_pylist(), strict=True)}
    return [found[pick] for pick in picks]


_SHOWN = ("final_url", "error", "width", "height")
_FACTS = (
    *("url", "final_url", "status", "http_status", "error", "opt_out", "width", "height"),
    *("original_width", "original_height", "language", "drop_stage", "drop_reason"),
)


def _entry(pick: Pick, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = [text for text in texts_of(row) if text["kind"] != "alt"] if "caption" in row else []
    kept = (
        "text",
        "kind",
        "language",
        "model",
        "revision",
        "prompt_id",
        "score",
        "source_kind",
        "status",
        "refused_by",
    )
    return {
        **pick._asdict(),
        "alt": _short(row["alt"]),
        "texts": [{name: _short(text.get(name)) for name in kept} for text in texts],
        **{name: _short(_public(name, row.get(name))) for name in _FACTS},
    }


def _public(name: str, value: Any) -> Any:
    """Without the passwords and tokens that a listed URL may hold: a report is passed on."""
    return redact(value) if name in ("url", "final_url", "error") and isinstance(value, str) else value


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _TEXT_CHARACTERS:
        return value[: _TEXT_CHARACTERS - 1] + "…"
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(column.drop_null()).to_pylist()}


def _numbers(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    """As floats, missing ones as NaN."""
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


def _bins(histogram: Histogram, edges: Iterable[float]) -> dict[str, Any]:
    shown = list(edges)
    return {"edges": [round(float(e), 4) for e in shown], "counts": histogram.coarse(shown)}


def _compared(histograms: Mapping[str, Histogram], edges: Iterable[float]) -> dict[str, Any]:
    shown = list(edges)
    counts = {name: histogram.coarse(shown) for name, histogram in histograms.items()}
    return {"edges": [round(float(e), 4) for e in shown], **counts, "median": histograms["kept"].quantile(0.5)}


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = defaultdict(dict)
    for (outer, inner), n in counts.items():
        nested[outer][inner] = n
    return dict(nested)
