"""How many planted bad texts the gates catch, of nine kinds, and how many real captions they refuse.

    python benchmarks/gates.py                 two minutes on one core, most of them OCR of 240 pictures
    python benchmarks/gates.py --development   on the half of the pictures by which thresholds and phrases were chosen

Texts go the way of a captioner's answer: the checks of the stage `recaption` (`caption_checks`), then the gates.  A
bad text counts as caught if it is refused, or if what is bad in it is not in the text that is left.  `gate_texts.py`
says where the captions come from and what is planted.  No dual encoder is at hand that was not trained on these
pictures, so `image_text_score`, `log_probability` and wrong pictures are not measured.  The gate `names` is apart: it
refuses what a captioner may know (the United States) and the alt text does not say.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter, defaultdict
from typing import Any

import gate_texts
import pyarrow as pa
from gate_texts import Picture, Planted
from record import machine, record, table

from curation.caption_checks import checked
from curation.gates.gate import Written
from curation.gates.stage import GateConfig, GateStage
from curation.heads.ocr import Ocr, OcrConfig

DEFAULT: list[Any] = ["opener", "language", "length"]
WITH_OCR = [*DEFAULT, *({"name": name, "ocr": "ocr"} for name in ("numbers", "rendered_text"))]
WITH_NAMES = [*WITH_OCR, {"name": "names", "ocr": "ocr"}]
#: What the issue asks for: the share of each kind that is caught, and of each vendor's captions that is refused.
CAUGHT, REFUSED = 0.95, 0.03


def read_texts(pictures: list[Picture], most: int) -> dict[str, str]:
    """Picture -> what OCR reads in it, of the first `most` with a file of each vendor."""
    chosen = []
    for vendor in sorted({one.vendor for one in pictures if one.file is not None}):
        chosen += [one for one in pictures if one.vendor == vendor and one.file is not None][:most]
    head = Ocr.load(OcrConfig(name="ocr", size=320))
    images = pa.array([one.file.read_bytes() for one in chosen if one.file is not None])
    found = head(images, caption=pa.array([one.captions["en"] for one in chosen]))["text"].to_pylist()
    return {one.key: text or "" for one, text in zip(chosen, found, strict=True)}


def verdict(stage: GateStage, picture: Picture, planted: Planted, shown: str | None) -> tuple[str | None, str]:
    """Who refused a text (None: nobody), and what is left of it."""
    found = checked(planted.text, cut=planted.cut)
    if not found.text:
        return found.fault, ""
    row = {"caption": picture.alt, "language": "en", "ocr_text": shown}
    written = Written(found.text, "short", planted.language, "short", "m", None, 1, None, row)
    (made,) = stage.verdicts([written])
    return made["refused_by"], found.text if made["text"] is None else made["text"]


def caught(stage: GateStage, pictures: list[Picture], shown: dict[str, str], count: int) -> dict[str, Any]:
    """Kind -> how many planted texts of it are caught, and by whom."""
    others = [one.captions["en"] for one in pictures if len(one.captions["en"].split()) >= 4]
    figures = {}
    for kind, plant in gate_texts.planters(others).items():
        chance, by, missed = random.Random(kind), Counter[str](), []
        usable = [one for one in pictures if not kind.startswith("invented") or one.key in shown]
        while by.total() < count:
            picture = chance.choice(usable)
            planted = plant(picture, chance)
            if planted is None:
                continue
            refused_by, left = verdict(stage, picture, planted, shown.get(picture.key))
            gone = planted.bad.casefold() not in left.casefold()
            by[refused_by or ("changed" if gone else "missed")] += 1
            if refused_by is None and not gone:
                missed.append(planted.text[:120])
        figures[kind] = {"share": 1 - by["missed"] / count, "by": dict(by.most_common()), "missed": missed[:5]}
    return figures


def refused(stage: GateStage, pictures: list[Picture], shown: dict[str, str], count: int) -> dict[str, Any]:
    """Vendor -> how many of its real captions are refused, and by whom."""
    by: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[str, list[str]] = defaultdict(list)
    for picture, language in gate_texts.real_captions(pictures, count, random.Random(1)):
        text = picture.captions[language]
        refused_by, left = verdict(stage, picture, Planted(text, "", language), shown.get(picture.key))
        by[picture.vendor][refused_by or ("changed" if left != text else "kept")] += 1
        if refused_by is not None or left != text:
            examples[picture.vendor].append(f"{refused_by or 'changed'} {language}: {text[:90]}")
    return {
        vendor: {
            "captions": found.total(),
            "share": 1 - (found["kept"] + found["changed"]) / found.total(),
            "by": dict(found.most_common()),
            "examples": examples[vendor][:12],
        }
        for vendor, found in sorted(by.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--development", action="store_true", help="the half that is not held out; nothing is recorded")
    parser.add_argument("--count", type=int, default=600, help="bad texts of each kind, and captions of each vendor")
    parser.add_argument("--pictures", type=int, default=120, help="pictures of each vendor that OCR reads")
    given = parser.parse_args()
    began, started = machine(), time.perf_counter()
    gate_texts.fetch()
    pictures = [one for one in gate_texts.pictures() if one.held_out is not given.development]
    shown = read_texts(pictures, given.pictures)
    stages = {name: GateStage(GateConfig.checked({"gates": gates})) for name, gates in _SETS.items()}
    figures: dict[str, Any] = {
        name: {
            "caught": caught(stage, pictures, shown, given.count),
            "refused": refused(stage, pictures, shown, given.count),
            # Gates that need OCR pass all others.
            "refused_of_read": refused(stage, [one for one in pictures if one.key in shown], shown, given.count),
        }
        for name, stage in stages.items()
    }
    for name, found in figures.items():
        print(f"\n{name}: planted texts that are caught (bar: {CAUGHT:.0%})")
        table(["kind", "caught", "by"], [[k, f"{v['share']:.1%}", str(v["by"])] for k, v in found["caught"].items()])
        for key, meant in (("refused", "all pictures"), ("refused_of_read", "pictures that OCR read")):
            print(f"\n{name}: real captions of {meant} that are refused (bar: {REFUSED:.0%})")
            table(
                ["vendor", "captions", "refused", "by"],
                [[k, v["captions"], f"{v['share']:.1%}", str(v["by"])] for k, v in found[key].items()],
            )
    if given.development:
        for found in figures["with OCR and names"].values():
            for one in found.values():
                print(*one.get("missed", ()), *one.get("examples", ()), sep="\n")
        return
    seconds = round(time.perf_counter() - started, 1)
    record(
        "gates",
        {"pictures": len(pictures), "read": len(shown), "count": given.count, "seconds": seconds, **figures},
        began,
    )


_SETS = {"default": DEFAULT, "with OCR": WITH_OCR, "with OCR and names": WITH_NAMES}

if __name__ == "__main__":
    main()
