"""Scrape the metrics of a cluster while the demo runs on it, and look for every series that the dashboard uses.

    python benchmarks/scrape.py             about 5 minutes on 2 cores

Exits with 1 if one is missing, or if a tag holds a URL.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from record import machine, record, table

from curation.telemetry import METRICS
from pairmill.meters import exported
from pipelines.demo import run_demo, train_demo
from training.telemetry import METRICS as TRAINING

DASHBOARD = Path(__file__).resolve().parent.parent / "deploy" / "grafana-dashboard.json"

_SERIES = re.compile(r"^(ray_pairmill\w*)\{", re.MULTILINE)
_TAGS_WITH_URL = re.compile(r'^ray_pairmill\w*\{[^}]*"[^"]*://.*', re.MULTILINE)


def wanted() -> list[str]:
    """The series of ours that the dashboard's expressions and variables read."""
    used = set(re.findall(r"ray_pairmill\w*", DASHBOARD.read_text()))
    known = exported({**METRICS, **TRAINING})
    if unknown := used - known.keys():
        raise SystemExit(f"the dashboard asks for what no code exports: {', '.join(sorted(unknown))}")
    return sorted(used)


class Scraper:
    """Reads every node's metrics repeatedly, as Prometheus would; a context manager."""

    def __init__(self, endpoints: Sequence[str], every_s: float = 2.0) -> None:
        self._endpoints, self._every_s = endpoints, every_s
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.first_seen_s: dict[str, float] = {}
        self.most_series: Counter[str] = Counter()  #: the largest number of tag values seen at once
        self.with_url: set[str] = set()

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Workers report every ten seconds.
        time.sleep(12)
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                text = "".join(urllib.request.urlopen(url, timeout=10).read().decode() for url in self._endpoints)
            except (urllib.error.URLError, TimeoutError):
                continue  # the agent is still starting; a series that never comes is reported as missing
            seen = Counter(_SERIES.findall(text))
            for name in seen.keys() - self.first_seen_s.keys():
                self.first_seen_s[name] = round(time.monotonic() - self._began, 1)
            self.most_series |= seen
            self.with_url.update(_TAGS_WITH_URL.findall(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    began, series = machine(), wanted()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    endpoints = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]
    with tempfile.TemporaryDirectory(prefix="pairmill-scrape-") as folder, Scraper(endpoints) as scraper:
        report = run_demo(f"{folder}/demo", quiet=True)
        trained = train_demo(f"{folder}/demo", f"{folder}/demo-train")
    ray.shutdown()

    missing = [name for name in series if name not in scraper.first_seen_s]
    table(
        ["series of the dashboard", "first seen, s", "at most at once"],
        [[name, scraper.first_seen_s.get(name, "MISSING"), scraper.most_series[name]] for name in series],
    )
    print(f"{len(series) - len(missing)} of {len(series)} seen; {len(scraper.with_url)} with a URL in a tag")
    figures: dict[str, Any] = {
        "rows": report["rows_in"],
        "train_steps": trained["step"],
        "missing": missing,
        "with_url": sorted(scraper.with_url),
        "first_seen_s": {name: scraper.first_seen_s.get(name) for name in series},
        "most_series_at_once": {name: scraper.most_series[name] for name in series},
    }
    record("scrape", json.loads(json.dumps(figures)), began)
    sys.exit(bool(missing or scraper.with_url))


if __name__ == "__main__":
    main()
