"""What `benchmarks/worth_it.py` curates and trains on: drawings with what people wrote about them, in four parts.

| part | what is in it | for |
|---|---|---|
| trusted | emoji as Twitter draws them, a fifth of the clip art | the model that scores pairs learns from it |
| good | a fifth as many of the same, in neither of the other parts | examples for a learnt filter |
| listed | emoji as Microsoft draws them (Fluent), the clip art's rest | the list that is curated |
| held out | emoji as Google draws them, a seventh of the clip art | what trained models are measured by |

The emoji are those of npm's `emojibase-data`: label and up to three of its tags, other ones for each artist.  Variants
of skin colour are in `listed` alone.  The clip art is Debian's, with title and keywords.  Drawings of one file or of
one title are in one part, so what is held out is in no other.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from record import WORK

FOLDER = WORK / "drawings"
PACKAGES = {
    "emojibase-data": "17.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
}
CLIP_ART = ("openclipart-svg", "openclipart-png")
#: Upper ends of the parts' shares of the clip art's families.
_SHARES = {"held out": 0.15, "trusted": 0.35, "good": 0.4, "listed": 1.0}
#: More drawings of one title are a set.
SET = 4
_TONE = re.compile("-1f3f[b-f]")


class Drawing(NamedTuple):
    """A file, and what it shows.  kind: emoji or clip art.  part: see above."""

    file: Path
    text: str
    kind: str
    part: str


def fetch(packages: Mapping[str, str] = PACKAGES) -> None:
    """Download and unpack npm packages of these versions, and the clip art, once."""
    for name, version in packages.items():
        if not (folder := FOLDER / name.rpartition("/")[2]).is_dir():
            FOLDER.mkdir(parents=True, exist_ok=True)
            command = ["npm", "pack", "--silent", f"{name}@{version}"]
            said = subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, text=True)
            archive = FOLDER / said.stdout.split()[-1]
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            archive.unlink()
    for name in CLIP_ART:
        if not (folder := FOLDER / name).is_dir():
            subprocess.run(["apt-get", "download", "-q", name], cwd=FOLDER, check=True, capture_output=True)
            (archive,) = FOLDER.glob(f"{name}_*.deb")
            subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True, capture_output=True)
            archive.unlink()


def drawings(*, copies: bool = False) -> list[Drawing]:
    """All of them, in the same order every time.

    copies: whether clip art that is not in `listed` comes with its duplicates, and all artists' skin colours.
    """
    fetch()
    return [*_emoji(copies), *_clip_art(copies)]


def swapped(texts: list[str], share: float, seed: int) -> list[str]:
    """The same texts, of which so many have changed places: none of these has its own."""
    chance = random.Random(seed)
    moved = chance.sample(range(len(texts)), round(share * len(texts)))
    found = list(texts)
    for here, there in zip(moved, [*moved[1:], moved[0]], strict=True):
        found[here] = texts[there]
    return found


def flat(folder: Path, chosen: list[Drawing]) -> list[str]:
    """Copy files into one folder; their names there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [f"{number:05d}{drawing.file.suffix}" for number, drawing in enumerate(chosen)]
    for name, drawing in zip(names, chosen, strict=True):
        shutil.copyfile(drawing.file, folder / name)
    return names


def on_white(data: bytes) -> Image.Image:
    """A picture of any form as RGB, what is transparent white."""
    with Image.open(io.BytesIO(data)) as opened:
        layer = opened.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file.  options: of Pillow's encoder."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _emoji(tones: bool) -> Iterator[Drawing]:
    entries = json.loads((FOLDER / "emojibase-data/package/en/data.json").read_text())
    known = {}
    for entry in entries:
        for one in (entry, *entry.get("skins", [])):
            known[plain(one["hexcode"])] = (one["label"], entry.get("tags") or [])
    artists = {
        "held out": FOLDER / "emoji-datasource-google/package/img/google/64",
        "trusted": FOLDER / "emoji-datasource-twitter/package/img/twitter/64",
        "listed": FOLDER / "fluent-emoji-3d/package/assets",
    }
    for part, folder in artists.items():
        for file in sorted(folder.iterdir()):
            code = plain(file.stem)
            if code not in known or (not tones and part != "listed" and _TONE.search(f"-{code}")):
                continue
            label, tags = known[code]
            # Words by artist and emoji, so that no two artists have learnt the same sentence.
            chance = random.Random(f"{part} {code}")
            text = ", ".join([label, *chance.sample(tags, min(len(tags), chance.randint(0, 3)))])
            good = part == "trusted" and _share(code) < 0.2
            yield Drawing(file, text, "emoji", "good" if good else part)


def _clip_art(copies: bool) -> Iterator[Drawing]:
    found = []
    below = FOLDER / "openclipart-png/usr/share/openclipart/png"
    svg = FOLDER / "openclipart-svg/usr/share/openclipart/svg"
    for file in sorted(below.rglob("*.png")):
        described = svg / file.relative_to(below).with_suffix(".svg")
        if described.is_file() and (text := _described(described)):
            found.append((file, text))
    # A title of many drawings is that of a set ("Lemon SVG theme"); what one of them shows is in the file's name.
    titles = Counter(_title(text) for _, text in found)
    found = [(f, text if titles[_title(text)] <= SET else f"{_named(f)}, {text}") for f, text in found]
    family: dict[str, str] = {}

    def head(key: str) -> str:
        while family.setdefault(key, key) != key:
            key = family[key]
        return key

    for file, text in found:
        family[head(hashlib.sha256(file.read_bytes()).hexdigest())] = head(_title(text))
    groups: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for file, text in found:
        groups[head(_title(text))].append((file, text))
    for key, members in groups.items():
        share = _share(key)
        part = next(part for part, top in _SHARES.items() if share < top)
        # Of what is held out, each family once: two right answers would count as one wrong.
        for file, text in members if copies or part == "listed" else members[:1]:
            yield Drawing(file, text, "clip art", part)


def _described(file: Path) -> str | None:
    """Title and keywords of a drawing; None without a title."""
    head = file.read_text("utf-8", "replace")
    work = re.search(r"<cc:Work.*?</cc:Work>", head, re.DOTALL)
    if work is None or not (title := re.search(r"<dc:title>(.*?)</dc:title>", work[0], re.DOTALL)):
        return None
    name = " ".join(html.unescape(title[1]).replace("_", " ").split())
    words = [" ".join(html.unescape(w).split()) for w in re.findall(r"<rdf:li>(.*?)</rdf:li>", work[0], re.DOTALL)]
    kept = [w for w in dict.fromkeys(words) if w and "HASH(" not in w and w.casefold() != name.casefold()]
    return ", ".join([name, *kept[:3]]) if name and "HASH(" not in name else None


def _title(text: str) -> str:
    return text.partition(",")[0].casefold()


def _named(file: Path) -> str:
    return " ".join(re.sub(r"[\d_\W]+", " ", file.stem).split())


def plain(code: str) -> str:
    """A code point's name without the selector of variants, which artists write or leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _share(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


if __name__ == "__main__":
    found = drawings()
    print(Counter((drawing.kind, drawing.part) for drawing in found))
    for drawing in random.Random(0).sample(found, 20):
        print(drawing.part, drawing.file.name, "|", drawing.text)
