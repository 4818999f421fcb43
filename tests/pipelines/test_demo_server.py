"""Every behaviour of the demo's web site, seen through a plain HTTP client, and the demo's list of URLs."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from pairmill.errors import UserError
from pipelines import demo_rows as rows_module
from pipelines.demo_rows import BAD_TEXTS, BAD_URLS, DETOURS, REFUSED_URLS, demo_rows, labels
from pipelines.demo_server import BEHAVIOURS, BOMB_SIDE, IMAGES, PROJECT, corrupt, demo_server, original, stems

STEM = "1f600" if (IMAGES / "1f600.webp").exists() else stems()[0]
FILE = f"{STEM}.webp"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with demo_server() as base_url:
        yield base_url


@pytest.fixture
def site(server: str) -> str:
    """The module's server with all counts at zero."""
    asyncio.run(_post(f"{server}/_reset"))
    return server


async def _post(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(url) as response:
        assert response.status == 204


class Answer:
    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.type = response.content_type
        self.headers = response.headers
        self.body = body

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.body))


def get(url: str, *, redirects: bool = False) -> Answer:
    async def fetch() -> Answer:
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.get(url, allow_redirects=redirects) as response,
        ):
            return Answer(response, await response.read())

    return asyncio.run(fetch())


def counts(site: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(get(f"{site}/_count").body)
    return found


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """64 x 64 RGB on white, as float."""
    rgba = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.asarray(flat.resize((64, 64)), dtype=np.float64)


def same_picture(one: Image.Image, other: Image.Image) -> bool:
    return bool(np.abs(pixels(one) - pixels(other)).mean() < 4)


def proper() -> Image.Image:
    return Image.open(io.BytesIO(original(STEM)))


def test_proper_image(site: str) -> None:
    answer = get(f"{site}/images/{FILE}")
    assert (answer.status, answer.type, answer.body) == (200, "image/webp", (IMAGES / FILE).read_bytes())


@pytest.mark.parametrize("path", ["images/nothing.webp", "nowhere/x.webp", "images/..%2f..%2flabels.jsonl", "images/x"])
def test_unknown_paths_are_404(site: str, path: str) -> None:
    assert get(f"{site}/{path}").status == 404


def test_missing(site: str) -> None:
    assert get(f"{site}/missing/{FILE}").status == 404


@pytest.mark.parametrize(("folder", "status", "retry_after"), [("busy", 429, "1"), ("flaky", 503, None)])
def test_refused_once_per_path(site: str, folder: str, status: int, retry_after: str | None) -> None:
    first, second = get(f"{site}/{folder}/{FILE}"), get(f"{site}/{folder}/{FILE}")
    assert (first.status, first.headers.get("Retry-After")) == (status, retry_after)
    assert (second.status, second.body) == (200, original(STEM))
    assert get(f"{site}/{folder}/{stems()[1]}.webp").status == status
    asyncio.run(_post(f"{site}/_reset"))
    assert get(f"{site}/{folder}/{FILE}").status == status


def test_always_busy(site: str) -> None:
    for _ in range(3):
        answer = get(f"{site}/always-busy/{FILE}")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3600")


def test_slow_drips_inside_any_gap_limit(site: str) -> None:
    async def drip() -> list[bytes]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=2)) as session,
            session.get(f"{site}/slow/{FILE}") as response,
        ):
            return [await response.content.readany() for _ in range(4)]

    drops = asyncio.run(drip())
    assert b"".join(drops) == original(STEM)[: sum(map(len, drops))]
    assert sum(map(len, drops)) <= 100


def test_endless_goes_on_past_any_picture(site: str) -> None:
    async def swallow(limit: int) -> int:
        async with aiohttp.ClientSession() as session, session.get(f"{site}/endless/{FILE}") as response:
            assert response.content_length is None
            taken = 0
            async for chunk in response.content.iter_any():
                taken += len(chunk)
                if taken > limit:
                    break
            return taken

    assert asyncio.run(swallow(20_000_000)) > 20_000_000
    assert get(f"{site}/images/{FILE}").status == 200


def test_truncated_announces_more_than_it_sends(site: str) -> None:
    async def fetch() -> tuple[int | None, bytes]:
        received = b""
        async with aiohttp.ClientSession() as session, session.get(f"{site}/truncated/{FILE}") as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                async for chunk in response.content.iter_any():
                    received += chunk
            return response.content_length, received

    announced, received = asyncio.run(fetch())
    assert announced == len(original(STEM))
    assert received == original(STEM)[: len(original(STEM)) // 2]


@pytest.mark.parametrize(
    ("folder", "location"),
    [
        ("redirect", f"/images/{FILE}"),
        ("redirect-private", f"http://10.0.0.1/{FILE}"),
        ("redirect-metadata", "http://169.254.169.254/latest/meta-data"),
        ("redirect-loop", f"/redirect-loop/{FILE}"),
    ],
)
def test_redirects(site: str, folder: str, location: str) -> None:
    answer = get(f"{site}/{folder}/{FILE}")
    assert (answer.status, answer.headers["Location"]) == (302, location)


def test_good_redirect_leads_to_the_picture(site: str) -> None:
    assert get(f"{site}/redirect/{FILE}", redirects=True).body == original(STEM)
    with pytest.raises(aiohttp.TooManyRedirects):
        get(f"{site}/redirect-loop/{FILE}", redirects=True)


def test_html_called_jpeg(site: str) -> None:
    answer = get(f"{site}/html/{FILE}")
    assert answer.type == "image/jpeg" and answer.body.startswith(b"<!doctype html")


def test_picture_called_text(site: str) -> None:
    answer = get(f"{site}/mistyped/{FILE}")
    assert (answer.type, answer.body) == ("text/plain", original(STEM))


def test_empty(site: str) -> None:
    answer = get(f"{site}/empty/{FILE}")
    assert (answer.status, answer.body) == (200, b"")


def test_zstd_though_not_asked_for(site: str) -> None:
    answer = get(f"{site}/zstd/{FILE}")
    assert answer.headers["Content-Encoding"] == "zstd"
    assert pa.input_stream(pa.BufferReader(answer.body), compression="zstd").read() == original(STEM)


def test_corrupt_keeps_the_magic_bytes_only(site: str) -> None:
    answer = get(f"{site}/corrupt/{FILE}")
    assert answer.body[:12] == original(STEM)[:12]
    for stem in stems()[::20]:
        with pytest.raises(OSError):
            Image.open(io.BytesIO(corrupt(stem))).load()


def test_bomb_is_small_and_announces_gigapixels(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The inspect stage, which checks sizes itself, takes Pillow's own limit away in the process that imports it.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)
    body = get(f"{site}/bomb/{FILE}").body
    assert len(body) < 1_000
    assert body[:8] == b"\x89PNG\r\n\x1a\n" and int.from_bytes(body[16:20], "big") == BOMB_SIDE
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(body))


def test_animated(site: str) -> None:
    answer = get(f"{site}/animated/{FILE}")
    image = answer.image()
    assert (answer.type, image.format, getattr(image, "n_frames", 1)) == ("image/gif", "GIF", 3)
    assert same_picture(image, proper())
    image.seek(1)
    assert not same_picture(image, proper())


def test_oriented_is_upright_only_when_orientation_is_applied(site: str) -> None:
    image = get(f"{site}/oriented/{FILE}").image()
    assert image.getexif()[0x0112] == 6
    assert image.getexif().get_ifd(0x8825)[1] == "N"
    assert same_picture(ImageOps.exif_transpose(image), proper())
    assert not same_picture(image, proper())


def test_thumbnail(site: str) -> None:
    image = get(f"{site}/thumbnail/{FILE}").image()
    assert image.size == (64, 64) and same_picture(image, proper())


def test_copy_and_reencoded_are_duplicates(site: str) -> None:
    assert get(f"{site}/copy/{FILE}").body == original(STEM)
    answer = get(f"{site}/reencoded/{FILE}")
    assert (answer.type, answer.image().format, answer.image().size) == ("image/jpeg", "JPEG", (230, 230))
    assert same_picture(answer.image(), proper())


def test_opt_out_and_robots(site: str) -> None:
    assert get(f"{site}/opt-out/{FILE}").headers["X-Robots-Tag"] == "noai"
    assert "X-Robots-Tag" not in get(f"{site}/images/{FILE}").headers
    robots = get(f"{site}/robots.txt").body.decode().splitlines()
    assert robots == ["User-agent: *", "Disallow: /private/"]
    assert get(f"{site}/private/{FILE}").body == original(STEM)


def test_counts_and_reset(site: str) -> None:
    for path in [f"/images/{FILE}", f"/images/{FILE}?again=1", f"/missing/{FILE}", "/robots.txt", "/nowhere"]:
        get(site + path)
    assert counts(site) == {f"/images/{FILE}": 2, f"/missing/{FILE}": 1, "/robots.txt": 1, "/nowhere": 1}
    asyncio.run(_post(f"{site}/_reset"))
    assert counts(site) == {}


def refused(url: str) -> bool:
    try:
        get(url)
    except aiohttp.ClientConnectorError:
        return True
    except (aiohttp.ClientError, asyncio.TimeoutError):  # it stops while it answers
        return False
    return False


def test_server_stops_with_the_block_even_when_somebody_still_reads() -> None:
    async def read_while_stopping() -> str:
        with demo_server() as base_url:
            async with aiohttp.ClientSession() as session, session.get(f"{base_url}/slow/{FILE}") as response:
                await response.content.readany()
                return base_url

    assert refused(asyncio.run(read_while_stopping()))


def test_server_stops_when_its_parent_is_killed() -> None:
    program = (
        "from pipelines.demo_server import demo_server\n"
        "with demo_server() as base_url:\n"
        "    print(base_url, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().strip()
        assert get(f"{base_url}/images/{FILE}").status == 200
        os.kill(parent.pid, signal.SIGKILL)

    async def until_refused() -> None:
        while not await asyncio.to_thread(refused, f"{base_url}/images/{FILE}"):
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(until_refused(), timeout=10))


def test_taken_port_is_the_users_error(server: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="free port"), demo_server(int(server.rpartition(":")[2])):
        pass


# -------------------------------------------------------------------------------------------------- the list of URLs


def test_rows_hold_every_emoji_and_every_behaviour() -> None:
    base = "http://127.0.0.1:8000"
    rows = demo_rows(base).to_pylist()
    cases = Counter(row["case"] for row in rows)
    for folder, n in {**DETOURS, **BAD_URLS}.items():
        assert cases[folder] == n
        assert all(f"/{folder}/" in row["url"] for row in rows if row["case"] == folder)
    assert set(DETOURS) | set(BAD_URLS) | {"images"} == set(BEHAVIOURS)
    assert all(cases[case] == 1 for case in REFUSED_URLS)
    assert all(cases[case] == len(texts) for case, texts in BAD_TEXTS.items())

    good = [row for row in rows if row["case"] in {"plain", "text-mojibake", *DETOURS}]
    assert sorted(row["hexcode"] for row in good) == sorted(entry["hexcode"] for entry in labels())
    assert len(labels()) >= 640


def test_rows_have_real_labels_of_which_15_percent_are_chinese() -> None:
    by_code = {entry["hexcode"]: entry for entry in labels()}
    rows = demo_rows("http://127.0.0.1:8000").to_pylist()
    plain = [row for row in rows if row["case"] == "plain"]
    languages = Counter(
        "en" if row["text"] == by_code[row["hexcode"]]["en"] else "zh" if row["text"] == row["zh"] else "?"
        for row in plain
    )
    assert set(languages) == {"en", "zh"} and 0.13 < languages["zh"] / len(plain) < 0.17
    assert all(row["zh"] == by_code[row["hexcode"]]["zh"] for row in rows)
    for row in rows:
        if row["case"] == "text-mojibake":
            assert row["text"] != by_code[row["hexcode"]]["en"]
            assert row["text"].encode("cp1252").decode("utf-8") == by_code[row["hexcode"]]["en"]


def test_rows_repeat_exactly_three_inputs_and_share_one_text() -> None:
    rows = demo_rows("http://127.0.0.1:8000").to_pylist()
    repeated = {pair: n for pair, n in Counter((row["url"], row["text"]) for row in rows).items() if n > 1}
    assert list(repeated.values()) == [2, 2, 2]
    assert {(row["url"], row["text"]) for row in rows if row["case"] == "duplicate-input"} == set(repeated)
    shared = [row["url"] for row in rows if row["text"] == rows_module.SHARED_TEXT]
    assert len(shared) == len(set(shared)) == 15


def test_rows_are_the_same_every_time() -> None:
    one, other = demo_rows("http://127.0.0.1:8000"), demo_rows("http://127.0.0.1:8000")
    assert one.equals(other)
    moved = demo_rows("http://127.0.0.1:9000")
    assert moved["hexcode"].equals(one["hexcode"]) and not moved["url"].equals(one["url"])


def test_sample_images_are_what_the_labels_say() -> None:
    assert sorted(entry["file"] for entry in labels()) == sorted(path.name for path in IMAGES.iterdir())
    assert sum(entry["group"] == "flags" for entry in labels()) <= 20
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) <= 4_000_000
    for entry in labels()[::50]:
        assert Image.open(IMAGES / entry["file"]).size == (256, 256)
        assert entry["en"] and entry["zh"]
