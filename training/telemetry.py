"""What a run reports while it trains: metrics.jsonl, TensorBoard, Prometheus, the recipe's trackers."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow.fs as pafs

from pairmill.meters import Meter, Metric
from pairmill.store import Store
from training.intact import METRICS_FILE, whole_lines
from training.recipe import TrainRecipe

#: What Prometheus gets; a gauge is the value of that name in metrics.jsonl.
METRICS: Mapping[str, Metric] = {
    "pairmill_train_samples": Metric("counter", (), "Rows trained on, by all workers"),
    "pairmill_train_skip_reasons": Metric("counter", ("reason",), "Rows of the first worker that were left out"),
    "pairmill_train_step": Metric("gauge", (), "Optimiser steps done"),
    "pairmill_train_epoch": Metric("gauge", (), "Passes over the data done"),
    "pairmill_train_loss": Metric("gauge", (), "Loss of the latest step's whole batch"),
    "pairmill_train_logit_scale": Metric("gauge", (), "Factor of the similarities: one over the temperature"),
    "pairmill_train_grad_norm": Metric("gauge", (), "Norm of the latest step's gradient, before clipping"),
    "pairmill_train_clipped": Metric(
        "gauge", (), "Share of the latest steps whose gradient was clipped (optim.clip_norm)"
    ),
    "pairmill_train_lr": Metric("gauge", (), "Learning rate"),
    "pairmill_train_skipped": Metric("gauge", (), "Rows of the latest step that were left out, of all workers"),
    "pairmill_train_samples_per_second": Metric("gauge", (), "Rows a second of the latest step, all workers"),
    "pairmill_train_data_wait_fraction": Metric("gauge", (), "Share of the latest step spent waiting for data"),
}

#: The run's id at Weights & Biases.
_WANDB_FILE = "wandb.id"

#: Seconds between copies of metrics.jsonl to an object store, which cannot append.
_COPY_EVERY_S = 30.0


class Telemetry:
    """Rank 0's writer.  Resuming removes the lines of steps that a killed run made after its last checkpoint."""

    def __init__(self, recipe: TrainRecipe, *, start_step: int) -> None:
        self._store = Store(recipe.run_dir)
        there = self._store.read_bytes(METRICS_FILE) if start_step and self._store.exists(METRICS_FILE) else b""
        self._lines = [line.decode() for line in whole_lines(there)[0] if json.loads(line)["step"] <= start_step]
        kept = "".join(self._lines).encode()
        self._store.write_bytes(METRICS_FILE, kept)
        self._hashed, self._bytes = hashlib.blake2b(kept, digest_size=16), len(kept)
        self._local = isinstance(self._store.filesystem, pafs.LocalFileSystem)
        self._file = open(self._store.path(METRICS_FILE), "a", encoding="utf-8") if self._local else None  # noqa: SIM115  open as long as the run
        self._copied = time.monotonic()
        self._board = _tensorboard(self._store.path("tensorboard")) if self._local else None
        self._trackers = _trackers(recipe, self._store)
        self._meter = Meter(METRICS, run=recipe.name)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line; numbers go to the trackers too."""
        line = json.dumps({"step": step, **values}) + "\n"
        self._hashed.update(line.encode())
        self._bytes += len(line.encode())
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
        else:
            self._lines.append(line)
            if time.monotonic() - self._copied > _COPY_EVERY_S:
                self.flush()
        numbers = {name: float(v) for name, v in values.items() if isinstance(v, int | float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        for name, value in {"step": float(step), **numbers}.items():
            metric = METRICS.get(f"pairmill_train_{name}")
            if metric is not None and metric.kind == "gauge":
                self._meter.set(f"pairmill_train_{name}", value)
        for tracker in self._trackers:
            tracker(step, numbers)

    def count(self, rows: int, skipped: Mapping[str, int]) -> None:
        """Rows of a step, for the counters."""
        self._meter.add("pairmill_train_samples", rows)
        for reason, number in skipped.items():
            self._meter.add("pairmill_train_skip_reasons", number, reason=reason)

    def flush(self) -> dict[str, Any]:
        """Write everything to the storage; returns size and digest of METRICS_FILE, as `intact` has them."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        else:
            self._store.write_bytes(METRICS_FILE, "".join(self._lines).encode())
            self._copied = time.monotonic()
        if self._board is not None:
            self._board.flush()
        return {"bytes": self._bytes, "blake2b": self._hashed.hexdigest()}

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: str) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(folder)


def _trackers(recipe: TrainRecipe, store: Store) -> list[Any]:
    """Functions of (step, numbers)."""
    found = []
    if recipe.log.wandb is not None:
        import wandb  # type: ignore[import-not-found,unused-ignore]  # an optional tracker

        # A resumed run is the same run there.
        if store.read_text(_WANDB_FILE) is None:
            store.write_bytes(_WANDB_FILE, uuid.uuid4().hex.encode())
        run = wandb.init(
            project=recipe.log.wandb,
            name=recipe.name,
            id=store.read_text(_WANDB_FILE),
            resume="allow",
            config=recipe.model_dump(mode="json"),
        )
        found.append(lambda step, numbers: run.log(numbers, step=step))
    if recipe.log.mlflow is not None:
        import mlflow  # type: ignore[import-not-found,unused-ignore]  # an optional tracker

        mlflow.set_experiment(recipe.log.mlflow)
        mlflow.start_run(run_name=recipe.name)
        found.append(lambda step, numbers: mlflow.log_metrics(numbers, step=step))
    return found
