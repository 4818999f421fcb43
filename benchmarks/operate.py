"""Operate a cluster as documented, and tick off what must hold.

    python benchmarks/operate.py                about 8 minutes on 2 idle cores

A head and a second node run on this machine with a token of their own.  The demo's input is curated, trained on,
evaluated and swept over as submitted jobs.  Jobs fail, are stopped and resume.  Strangers are refused, also from
another network namespace (if we are root).  Exits 1 if anything does not hold.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.demo_rows import demo_rows
from pipelines.demo_server import demo_server

sys.path.insert(0, str(Path(__file__).parent))
from record import machine, record

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)
DRAWINGS = ROOT / "samples" / "emoji-google" / "pairs.parquet"
ROWS = 160
#: Of the training, long enough to be stopped on the way; and of a trial of the sweep.
STEPS, TRIAL_STEPS = 300, 10


class Cluster:
    """A head with a token of its own, in a home of its own; `pairmill` and `ray` as its user runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.dashboard = free_ports(2)
        self.url = f"http://127.0.0.1:{self.dashboard}"
        home = folder / "home"
        home.mkdir()
        ray_variables = {name for name in os.environ if name.startswith("RAY_")}
        self.environment = {k: v for k, v in os.environ.items() if k not in ray_variables} | {
            "HOME": str(home),
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "RAY_AUTH_MODE": "token",
        }
        self.nodes: list[subprocess.Popen[bytes]] = []

    def ray(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`ray …`, to its end."""
        command = [str(PYTHON.parent / "ray"), *arguments]
        try:
            return subprocess.run(
                command, env=self.environment | more, capture_output=True, text=True, check=False, timeout=120
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, -1, "", "no answer in 120 s")

    def pairmill(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """`pairmill …`, to its end."""
        command = [str(PYTHON), "-m", "pipelines", *arguments]
        env = self.environment | {"RAY_API_SERVER_ADDRESS": self.url} | more
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """`ray start … --block`: a node that lives until `stop`."""
        command = [str(PYTHON.parent / "ray"), "start", "--block", "--num-cpus=2", "--disable-usage-stats", *arguments]
        agent, metrics = free_ports(2)
        command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        node = subprocess.Popen(command, env=self.environment | more, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        return node

    def start_head(self) -> None:
        """Reachable from other machines, to show that they are refused."""
        self.start(
            "--head",
            f"--port={self.port}",
            "--dashboard-host=0.0.0.0",
            f"--dashboard-port={self.dashboard}",
            f"--temp-dir={self.folder / 'ray'}",
        )
        wait_until(lambda: status(f"{self.url}/api/jobs/") in (200, 401), "the dashboard answers")
        wait_until(lambda: self.alive() == 1, "the head is there")

    def alive(self) -> int:
        """How many nodes are alive, as the dashboard says."""
        try:
            with ask(f"{self.url}/nodes?view=summary", self.token) as answer:
                nodes = json.load(answer)["data"]["summary"]
        except (OSError, ValueError, KeyError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    @property
    def token(self) -> str:
        """As Ray keeps it."""
        return (Path(self.environment["HOME"]) / ".ray" / "auth_token").read_text().strip()

    def jobs(self) -> list[dict[str, Any]]:
        """What `pairmill jobs` reports."""
        return list(json.loads(self.pairmill("jobs", "--json").stdout)["jobs"])

    def stop(self) -> None:
        """Stop the nodes that were started here, and no other process called ray."""
        ours = [p for node in self.nodes if node.poll() is None for p in psutil.Process(node.pid).children(True)]
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(ours, timeout=20)
        for process in alive:
            process.kill()
        for node in self.nodes:
            node.kill()
            node.wait()


class Checklist:
    """What was found, against what must hold."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._last = time.monotonic()

    def tick(self, what: str, holds: bool, seen: object = "") -> None:
        """Note, and print, one item."""
        now = time.monotonic()
        seconds, self._last = round(now - self._last, 1), now
        self.items.append({"what": what, "holds": bool(holds), "seconds": seconds})
        print(f"{'ok ' if holds else 'BAD'} {seconds:>6} s  {what}", flush=True)
        if not holds:
            print(f"      seen: {seen}", flush=True)


def free_ports(number: int) -> list[int]:
    """Ports on which nobody listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def ask(url: str, token: str | None = None, method: str = "GET") -> Any:
    """Open a URL, with a token or as a stranger."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps({"entrypoint": "true"}).encode() if method == "POST" else None
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10)


def status(url: str, token: str | None = None, method: str = "GET") -> int:
    """The HTTP status of a request; 0 if there is no answer."""
    try:
        with ask(url, token, method) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Raises TimeoutError if it does not become true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds:.0f} s: {what}")
        time.sleep(0.5)


def free_network() -> ipaddress.IPv4Network | None:
    """Four addresses of the benchmark range (RFC 2544) to which no route of this machine leads; None if there are none.

    A link with addresses that are in use would cut this machine off from their owners, such as its gateway.
    """
    done = subprocess.run(["ip", "-json", "route", "show", "table", "all"], capture_output=True, text=True, check=True)
    taken = []
    for route in json.loads(done.stdout):
        try:
            taken.append(ipaddress.ip_network(route["dst"], strict=False))
        except (KeyError, ValueError):
            continue  # `default`, which leads everywhere, and what is no network
    candidates = ipaddress.IPv4Network("198.18.0.0/15").subnets(new_prefix=24)
    free = (n for n in candidates if not any(t.version == 4 and t.overlaps(n) for t in taken))
    found = next(free, None)
    return next(found.subnets(new_prefix=30)) if found else None


@contextmanager
def other_network() -> Iterator[tuple[str, str] | None]:
    """A network namespace, linked to this one: its name, and our address there; None where we may not create one."""
    try:
        network = free_network()
    except (OSError, ValueError, subprocess.CalledProcessError):
        network = None
    if network is None:
        yield None
        return
    here, there = (str(address) for address in network.hosts())
    name = f"pairmill-{os.getpid()}"
    near, far = f"pm{os.getpid() % 100_000}a", f"pm{os.getpid() % 100_000}b"
    steps = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        ["ip", "address", "add", f"{here}/30", "dev", near],
        ["ip", "link", "set", near, "up"],
        ["ip", "-n", name, "address", "add", f"{there}/30", "dev", far],
        ["ip", "-n", name, "link", "set", far, "up"],
    ]
    try:
        yield (name, here) if all(_done(step) for step in steps) else None
    finally:
        _done(["ip", "link", "delete", near])
        _done(["ip", "netns", "delete", name])


def _done(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def working_on(node: subprocess.Popen[bytes]) -> Iterator[set[str]]:
    """The names of what a node's worker processes did meanwhile."""
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    title = process.cmdline()[:1]
                except psutil.Error:
                    continue
                seen.update(name for name in title if name.startswith("ray::") and not name.startswith("ray::IDLE"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join(timeout=5)


def strangers_are_refused(cluster: Cluster, tick: Callable[..., None]) -> None:
    """Over HTTP, over gRPC, by our own command, and from another network."""
    seen = [
        status(f"{cluster.url}/api/jobs/"),
        status(f"{cluster.url}/api/jobs/", method="POST"),
        status(f"{cluster.url}/api/jobs/", token=secrets.token_hex(32)),
        status(f"{cluster.url}/nodes?view=summary"),
    ]
    tick("the Jobs API refuses strangers (401) and wrong tokens (403)", seen == [401, 401, 403, 401], seen)
    answered = status(f"{cluster.url}/api/jobs/", token=cluster.token)
    tick("and answers to the token", answered == 200, answered)
    empty = cluster.folder / "stranger"
    empty.mkdir()
    done = cluster.pairmill("jobs", HOME=str(empty))
    tick("pairmill without the token: exit 2, and how to get it", done.returncode == 2 and "token" in done.stderr, done)
    done = cluster.ray("status", f"--address=127.0.0.1:{cluster.port}", RAY_AUTH_MODE="disabled")
    tick("the cluster's own port refuses strangers", done.returncode != 0, done)
    with other_network() as made:
        if made is None:
            print("--            another network namespace: this system does not let us make one", flush=True)
            return
        network, here = made
        script = (
            "import sys, urllib.request, urllib.error\n"
            "try: print(urllib.request.urlopen(sys.argv[1], timeout=10).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)"
        )
        target = f"http://{here}:{cluster.dashboard}/api/jobs/"
        done = subprocess.run(
            ["ip", "netns", "exec", network, str(PYTHON), "-c", script, target],
            capture_output=True,
            text=True,
            check=False,
        )
        tick("from another network: reached, and refused (401)", done.stdout.strip() == "401", done)


def curation(
    cluster: Cluster, node: subprocess.Popen[bytes], folder: Path, base: str, tick: Callable[..., None]
) -> str:
    """Curate the demo's input; the run directory."""
    rows = demo_rows(base)
    pq.write_table(rows.filter(pc.equal(rows["case"], "plain")).slice(0, ROWS), folder / "urls.parquet")
    run = str(folder / "curated")
    recipe = ["submit", "curate", "pipelines/recipes/curate-demo.yaml"]
    overrides = [f"run_dir={run}", f"input.path={folder / 'urls.parquet'}", "shards.rows_per_shard=20"]
    with working_on(node) as worked:
        done = cluster.pairmill(*recipe, *overrides, "recaption.enabled=false")
    report = folder / "curated" / "report.json"
    kept = json.loads(report.read_text())["rows_kept"] if report.exists() else 0
    tick("curation: exit 0, rows kept", done.returncode == 0 and kept > ROWS / 2, (kept, done.stderr[-3000:]))
    tick("its log was streamed", "rows kept" in done.stderr and "deduplicate" in done.stderr, done.stderr[-3000:])
    tick("the second node took part", bool(worked), worked)

    done = cluster.pairmill(*recipe, *overrides, f"run_dir={folder / 'wrong'}", "input.url_column=URL")
    said = done.stderr[done.stderr.rfind("pairmill: ") :]
    tick(
        "a job whose input is wrong: exit 2, and the cause", done.returncode == 2 and "URL" in said, done.stderr[-3000:]
    )
    dead = ["recaption.engine={name: openai, base_url: 'http://127.0.0.1:9/v1', retries: 0}"]
    done = cluster.pairmill(*recipe, *overrides, *dead, "recaption.model=none", "translate.enabled=false")
    tick("a job that fails as it runs: exit 1", done.returncode == 1, done.stderr[-3000:])
    before = len(cluster.jobs())
    done = cluster.pairmill(*recipe, *overrides, "downlaod.retries=1")
    tick(
        "a wrong recipe: exit 2, and nothing was submitted",
        done.returncode == 2 and len(cluster.jobs()) == before,
        done.stderr[-3000:],
    )
    return run


def trained(cluster: Cluster, folder: Path, curated: str, tick: Callable[..., None]) -> None:
    """Train, stop, resume, evaluate."""
    run = folder / "trained"
    command = ["submit", "train", "pipelines/recipes/train-demo.yaml", f"run_dir={run}", f"data.path={curated}"]
    command += ["data.batch_size=16", "data.bundle_rows=16", "train.epochs=null", f"train.steps={STEPS}"]
    command += ["compute.workers=1", "compute.cpus_per_worker=1", "checkpoint.every_steps=1000", "evaluate.datasets={}"]
    job = cluster.pairmill(*command, "--detach").stdout.strip()
    again = cluster.pairmill(*command)
    tick("a run that is at work is not submitted again: exit 2", again.returncode == 2 and job in again.stderr, again)
    wait_until(lambda: len(steps_of(run)) > 3, "training takes steps", 600)
    done = cluster.pairmill("stop", job)
    reached = steps_of(run)[-1]
    tick("stop: the job is stopped", done.stdout.strip().endswith("stopped") and done.returncode == 0, done)
    kept = [path.name for path in run.glob("*/step-*")]
    tick("training saved a checkpoint first", bool(kept) and reached < STEPS, (kept, reached))
    done = cluster.pairmill(*command)
    steps = steps_of(run)
    tick(
        "submitted again, it resumes after that step and finishes",
        done.returncode == 0 and steps == list(range(1, STEPS + 1)),
        (reached, steps, done.stderr[-3000:]),
    )
    done = cluster.pairmill(
        "submit", "evaluate", str(run), f"evaluate.datasets.google={{path: {DRAWINGS}, languages: [en, zh]}}"
    )
    tick(
        "the model is evaluated on the cluster: exit 0",
        done.returncode == 0 and "recall" in done.stderr,
        done.stderr[-3000:],
    )


def swept(cluster: Cluster, folder: Path, curated: str, tick: Callable[..., None]) -> None:
    """Compare two temperatures."""
    run = folder / "swept"
    command = ["submit", "sweep", "pipelines/recipes/sweep-demo.yaml", f"run_dir={run}", f"train.data.path={curated}"]
    command += ["train.data.batch_size=16", "train.data.bundle_rows=16", f"train.train.steps={TRIAL_STEPS}"]
    command += [f"train.evaluate.every_steps={TRIAL_STEPS // 2}", f"train.evaluate.datasets.google.path={DRAWINGS}"]
    command += ["space.loss.objective={grid: [clip]}", "space.temperature.init={grid: [0.05, 0.1]}", "repeat.best=0"]
    done = cluster.pairmill(*command)
    report = json.loads((run / "sweep.json").read_text()) if (run / "sweep.json").exists() else {}
    ended = [trial["status"] for trial in report.get("trials", [])]
    tick("a sweep of two trials: exit 0", done.returncode == 0 and len(ended) == 2, (ended, done.stderr[-3000:]))
    tick("its log was streamed", "trial 001" in done.stderr, done.stderr[-3000:])


def steps_of(run: Path) -> list[int]:
    """The steps that training has reported."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [line["step"] for line in map(json.loads, lines) if "loss" in line]
    except (OSError, ValueError):
        return []


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped, too
    began = machine()
    check = Checklist()
    with tempfile.TemporaryDirectory(prefix="pm-", ignore_cleanup_errors=True) as name, demo_server() as base:
        folder = Path(name)
        cluster = Cluster(folder)
        try:
            done = cluster.ray("get-auth-token", "--generate")
            check.tick("ray makes a token", done.returncode == 0 and len(cluster.token) >= 32, done.stderr)
            cluster.start_head()
            done = cluster.pairmill("dashboard")
            check.tick("the dashboard is protected", done.returncode == 0 and cluster.url in done.stdout, done)
            strangers_are_refused(cluster, check.tick)
            node = cluster.start(f"--address=127.0.0.1:{cluster.port}")
            wait_until(lambda: cluster.alive() == 2, "the second node is there")
            check.tick("a second node joins with the token", cluster.alive() == 2)
            curated = curation(cluster, node, folder, base, check.tick)
            trained(cluster, folder, curated, check.tick)
            swept(cluster, folder, curated, check.tick)
            jobs = cluster.pairmill("jobs")
            listed = {(job["kind"], job["status"]) for job in cluster.jobs()}
            expected = {
                ("curate", "SUCCEEDED"),
                ("curate", "FAILED"),
                ("train", "STOPPED"),
                ("train", "SUCCEEDED"),
                ("sweep", "SUCCEEDED"),
            }
            check.tick("all of it is listed", expected <= listed, listed)
            check.tick("and no token is shown", cluster.token not in jobs.stdout + jobs.stderr)
        finally:
            cluster.stop()
    holds = all(item["holds"] for item in check.items)
    record("operate", {"passed": sum(i["holds"] for i in check.items), "checks": check.items}, began)
    sys.exit(not holds)


if __name__ == "__main__":
    main()
