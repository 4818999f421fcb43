"""The driver of a checked training run: `worker.work` on Ray Train's workers until the last step.

sources, plan -> TorchTrainer(launch -> worker.work) -> checkpoints -> RUN/result.json
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from statistics import median
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pairmill import faults
from pairmill.cluster import alive_nodes, connected
from pairmill.errors import JobError, PairmillError, RecipeError
from pairmill.layout import RECIPE_FILE
from pairmill.origin import with_origin
from pairmill.stopping import stoppable
from pairmill.store import Store
from pairmill.towers.build import image_size
from pairmill.towers.caption_decoder import has_decoder
from pairmill.towers.tokenizer import Tokenizer, open_tokenizer
from pairmill.worker_errors import first_cause, raised_by
from training.data.augment import TrainTransform
from training.data.bundle import Reader, Tokenize, Views
from training.data.cursor import ReadingPlan, local_rows, make_plan
from training.data.sample import Source
from training.data.strong_views import StrongTransform
from training.errors import ERROR_FILE, reported_error
from training.intact import METRICS_FILE, RESULT_FILE, heal, read_result, whole_lines
from training.launch import launch
from training.process_group import torch_config
from training.recipe import TrainRecipe
from training.resources import size_workers
from training.train import claim
from training.worker import STOP_FILE, Payload, build

logger = logging.getLogger("pairmill")

_PROGRESS_EVERY_S = 10.0

#: Bytes at the end of metrics.jsonl that progress is read from.
_TAIL_BYTES = 1 << 16

#: Seconds without a step after which a log line says so, and between further ones.
_SILENCE_S = 60.0


def run(
    recipe: TrainRecipe,
    store: Store,
    sources: Sequence[Source],
    *,
    quiet: bool = False,
    begin: str | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Train, or resume, the recipe's run in `store`; arguments, result and errors as in `training.train.train`."""
    model, tokenizer = build(recipe), open_tokenizer(recipe.model)
    reader = open_reader(recipe, sources, image_size(model), tokenizer.tokens)
    if has_decoder(model):
        _check_decoder(recipe, model, tokenizer)
    del model
    compute = recipe.compute
    # Nothing is written, nor damage repaired, before the lock is held; Ray takes seconds to start.
    with store.locked(), ExitStack() as connection:
        finished = claim(store, recipe, until)
        if finished is not None:
            return finished
        heal(store, recipe)
        connection.enter_context(connected(compute.address, num_cpus=compute.num_cpus, dashboard=compute.dashboard))
        workers = size_workers(recipe, ray.cluster_resources(), alive_nodes())
        plan = make_plan(recipe.data, sources, seed=recipe.train.seed, workers=workers.number)
        _check_division(recipe, plan, workers.number)
        steps = recipe.train.steps or max(1, round((recipe.train.epochs or 0) * plan.steps_per_epoch))
        store.write_bytes(RECIPE_FILE, with_origin(recipe.to_yaml()).encode())
        _clear(store)
        end = min(until or steps, steps)
        payload = Payload(recipe, plan, reader, tokenizer, steps, end, begin, workers.threads, os.getcwd())
        trainer = TorchTrainer(
            launch,
            train_loop_config={"payload": pickle.dumps(payload), "path": sys.path},
            scaling_config=ScalingConfig(
                num_workers=workers.number,
                use_gpu=workers.num_gpus > 0,
                resources_per_worker={
                    "CPU": workers.num_cpus,
                    **({"GPU": workers.num_gpus} if workers.num_gpus else {}),
                    **({"memory": compute.memory_gb * 1e9} if compute.memory_gb is not None else {}),
                },
                accelerator_type=compute.accelerator_type,
            ),
            run_config=RunConfig(
                name=recipe.name,
                storage_path=store.uri,
                failure_config=FailureConfig(max_failures=recipe.compute.max_failures),
                checkpoint_config=CheckpointConfig(
                    num_to_keep=recipe.checkpoint.keep_last,
                    checkpoint_score_attribute=recipe.checkpoint.keep_best,
                    checkpoint_score_order="max",
                ),
                worker_runtime_env={"env_vars": faults.environment()},
            ),
            torch_config=torch_config("nccl" if workers.num_gpus else "gloo", timeout_s=recipe.data.timeout_s * 2),
        )
        ask = functools.partial(store.write_bytes, STOP_FILE, b"")
        with stoppable(ask, "saving a checkpoint"), _watching(store, end, plan.batch_size, quiet=quiet):
            try:
                result = _fitted(trainer)
            except Exception as error:
                raise reported_error(store) or _cause(error) from error
        if (final := reported_error(store)) is not None:
            raise final
        left_out = {source.name: dict(source.left_out) for source in sources if source.left_out}
        return _finish(store, result, steps, recipe.checkpoint.keep_best, left_out)


def open_reader(
    recipe: TrainRecipe, sources: Sequence[Source], size: int | tuple[int, int], tokenize: Tokenize
) -> Reader:
    """The reader of a recipe's batches, with what its objective needs of them.  size: of the model's images."""
    data, objective = recipe.data, recipe.loss.opened()
    views = {"views", "image_views"} & set(objective.needs)
    return Reader(
        sources,
        TrainTransform(size, data.augment),
        data.text_slots(),
        tokenize,
        recipe.train.seed,
        data.group,
        objective.columns,
        Views(data.views.number, StrongTransform(size, data.views), data.views.transforms) if views else None,
        data.negative_slots() if "negatives" in objective.needs else (),
        StrongTransform(size, data.views) if "view_tokens" in objective.needs else None,
    )


def _check_decoder(recipe: TrainRecipe, model: Any, tokenizer: Tokenizer) -> None:
    """Warn of a decoder that does not learn.  Raises RecipeError where it would learn to write padding."""
    if "captions" not in recipe.loss.opened().needs:
        logger.warning(
            "%s has a caption decoder, which does not learn, as loss.objective says nothing of captions: add "
            "loss.terms: {captioning: {weight: 2}} for CoCa's own objective",
            recipe.model.architecture,
        )
    elif model.text.pad_id != tokenizer.pad_id:
        raise RecipeError(
            "the text tower of a CoCa must know the id that the tokenizer pads with, which no caption holds",
            value=f"text_cfg.pad_id {model.text.pad_id}, of the tokenizer {tokenizer.pad_id}",
            fix=f'use a JSON architecture with "pad_id": {tokenizer.pad_id} in its text_cfg',
        )


def _clear(store: Store) -> None:
    """Remove what an earlier stop or failure left."""
    for left_over in (STOP_FILE, ERROR_FILE):
        store.remove(left_over)


def _fitted(trainer: TorchTrainer) -> Any:
    """`trainer.fit()` in another thread: in the main one Ray Train takes Ctrl-C for itself, and saves nothing."""
    with ThreadPoolExecutor(1, "fit") as pool:
        return pool.submit(trainer.fit).result()


def _check_division(recipe: TrainRecipe, plan: ReadingPlan, workers: int) -> None:
    rows = local_rows(plan, workers)
    if rows % recipe.train.accumulate:
        raise RecipeError(
            "train.accumulate must divide the rows of a worker",
            value=f"{recipe.train.accumulate} of {rows} ({recipe.data.batch_size} over {workers} workers)",
            fix="choose a divisor",
        )


@contextlib.contextmanager
def _watching(store: Store, steps: int, batch_size: int, *, quiet: bool) -> Iterator[None]:
    """Log the run's progress from its metrics every few seconds, and every minute that no step has finished."""
    done = threading.Event()

    def show() -> None:
        shown, since = 0, time.monotonic()
        while not done.wait(_PROGRESS_EVERY_S):
            text = store.read_bytes(METRICS_FILE) if store.exists(METRICS_FILE) else b""
            lines = whole_lines(text[-_TAIL_BYTES:])[0][-50:]
            latest = [line for line in map(json.loads, lines) if "loss" in line]
            if latest and latest[-1]["step"] != shown:
                shown, since = latest[-1]["step"], time.monotonic()
                logger.info("%s", progress_line(latest, steps, batch_size))
            elif (silent := time.monotonic() - since) > _SILENCE_S:
                since = time.monotonic()
                logger.info("step %d/%d: the next step has taken %.0f s so far", shown, steps, silent)

    thread = threading.Thread(target=show, daemon=True)
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join(timeout=5)


def progress_line(lines: Sequence[dict[str, Any]], steps: int, batch_size: int) -> str:
    """The latest of these lines of metrics, for people; the ETA assumes their median speed, skipped rows are theirs."""
    latest = lines[-1]
    skipped = sum(line["skipped"] for line in lines) / (batch_size * len(lines))
    left = (steps - latest["step"]) * batch_size / median(line["samples_per_second"] for line in lines)
    return (
        f"step {latest['step']}/{steps}: loss {latest['loss']:.4f}, scale {latest['logit_scale']:.2f}, "
        f"lr {latest['lr']:.2e}, gradient {_number(latest.get('grad_norm'))}, "
        f"{latest['samples_per_second']:.1f} samples/s, "
        f"{latest['data_wait_fraction']:.0%} of it waiting for data, "
        f"{skipped:.0%} of rows skipped, ETA {timedelta(seconds=round(left))}"
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _finish(
    store: Store, result: Any, steps: int, keep_best: str | None, left_out: dict[str, dict[str, int]]
) -> dict[str, Any]:
    if result.checkpoint is None and store.read_text(STOP_FILE) is not None:
        nothing: dict[str, Any] = {"checkpoint": None, "best_checkpoint": None, "step": 0, "steps": steps}
        nothing |= {"finished": False, "metrics": {}, "evaluated": None, "metrics_before": {}}
        return nothing | {"left_out": left_out}
    if result.checkpoint is None:
        raise JobError("training ended without a checkpoint\nfix: run it again")
    metrics = dict(result.metrics or {})
    step, evaluated = int(metrics.pop("step", 0)), metrics.pop("evaluated", None)
    outcome = {
        "checkpoint": _within(store, result.checkpoint),
        "best_checkpoint": _within(store, _best(result.best_checkpoints, keep_best)) if keep_best else None,
        "step": step,
        "steps": steps,
        "finished": step >= steps,
        "metrics": metrics,
        "evaluated": evaluated,
        "metrics_before": _first_metrics(store),
        "left_out": left_out,
    }
    store.write_json(RESULT_FILE, outcome)
    return read_result(store) or outcome


def _within(store: Store, checkpoint: Any) -> str:
    """A checkpoint's path within the run, which may be moved."""
    return str(checkpoint.path).removeprefix(store.path(""))


def _best(kept: Sequence[tuple[Any, dict[str, Any]]], metric: str) -> Any:
    """The checkpoint with the highest value; the earliest of equal ones.  A value that is no number is the lowest."""

    def value(entry: tuple[Any, dict[str, Any]]) -> float:
        found = float(entry[1].get(metric, -math.inf))
        return -math.inf if math.isnan(found) else found

    return max(kept, key=value)[0]


def _first_metrics(store: Store) -> dict[str, float]:
    """The metrics of the evaluation before the first step; empty if there was none."""
    lines, _ = whole_lines(store.read_bytes(METRICS_FILE) if store.exists(METRICS_FILE) else b"")
    first = json.loads(lines[0]) if lines else {}
    return {name: value for name, value in first.items() if name != "step"} if first.get("step") == 0 else {}


def _cause(error: BaseException) -> PairmillError:
    """What a worker raised on purpose; else a JobError that says what failed."""
    causes = [*getattr(error, "worker_failures", {}).values(), error]
    raised = next(filter(None, map(raised_by, causes)), None)
    return raised or JobError(
        f"training failed: {first_cause(causes[0])}\nfix: run it again: it resumes from the last checkpoint"
    )
