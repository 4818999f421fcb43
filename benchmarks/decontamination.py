"""How much of an evaluation set that leaked into a list is found, and how often other pictures are taken for it.

    python benchmarks/decontamination.py          about ten minutes

The evaluation set is 500 drawings with their captions: clip art (Debian's openclipart, title and description) and
emoji as Microsoft draws them.  The list has all other drawings of these two collections, and the emoji of three further
artists: more than 20,000.  Into it every drawing of the set is planted in ten ways: smaller, encoded again, with 5 % of
its width and height cut off anywhere, both.  Every caption of five words or more is planted under another picture, as
it is and between other words.  All pictures go through `inspect_image`, and the stage compares them, as in a job.

The collections repeat themselves, so a row that was not planted may well show a drawing of the set.  Each such row that
is found by its picture is drawn at 64 x 64 pixels; if the two differ by at most a tenth of the ink (the difference from
white), it is counted as a copy, else as a false alarm.  One that is found by its caption has 13 words of the set, or a
whole caption of it, by nature: emoji of all artists have the same labels, and 50 signal flags one description.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from drawings import FOLDER, PACKAGES, encoded, fetch, on_white, plain
from PIL import Image
from record import WORK, machine, record, table

from curation.duplicates.shingles import folded
from curation.flow import flow_of
from curation.images.config import ImageConfig
from curation.images.inspect import Inspected, inspect_image
from curation.schema import Status
from curation.stage import Runtime
from pairmill.store import Store

EMOJI = {
    "@lobehub/fluent-emoji-3d": ("1.1.0", "package/assets"),
    "emoji-datasource-google": ("16.0.0", "package/img/google/64"),
    "emoji-datasource-twitter": ("16.0.0", "package/img/twitter/64"),
    "emoji-datasource-facebook": ("16.0.0", "package/img/facebook/64"),
}
OF_CLIP_ART, OF_EMOJI = 300, 200
#: What was measured of drawings as they are, for another round.
MEASURED = WORK / "drawings-measured-64.json"  # colours of 64 parts
_ROWS = 2000
_TONE = re.compile("-1f3f[b-f]")


class Drawing(NamedTuple):
    """A file, its caption, and where it is from."""

    file: Path
    caption: str
    source: str


class Row(NamedTuple):
    """Bytes, caption, and how it was planted: (item, way); None: it was not."""

    image: bytes
    caption: str
    planted: tuple[int, str] | None


def drawings() -> Iterator[Drawing]:
    entries = json.loads((FOLDER / "emojibase-data/package/en/data.json").read_text())
    labels = {}
    for entry in entries:
        for one in (entry, *entry.get("skins", [])):
            labels[plain(one["hexcode"])] = ", ".join([one["label"], *(entry.get("tags") or [])[:4]])
    for name, (_, inside) in EMOJI.items():
        artist = name.rpartition("/")[2]
        for file in sorted((FOLDER / artist / inside).iterdir()):
            yield Drawing(file, labels.get(plain(file.stem), ""), artist)
    below, svg = (FOLDER / f"openclipart-{kind}/usr/share/openclipart/{kind}" for kind in ("png", "svg"))
    for file in sorted(below.rglob("*.png")):
        described = svg / file.relative_to(below).with_suffix(".svg")
        yield Drawing(file, caption_of(described) if described.is_file() else "", "clip art")


def caption_of(file: Path) -> str:
    work = re.search(r"<cc:Work.*?</cc:Work>", file.read_text("utf-8", "replace"), re.DOTALL)
    said = [
        re.search(f"<dc:{key}>(.*?)</dc:{key}>", work[0] if work else "", re.DOTALL) for key in ("title", "description")
    ]
    texts = [" ".join(html.unescape(one[1]).split()) for one in said if one]
    return ". ".join(text for text in texts if text and "HASH(" not in text and "<" not in text)


def copies(image: Image.Image, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    half, third = (
        image.resize((max(1, image.width // n), max(1, image.height // n)), Image.Resampling.LANCZOS) for n in (2, 3)
    )
    yield "half as wide", encoded(half, "PNG")
    yield "a third as wide, JPEG 75", encoded(third, "JPEG", quality=75)
    for quality in (40, 75, 92):
        yield f"JPEG {quality}", encoded(image, "JPEG", quality=quality)
    for quality in (50, 80):
        yield f"WebP {quality}", encoded(image, "WEBP", quality=quality)
    yield "cut by 5 %", encoded(cut(image, chance.random(), chance.random()), "PNG")
    yield "cut by 5 %, JPEG 75", encoded(cut(image, chance.random(), chance.random()), "JPEG", quality=75)
    smaller = cut(half, chance.random(), chance.random())
    yield "cut by 5 % and half as wide, WebP 80", encoded(smaller, "WEBP", quality=80)


def cut(image: Image.Image, x: float, y: float) -> Image.Image:
    """The picture without a strip of 5 % of its width and one of its height, divided between the sides by x and y."""
    wide, high = 0.05 * image.width, 0.05 * image.height
    left, top = round(x * wide), round(y * high)
    return image.crop((left, top, left + image.width - round(wide), top + image.height - round(high)))


def chosen(found: list[Drawing], chance: random.Random) -> list[Drawing]:
    """The evaluation set: drawings that can be decoded, one of each series: files whose names differ in numbers."""
    clip_art = [one for one in found if one.source == "clip art"]
    emoji = [one for one in found if one.source == "fluent-emoji-3d" and not _TONE.search(f"-{one.file.stem}")]
    picked: list[Drawing] = []
    seen: set[str] = set()
    for pool, count in ((clip_art, OF_CLIP_ART), (emoji, OF_EMOJI)):
        here = 0
        for one in chance.sample(pool, len(pool)):
            data = one.file.read_bytes()
            names = {hashlib.sha256(data).hexdigest(), series(one)}
            if not names & seen and inspected(data).status is Status.SUCCESS:
                seen |= names
                picked.append(one)
                here += 1
            if here == count:
                break
    return picked


def series(one: Drawing) -> str:
    named = (
        one.file.stem if one.source != "clip art" else re.sub("[0-9]+", "", f"{one.file.parent.name}/{one.file.stem}")
    )
    return f"{one.source} {named}"


def inspected(data: bytes) -> Inspected:
    return inspect_image(data, ImageConfig(), frozenset())


def measured(data: bytes) -> tuple[str, str, int, bytes]:
    one = inspected(data)
    return one.status.value, one.sha256, one.phash, one.colours


def rows_of(found: list[Drawing], items: list[Drawing], chance: random.Random) -> Iterator[Row]:
    """The list: everything else, then the planted rows."""
    inside = {one.file for one in items}
    others = [one for one in found if one.file not in inside]
    for one in others:
        yield Row(one.file.read_bytes(), one.caption, None)
    for number, item in enumerate(items):
        for way, data in copies(on_white(item.file.read_bytes()), chance):
            yield Row(data, "", (number, way))
        if words(item.caption) >= 5:
            other = chance.choice(others).file.read_bytes()
            yield Row(other, item.caption.upper(), (number, "caption"))
            yield Row(other, f"Buy now: {item.caption} - free shipping", (number, "caption between other words"))


def words(caption: str) -> int:
    return len((folded(pa.chunked_array([pa.array([caption])]))[0].as_py() or "").split())


def as_table(rows: list[Row], seen: list[tuple[str, str, int, bytes]], first: int) -> pa.Table:
    there = [one[0] == "success" for one in seen]
    return pa.table(
        {
            "uid": [f"{first + at:032x}" for at in range(len(rows))],
            "sha256": [one[1] for one in seen],
            "phash": pa.array([one[2] if ok else None for one, ok in zip(seen, there, strict=True)], pa.uint64()),
            "colours": pa.array([one[3] if ok else None for one, ok in zip(seen, there, strict=True)], pa.binary()),
            "caption": pa.array([row.caption for row in rows], pa.string()),
            "drop_stage": pa.array([None if ok else "inspect" for ok in there], pa.string()),
            "drop_reason": pa.array([None if ok else one[0] for one, ok in zip(seen, there, strict=True)], pa.string()),
        }
    )


def known(found: list[Drawing], pool: ProcessPoolExecutor) -> dict[str, tuple[str, str, int, bytes]]:
    """What was measured of each drawing as it is, by its SHA-256; kept for another round."""
    kept: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    files = {hashlib.sha256(one.file.read_bytes()).hexdigest(): one.file for one in found}
    missing = [digest for digest in files if digest not in kept]
    datas = [files[digest].read_bytes() for digest in missing]
    for digest, (status, sha256, phash, colours) in zip(missing, pool.map(measured, datas, chunksize=50), strict=True):
        kept[digest] = (status, sha256, phash, colours.hex())
    MEASURED.write_text(json.dumps(kept))
    return {digest: (one[0], one[1], one[2], bytes.fromhex(one[3])) for digest, one in kept.items()}


@cache
def small(data: bytes) -> Any:
    return np.asarray(on_white(data).resize((64, 64), Image.Resampling.BOX), np.float32)


def main() -> None:
    began, chance = machine(), random.Random(0)
    fetch(PACKAGES | {name: version for name, (version, _) in EMOJI.items()})
    found = list(drawings())
    items = chosen(found, chance)
    folder = WORK / "decontamination"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "set").mkdir(parents=True)
    for number, item in enumerate(items):
        (folder / "set" / f"{number:04d}{item.file.suffix}").write_bytes(item.file.read_bytes())
        (folder / "set" / f"{number:04d}.txt").write_text(item.caption)
    stage: Any = flow_of({"decontaminate": {"drawings": {"path": str(folder / "set")}}}).named("decontaminate-drawings")
    store = Store(str(folder / "run"))
    stage.make_pieces(store, stage.outstanding_pieces(store))
    stage.setup(Runtime(store))

    planted: dict[str, Counter[str]] = defaultdict(Counter)
    counts: Counter[str] = Counter()
    alarms: list[tuple[Row, str, int]] = []
    with ProcessPoolExecutor(2) as pool:
        before = known(found, pool)
        some: list[Row] = []

        def compare() -> None:
            digests = [hashlib.sha256(row.image).hexdigest() for row in some]
            new = [row.image for row, digest in zip(some, digests, strict=True) if digest not in before]
            seen = iter(pool.map(measured, new, chunksize=50))
            rows = as_table(some, [before.get(digest) or next(seen) for digest in digests], counts["rows"])
            # Of the few that are compared, what a run stores is made again.
            stage._pictures = lambda _, at: lambda few: [inspected(some[one].image).image for one in at[few]]
            matched = stage(rows)["matches_drawings"].to_pylist()
            for row, gone, matches in zip(some, rows["drop_reason"].is_valid().to_pylist(), matched, strict=True):
                hits = {(int(one["item"].partition(".")[0]), one["kind"]) for one in matches or ()}
                counts["rows"] += 1
                if row.planted is None:
                    counts["dropped" if gone else "others"] += 1
                    alarms.extend((row, kind, item) for item, kind in hits)
                    continue
                number, way = row.planted
                planted[way]["planted"] += 1
                wanted = "caption" if way.startswith("caption") else "near_image"
                planted[way]["found"] += (number, wanted) in hits

        for row in rows_of(found, items, chance):
            some.append(row)
            if len(some) == _ROWS:
                compare()
                some.clear()
        compare()

    why: dict[int, str] = {}  # row -> the worst thing about it
    worst = ("a false alarm", "a copy in the collection", "the same words")
    for row, kind, number in alarms:
        said = worst[2]
        if kind != "caption":
            one, other = small(row.image), small(items[number].file.read_bytes())
            ink = max(255 - one.mean(), 255 - other.mean())
            said = worst[1] if np.abs(one - other).mean() <= 0.1 * ink else worst[0]
        why[id(row)] = min(why.get(id(row), said), said, key=worst.index)
    judged = Counter(why.values())
    images = [way for way in planted if not way.startswith("caption")]
    every = {
        "all pictures": [sum(planted[way][key] for way in images) for key in ("planted", "found")],
        "all captions": [
            sum(planted[way][key] for way in planted if way not in images) for key in ("planted", "found")
        ],
        **{way: [one["planted"], one["found"]] for way, one in planted.items()},
    }
    table(("planted", "rows", "found"), [(way, n, hit / n) for way, (n, hit) in every.items()])
    print(dict(judged), f"false alarms: {judged[worst[0]] / counts['others']:.3%} of {counts['others']}")
    figures = {
        "items of the set": len(items),
        "other rows": counts["others"],
        "planted": {way: {"rows": n, "found": hit, "share": round(hit / n, 4)} for way, (n, hit) in every.items()},
        "other rows found": {name: judged[name] for name in worst},
        "share of false alarms": round(judged[worst[0]] / counts["others"], 6),
    }
    record("decontamination", figures, began)


if __name__ == "__main__":
    main()
