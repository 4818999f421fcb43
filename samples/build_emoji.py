"""Build samples/emoji from the two npm packages it is a subset of.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0
    for f in *.tgz; do mkdir -p unpacked/"${f%.tgz}" && tar xzf "$f" -C unpacked/"${f%.tgz}"; done
    python samples/build_emoji.py unpacked

Result, the same on every machine:
    samples/emoji/images/*.webp   Fluent 3D emoji, 256 px, transparent; copied byte for byte
    samples/emoji/labels.jsonl    {file, hexcode, en, zh, group}, one line an image, sorted by file

No skin tones and few flags: both look alike and would flatter every figure measured on the sample.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

IMAGES = "lobehub-fluent-emoji-3d-1.1.0/package/assets"
LABELS = "emojibase-data-17.0.0/package"
TARGET = Path(__file__).resolve().parent / "emoji"
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
VARIATION_SELECTORS = {"FE0E", "FE0F"}


def concept(hexcode: str) -> str:
    """`2764-fe0f` as `2764`: the two packages disagree on variation selectors only."""
    return "-".join(part for part in hexcode.upper().split("-") if part not in VARIATION_SELECTORS)


def read_labels(package: Path, language: str) -> dict[str, dict[str, Any]]:
    """Concept -> its emojibase entry; regional indicators and other parts of emoji have no group and are left out."""
    entries = json.loads((package / language / "data.json").read_text(encoding="utf-8"))
    return {concept(entry["hexcode"]): entry for entry in entries if "group" in entry}


def read_emoji(unpacked: Path) -> dict[str, list[dict[str, str]]]:
    """Group -> all its emoji that have a drawing and both labels, in file order."""
    messages = json.loads((unpacked / LABELS / "en" / "messages.json").read_text(encoding="utf-8"))
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    en, zh = (read_labels(unpacked / LABELS, language) for language in ("en", "zh"))
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted((unpacked / IMAGES).glob("*.webp")):
        code = concept(path.stem)
        if code in en and code in zh and not SKIN_TONES & set(code.split("-")):
            group = groups[en[code]["group"]]
            found.setdefault(group, []).append(
                {
                    "file": path.name,
                    "hexcode": code,
                    "en": en[code]["label"],
                    "zh": zh[code]["label"],
                    "group": group,
                }
            )
    return found


def choose(emoji: dict[str, list[dict[str, str]]], *, total: int, flags: int, seed: int) -> list[dict[str, str]]:
    """`flags` flags, and of every other group a share in proportion to its size, drawn at random."""
    rng = random.Random(seed)
    others = sum(len(members) for group, members in emoji.items() if group != "flags")
    chosen = []
    for group, members in sorted(emoji.items()):
        share = flags if group == "flags" else -(-len(members) * (total - flags) // others)
        chosen += rng.sample(members, min(share, len(members)))
    return sorted(chosen, key=lambda entry: entry["file"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Build samples/emoji.")
    parser.add_argument("unpacked", type=Path, help="folder with the two unpacked packages")
    parser.add_argument("--total", type=int, default=680, help="about how many emoji")
    parser.add_argument("--flags", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    chosen = choose(read_emoji(args.unpacked), total=args.total, flags=args.flags, seed=args.seed)
    images = TARGET / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for entry in chosen:
        shutil.copyfile(args.unpacked / IMAGES / entry["file"], images / entry["file"])
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in chosen]
    (TARGET / "labels.jsonl").write_text("".join(lines), encoding="utf-8")
    size = sum(path.stat().st_size for path in images.iterdir())
    print(f"{len(chosen)} emoji, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
