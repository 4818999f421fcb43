"""Fetch the drawings and labels the two sample models are trained on.

    python samples/training/fetch_data.py WORK_DIR

Cost: about 170 MB of npm packages, half a minute on one core.  Needs `npm`, and from PyPI `pillow` and `resvg-py`.
Result:
    WORK_DIR/npm/*.tgz                       the packages as published, pinned below
    WORK_DIR/drawings/VENDOR/HEXCODE.png     64 px RGBA drawings of the training vendors
    WORK_DIR/heldout/HEXCODE.webp            Microsoft's Fluent drawings as published: for evaluation only
    WORK_DIR/emojibase/{en,zh}/              labels, tags and shortcodes
    WORK_DIR/cldr/                           names of symbols, territories and languages in English and Chinese

HEXCODE is emojibase's upper-case code-point sequence without variation selectors.  Only concepts without a skin
tone are drawn.  `--from DIR` takes already downloaded tarballs from DIR first.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

SIZE = 64
LABELS = "emojibase-data@17.0.0"
HELD_OUT = "@lobehub/fluent-emoji-3d@1.1.0"
CLDR = ("cldr-annotations-full@48.2.0", "cldr-localenames-full@48.2.0")
DRAWINGS = {
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "openmoji": "openmoji@17.0.0",
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "blob": "@iconify-json/noto-v1@1.2.5",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
    "streamline": "@iconify-json/streamline-emojis@1.2.4",
}


def pack(spec: str, *, npm_dir: Path, local: Path | None) -> Path:
    """The package's tarball in `npm_dir`, from `local` or from the npm registry."""
    name, _, version = spec.rpartition("@")
    tarball = npm_dir / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not tarball.exists():
        if local is not None and (local / tarball.name).exists():
            shutil.copy(local / tarball.name, tarball)
        else:
            subprocess.run(["npm", "pack", "--silent", spec], cwd=npm_dir, check=True, stdout=subprocess.DEVNULL)
    return tarball


def members(tarball: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """Files of the tarball whose whole path matches `pattern`, with their content."""
    with tarfile.open(tarball) as archive:
        for member in archive:
            match = re.fullmatch(pattern, member.name)
            if match and member.isfile():
                stream = archive.extractfile(member)
                assert stream is not None
                yield match, stream.read()


def hexcode(stem: str) -> str:
    """`1f441-fe0f-200d-1f5e8` as emojibase writes it: upper case, no variation selector."""
    return "-".join(part for part in stem.upper().split("-") if part not in ("FE0F", "FE0E"))


def squash(name: str) -> str:
    """Letters and digits of a name: the common ground of labels, shortcodes and icon names."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]", "", ascii_name.replace("&", "and"))


def names_to_hexcodes(emojibase: Path) -> dict[str, str]:
    """Squashed label or shortcode -> hexcode; a shortcode shared by two concepts counts for neither."""
    labels: dict[str, str] = {}
    shortcodes: dict[str, set[str]] = {}
    known = set()
    for entry in json.loads((emojibase / "en" / "data.json").read_text()):
        known.add(hexcode(entry["hexcode"]))
        labels[squash(entry["label"])] = hexcode(entry["hexcode"])
    for preset in ("cldr", "emojibase", "iamcal", "joypixels", "github"):
        for code, names in json.loads((emojibase / "en" / "shortcodes" / f"{preset}.json").read_text()).items():
            if hexcode(code) in known:
                for name in [names] if isinstance(names, str) else names:
                    shortcodes.setdefault(squash(name), set()).add(hexcode(code))
    return {name: codes.copy().pop() for name, codes in shortcodes.items() if len(codes) == 1} | labels


def save_drawing(encoded: bytes, target: Path) -> None:
    """Save as a 64 px RGBA PNG."""
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    image.save(target)


def rasterise(svg: str) -> bytes:
    """PNG of an SVG; wider-than-tall drawings keep their shape and are squared by `save_drawing`."""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))


def iconify_svgs(tarball: Path) -> Iterator[tuple[str, str]]:
    """(icon name, SVG) of an Iconify JSON package, aliases included."""
    (_, raw), *_ = members(tarball, r"package/icons\.json")
    data: dict[str, Any] = json.loads(raw)
    icons = dict(data["icons"])
    for alias, entry in data.get("aliases", {}).items():
        if entry.get("parent") in icons and not {"rotate", "hFlip", "vFlip"} & entry.keys():
            icons.setdefault(alias, icons[entry["parent"]])
    for name, icon in icons.items():
        left, top = icon.get("left", data.get("left", 0)), icon.get("top", data.get("top", 0))
        width, height = (icon.get(side, data.get(side, 16)) for side in ("width", "height"))
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        view = f"{left} {top} {width} {height}"
        yield name, f'<svg {namespaces} viewBox="{view}">{icon["body"]}</svg>'


def fetch_vendor(vendor: str, tarball: Path, *, target: Path, concepts: set[str], names: dict[str, str]) -> int:
    """Write the vendor's drawing of every concept it has; returns how many."""
    target.mkdir(parents=True, exist_ok=True)
    if "iconify" in tarball.name:
        for name, svg in iconify_svgs(tarball):
            plain = re.sub(r"-\d$", "", name).replace("flag-for-", "flag-")
            code = names.get(squash(name)) or names.get(squash(plain))
            if code is not None and not (target / f"{code}.png").exists():
                save_drawing(rasterise(svg), target / f"{code}.png")
    else:
        pattern = r"package/color/svg/(.+)\.svg" if vendor == "openmoji" else r"package/img/\w+/64/(.+)\.png"
        for match, raw in members(tarball, pattern):
            code = hexcode(match[1])
            if code in concepts:
                save_drawing(rasterise(raw.decode()) if vendor == "openmoji" else raw, target / f"{code}.png")
    return len(list(target.glob("*.png")))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch training drawings and labels.")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--from", dest="local", type=Path, help="directory with already downloaded tarballs")
    args = parser.parse_args()
    work: Path = args.work_dir
    npm_dir = work / "npm"
    npm_dir.mkdir(parents=True, exist_ok=True)

    for match, raw in members(
        pack(LABELS, npm_dir=npm_dir, local=args.local), r"package/((?:en|zh)/(?:data|shortcodes/\w+)\.json)"
    ):
        path = work / "emojibase" / match[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    for spec in CLDR:
        tarball = pack(spec, npm_dir=npm_dir, local=args.local)
        for match, raw in members(tarball, r"package/(?:annotations|main)/(en|zh)/(\w+)\.json"):
            path = work / "cldr" / match[1] / f"{match[2]}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)

    emojibase = work / "emojibase"
    concepts = {hexcode(e["hexcode"]) for e in json.loads((emojibase / "en" / "data.json").read_text())}
    names = names_to_hexcodes(emojibase)
    for vendor, spec in DRAWINGS.items():
        tarball = pack(spec, npm_dir=npm_dir, local=args.local)
        target = work / "drawings" / vendor
        count = fetch_vendor(vendor, tarball, target=target, concepts=concepts, names=names)
        print(f"{vendor}: {count} of {len(concepts)} concepts", flush=True)

    held_out = work / "heldout"
    held_out.mkdir(exist_ok=True)
    for match, raw in members(pack(HELD_OUT, npm_dir=npm_dir, local=args.local), r"package/assets/(.+)\.webp"):
        if hexcode(match[1]) in concepts:
            (held_out / f"{hexcode(match[1])}.webp").write_bytes(raw)
    print(f"held out (Fluent): {len(list(held_out.glob('*.webp')))} of {len(concepts)} concepts")


if __name__ == "__main__":
    main()
