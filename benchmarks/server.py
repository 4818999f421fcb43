"""A local nginx that serves the benchmark's photographs, started for one benchmark and stopped after it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: One worker process: it takes a small share of one core, the same from both sides.
_CONFIG = """
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log error;
{user}
events {{ worker_connections 4096; }}
http {{
    types {{ image/jpeg jpg; image/png png; image/webp webp; }}
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 75s;
    keepalive_requests 1000000;
    open_file_cache max=10000 inactive=600s;
    client_body_temp_path {work}/temp;
    proxy_temp_path {work}/temp;
    fastcgi_temp_path {work}/temp;
    uwsgi_temp_path {work}/temp;
    scgi_temp_path {work}/temp;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {root};
    }}
}}
"""


class Server(NamedTuple):
    """A running nginx: its address, and the parent process of its worker."""

    base: str
    pid: int

    def urls(self, files: Sequence[Path], count: int) -> list[str]:
        """`count` distinct URLs over the files: each pass over them has its own query string."""
        return [f"{self.base}/{files[n % len(files)].name}?k={n // len(files)}" for n in range(count)]


@contextlib.contextmanager
def serve(root: Path, work: Path) -> Iterator[Server]:
    """Serve the files of `root` on a free port of 127.0.0.1.

    Raises RuntimeError, saying what to do, if there is no nginx or it does not start.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("nginx serves the photographs and is not installed\nfix: apt-get install nginx-light")
    work.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # If root starts it, nginx would run its worker as a user who may not read the files.
    user = "user root;" if os.geteuid() == 0 else ""
    config = work / "nginx.conf"
    config.write_text(_CONFIG.format(work=work.resolve(), root=root.resolve(), port=port, user=user))
    process = subprocess.Popen([program, "-e", work / "error.log", "-c", config.resolve(), "-g", "daemon off;"])
    base = f"http://127.0.0.1:{port}"
    # The benchmark stops its server even when it is killed by a signal.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _await_answer(process, f"{base}/{next(root.glob('*.*')).name}", work / "error.log")
        yield Server(base, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)
        signal.signal(signal.SIGTERM, before)


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nginx does not answer\nfix: read {log}")
