"""The engine img2dataset keeps the row contract."""

from __future__ import annotations

import asyncio
import functools
import http.server
import io
import socketserver
import sys
import threading
from collections.abc import Iterator

import pytest
from img2dataset_needed import needs_img2dataset
from PIL import Image

from curation.schema import Status
from curation.web.config import DownloadConfig
from curation.web.fetch import Fetched
from curation.web.img2dataset_engine import Img2datasetFetcher, error_status, resize_with_img2dataset
from pairmill.errors import UserError

JPEG = b"\xff\xd8\xff\xe0" + bytes(2000)


def config(networks: tuple[str, ...] = ("127.0.0.0/8",), timeout_s: float = 30.0) -> DownloadConfig:
    return DownloadConfig(allow_networks=networks, timeout_s=timeout_s, retries=0, max_bytes=100_000)


def fetch(url: str, settings: DownloadConfig) -> Fetched:
    async def main() -> Fetched:
        async with Img2datasetFetcher(settings) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(main())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path."""

    def __init__(self, release: threading.Event, *args: object) -> None:
        self.release = release
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        answers: dict[str, tuple[int, bytes, dict[str, str]]] = {
            "/image": (200, JPEG, {}),
            "/missing": (404, b"", {}),
            "/opt-out": (200, JPEG, {"X-Robots-Tag": "noai"}),
            "/html": (200, b"<html>" * 9, {}),
            "/empty": (200, b"", {}),
            "/large": (200, JPEG + bytes(200_000), {}),
            "/truncated": (200, JPEG, {"Content-Length": "5000"}),
        }
        if self.path == "/silent":
            self.release.wait(10)
            return
        if self.path == "/closed":
            return
        code, body, headers = answers[self.path]
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the tests' output."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    release = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), functools.partial(Handler, release)) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        release.set()
        listener.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("HTTP Error 404: Not Found", Status.HTTP_CLIENT_ERROR),
        ("HTTP Error 429: Too Many Requests", Status.RATE_LIMITED),
        ("HTTP Error 503: Service Unavailable", Status.HTTP_SERVER_ERROR),
        ("HTTP Error 302: The HTTP server returned a redirect error", Status.REDIRECT_ERROR),
        ("<urlopen error timed out>", Status.TIMEOUT),
        ("The read operation timed out", Status.TIMEOUT),
        ("<urlopen error [Errno -2] Name or service not known>", Status.DNS_ERROR),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", Status.TLS_ERROR),
        ("<urlopen error [Errno 111] Connection refused>", Status.CONNECTION_ERROR),
        ("IncompleteRead(5 bytes read, 10 more expected)", Status.TRUNCATED),
        ("Use of image disallowed by X-Robots-Tag directive", Status.OPT_OUT),
    ],
)
def test_img2dataset_errors_become_statuses(message: str, status: Status) -> None:
    assert error_status(message) is status


@needs_img2dataset
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/image", Status.SUCCESS),
        ("/missing", Status.HTTP_CLIENT_ERROR),
        ("/opt-out", Status.OPT_OUT),
        ("/truncated", Status.TRUNCATED),
        ("/html", Status.NOT_AN_IMAGE),
        ("/empty", Status.EMPTY_BODY),
        ("/large", Status.TOO_LARGE),
        ("/silent", Status.TIMEOUT),
        ("/closed", Status.CONNECTION_ERROR),
    ],
)
def test_answers_become_statuses(server: str, path: str, status: Status) -> None:
    fetched = fetch(server + path, config(timeout_s=0.4 if status is Status.TIMEOUT else 30.0))
    assert fetched.status is status, fetched.error
    assert fetched.body == (JPEG if status is Status.SUCCESS else b"")
    assert bool(fetched.error) == (status is not Status.SUCCESS)


@needs_img2dataset
@pytest.mark.parametrize(
    "path", ["http://127.0.0.1/", "http://0x7f000001/", "file:///etc/passwd", "http://a:b@8.8.8.8/"]
)
def test_forbidden_urls_are_not_handed_over(path: str) -> None:
    fetched = fetch(path, config(()))
    assert fetched.status.value.startswith("forbidden_") and fetched.attempts == 0


@needs_img2dataset
def test_resize_with_img2dataset() -> None:
    drawing = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(drawing, "PNG")
    resized = resize_with_img2dataset(drawing.getvalue(), size=100, mode="keep_ratio", image_format="jpg", quality=95)
    assert (resized.width, resized.height, resized.original_width, resized.original_height) == (150, 100, 300, 200)
    assert Image.open(io.BytesIO(resized.data)).size == (150, 100)
    broken = resize_with_img2dataset(b"no image", size=100, mode="border", image_format="jpg", quality=95)
    assert broken.data == b"" and broken.error


def test_without_the_package_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "img2dataset.resizer", None)
    with pytest.raises(UserError, match=r"set download\.engine: async"):
        resize_with_img2dataset(JPEG, size=64, mode="border", image_format="png", quality=9)
