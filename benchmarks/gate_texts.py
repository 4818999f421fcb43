"""Real captions of four vendors' pictures, and bad texts planted into them: for `gates.py`.

| vendor | caption | alt text | pictures | package |
|---|---|---|---|---|
| fluent | label of the emoji, in 28 languages | its tags | `samples/emoji` | npm `emojibase-data` |
| openmoji | OpenMoji's annotation | its tags, by Unicode and by OpenMoji | none | npm `openmoji` |
| tuxpaint | label of the stamp, in 72 languages | names of its folders | PNG | Debian `tuxpaint-stamps-default` |
| clipart | description of the drawing | title and keywords | none | Debian `openclipart-svg` |

Captions and alt texts are by people.  Clip art does not say its language, which is taken to be English: some is not.
The phrases of bad texts below were written for this benchmark, after the gates and by the same author: they are no
sample of what models write.  What is measured on a half of the pictures, by a hash of their names, is held out: nothing
was chosen by it.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import random
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from record import WORK

from pairmill.languages import FLORES, ISO_639_1, canonical

FOLDER = WORK / "gate-texts"
NPM = {"emojibase-data": "17.0.0", "openmoji": "17.0.0"}
DEBIAN = ("tuxpaint-stamps-default", "openclipart-svg")
EMOJI = Path(__file__).resolve().parent.parent / "samples" / "emoji"
_FIELD = re.compile(r"<dc:(title|description)>(.*?)</dc:\1>", re.DOTALL)
_KEYWORD = re.compile(r"<rdf:li>(.*?)</rdf:li>", re.DOTALL)


class Picture(NamedTuple):
    """A picture with its captions by language, its alt text, and its file where there is one."""

    vendor: str
    name: str
    captions: Mapping[str, str]
    alt: str
    file: Path | None

    @property
    def key(self) -> str:
        """Vendors of emoji name their drawings alike."""
        return f"{self.vendor}/{self.name}"

    @property
    def held_out(self) -> bool:
        return bool(hashlib.blake2b(self.name.encode(), digest_size=1).digest()[0] & 1)


def fetch() -> None:
    """Download and unpack everything into `FOLDER`: 195 MB, half a minute."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, version in NPM.items():
        if not (FOLDER / f"{name}-{version}.tgz").exists():
            subprocess.run(
                ["npm", "pack", "--silent", f"{name}@{version}"], cwd=FOLDER, check=True, capture_output=True
            )
    for name in DEBIAN:
        if not any(FOLDER.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", name], cwd=FOLDER, check=True, capture_output=True)
        if not (FOLDER / name).exists():
            subprocess.run(["dpkg", "-x", str(next(FOLDER.glob(f"{name}_*.deb"))), str(FOLDER / name)], check=True)


def pictures() -> list[Picture]:
    """All of them, in an order of chance that is always the same."""
    found = [*_fluent(), *_openmoji(), *_tuxpaint(), *_clipart()]
    random.Random(0).shuffle(found)
    return found


def _fluent() -> Iterator[Picture]:
    labels: dict[str, dict[str, str]] = {}
    tags: dict[str, str] = {}
    with tarfile.open(FOLDER / f"emojibase-data-{NPM['emojibase-data']}.tgz") as archive:
        for member in archive:
            if match := re.fullmatch(r"package/([a-z-]+)/data\.json", member.name):
                stream = archive.extractfile(member)
                for one in json.load(stream) if stream else ():
                    if one.get("label"):
                        labels.setdefault(one["hexcode"], {})[canonical(match[1])] = one["label"]
                        if match[1] == "en":
                            tags[one["hexcode"]] = ", ".join(one.get("tags") or ())
    for line in (EMOJI / "labels.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if code := next((c for c in (one["hexcode"], one["hexcode"].replace("-FE0F", "")) if c in labels), None):
            yield Picture("fluent", code, labels[code], tags[code], EMOJI / "images" / one["file"])


def _openmoji() -> Iterator[Picture]:
    with tarfile.open(FOLDER / f"openmoji-{NPM['openmoji']}.tgz") as archive:
        stream = archive.extractfile("package/data/openmoji.csv")
        rows = list(csv.DictReader(io.TextIOWrapper(stream, "utf-8"))) if stream else []
    for row in rows:
        if row["annotation"] and not row["skintone"]:
            alt = ", ".join(filter(None, (row["tags"], row["openmoji_tags"])))
            yield Picture("openmoji", row["hexcode"], {"en": row["annotation"]}, alt, None)


def _tuxpaint() -> Iterator[Picture]:
    root = FOLDER / DEBIAN[0] / "usr/share/tuxpaint/stamps"
    for file in sorted(root.rglob("*.txt")):
        english, *others = file.read_text("utf-8", errors="replace").splitlines() or [""]
        captions = {"en": english.strip()}
        for tag, _, text in (line.partition("=") for line in others):
            language = canonical(tag.partition(".")[0])
            # Regions are one language; a text that was not translated is English.
            if language in ISO_639_1 and text.strip() and text.strip() != captions["en"]:
                captions.setdefault(language, text.strip())
        picture = file.with_suffix(".png")
        name = str(file.relative_to(root))
        alt = re.sub(r"[/_.-]+|(?<=\d)(?=[a-z])", " ", name.removesuffix(".txt"))
        if captions["en"]:
            yield Picture("tuxpaint", name, captions, alt, picture if picture.exists() else None)


def _clipart() -> Iterator[Picture]:
    for file in sorted((FOLDER / DEBIAN[1]).rglob("*.svg")):
        head = file.read_text(errors="replace")[:20_000]
        found = {name: " ".join(html.unescape(text).split()) for name, text in _FIELD.findall(head)}
        words = [" ".join(html.unescape(word).split()) for word in _KEYWORD.findall(head)]
        if len(found.get("description", "").split()) > 2 and "<" not in found["description"]:
            alt = ", ".join([found.get("title", ""), *words])
            yield Picture("clipart", file.stem, {"en": found["description"]}, alt, None)


# Bad texts


class Planted(NamedTuple):
    """A bad text: the language that was asked for, whether the engine says that it was cut, and what must not stay."""

    text: str
    bad: str
    language: str = "en"
    cut: bool = False


REFUSALS = (
    "I'm sorry, but I can't help with identifying people in images.",
    "I cannot describe this image because it may contain sensitive content.",
    "Sorry, I am unable to view the image you have uploaded.",
    "Unfortunately, I can't provide a description of this picture.",
    "As an AI language model, I cannot see images.",
    "I'm unable to assist with that request.",
    "It seems that no image was provided. Please upload the image.",
    "抱歉，我无法识别图片中的内容。",
    "很抱歉，我不能描述这张图片。",
    "Es tut mir leid, aber ich kann dieses Bild nicht beschreiben.",
    "Désolé, je ne peux pas décrire cette image.",
    "Lo siento, no puedo ver la imagen.",
    "申し訳ありませんが、この画像を説明することはできません。",
    "죄송하지만 이 이미지를 설명할 수 없습니다.",
)
THOUGHTS = (
    "<think>The user wants a caption. {c} I should be brief.</think>",
    "<think>\nLet me look at the picture first. It may be this: {c}\n</think>\n\n",
    "<think>I see a picture. {c} Wait, maybe it is something else, so I should check",
    "Okay, the user wants me to describe the image. Let me think about what is in it. {c}",
    "[THINK]What does it show? {c}[/THINK]",
    "用户要求我描述这张图片。{c}",
)
OPENERS = {
    "en": (
        *(
            "The image shows ",
            "This image depicts ",
            "The photo features ",
            "In this image, we can see ",
            "In the picture, there is ",
        ),
        *(
            "This is an image of ",
            "A picture of ",
            "The picture captures ",
            "Here is a caption for the image: ",
            "A close-up photo of ",
        ),
        *("Sure! Here's a description: ", "The provided image displays ", "This photograph showcases "),
    ),
    "zh": ("这张图片展示了", "图片中显示了", "图中是", "这是一张", "照片中可以看到", "在这幅图像中，我们可以看到"),
    "de": ("Das Bild zeigt ", "Auf dem Bild ist ", "Auf diesem Foto sieht man "),
    "fr": ("L'image montre ", "Cette photo représente ", "Sur cette image, on voit "),
    "es": ("La imagen muestra ", "En la imagen se ve ", "Esta foto muestra "),
    "ja": ("この画像は、", "写真には", "この写真には、"),
    "ru": ("На изображении показано ", "На фото видно ", "На этой картинке изображено "),
}
PEOPLE = tuple(
    f"{first} {last}"
    for first in ("Maria", "John", "Elena", "Pedro", "Amelia", "Kenji", "Fatima", "Lukas", "Sofia", "Oliver")
    for last in ("Fernandez", "Whitmore", "Kowalski", "Nakamura", "Okafor", "Lindqvist", "Petrov", "Delacroix")
)
PLACES = ("Central Park", "Lake Geneva", "Mount Rainier", "San Diego", "Notre Dame", "Buckingham Palace", "New Orleans")
SIGNS = ("Grand Opening", "No Parking", "Welcome Home", "Fresh Bread", "Main Street", "Happy Holidays", "Road Work")


def planters(others: list[str]) -> dict[str, Callable[[Picture, random.Random], Planted | None]]:
    """Kind of bad text -> what plants it into a picture's caption; None where it cannot.  others: captions."""

    def sentence(picture: Picture) -> str:
        text = picture.captions["en"].strip().rstrip(".!?:;, ")
        return f"{text[:1].upper()}{text[1:]}."

    def loop(picture: Picture, chance: random.Random) -> Planted:
        words = sentence(picture).rstrip(".").split()
        unit = " ".join(words[-chance.randint(1, min(8, len(words))) :])
        joint = chance.choice([", ", " and ", ". ", " "])
        unit += joint
        return Planted(f"{sentence(picture)} {unit * chance.randint(6, 30)}"[:900], (unit * 4).strip(), cut=True)

    def cut(picture: Picture, chance: random.Random) -> Planted | None:
        words = chance.choice(others).split()
        if len(words) < 4:
            return None
        half = " ".join(words[: chance.randint(2, len(words) - 1)]).rstrip(".!?。 ")
        text = sentence(picture)
        return None if half.casefold() in text.casefold() else Planted(f"{text} {half}", half, cut=True)

    def refusal(picture: Picture, chance: random.Random) -> Planted:
        said = chance.choice(REFUSALS)
        return Planted(said if chance.random() < 0.5 else f"{said} {sentence(picture)}", said)

    def reasoning(picture: Picture, chance: random.Random) -> Planted:
        thought = chance.choice(THOUGHTS)
        bad = thought.partition("{c}")[0].strip().splitlines()[-1]
        return Planted(thought.format(c=sentence(picture)) + chance.choice(["", " " + sentence(picture)]), bad)

    def opener(picture: Picture, chance: random.Random) -> Planted:
        language = chance.choice([one for one in picture.captions if one in OPENERS])
        said, text = chance.choice(OPENERS[language]), picture.captions[language]
        return Planted(said + text[:1].lower() + text[1:], said.strip(), language)

    def language(picture: Picture, chance: random.Random) -> Planted | None:
        # A model falls back to English, or to the language of most of its training.
        given = {code: text for code, text in picture.captions.items() if code in FLORES and _is_long(code, text)}
        asked, other = ("en", chance.choice(sorted(given.keys() - {"en"}) or ["en"])), sorted(given.keys() - {"en"})
        if chance.random() < 0.5 and "en" in given and other:
            return Planted(given["en"], given["en"], chance.choice(other))
        return None if asked[1] == "en" else Planted(given[asked[1]], given[asked[1]], "en")

    def length(picture: Picture, chance: random.Random) -> Planted:
        if chance.random() < 0.3:
            text = chance.choice(["…", "-", "...", "。", "#", "🙂"])
        else:
            text = sentence(picture)
            while len(text.split()) < chance.randint(75, 200):
                text += f" {chance.choice(others)}."
        return Planted(text, text)

    def invented(picture: Picture, chance: random.Random) -> Planted:
        text = sentence(picture).rstrip(".")
        claims = [
            f"in {chance.randint(1890, 2024)}",
            f"for ${chance.randint(21, 999)}.99",
            f"with the number {chance.randint(30, 999)}",
        ]
        claims.append(f'with a sign that says "{chance.choice(SIGNS)}"')
        text = f"{text} {chance.choice(claims)}"
        return Planted(text, text)

    def name(picture: Picture, chance: random.Random) -> Planted:
        claim = chance.choice([f"with {chance.choice(PEOPLE)}", f"near {chance.choice(PLACES)}"])
        text = f"{sentence(picture).rstrip('.')} {claim}"
        return Planted(text, text)

    return {
        **{"loop": loop, "cut_sentence": cut, "refusal": refusal, "reasoning": reasoning, "opener": opener},
        **{"wrong_language": language, "wrong_length": length, "invented_number": invented, "name": name},
    }


def _is_long(language: str, text: str) -> bool:
    """Whether a text is as long as captions are: three words, or six characters without spaces between words."""
    return len(text) >= 6 if language in ("zh", "zh-hant", "ja", "th") else len(text.split()) >= 3


def real_captions(pictures: Iterable[Picture], most: int, chance: random.Random) -> list[tuple[Picture, str]]:
    """Up to `most` captions of each vendor with their languages, one or two of each picture."""
    found: dict[str, list[tuple[Picture, str]]] = {}
    for picture in pictures:
        kept = found.setdefault(picture.vendor, [])
        if len(kept) < most:
            kept += [(picture, code) for code in dict.fromkeys(("en", chance.choice(sorted(picture.captions))))]
    return [one for kept in found.values() for one in kept]
