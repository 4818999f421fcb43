"""The report as one page: no script, nothing loaded from outside, and no foreign text treated as markup."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import (
    Image,
    WebPImagePlugin,  # noqa: F401  else the first picture loads every plugin there is
)

from curation.results.figures import funnel, pace
from pairmill.charts import compared, distribution
from pairmill.layout import TEXT_KINDS
from pairmill.pages import page_template
from pairmill.store import Store

#: Pictures of rows dropped for these reasons must not be on a page that people share.
WITHHELD = frozenset({"nsfw"})

_LONGER_SIDE = {"kept": 288, "dropped": 176}  # pixels of a thumbnail
_QUALITY = 78


def thumbnails(store: Store, entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Small pictures of the rows that have one, as data URIs, by `place` of the row."""
    wanted: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["width"] and entry["drop_reason"] not in WITHHELD:
            wanted.setdefault(entry["shard"], []).append(entry)
    found = {}
    # Pillow's codecs let other threads run.
    with ThreadPoolExecutor() as pool:
        for shard, shown in sorted(wanted.items()):
            images = store.load("images", shard, ["image"])["image"]
            encoded = images.take(pa.array([entry["row"] for entry in shown])).to_pylist()
            sides = [_LONGER_SIDE["kept" if entry["drop_reason"] is None else "dropped"] for entry in shown]
            for entry, uri in zip(shown, pool.map(_thumbnail, encoded, sides), strict=True):
                if uri is not None:
                    found[place(entry)] = uri
    return found


def place(entry: Mapping[str, Any]) -> str:
    """The name of a row's place in the run."""
    return f"{entry['shard']}/{entry['row']}"


def _thumbnail(encoded: bytes | None, side: int) -> str | None:
    """A WebP of at most `side` pixels; None if there is no picture, or it cannot be read."""
    if encoded is None:
        return None
    file = io.BytesIO()
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            small = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        small.thumbnail((side, side))
        small.save(file, "WEBP", quality=_QUALITY, method=2)
    except Exception:  # Pillow's codecs raise OSError, ValueError, SyntaxError, struct.error, …
        return None
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def render(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page.  pictures: see `thumbnails`."""
    filters = {"count": count, "share": share, "size": _size, "span": _span, "moment": _moment, "digest": _digest}
    template = page_template(Path(__file__).with_name("report.html.j2"), filters)
    latency, texts = report["fetch"]["latency_s"], report["caption_length"]
    return template.render(
        report=report,
        pictures=pictures,
        place=place,
        withheld=WITHHELD,
        text_kinds=TEXT_KINDS,
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
