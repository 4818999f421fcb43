"""Commands that are stopped or killed, as processes: what they save, say and leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.doctor import project_root

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EMOJI = Path("samples/emoji")

#: 127.0.0.1, the same in IPv6, and ::1, as /proc/net has them.
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000")

#: Seconds for what must happen within five, beside the other test process on this machine.
SOON_S = 10.0


class Command:
    """A running `pairmill`, in a session of its own as a terminal or a service manager gives it."""

    def __init__(self, folder: Path, *arguments: str, faults: str = "") -> None:
        self.folder = folder
        (folder / "faults").mkdir(exist_ok=True)
        armed = {"PAIRMILL_FAULTS": faults, "PAIRMILL_FAULTS_DIR": str(folder / "faults")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=project_root(),
            env=os.environ | armed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started: list[psutil.Process] = []

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until it is where the test wants it."""
        while not ready():
            assert self.process.poll() is None, self.process.communicate()[1][-2000:]
            time.sleep(0.05)
        self.started = psutil.Process(self.process.pid).children(recursive=True)

    def stalls(self, point: str) -> None:
        """Until it stalls at a fault point."""
        self.wait_for(lambda: (self.folder / "faults" / f"{point}.passes").exists())

    def ended(self, within: float) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out, err

    def left(self, within: float = 1.0) -> list[psutil.Process]:
        """Its processes that still run after so many seconds."""
        until = time.monotonic() + within
        while (running := self._running()) and time.monotonic() < until:
            time.sleep(0.05)
        return running

    def _running(self) -> list[psutil.Process]:
        in_session = [process for process in psutil.process_iter() if _session(process) == self.process.pid]
        return [process for process in {*in_session, *self.started} if _runs(process)]


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return -1


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    begun: list[Command] = []

    def begin(*arguments: str, faults: str = "") -> Command:
        begun.append(Command(tmp_path, *arguments, faults=faults))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def training(tmp_path: Path) -> str:
    """A recipe of a run that lasts for hours."""
    labels = [json.loads(line) for line in (EMOJI / "labels.jsonl").read_text().splitlines()[:32]]
    images = [(EMOJI / "images" / label["file"]).read_bytes() for label in labels]
    texts = [[{"text": label["en"], "language": "en", "kind": "alt"}] for label in labels]
    pq.write_table(pa.table({"image": images, "texts": texts}), tmp_path / "a.parquet")
    recipe = {
        "run_dir": str(tmp_path / "run"),
        "data": {
            "path": str(tmp_path / "a.parquet"),
            "batch_size": 8,
            "lanes": 2,
            "bundle_rows": 8,
            "reader_cpus": 0.5,
        },
        "model": {"architecture": "tests/pairmill/towers/configs/vit.json"},
        "loss": {"tile": [8, 8]},
        "train": {"steps": 1_000_000, "precision": "fp32"},
        "compute": {"workers": 2, "cpus_per_worker": 0.5, "threads": 1},
    }
    file = tmp_path / "train.yaml"
    file.write_text(json.dumps(recipe))
    return str(file)


@pytest.fixture
def curation(tmp_path: Path) -> str:
    """A recipe of a job whose addresses are never asked."""
    (tmp_path / "urls.txt").write_text("".join(f"http://a.example/{n}.jpg\n" for n in range(9)))
    recipe = {"run_dir": str(tmp_path / "run"), "input": {"path": str(tmp_path / "urls.txt"), "text_column": None}}
    file = tmp_path / "curate.yaml"
    file.write_text(json.dumps(recipe))
    return str(file)


def _trained(folder: Path) -> bool:
    metrics = folder / "run" / "metrics.jsonl"
    return metrics.exists() and "loss" in metrics.read_text()


def _to_group(process: psutil.Process) -> None:
    """As a terminal does on Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def _to_everything(process: psutil.Process) -> None:
    """As a service manager stops a control group."""
    for one in [process, *process.children(recursive=True)]:
        one.send_signal(signal.SIGTERM)


def _listening_elsewhere(processes: list[psutil.Process]) -> list[str]:
    """The servers that other machines reach, among these processes."""
    found = []
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            fds = os.listdir(f"/proc/{process.pid}/fd")
            own = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in fds}
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
                    fields = line.split()
                    address, listens = fields[1].partition(":")[0], fields[3] == "0A"
                    if listens and address not in LOOPBACK and f"socket:[{fields[9]}]" in own:
                        found.append(f"{process.name()}: {fields[1]}")
    return found


@pytest.mark.parametrize("send", [_to_group, _to_everything])
def test_training_that_is_stopped_saves_and_names_the_step(
    command: Callable[..., Command], training: str, tmp_path: Path, send: Callable[[psutil.Process], None]
) -> None:
    job = command("train", training, "--json")
    job.wait_for(lambda: _trained(tmp_path))
    assert _listening_elsewhere(job.started) == []
    send(psutil.Process(job.process.pid))
    code, out, _ = job.ended(60)
    result = json.loads(out)
    assert code == 0 and not result["finished"]
    assert json.loads((Path(result["checkpoint"]) / "training.json").read_text())["step"] == result["step"] > 0
    assert job.left() == []


@pytest.fixture
def sweep(training: str, tmp_path: Path) -> str:
    """A recipe of two trials at a time, each of which lasts for hours."""
    train = json.loads(Path(training).read_text())
    train["data"]["texts"] = [[{"language": "en"}]]
    train["compute"]["workers"] = 1
    train["evaluate"] = {"every_steps": 100, "max_images": 8, "datasets": {"own": {"path": train["data"]["path"]}}}
    recipe = {
        "run_dir": train.pop("run_dir"),
        "train": train,
        "space": {"optim.lr": {"grid": [1e-4, 1e-5]}},
        "search": {"scheduler": "none", "concurrent": 2},
        "objectives": [{"metric": "own/image_retrieval_recall@1"}],
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(recipe))
    return str(file)


def _saved(trial: Path) -> int:
    """The step of a trial's last checkpoint, which must be whole; 0 without one."""
    steps = [json.loads(file.read_text())["step"] for file in trial.glob("*/step-*/training.json")]
    return max(steps, default=0)


@pytest.mark.parametrize(("send", "stops"), [(_to_group, 2), (_to_everything, 1)])
def test_a_sweep_that_is_stopped_saves_its_trials_and_resumes_them(
    command: Callable[..., Command], sweep: str, tmp_path: Path, send: Callable[[psutil.Process], None], stops: int
) -> None:
    trials = [tmp_path / "run" / "trials" / name for name in ("000", "001")]

    def losses(trial: Path) -> list[int]:
        file = trial / "metrics.jsonl"
        lines = map(json.loads, file.read_text().splitlines()[:-1]) if file.exists() else ()
        return [line["step"] for line in lines if "loss" in line]

    steps = [0, 0]
    for _ in range(stops):
        job = command("sweep", sweep, "--json")
        for trial, step in zip(trials, steps, strict=True):
            job.wait_for(lambda trial=trial, step=step: max(losses(trial), default=0) > step)
        send(psutil.Process(job.process.pid))
        code, out, err = job.ended(90)
        assert code == 0, err
        assert not json.loads(out)["finished"]
        assert job.left() == []
        saved = [_saved(trial) for trial in trials]
        assert all(now > before for now, before in zip(saved, steps, strict=True))
        steps = saved
    for trial in trials:
        assert losses(trial) == sorted(set(losses(trial)))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_curation_that_is_stopped_ends_soon_with_one_line(
    command: Callable[..., Command], curation: str, kind: signal.Signals
) -> None:
    job = command("curate", curation, faults="fetch.request:stall@1")
    job.stalls("fetch.request")
    if kind == signal.SIGTERM:
        assert _listening_elsewhere(job.started) == []
    job.process.send_signal(kind)
    code, out, err = job.ended(SOON_S)
    assert (code, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("pairmill: ")] == err.splitlines()[-1:]
    assert job.left() == []


@pytest.mark.parametrize("begun", ["gcs_server", "raylet"])
def test_a_job_that_is_stopped_while_its_cluster_starts_ends_soon(
    command: Callable[..., Command], curation: str, begun: str
) -> None:
    job = command("curate", curation)
    job.wait_for(lambda: begun in [process.name() for process in psutil.Process(job.process.pid).children()])
    job.process.send_signal(signal.SIGINT)
    code, _, err = job.ended(SOON_S)
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("pairmill: ")] == err.splitlines()[-1:]
    assert job.left() == []


def test_a_killed_driver_leaves_no_process(command: Callable[..., Command], curation: str) -> None:
    job = command("curate", curation, faults="fetch.request:stall@1")
    job.stalls("fetch.request")
    job.process.kill()
    job.process.wait()
    assert len(job.started) > 5
    assert job.left(SOON_S) == []


@pytest.mark.parametrize("server", ["gcs_server", "raylet"])
def test_a_broken_cluster_ends_the_job_soon_with_one_line(
    command: Callable[..., Command], curation: str, server: str
) -> None:
    job = command("curate", curation, faults="fetch.request:stall@1")
    job.stalls("fetch.request")
    (one,) = [process for process in job.started if process.name() == server]
    one.kill()
    code, _, err = job.ended(SOON_S)
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("pairmill: ")] == err.splitlines()[-1:]
    assert server in err.splitlines()[-1]
    assert job.left() == []


def test_of_two_jobs_one_works_and_the_recipe_is_its_own(
    command: Callable[..., Command], curation: str, tmp_path: Path
) -> None:
    first = command("curate", curation, faults="fetch.request:stall@1")
    first.stalls("fetch.request")
    kept = (tmp_path / "run" / "recipe.yaml").read_bytes()
    before = {file.name for file in (tmp_path / "run" / "runs").iterdir()}
    second = command("curate", curation, "filter.min_side=999")
    code, out, err = second.ended(60)
    assert (code, out) == (2, "") and "one job at a time" in err
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == kept
    assert {file.name for file in (tmp_path / "run" / "runs").iterdir()} == before
    assert first.process.poll() is None
