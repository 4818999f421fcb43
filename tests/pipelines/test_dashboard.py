from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pairmill.errors import UserError
from pipelines import dashboard
from pipelines.dashboard import check_dashboard, is_loopback, without_credentials

Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers every request alike."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert not self.headers.get("Authorization")
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_dashboard_that_refuses_strangers_is_protected(serve: Serve, status: int) -> None:
    url = serve(status, b"no")
    assert check_dashboard(url) == {"url": url, "protected": True}


def test_an_open_one_on_this_machine_is_reported(serve: Serve) -> None:
    url = serve(200, b"[]")
    assert check_dashboard(url + "/") == {"url": url, "protected": False}


def test_an_open_one_that_others_reach_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "is_loopback", lambda _: False)
    with pytest.raises(UserError, match="RAY_AUTH_MODE=token"):
        check_dashboard(serve(200, b"[]"))


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (200, b"{}"), (404, b""), (500, b"")])
def test_what_is_no_dashboard_is_not_called_protected(serve: Serve, status: int, body: bytes) -> None:
    with pytest.raises(UserError, match="must be that of Ray's dashboard"):
        check_dashboard(serve(status, body))


def test_nothing_there() -> None:
    with pytest.raises(UserError, match="must be that of Ray's dashboard"):
        check_dashboard("http://127.0.0.1:9")


def test_credentials_are_neither_sent_nor_shown(serve: Serve) -> None:
    url = serve(401, b"")
    assert check_dashboard(url.replace("://", "://user:password@")) == {"url": url, "protected": True}
    assert without_credentials("https://u:p@h:1/x?y#z") == "https://h:1/x?y#z"


@pytest.mark.parametrize(
    ("url", "alone"),
    [
        ("http://127.0.0.1:8265", True),
        ("http://localhost:8265", True),
        ("http://[::1]:8265", True),
        ("http://0.0.0.0:8265", False),
        ("http://10.0.0.1:8265", False),
        ("http://localhost.example.com", False),
        ("http://user@127.0.0.1@example.com", False),
    ],
)
def test_loopback(url: str, alone: bool) -> None:
    assert is_loopback(url) is alone
