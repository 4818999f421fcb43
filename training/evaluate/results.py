"""Evaluation records in CLIP_benchmark's form: JSON that `clip_benchmark build` reads, and a table for people.

A record has CLIP_benchmark's keys (dataset, model, pretrained, task, metrics, language) and ours: images, texts,
skipped.  `build` reads one record a file, so that is how they are written; all of them are in `results.jsonl` too.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from rich.table import Table

from pairmill.store import Store

JSON_LINES = "results.jsonl"


class Record(TypedDict):
    """What was measured on one dataset.

    language: ISO code; several are joined by commas.  images, texts: how many took part.  skipped: rows that did not,
    by reason (corrupt_image, no_text, no_label).
    """

    dataset: str
    model: str
    pretrained: str
    task: str
    metrics: dict[str, float]
    language: str
    images: int
    texts: int
    skipped: dict[str, int]


def write_results(folder: str, records: Sequence[Record]) -> list[str]:
    """Write each record to `FOLDER/<dataset>_<pretrained>_<model>_<language>_<task>.json`, and all to results.jsonl.

    folder: a local path or s3://…, gs://….  A metric that is not finite (a model that diverged) is null, since JSON has
    no NaN.  Returns the names of the files written; each is written whole or not at all.  Raises OSError.
    """
    store = Store(folder)
    plain = [_plain(record) for record in records]
    names = [_file_name(record) for record in records]
    for name, data in zip(names, plain, strict=True):
        store.write_json(name, data, fault="evaluate")
    lines = "".join(json.dumps(data, ensure_ascii=False, sort_keys=True) + "\n" for data in plain)
    store.write_bytes(JSON_LINES, lines.encode(), fault="evaluate")
    return [*names, JSON_LINES]


def results_table(records: Sequence[Record]) -> Table:
    """One row a metric, one column a record; recalls, accuracies and chance in per cent."""
    table = Table(title="Evaluation")
    table.add_column("metric")
    for record in records:
        table.add_column(f"{record['dataset']}\n{record['language']}", justify="right")
    for name in dict.fromkeys(name for record in records for name in record["metrics"]):
        table.add_row(name, *(_cell(name, record["metrics"].get(name)) for record in records))
    for count in ("images", "texts"):
        table.add_row(count, *(f"{record[count]:,}" for record in records))
    table.add_row("skipped", *(_counts(record["skipped"]) for record in records))
    return table


_PERCENT = re.compile(r"(^|/)(acc\d+|mean_per_class_recall|chance)$|_(recall|chance)@\d+$")


def _cell(name: str, number: float | None) -> str:
    if number is None:
        return ""
    return f"{100 * number:.2f} %" if _PERCENT.search(name) else f"{number:.4g}"


def _counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in skipped.items() if count) or "0"


def _plain(record: Record) -> dict[str, Any]:
    metrics = {name: number if math.isfinite(number) else None for name, number in record["metrics"].items()}
    return {**record, "metrics": metrics}


def _file_name(record: Record) -> str:
    parts = [record["dataset"], record["pretrained"], record["model"], record["language"], record["task"]]
    # Slashes of hub names and of paths would make folders; commas (of languages) need quotes in a shell.
    return "_".join(re.sub(r"[\s/\\:,]+", "-", part) for part in parts) + ".json"
