"""Build samples/emoji-google: the emoji of samples/emoji as another artist drew them, for honest evaluation.

    npm pack emoji-datasource-google@16.0.0 && tar xzf emoji-datasource-google-16.0.0.tgz
    python samples/build_emoji_google.py package

Result: samples/emoji-google/pairs.parquet, a plain Parquet dataset as anyone may have: `image` (binary, PNG of 64 px,
copied byte for byte) and `texts` (list of {text, language, kind}), one row an emoji, flags left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from build_emoji import TARGET, concept

OUT = TARGET.parent / "emoji-google"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build samples/emoji-google.")
    parser.add_argument("package", type=Path, help="the unpacked package")
    args = parser.parse_args()

    drawings = {concept(path.stem): path for path in sorted((args.package / "img/google/64").glob("*.png"))}
    images, texts = [], []
    for line in (TARGET / "labels.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        drawing = drawings.get(entry["hexcode"])
        if drawing is None or entry["group"] == "flags":
            continue
        images.append(drawing.read_bytes())
        texts.append([{"text": entry[code], "language": code, "kind": "alt"} for code in ("en", "zh")])
    OUT.mkdir(exist_ok=True)
    text = pa.struct([("text", pa.string()), ("language", pa.string()), ("kind", pa.string())])
    table = pa.table({"image": pa.array(images, pa.binary()), "texts": pa.array(texts, pa.list_(text))})
    pq.write_table(table, OUT / "pairs.parquet", row_group_size=100, compression="none")
    print(f"{len(images)} emoji, {(OUT / 'pairs.parquet').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
