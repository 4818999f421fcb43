#!/usr/bin/env bash
# Pillow 13.0.0: the transparent colour of a PNG (tRNS) is missed at 2 and 4 bits of grey and at 16 bits of RGB.
#
# source:     PngImagePlugin.chunk_tRNS keeps the number as the file has it, while the samples of the loaded picture have
#             8 bits: those of 2 or 4 bits are scaled up, and those of 16 bits lose their lower half.
# behaviour:  such a picture, converted to RGBA, has no transparent pixel; the PNG specification (11.3.2.1) makes every
#             pixel of that colour transparent.
# seen:       grey 1: 2 pixels, grey 2: 0, grey 4: 0, grey 8: 2, rgb 8: 2, rgb 16: 0     (2026-11-29, Linux, Python 3.11)
# pairmill:   the reader of PNG takes tRNS out of the file and compares the samples itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==13.0.0
seen=$("$folder/env/bin/python" - <<'PYTHON'
import io, struct, zlib
from PIL import Image

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

def png(depth, colour, row, key):
    """Four pixels in a row, of which two have the colour of `key`."""
    head = struct.pack(">IIBBBBB", 4, 1, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)

pictures = {
    "grey 1": png(1, 0, b"\x30", b"\0\1"),
    "grey 2": png(2, 0, b"\x0a", b"\0\2"),
    "grey 4": png(4, 0, b"\x00\x55", b"\0\5"),
    "grey 8": png(8, 0, b"\0\0\5\5", b"\0\5"),
    "rgb 8": png(8, 2, bytes(6) + b"\5\6\7" * 2, b"\0\5\0\6\0\7"),
    "rgb 16": png(16, 2, bytes(12) + b"\x12\x34" * 6, b"\x12\x34" * 3),
}
for name, data in pictures.items():
    alpha = Image.open(io.BytesIO(data)).convert("RGBA").getchannel("A").tobytes()
    print(f"{name}: {alpha.count(0)}", end=", " if name != "rgb 16" else "\n")
PYTHON
)
echo "$seen"
[ "$seen" = "grey 1: 2, grey 2: 0, grey 4: 0, grey 8: 2, rgb 8: 2, rgb 16: 0" ] || { echo "changed: other pixels are transparent"; exit 1; }
echo "as described"
