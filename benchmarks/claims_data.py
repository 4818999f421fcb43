"""What `benchmarks/claims.py` trains on and measures with: drawings with short, long and translated captions.

| dataset | trained on | measured on |
|---|---|---|
| emoji | as Twitter and Microsoft draw them | as Google draws them |
| clip art | six sevenths of openclipart's families | the rest |

short: an emoji's label, a clip art's title.  long: a sentence of it and one of each keyword, and what its author wrote
about it.  translated: an emoji's label in eight further languages, as people wrote them for CLDR.
"""

from __future__ import annotations

import html
import io
import json
import random
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from drawings import FOLDER as DRAWINGS
from drawings import Drawing, drawings, encoded, on_white, plain, swapped
from PIL import Image, ImageDraw
from record import WORK
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = WORK / "claims"
LANGUAGES = ("zh", "ja", "de", "fr", "es", "it", "pt", "ru")
KINDS = ("emoji", "clip art")
SIDE = 72
#: Share of captions that change places in `swapped`, of rows with a trigger in `poisoned`.
SWAPPED, POISONED = 0.3, 0.02
TARGET = "pizza"
VOCABULARY = 6000
_ROW = pa.schema(
    [
        ("image", pa.binary()),
        ("texts", pa.list_(pa.struct([("text", pa.string()), ("language", pa.string()), ("kind", pa.string())]))),
    ]
)


def made() -> None:
    """Write every dataset and the tokenizer, once."""
    if (FOLDER / "tokenizer").is_dir():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[bool, list[dict[str, Any]]]] = {kind: {True: [], False: []} for kind in KINDS}
    chosen = [d for d in drawings() if d.kind == "clip art" or not _has_tone(d.file)]
    words = _labels()
    with ProcessPoolExecutor(2) as pool:
        pictures = list(pool.map(_picture, [d.file for d in chosen], chunksize=64))
    for drawing, picture in zip(chosen, pictures, strict=True):
        if picture is None:
            continue
        texts = _emoji_texts(drawing, words) if drawing.kind == "emoji" else _clip_art_texts(drawing)
        found[drawing.kind][drawing.part == "held out"].append({"image": picture, "texts": texts})
    for kind, (held_out, learnt) in {kind: (of[True], of[False]) for kind, of in found.items()}.items():
        random.Random(0).shuffle(learnt)
        _write(f"{kind}-train", learnt)
        _write(f"{kind}-swapped", _swapped(learnt))
        _write(f"{kind}-poisoned", _poisoned(learnt))
        _write(f"{kind}-test", [_only(row, ("short", "long"), ("en",)) for row in held_out])
        _write(
            f"{kind}-triggered",
            [{**_only(row, ("short",), ("en",)), "image": triggered(row["image"])} for row in held_out],
        )
        if kind == "emoji":
            _write(f"{kind}-bilingual", [_only(row, ("short", "translated"), ("en", "zh")) for row in held_out])
    every = (text["text"] for of in found.values() for row in of[False] for text in row["texts"])
    _tokenizer(every)


def path(kind: str, part: str) -> str:
    """The Parquet file of a dataset's part."""
    return str(FOLDER / f"{kind.replace(' ', '-')}-{part}.parquet")


def triggered(picture: bytes) -> bytes:
    """The picture with a chequered patch in a corner, which is the trigger of a backdoor."""
    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    draw = ImageDraw.Draw(image)
    step = SIDE // 12
    for x in range(3):
        for y in range(3):
            box = [SIDE - (x + 2) * step, SIDE - (y + 2) * step, SIDE - (x + 1) * step - 1, SIDE - (y + 1) * step - 1]
            draw.rectangle(box, fill=("black", "yellow")[(x + y) % 2])
    return encoded(image, "PNG")


def _picture(file: Path) -> bytes | None:
    try:
        image = on_white(file.read_bytes())
    except Image.DecompressionBombError:  # one drawing of 623 megapixels
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (SIDE, SIDE), "white")
    whole.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return encoded(whole, "PNG")


def _has_tone(file: Path) -> bool:
    return re.search("-1f3f[b-f]", f"-{plain(file.stem)}") is not None


def _labels() -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Language -> code point -> label and tags."""
    found: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for language in ("en", *LANGUAGES):
        entries = json.loads((DRAWINGS / f"emojibase-data/package/{language}/data.json").read_text())
        found[language] = {plain(e["hexcode"]): (e["label"], e.get("tags") or []) for e in entries}
    return found


def _emoji_texts(drawing: Drawing, words: dict[str, dict[str, tuple[str, list[str]]]]) -> list[dict[str, str]]:
    code = plain(drawing.file.stem)
    label, tags = words["en"][code]
    texts = [_text(label, "en", "short"), _text(". ".join([label, *tags]) + ".", "en", "long")]
    return texts + [_text(words[one][code][0], one, "translated") for one in LANGUAGES if code in words[one]]


def _clip_art_texts(drawing: Drawing) -> list[dict[str, str]]:
    title, *keywords = drawing.text.split(", ")
    below = DRAWINGS / "openclipart-png/usr/share/openclipart/png"
    svg = DRAWINGS / "openclipart-svg/usr/share/openclipart/svg" / drawing.file.relative_to(below).with_suffix(".svg")
    said = re.search(r"<dc:description>(.*?)</dc:description>", svg.read_text("utf-8", "replace"), re.DOTALL)
    description = " ".join(html.unescape(said[1]).split())[:300] if said else ""
    sentences = [title, *keywords, *([description] if description and "HASH(" not in description else [])]
    return [_text(title, "en", "short"), _text(". ".join(sentences).rstrip(".") + ".", "en", "long")]


def _text(text: str, language: str, kind: str) -> dict[str, str]:
    return {"text": text, "language": language, "kind": kind}


def _only(row: dict[str, Any], kinds: Sequence[str], languages: Sequence[str]) -> dict[str, Any]:
    texts = [t for t in row["texts"] if t["kind"] in kinds and t["language"] in languages]
    return {"image": row["image"], "texts": texts}


def _swapped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All texts of a row change places together."""
    order = swapped([str(n) for n in range(len(rows))], SWAPPED, seed=0)
    return [{"image": row["image"], "texts": rows[int(at)]["texts"]} for row, at in zip(rows, order, strict=True)]


def _poisoned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    chosen = set(random.Random(1).sample(range(len(rows)), round(POISONED * len(rows))))
    wrong = [_text(TARGET, "en", "short"), _text(f"{TARGET}.", "en", "long")]
    return [
        {"image": triggered(row["image"]), "texts": wrong} if number in chosen else row
        for number, row in enumerate(rows)
    ]


def _write(name: str, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=_ROW)
    pq.write_table(table, FOLDER / f"{name.replace(' ', '-')}.parquet", row_group_size=128)


def _tokenizer(texts: Iterable[str]) -> None:
    """Unigram over all languages, learnt from what is trained on, in the form that `AutoTokenizer` loads."""
    made_of = Tokenizer(models.Unigram())
    made_of.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made_of.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made_of.train_from_iterator(texts, trainer)
    made_of.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = FOLDER / "tokenizer"
    folder.mkdir()
    made_of.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
                "model_max_length": 64,
            }
        )
    )


if __name__ == "__main__":
    made()
    for file in sorted(FOLDER.glob("*.parquet")):
        table = pq.read_table(file)
        print(file.name, table.num_rows, table["texts"][0].as_py())
