"""The demo's input: a list of image URLs with alt text as found on the web, good rows and bad.

Columns: url, text, and three that are only carried through: zh (the emoji's Chinese label), hexcode, group; and `case`,
which names what is special about the row (`plain` if nothing is), so that a test knows the row's right outcome.
"""

from __future__ import annotations

import json
import random
from functools import lru_cache

import pyarrow as pa

from pipelines.demo_server import HOST, PROJECT

LABELS = PROJECT / "samples" / "emoji" / "labels.jsonl"
SEED = 0
ZH_SHARE = 0.15
#: The entry of the demo's word list.
LISTED_WORD = "casino"
SHARED_TEXT = "colourful emoji on a white background"
SHARED_BY = 15
DUPLICATED_ROWS = 3

#: Ways to fetch that end with the picture; the emoji is in the list only once, this way.
DETOURS = {"busy": 3, "flaky": 3, "redirect": 4, "mistyped": 4, "oriented": 3, "animated": 3}
#: Ways to fetch that fail, or end with something to drop; the emoji is also in the list as a plain row.
BAD_URLS = {
    "missing": 6,
    "always-busy": 2,
    "slow": 2,
    "endless": 2,
    "truncated": 3,
    "empty": 2,
    "zstd": 2,
    "redirect-private": 2,
    "redirect-metadata": 2,
    "redirect-loop": 2,
    "html": 3,
    "corrupt": 3,
    "bomb": 2,
    "thumbnail": 4,
    "copy": 6,
    "reencoded": 8,
    "opt-out": 3,
    "private": 3,
}
#: URLs that must be refused without a request.
REFUSED_URLS = {
    "forbidden-scheme": "file:///etc/passwd",
    "forbidden-address": "http://10.0.0.1/picture.jpg",
    "forbidden-userinfo": "http://user:secret@example.com/picture.jpg",
    "invalid-url": "http:///picture.jpg",
}
#: Captions that say nothing about the picture; {url} and {stem} are the row's own.
BAD_TEXTS = {
    "text-url": ["{url}", "https://example.com/products/{stem}", "www.example.com/gallery/{stem}.html"],
    "text-file-name": ["IMG_1234.jpg", "DSC00042.JPG", "{stem}.webp"],
    "text-boilerplate": ["click to enlarge", "Click to enlarge", "image not available"],
    "text-digits": ["20240131 1234567", "4006381333931", "0012-3456-789"],
    "text-empty": ["", "   "],
    "text-repeats": ["cheap cheap cheap cheap cheap cheap cheap cheap", "buy now buy now buy now buy now buy now"],
    "text-listed-word": [f"best online {LISTED_WORD} bonus", f"{LISTED_WORD.title()} night with friends"],
    "text-other-language": ["ein lächelndes Gesicht mit einer Sonnenbrille", "un chien qui court sur la plage"],
    "text-shared": [SHARED_TEXT] * SHARED_BY,
}
MOJIBAKE_ROWS = 4

SCHEMA = pa.schema([(name, pa.string()) for name in ("url", "text", "zh", "hexcode", "group", "case")])


@lru_cache(maxsize=1)
def labels() -> list[dict[str, str]]:
    """The sample emoji: {file, hexcode, en, zh, group}, sorted by file."""
    return [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]


def demo_rows(base_url: str) -> pa.Table:
    """Every sample emoji once, and over a hundred with something wrong; schema `SCHEMA`, about 800 rows.

    base_url: where `pipelines.demo_server` listens.  Same URL, same rows in the same order.
    """
    rng = random.Random(SEED)
    shuffled = rng.sample(labels(), len(labels()))
    garbled = [entry for entry in shuffled if _garble(entry["en"])][:MOJIBAKE_ROWS]
    intact = [entry for entry in shuffled if entry not in garbled]

    once = iter(intact)
    rows = [_row(base_url, next(once), folder) for folder, n in DETOURS.items() for _ in range(n)]
    rows += [_row(base_url, e, "images", text=_garble(e["en"]), case="text-mojibake") for e in garbled]
    plain = list(once)
    chinese = {entry["file"] for entry in rng.sample(plain, round(ZH_SHARE * len(plain)))}
    texts = [entry["zh" if entry["file"] in chinese else "en"] for entry in plain]
    rows += [_row(base_url, e, "images", text=text, case="plain") for e, text in zip(plain, texts, strict=True)]
    rows += [dict(row, case="duplicate-input") for row in rng.sample(rows[-len(plain) :], DUPLICATED_ROWS)]

    picked = iter(rng.sample(plain, len(plain)))
    for folder, n in BAD_URLS.items():
        for i in range(n):
            entry = next(picked)
            # Copies come in both languages, so that some repeat the pair and some only the image.
            text = entry["zh"] if folder == "copy" and i % 2 else entry["en"]
            rows.append(_row(base_url, entry, folder, text=text))
    for case, url in REFUSED_URLS.items():
        rows.append(dict(_row(base_url, next(picked), "images", case=case), url=url))
    for case, bad_texts in BAD_TEXTS.items():
        for text in bad_texts:
            rows.append(_row(base_url, next(picked), "images", text=text, case=case))
    rng.shuffle(rows)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(
    base_url: str, entry: dict[str, str], folder: str, *, text: str | None = None, case: str | None = None
) -> dict[str, str]:
    """One row for the emoji fetched from `folder`; {url} and {stem} in `text` are filled in."""
    # A host that asks for an hour of silence gets it; under this name it does not silence the rest of the demo.
    base = base_url.replace(f"//{HOST}", "//localhost") if folder == "always-busy" else base_url
    url = f"{base}/{folder}/{entry['file']}"
    caption = entry["en"] if text is None else text
    caption = caption.replace("{url}", url).replace("{stem}", entry["file"].rpartition(".")[0])
    return {
        "url": url,
        "text": caption,
        "zh": entry["zh"],
        "hexcode": entry["hexcode"],
        "group": entry["group"],
        "case": folder if case is None else case,
    }


def _garble(text: str) -> str:
    """UTF-8 read as Windows-1252 (`café` becomes `cafÃ©`); empty if that changes nothing or cannot happen."""
    try:
        garbled = text.encode("utf-8").decode("cp1252")
    except UnicodeDecodeError:
        return ""
    return "" if garbled == text else garbled
