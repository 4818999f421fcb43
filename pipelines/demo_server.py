"""The demo's web site: serves the sample emoji over HTTP on 127.0.0.1, and misbehaves on request.

    python -m pipelines.demo_server --port 0        prints {"port": N} once it listens

FILE below is the name of a sample image, with any suffix.  /images/FILE is the proper picture; every other folder
is one way in which the web fails a downloader:

    the answer      /missing/F 404 · /busy/F 429 once · /always-busy/F 429, Retry-After an hour · /flaky/F 503 once
    the transfer    /slow/F drips forever · /endless/F never ends · /truncated/F ends early · /empty/F · /zstd/F
    redirects       /redirect/F good · /redirect-private/F · /redirect-metadata/F · /redirect-loop/F
    the bytes       /html/F · /mistyped/F (a good picture called text) · /corrupt/F · /bomb/F (2.5 gigapixels by its
                    header) · /animated/F · /oriented/F (EXIF orientation and GPS) · /thumbnail/F (64 px)
    duplicates      /copy/F same bytes · /reencoded/F the picture, 0.9 times as large, as JPEG
    the owner       /opt-out/F X-Robots-Tag: noai · /private/F disallowed by /robots.txt

GET /_count gives {path: requests so far}, POST /_reset forgets them and with them which paths were busy or flaky once.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

import pyarrow as pa
from aiohttp import web
from PIL import Image

from pairmill.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / "samples" / "emoji" / "images"
HOST = "127.0.0.1"
BOMB_SIDE = 50_000
THUMBNAIL_SIDE = 64
EXIF_ORIENTATION, EXIF_GPS = 0x0112, 0x8825
COUNTS = web.AppKey("counts", Counter[str])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# ---------------------------------------------------------------------------------------------------------- pictures


@lru_cache(maxsize=1)
def stems() -> list[str]:
    """Names, without suffix, of all sample images, sorted."""
    return sorted(path.stem for path in IMAGES.glob("*.webp"))


@cache
def original(stem: str) -> bytes:
    """The sample image's WebP bytes."""
    return (IMAGES / f"{stem}.webp").read_bytes()


def _on_white(stem: str) -> Image.Image:
    with Image.open(io.BytesIO(original(stem))) as image:
        drawing = image.convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(white, drawing).convert("RGB")


def _encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@cache
def reencoded(stem: str) -> bytes:
    """The picture on white, 0.9 times as large, as JPEG of quality 70."""
    image = _on_white(stem)
    smaller = (round(image.width * 0.9), round(image.height * 0.9))
    return _encode(image.resize(smaller, Image.Resampling.LANCZOS), "JPEG", quality=70)


@cache
def thumbnail(stem: str) -> bytes:
    """The picture on white, too small to train on."""
    return _encode(_on_white(stem).resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE)), "JPEG", quality=85)


@cache
def animated(stem: str) -> bytes:
    """An animated GIF of three frames: the picture, and the two that follow it by name."""
    first = stems().index(stem)
    frames = [_on_white(stems()[(first + step) % len(stems())]) for step in range(3)]
    return _encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)


@cache
def oriented(stem: str) -> bytes:
    """A JPEG as a camera held upright writes it: turned, with orientation 6 to turn it back, and with a position."""
    image = _on_white(stem)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    exif[EXIF_GPS] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}
    return _encode(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)


def corrupt(stem: str) -> bytes:
    """The right magic bytes, then flipped bits, then nothing: a third of the file is missing."""
    data = bytearray(original(stem))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    return bytes(data[: len(data) * 2 // 3])


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """A PNG of some hundred bytes whose header announces 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(BOMB_SIDE * 3 + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------------- handlers


def _stem(request: web.Request) -> str:
    stem = request.match_info["file"].rpartition(".")[0]
    if stem not in stems():
        raise web.HTTPNotFound
    return stem


def _picture(request: web.Request) -> web.Response:
    return web.Response(body=original(_stem(request)), content_type="image/webp")


def _body(content_type: str, make: Callable[[str], bytes]) -> Handler:
    """A handler that answers with what `make` makes of the file's stem."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=make(_stem(request)), content_type=content_type)

    return handler


def _redirect(to: str) -> Handler:
    """A handler that redirects to `to`, in which {file} stands for the file's name."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.HTTPFound(to.format(file=request.match_info["file"]))

    return handler


def _refuse_once(status: int, headers: dict[str, str]) -> Handler:
    """A handler that refuses the first request to a path and serves the picture from then on."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.app[COUNTS][request.path] == 1:
            return web.Response(status=status, headers=headers)
        return _picture(request)

    return handler


async def _image(request: web.Request) -> web.StreamResponse:
    return _picture(request)


async def _missing(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="no such picture")


async def _always_busy(request: web.Request) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "3600"})


async def _slow(request: web.Request) -> web.StreamResponse:
    """The picture at 40 bytes a second, then zeros at that rate: inside any gap limit, forever."""
    response = web.StreamResponse(headers={"Content-Type": "image/webp"})
    await response.prepare(request)
    body = original(_stem(request))
    position = 0
    while True:
        await response.write(body[position : position + 10] or bytes(10))
        position += 10
        await asyncio.sleep(0.25)


async def _endless(request: web.Request) -> web.StreamResponse:
    """The picture, then zeros as fast as they are taken."""
    response = web.StreamResponse(headers={"Content-Type": "image/webp"})
    await response.prepare(request)
    await response.write(original(_stem(request)))
    zeros = bytes(1 << 16)
    while True:
        await response.write(zeros)
        await asyncio.sleep(0)  # a fast reader must not block everyone else


async def _truncated(request: web.Request) -> web.StreamResponse:
    """Half of what Content-Length announces, then the connection closes."""
    body = original(_stem(request))
    response = web.StreamResponse(headers={"Content-Type": "image/webp"})
    response.content_length = len(body)
    response.force_close()
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return response


async def _zstd(request: web.Request) -> web.StreamResponse:
    """Encoded although no encoding was requested."""
    body = pa.compress(original(_stem(request)), codec="zstd", asbytes=True)
    return web.Response(body=body, content_type="image/webp", headers={"Content-Encoding": "zstd"})


async def _opt_out(request: web.Request) -> web.StreamResponse:
    response = _picture(request)
    response.headers["X-Robots-Tag"] = "noai"
    return response


async def _robots(request: web.Request) -> web.StreamResponse:
    return web.Response(text="User-agent: *\nDisallow: /private/\n")


async def _count(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[COUNTS])


async def _reset(request: web.Request) -> web.StreamResponse:
    request.app[COUNTS].clear()
    return web.Response(status=204)


BEHAVIOURS: dict[str, Handler] = {
    "images": _image,
    "missing": _missing,
    "busy": _refuse_once(429, {"Retry-After": "1"}),
    "always-busy": _always_busy,
    "flaky": _refuse_once(503, {}),
    "slow": _slow,
    "endless": _endless,
    "truncated": _truncated,
    "empty": _body("image/webp", lambda stem: b""),
    "zstd": _zstd,
    "redirect": _redirect("/images/{file}"),
    "redirect-private": _redirect("http://10.0.0.1/{file}"),
    "redirect-metadata": _redirect("http://169.254.169.254/latest/meta-data"),
    "redirect-loop": _redirect("/redirect-loop/{file}"),
    "html": _body("image/jpeg", lambda stem: b"<!doctype html><title>Gone</title><p>This picture has moved.</p>"),
    "mistyped": _body("text/plain", original),
    "corrupt": _body("image/webp", corrupt),
    "bomb": _body("image/png", lambda stem: bomb()),
    "animated": _body("image/gif", animated),
    "oriented": _body("image/jpeg", oriented),
    "thumbnail": _body("image/jpeg", thumbnail),
    "copy": _image,
    "reencoded": _body("image/jpeg", reencoded),
    "opt-out": _opt_out,
    "private": _image,
}


@web.middleware
async def _counting(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not request.path.startswith("/_"):
        request.app[COUNTS][request.path] += 1
    return await handler(request)


def make_app() -> web.Application:
    """The site as an aiohttp application."""
    app = web.Application(middlewares=[_counting])
    app[COUNTS] = Counter()
    app.router.add_get("/robots.txt", _robots)
    app.router.add_get("/_count", _count)
    app.router.add_post("/_reset", _reset)
    for folder, handler in BEHAVIOURS.items():
        app.router.add_get(f"/{folder}/{{file}}", handler)
    return app


# ----------------------------------------------------------------------------------------------------------- process


async def _serve(port: int, parent: int | None) -> None:
    # Clients of /slow and /endless never leave by themselves, so stopping does not wait for them.
    runner = web.AppRunner(make_app(), access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        bound: int = runner.addresses[0][1]
        print(json.dumps({"port": bound}), flush=True)
        # A parent that was killed cannot stop us, so check whether we have another parent.
        while parent is None or os.getppid() == parent:
            await asyncio.sleep(0.25)
    finally:
        # A request that arrives meanwhile may keep it waiting until its client gives up.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(runner.cleanup(), timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the sample emoji on 127.0.0.1, and misbehave on request.")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--parent", type=int, help="exit when this process is no longer the parent")
    args = parser.parse_args()
    try:
        asyncio.run(_serve(args.port, args.parent))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"demo server: {error}")


@contextmanager
def demo_server(port: int = 0) -> Iterator[str]:
    """Run the site in a process of its own and give its base URL, `http://127.0.0.1:PORT`.

    The process ends with the block, and also when this process is killed.
    Raises UserError when it cannot listen on `port`.
    """
    command = [sys.executable, "-m", "pipelines.demo_server", "--port", str(port), "--parent", str(os.getpid())]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready:
                raise UserError(
                    "the demo server must be able to listen on 127.0.0.1",
                    value=f"port {port}, exit code {process.wait()}",
                    fix="give a free port, or 0 for any",
                )
            yield f"http://{HOST}:{json.loads(ready)['port']}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    main()
