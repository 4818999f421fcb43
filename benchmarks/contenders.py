"""The two programs that are compared, each run from its command line as its own process on the same list of URLs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from curation.images.config import ImageConfig

#: What both store: shorter side 256 pixels, in the encoding that is img2dataset's default.
IMAGE = ImageConfig(size=256, resize="keep_ratio", format="jpg", quality=95, chroma="420")

#: Loopback is one host, and ours alone: it may get as many requests as it can answer.
PER_HOST_CONCURRENCY = 64


@dataclass(frozen=True)
class Img2datasetSetting:
    """What its users tune; everything else is at its defaults but the EXIF dump, which we do not make either."""

    processes: int = 2
    threads: int = 32
    output_format: str = "parquet"
    shards_per_process: int = 1

    def __str__(self) -> str:
        each = f"{self.shards_per_process} shard{'s' * (self.shards_per_process > 1)} each"
        return f"{self.processes} processes of {self.threads} threads, {self.output_format}, {each}"

    def shard_rows(self, rows: int) -> int:
        """Rows of a shard, so that every process has as many shards as every other."""
        return math.ceil(rows / (self.processes * self.shards_per_process))


@dataclass(frozen=True)
class Run:
    """One run of a contender.

    wall_s:   seconds from the start of the process to its end.
    steady:   images a second while it downloads: from the start of the first shard to the end of the last one, by the
              times that each records for its shards (img2dataset's `_stats.json`, pairmill's manifests).
    reported: images a second as its own report says (pairmill: with the start of its actors).
    images:   images stored.  bytes_per_image: mean size of a stored image.
    peak_mb:  highest resident size of the process that was started (the driver), in MB.
    detail:   what else it says of itself.
    """

    wall_s: float
    steady: float
    reported: float
    images: int
    bytes_per_image: float
    peak_mb: float
    detail: dict[str, Any]

    @property
    def overall(self) -> float:
        """Images a second of the whole process, start-up included."""
        return self.images / self.wall_s

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self) | {"overall": self.overall}


def run_img2dataset(urls: Sequence[str], folder: Path, setting: Img2datasetSetting, *, keep: bool = False) -> Run:
    """Download `urls` with img2dataset's command line.  keep: leave the output in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    listed = folder / "urls.txt"
    listed.write_text("\n".join(urls) + "\n")
    out = folder / "out"
    command = [
        str(Path(sys.executable).parent / "img2dataset"),
        *(f"--url_list={listed}", "--input_format=txt", f"--output_folder={out}"),
        *(f"--image_size={IMAGE.size}", f"--resize_mode={IMAGE.resize}", f"--encode_quality={IMAGE.quality}"),
        *("--extract_exif=False", "--enable_wandb=False"),
        *(f"--processes_count={setting.processes}", f"--thread_count={setting.threads}"),
        *(f"--output_format={setting.output_format}", f"--number_sample_per_shard={setting.shard_rows(len(urls))}"),
    ]
    # albumentations, which it imports, asks the package index for its newest version at every start.
    wall_s, peak_mb = _timed(command, folder / "log.txt", {"NO_ALBUMENTATIONS_UPDATE": "1"})
    stats = [json.loads(file.read_text()) for file in sorted(out.glob("*_stats.json"))]
    images = sum(s["successes"] for s in stats)
    if images != len(urls):
        raise RuntimeError(f"img2dataset stored {images} of {len(urls)} images\nfix: read {folder / 'log.txt'}")
    seconds = max(s["end_time"] for s in stats) - min(s["start_time"] for s in stats)
    stored = _stored_by_img2dataset(out, setting)
    if not keep:
        shutil.rmtree(folder)
    steady = images / seconds
    return Run(wall_s, steady, steady, images, stored, peak_mb, {"setting": asdict(setting)})


def _stored_by_img2dataset(out: Path, setting: Img2datasetSetting) -> float:
    """Mean bytes of a stored image (0 for formats in which they are not looked up)."""
    if setting.output_format != "parquet":
        return 0.0
    sizes = [len(image) for file in out.glob("*.parquet") for image in pq.read_table(file)["jpg"].to_pylist()]
    return sum(sizes) / len(sizes)


def run_pairmill(urls: Sequence[str], folder: Path, overrides: Sequence[str] = (), *, keep: bool = False) -> Run:
    """Curate `urls` with pairmill's command line: download, inspect and pack.  keep: leave the run in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"url": list(urls)}), folder / "urls.parquet")
    recipe = {
        "run_dir": str(folder / "run"),
        "input": {"path": str(folder / "urls.parquet"), "url_column": "url", "text_column": None},
        "shards": {"rows_per_shard": 500},
        "download": {"allow_networks": ["127.0.0.0/8"], "per_host_concurrency": PER_HOST_CONCURRENCY},
        "image": IMAGE.model_dump(mode="json"),
        "filter": {"enabled": False},
        "deduplicate": {"enabled": False},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "pipelines", "curate", str(folder / "recipe.yaml"), *overrides, "--json"]
    await_no_ray()
    wall_s, peak_mb = _timed(command, folder / "log.txt", {"PYTHONPATH": str(_ROOT)})
    report = json.loads((folder / "run" / "report.json").read_text())
    images = int(report["rows_kept"])
    if images != len(urls):
        raise RuntimeError(f"pairmill kept {images} of {len(urls)} images\nfix: read {folder / 'log.txt'}")
    stages = {stage["name"]: stage.get("seconds") for stage in report["stages"]}
    stored, seconds = _stored_by_pairmill(folder / "run"), _downloading_s(folder / "run")
    if not keep:
        shutil.rmtree(folder)
    detail = {"overrides": list(overrides), "stage_seconds": stages}
    return Run(wall_s, images / seconds, float(report["images_per_second"]), images, stored, peak_mb, detail)


def _stored_by_pairmill(run: Path) -> float:
    tables = [pq.read_table(file, columns=["image"]) for file in run.glob("images/*.parquet")]
    sizes = [len(image) for table in tables for image in table["image"].to_pylist()]
    return sum(sizes) / len(sizes)


def _downloading_s(run: Path) -> float:
    """Seconds from the start of the first shard's download to the commit of the last shard."""
    manifests = [json.loads(file.read_text()) for file in run.glob("images/_manifest/*/*.json")]
    begun = min(m["committed_at"] - m["seconds"]["download"] for m in manifests)
    return float(max(m["committed_at"] for m in manifests) - begun)


_ROOT = Path(__file__).resolve().parent.parent


def await_no_ray(timeout_s: float = 600) -> None:
    """Wait until no other Ray cluster runs on this machine: two would share the cores and the token file.

    Raises RuntimeError if one is still there after `timeout_s`.
    """
    end = time.monotonic() + timeout_s
    while any(
        process.info["name"] == "raylet" and process.info["status"] != psutil.STATUS_ZOMBIE
        for process in psutil.process_iter(["name", "status"])
    ):
        if time.monotonic() > end:
            raise RuntimeError("another Ray cluster runs on this machine\nfix: stop it, or wait until its job is done")
        time.sleep(1)


def _timed(command: Sequence[str], log: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Run a command; wall seconds, and the highest resident size of its own process (not its children's) in MB."""
    with log.open("wb") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, **environment})
        with _watched(process) as peak:
            code = process.wait()
        wall_s = time.perf_counter() - began
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{Path(command[0]).name} ended with code {code}:\n{tail}")
    return wall_s, max(peak) / 1e6


@contextlib.contextmanager
def _watched(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Resident sizes of a process (bytes), four samples a second."""
    peak, done = [0], threading.Event()

    def sample() -> None:
        with contextlib.suppress(psutil.Error):
            seen = psutil.Process(process.pid)
            while not done.wait(0.25):
                peak.append(seen.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()
