"""Connecting, in a process of its own: Ray reads its token and its mode once a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.doctor import project_root

TOKEN = "0123456789abcdef" * 4

CONNECT = """
import sys, ray
from pairmill.errors import UserError
from pipelines.jobs import cluster_hosts, connect
try:
    print("hosts", *sorted(cluster_hosts(connect(sys.argv[1]))))
except UserError as error:
    print("refused", error)
"""


@pytest.fixture
def cluster() -> Iterator[str]:
    """Answers as a cluster's head does, to those who have the token."""

    class Head(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.send_response(200 if known else 401 if not self.headers.get("Authorization") else 403)
            self.end_headers()
            answer = {"ray_version": "2.60.0", "data": {"hostNameList": ["one", "two"]}}
            self.wfile.write(json.dumps(answer).encode() if known else b"who are you?")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def connected(url: str, home: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, url],
        cwd=project_root(),
        env=clean | {"HOME": str(home)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_token_is_sent_and_the_address_given_is_the_one_asked(cluster: str, tmp_path: Path) -> None:
    elsewhere = {"RAY_ADDRESS": "http://127.0.0.1:9"}
    assert connected(cluster, tmp_path, RAY_AUTH_TOKEN=TOKEN, **elsewhere) == "hosts one two\n"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    assert connected(cluster, tmp_path) == "hosts one two\n"


@pytest.mark.slow
def test_without_the_token_or_a_cluster_the_error_says_what_to_do(cluster: str, tmp_path: Path) -> None:
    wrong = connected(cluster, tmp_path, RAY_AUTH_TOKEN="f" * 64)
    assert wrong.startswith("refused") and "ray get-auth-token" in wrong
    assert "--address" in connected("http://127.0.0.1:9", tmp_path, RAY_AUTH_TOKEN=TOKEN)
