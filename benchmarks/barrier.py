"""Decisions over a whole run through Ray: time and memory by rows, of the driver and of the workers.

    python benchmarks/barrier.py --rows 100000 300000 1000000        about fifteen minutes on two free cores

Rows are made up: one in ten has another row's picture, the same bytes or a hash that is one bit apart.  Captions are
those of `caption_texts.py`, of which twelve in a hundred are copies of others, half of them with an edit.  Two things
are done with them as a job does: the families of duplicates by bytes, perceptual hash and MinHash (`losers_over`), and
the cuts of a selection with a quantile and a top by language, a count and a quota by picture.  Every size is a process
with a Ray of its own; peaks are resident memory without what is shared.  The driver must hold nothing that grows with
the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from caption_texts import captions
from components import count, peaks
from record import WORK, machine, record, table

from curation.duplicates.kinds import DeduplicateConfig
from curation.selections.config import Section
from curation.selections.steps import Rules, ShardRows
from curation.selections.whole_run import find
from curation.shards import Work, read_shard
from curation.table import PLAN
from pairmill.store import Store
from pipelines.stages.deduplicate import losers_over
from pipelines.stages.select import RayPasses

SHARD = 2000
KINDS = DeduplicateConfig(kinds=["duplicate_image", "near_duplicate_image", "near_duplicate_text"])
RULES = Rules(
    "some",
    Section.checked(
        {
            "selections": {
                "some": {
                    "where": "score >= quantile(score, 0.3, by=language) and count(by=sha256) <= 1000",
                    "quota": {"per": "sha256", "rows": 1, "by": "score"},
                    "top": {"per": "language", "by": "score", "share": 0.5},
                }
            }
        }
    ).selections["some"],
)
COLUMNS = ("sha256", "phash", "colours", "caption", "original_width", "original_height", "score", "language")
READS = {"images": (*COLUMNS, "drop_reason")}


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def written(folder: str, shard: int, rows: int, texts: str) -> None:
    """Commit a shard's plan and its columns.  texts: Parquet file with a row group for each shard."""
    rng = np.random.default_rng([shard, 1])
    n = min(SHARD, rows - shard * SHARD)
    own = np.arange(shard * SHARD, shard * SHARD + n)
    # What a row shows: its own, or in one row of ten another's.
    shows = np.where(rng.random(n) < 0.1, rng.integers(0, rows, n), own)
    hashes = _mixed(shows) ^ np.where(shows == own, 0, 1 << rng.integers(0, 64, n).astype(np.uint64)).astype(np.uint64)
    uids = [f"{one:032x}" for one in _mixed(own).tolist()]
    same_bytes = np.where(rng.random(n) < 0.5, shows, own)
    made = {
        "uid": pa.array(uids),
        "sha256": pa.array([f"{one:064x}" for one in same_bytes.tolist()]),
        "phash": pa.array(hashes, pa.uint64()),
        "colours": pa.array([bytes(192)] * n, pa.binary()),
        "caption": pq.ParquetFile(texts).read_row_group(shard)["caption"].combine_chunks(),
        "original_width": pa.array(rng.integers(200, 2000, n), pa.int32()),
        "original_height": pa.array(rng.integers(200, 2000, n), pa.int32()),
        "score": pa.array(rng.random(n)),
        "language": pa.array(rng.choice(["en", "zh", "de", "fr"], n)),
        "drop_reason": pa.nulls(n, pa.string()),
    }
    store = Store(folder)
    plan = {"uid": made["uid"], "url": pa.array([f"http://a.example/{one}" for one in own.tolist()])}
    store.commit(PLAN, shard, "k", pa.table({**plan, "alt": made["caption"]}), {})
    store.commit("images", shard, "k", pa.table(made), {})


def _mixed(numbers: Any) -> Any:
    return numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0x5851F42D4C957F2D)


def _captions(rows: int) -> Path:
    return WORK / "barrier" / f"captions-{rows}.parquet"


def _write_captions(rows: int) -> None:
    """Not in the process that is measured: its memory would count."""
    if not _captions(rows).is_file():
        _captions(rows).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"caption": captions(rows)}), _captions(rows), row_group_size=SHARD)


def measured(rows: int) -> dict[str, Any]:
    """One size, in this process."""
    folder = WORK / "barrier" / "run"
    shutil.rmtree(folder, ignore_errors=True)
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    shards = range(-(-rows // SHARD))
    ray.get([written.remote(str(folder), shard, rows, str(_captions(rows))) for shard in shards])
    store = Store(str(folder))

    def load(shard: int) -> ShardRows:
        return ShardRows(shard, read_shard(store, Work(shard, dict.fromkeys(READS, "")), READS))

    made: dict[str, Any] = {"rows": rows}
    with peaks() as peak:
        began = time.perf_counter()
        families = losers_over(store, shards, rows, READS, KINDS)
        made["rows with duplicates"] = sum(ray.get([count.remote(one) for one in families._partitions]))
        made["duplicates, seconds"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
        found = find(RULES, RayPasses(shards, rows), load, lambda among: families.of, rows=rows)
        made["selection, seconds"] = round(time.perf_counter() - began, 1)
        made["cuts"] = sum(len(one) for one in (found.quota, found.top) if one is not None)
    made |= {f"{name} peak, MB": round(size) for name, size in peak.items()}
    ray.shutdown()
    shutil.rmtree(folder)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--one", type=int, help="measure one size and print it (used by this script)")
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(measured(asked.one)))
        return
    began = machine()
    runs = []
    for rows in asked.rows:
        _write_captions(rows)
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(rows)], stdout=subprocess.PIPE, check=True, text=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    table(list(runs[0]), [list(one.values()) for one in runs])
    figures: dict[str, Any] = {"runs": runs}
    if len(runs) > 1:
        least, most = runs[0], runs[-1]
        for name in ("duplicates, seconds", "selection, seconds"):
            grown = math.log(most[name] / least[name]) / math.log(most["rows"] / least["rows"])
            figures[f"growth exponent of {name}"] = round(grown, 3)
            print("growth exponent of", name, round(grown, 3))
    record("barrier", figures, began)


if __name__ == "__main__":
    main()
