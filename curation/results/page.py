"""The report as one page: no script, nothing loaded from outside, and no foreign text treated as markup."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.results.figures import funnel, pace
from curation.results.insight_figures import balance_curve, number, score_chart
from curation.results.score_tally import SHOWN
from curation.results.shown_rows import MOST_SHARDS
from curation.results.thumbnails import WITHHELD, place
from pairmill.charts import compared, distribution
from pairmill.layout import OTHER_KINDS, TEXT_KINDS
from pairmill.pages import page_template

#: How signs are written.
_SIGNS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}


def render(report: Mapping[str, Any], pictures: Mapping[str, str], references: Mapping[str, str]) -> str:
    """The page.  pictures: see `curation.results.thumbnails`.  references: see `reference_pictures`."""
    filters = {"count": count, "share": share, "size": _size, "span": _span, "moment": _moment, "digest": _digest}
    filters |= {"number": number, "words_of_sign": _SIGNS.__getitem__, "percent": _percent}
    template = page_template(Path(__file__).with_name("report.html.j2"), filters)
    latency, texts = report["fetch"]["latency_s"], report["caption_length"]
    return template.render(
        report=report,
        pictures=pictures,
        references=references,
        place=place,
        withheld=WITHHELD,
        text_kinds=(*TEXT_KINDS, *OTHER_KINDS),
        at_thresholds=SHOWN,
        pictured_shards=MOST_SHARDS,
        score_charts={score["name"]: score_chart(score, report["thresholds"]) for score in report["scores"]},
        curves={
            name: [balance_curve(one["curve"]) for one in found.get("lists", ())]
            for name, found in report["balance"].items()
        },
        funnel=funnel(report["stages"], report["rows_in"]),
        figures={
            "throughput": pace(report["throughput"]),
            "latency": distribution(latency["edges"], latency["counts"], _seconds),
            "sizes": compared(report["sizes"]["edges"], report["sizes"]["all"], report["sizes"]["kept"], _pixels),
            "aspect": compared(report["aspect"]["edges"], report["aspect"]["all"], report["aspect"]["kept"], _aspect),
            "before": distribution(texts["before"]["edges"], texts["before"]["counts"], _whole),
            "after": distribution(texts["after"]["edges"], texts["after"]["counts"], _whole),
        },
    )


# How figures are written


def count(n: float | None) -> str:
    """A number with its thousands apart."""
    return "–" if n is None else f"{n:,.0f}"


def share(part: float, whole: float) -> str:
    """A part in percent."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _size(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} PB"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _moment(seconds: float | None) -> str:
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _digest(revision: str) -> str:
    """The first 8 characters of a digest, without the name of its algorithm, or of a commit of the hub."""
    return revision.rpartition(":")[2][:8]


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.0f} s"


def _pixels(value: float) -> str:
    return f"{value:.0f}"


def _aspect(value: float) -> str:
    return f"{value:.3g}:1" if value >= 1 else f"1:{1 / value:.3g}"


def _whole(value: float) -> str:
    return f"{value:.0f}"
