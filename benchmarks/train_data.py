"""What `benchmarks/train.py` trains on: photographs, with words that artists gave to their own pictures.

The photographs are crops of `photos.py`, stored by pairmill's own image stage.  The words are titles and descriptions
of Open Clip Art's drawings (Debian's openclipart-svg), one to about eighty tokens long, as alt texts on the web are.  A
text does not describe its photograph: speed does not depend on that, and the model learns to tell pairs apart.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from photos import _unpacked, photos
from record import WORK

from curation.images.config import ImageConfig
from curation.images.inspect import inspect_image

#: Distinct pairs; epochs repeat them.
PAIRS = 1024

#: As many as the download benchmark uses, so that they are made once.
_PHOTOS = 2000

_PACKAGE = "openclipart-svg"


class Pairs(NamedTuple):
    """The same pairs for both: a Parquet file, and files by themselves."""

    parquet: Path
    images: list[str]  #: files, by row
    texts: list[str]  #: by row


def make_pairs(size: int) -> Pairs:
    """Pairs whose images are stored with a shorter side of `size` pixels; made once.

    Raises RuntimeError if the Debian packages cannot be fetched.
    """
    folder = WORK / "train" / str(size)
    images = [folder / "images" / f"{row:04d}.jpg" for row in range(PAIRS)]
    texts = _texts(WORK / "train" / "texts.txt")
    parquet = folder / "pairs.parquet"
    if not parquet.exists():
        images[0].parent.mkdir(parents=True, exist_ok=True)
        config = ImageConfig(size=size)
        for photo, image in zip(photos(WORK / "photos", _PHOTOS), images, strict=False):
            image.write_bytes(inspect_image(photo.read_bytes(), config, frozenset()).image)
        # A uid of 16 digits twice: the sample id that a batch names a row by is then its number.
        rows = {"uid": [f"{row:016x}" * 2 for row in range(PAIRS)], "image": [i.read_bytes() for i in images]}
        pq.write_table(pa.table({**rows, "caption": texts}), parquet, row_group_size=128)
    return Pairs(parquet, [str(image) for image in images], texts)


def text_lengths(texts: list[str]) -> dict[str, float]:
    """Tokens of the texts, start and end included, as CLIP's tokenizer cuts them: mean and quantiles."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    lengths = np.array([min(77, len(tokenizer.encode(text)) + 2) for text in texts])
    quantiles = {f"p{q}": float(np.percentile(lengths, q)) for q in (10, 50, 90, 99)}
    return {"mean": round(float(lengths.mean()), 1), **quantiles}


def write_csv(path: Path, pairs: Pairs, order: list[list[list[int]]]) -> None:
    """A list that open_clip_train reads in this order of rows, [rank][step][row]: its sampler's shuffle is undone.

    torch's DistributedSampler, of seed 0 and in its first epoch, gives rank r every W-th of a permutation from r on.
    """
    ranks = [[row for step in rank for row in step] for rank in order]
    wanted = [row for together in zip(*ranks, strict=True) for row in together]
    drawn = torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [0] * len(wanted)
    for at, row in zip(drawn, wanted, strict=True):
        rows[at] = row
    listed: dict[str, Any] = {"filepath": [pairs.images[r] for r in rows], "title": [pairs.texts[r] for r in rows]}
    pd.DataFrame(listed).to_csv(path, sep="\t", index=False)


def _texts(kept: Path) -> list[str]:
    """Title and description of drawings that have both, each text once."""
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        (drawings,) = _unpacked(kept.parent / "packages", _PACKAGE, ["usr/share/openclipart/svg"])
        found = {_text(path.read_text("utf-8", "replace")) for path in drawings.rglob("*.svg")}
        kept.write_text("\n".join(sorted(text for text in found if text is not None)))
    texts = kept.read_text().splitlines()
    order = np.random.default_rng(0).permutation(PAIRS) % len(texts)
    return [texts[at] for at in order]


def _text(svg: str) -> str | None:
    title = re.search(r"<cc:Work.*?<dc:title>(.*?)</dc:title>", svg, re.S)
    described = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.S)
    if title is None or described is None:
        return None
    first, second = (" ".join(html.unescape(found[1]).split()) for found in (title, described))
    # The program that wrote some of them left the name of its own data there.
    if not first or not second or "HASH(" in second:
        return None
    return second if second.lower().startswith(first.lower()) else f"{first}. {second}"
