"""Any number of captions of real length, from texts that people wrote: for `minhash.py`.

    python benchmarks/caption_texts.py        fetches the texts from npm and Debian: 32 MB, half a minute

| source | what | package |
|---|---|---|
| emoji | label and tags of 1,949 emoji, in 28 languages | npm `emojibase-data` |
| clip art | titles and descriptions of 8,121 drawings | Debian `openclipart-svg` |
| programs | what each package of Debian is for, one line | `apt-cache dumpavail` |

There is no million of real captions offline, so most are made of these.  Of each hundred, 70 follow a chain of words
(each word is drawn from those that follow the word before it in clip art and programs) and have as many words as one or
two texts drawn from these; 30 are, in one of the 28 languages, the label of an
emoji with some of its tags and the label of another.  Then 6 of a hundred become a copy of an earlier caption, the
earliest most often, and 6 a copy with an edit: a word or a character replaced, left out or moved, another case,
another punctuation.  The mean is 45 to 50 characters, as of alt texts in LAION-2B (11 tokens in the median).
"""

from __future__ import annotations

import html
import json
import random
import re
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path

from record import WORK

FOLDER = WORK / "captions"
EMOJI = "emojibase-data@17.0.0"
CLIP_ART = "openclipart-svg"
_FIELD = re.compile(r"<dc:(title|description)>(.*?)</dc:\1>", re.DOTALL)


def fetch() -> None:
    """Download the texts and keep them as `FOLDER`/emoji.json and phrases.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    said = subprocess.run(["npm", "pack", "--silent", EMOJI], cwd=FOLDER, check=True, capture_output=True, text=True)
    emoji: dict[str, list[list[str]]] = {}
    with tarfile.open(FOLDER / said.stdout.split()[-1]) as archive:
        for member in archive:
            if match := re.fullmatch(r"package/([a-z-]+)/data\.json", member.name):
                stream = archive.extractfile(member)
                assert stream is not None
                entries = [entry for entry in json.load(stream) if entry.get("label")]
                emoji[match[1]] = [[entry["label"], *(entry.get("tags") or [])] for entry in entries]
    subprocess.run(["apt-get", "download", "-q", CLIP_ART], cwd=FOLDER, check=True, capture_output=True)
    subprocess.run(["dpkg", "-x", str(next(FOLDER.glob(f"{CLIP_ART}_*.deb"))), str(FOLDER / "clip_art")], check=True)
    phrases = [_title(path) for path in sorted((FOLDER / "clip_art").rglob("*.svg"))]
    every = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True).stdout
    phrases += re.findall(r"^Description(?:-en)?: (.*)$", every, re.MULTILINE)
    (FOLDER / "emoji.json").write_text(json.dumps(emoji))
    (FOLDER / "phrases.json").write_text(json.dumps([phrase for phrase in phrases if phrase]))


def _title(path: Path) -> str:
    head = path.read_text(errors="replace")[:20_000]
    found = dict(_FIELD.findall(head))
    return " ".join(html.unescape(f"{found.get('title', '')} {found.get('description', '')}").split())


def captions(count: int, seed: int = 0) -> list[str]:
    """So many captions, the same for the same seed; the first 100,000 of a million are not those of 100,000."""
    if not (FOLDER / "phrases.json").exists():
        fetch()
    emoji = list(json.loads((FOLDER / "emoji.json").read_text()).values())
    phrases = [phrase.split() for phrase in json.loads((FOLDER / "phrases.json").read_text())]
    chance = random.Random(seed)
    following: dict[str, list[str]] = defaultdict(list)
    for words in phrases:
        for word, after in zip(["", *words], [*words, ""], strict=True):
            following[word].append(after)
    everything = [word for words in phrases for word in words]

    made: list[str] = []
    for _ in range(count):
        kind = chance.random()
        if made and kind < 0.06:
            made.append(made[int(len(made) * chance.random() ** 4)])
        elif made and kind < 0.12:
            made.append(edited(chance.choice(made), chance, everything))
        elif kind < 0.12 + 0.88 * 0.7:
            length, words = sum(len(chance.choice(phrases)) for _ in range(chance.randint(1, 2))), [""]
            for _ in range(length):
                words.append(chance.choice(following[words[-1]]) or chance.choice(following[""]))
            made.append(" ".join(words[1:]))
        else:
            language = chance.choice(emoji)
            (label, *tags), (other, *_) = chance.choice(language), chance.choice(language)
            made.append(", ".join([label, *chance.sample(tags, chance.randint(0, min(6, len(tags)))), other]))
    return made


def edited(text: str, chance: random.Random, words: list[str]) -> str:
    """The text with one edit of a kind that people make."""
    parts, at = text.split(" "), chance.randrange(len(text))
    here = chance.randrange(len(parts))
    kind = chance.randrange(7)
    if kind == 0:
        return text.upper()
    if kind == 1:
        return text + chance.choice([".", "!", " ...", " -"])
    if kind == 2:
        return text[:at] + text[at + 1 :] or text
    if kind == 3:
        return text[:at] + chance.choice("aeiou") + text[at + 1 :]
    if kind == 4:
        parts[here] = chance.choice(words)
    elif kind == 5:
        parts.insert(here, chance.choice(words))
    else:
        parts.append(parts.pop(here))
    return " ".join(parts)


if __name__ == "__main__":
    fetch()
    for caption in captions(20):
        print(caption)
