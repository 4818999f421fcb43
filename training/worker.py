"""What each worker runs: data -> towers -> objective -> step, from the last checkpoint to the last step."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from ray import train as ray_train

from pairmill.checkpoint_files import checkpoint_findings
from pairmill.errors import IntegrityError, UserError, nearest
from pairmill.faults import fault_point
from pairmill.store import Store
from pairmill.towers.architecture import resolve_architecture
from pairmill.towers.build import (
    Logits,
    build_from_description,
    build_model,
    eval_transform,
    image_size,
    model_description,
)
from pairmill.towers.caption_decoder import has_decoder
from pairmill.towers.corner_tokens import CornerTokens, check_corners
from pairmill.towers.encode import needs_full_length
from pairmill.towers.image_sizes import take_sizes
from pairmill.towers.token_features import check_every_patch, check_tokens, pixels_of_patch, pooled_widths
from pairmill.towers.tokenizer import Tokenizer, tokenizer_description
from training.bad_rows import BadRows
from training.checkpoint import Describe, Learner, Progress, from_first, restore, save
from training.clipping import Clipping
from training.data.bundle import Reader
from training.data.cursor import ReadingPlan, local_rows
from training.data.step_texts import Shorten
from training.data.stream import Batches, batches
from training.ema import Ema
from training.engine import limit_scale, model_weights, set_lr, set_scale, start_engine
from training.errors import ERROR_FILE, FinalError, diverged, leave_error, parts_of
from training.evaluate.run import evaluate
from training.gather import open_exchange
from training.intact import recipe_digest
from training.model import AUTOCAST, DualEncoder, check_needs, to_device
from training.objectives.declaration import Setup, When
from training.recipe import TrainRecipe
from training.resizing import resized
from training.step import StepResult, train_step
from training.teacher import open_teachers
from training.telemetry import Telemetry
from training.usable_rows import UsableRows

#: While this file is in the run directory, the run saves a checkpoint at the end of its step and stops.
STOP_FILE = "stop"

#: How often it is looked for.
_STOP_EVERY_S = 1.0

#: How long workers wait for the first one's evaluation.  If one dies, Ray Train ends the others' wait at once.
_EVALUATION_TIMEOUT = timedelta(days=7)


class Payload(NamedTuple):
    """What the driver hands to every worker."""

    recipe: TrainRecipe
    plan: ReadingPlan
    reader: Reader
    tokenizer: Tokenizer
    steps: int  #: of the whole run
    end: int  #: step to end at
    begin: str | None  #: checkpoint of another run to begin from
    threads: int
    folder: str  #: where relative paths of the recipe start


def build(recipe: TrainRecipe) -> torch.nn.Module:
    """The open_clip model of a recipe, its weights drawn by `train.seed`.

    Raises RecipeError for towers that cannot give what the objective needs, or have no corner tokens.
    """
    torch.manual_seed(recipe.train.seed)
    objective = recipe.loss.opened()
    model = build_model(
        recipe.model,
        temperature_init=recipe.temperature.init,
        bias_init=objective.bias_given,
        otherwise=Logits(objective.temperature_init, objective.bias_init),
    )
    if recipe.train.patch_keeping is not None:
        check_tokens(model, "train.patch_keeping", texts=False)
        check_every_patch(model, "train.patch_keeping")
    check_needs(model, objective.needs, f"loss.objective {objective.config.name}")
    if objective.token_mask is not None:
        check_tokens(model, "loss.mask_tokens")
    if recipe.model.corner_tokens:
        check_corners(model)
    if has_decoder(model) and "captions" not in objective.needs:
        # Nothing teaches it, and weight decay would wear it down.
        model.text_decoder.requires_grad_(False)
    if not recipe.temperature.learnable:
        model.logit_scale.requires_grad_(False)
    text_cfg = resolve_architecture(recipe.model).model_cfg["text_cfg"]
    recipe.curriculum.check(
        image_size=image_size(model),
        context_length=int(tokenizer_description(text_cfg)["context_length"]),
        any_length=not needs_full_length(model),
    )
    if recipe.curriculum.image_size:
        take_sizes(model, [size for _, size in recipe.curriculum.image_size])
    return model


def start_learner(model: torch.nn.Module, recipe: TrainRecipe, setup: Setup) -> Learner:
    """A model, as `build` gives it, ready for its first step.  A collective call."""
    objective = recipe.loss.opened()
    if "tower" in objective.needs:
        setup = setup._replace(tower_widths=pooled_widths(model))
    # What all ranks draw alike, from a seed of its own: the model's architecture does not change it.
    torch.manual_seed(recipe.train.seed)
    objective.begin(setup)
    heads = objective.heads(setup)
    corners = CornerTokens(model, recipe.model.corner_tokens) if recipe.model.corner_tokens else None
    module = DualEncoder(
        model,
        recipe.train.precision,
        heads,
        objective.undecayed,
        objective.needs,
        corners=corners,
        hides=objective.hides,
        pad_id=setup.pad_id,
    )
    engine = start_engine(module, recipe, rows_per_worker=setup.rows)
    ema = Ema(model, recipe.model.ema_decay) if recipe.model.ema_decay else None
    return Learner(engine, ema, objective, open_teachers(module, objective, recipe.train.patch_keeping))


def work(payload: Payload) -> None:
    """Train, on one of Ray Train's workers.

    An error that would occur again ends the run: it is left in ERROR_FILE for the driver.  Any other makes Ray Train
    start the workers again from the last checkpoint.
    """
    with suppress(FileNotFoundError):
        os.chdir(payload.folder)
    store = Store(payload.recipe.run_dir)
    if store.read_text(ERROR_FILE) is not None:
        return  # the workers were started again after an error that would occur again
    try:
        _train(payload)
    except FinalError as error:
        if ray_train.get_context().get_world_rank() == 0:
            leave_error(store, error)
    except (UserError, IntegrityError) as error:
        # Perhaps only this worker met it: the others wait for it, and only its failure ends them.
        leave_error(store, error)
        raise


def _train(payload: Payload) -> None:
    recipe, plan, store = payload.recipe, payload.plan, Store(payload.recipe.run_dir)
    context = ray_train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(payload.threads)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    device = ray_train.torch.get_device()

    model = build(recipe)
    # Of the weights that the recipe starts from: the same wherever a run resumes.
    highest = recipe.temperature.highest(math.exp(float(model.state_dict()["logit_scale"])))
    describe = Describe(model_description(recipe.model, model), payload.tokenizer)
    # Ranks that gather tokens must have as many of each text.
    needs = recipe.loss.opened().needs
    whole = needs_full_length(model) or bool({"tokens", "masked"} & set(needs))
    full_length = describe.tokenizer.context_length if whole else None
    setup = Setup(
        width=int(describe.model["architecture"]["embed_dim"]),
        slots=recipe.data.slots_of_a_step(),
        rows=local_rows(plan, world),
        rank=rank,
        world=world,
        tile=recipe.loss.tile,
        seed=recipe.train.seed,
        device=device,
        patch_values=pixels_of_patch(model) if "pixels" in needs else None,
        datasets=len(plan.datasets),
        pad_id=describe.tokenizer.pad_id,
    )
    learner = start_learner(model, recipe, setup)
    engine, ema, objective, teacher = learner
    progress = _restored(learner, payload)
    saved = progress.step if ray_train.get_checkpoint() is not None else None
    stop = _Stop(store) if rank == 0 else None
    if from_first(stop is not None and stop.asked()):
        return  # nothing was learnt since the last checkpoint
    exchange_of = open_exchange(recipe.loss.mode, group_size=recipe.loss.group_size, seed=recipe.train.seed)
    telemetry = Telemetry(recipe, start_step=progress.step) if rank == 0 else None
    evaluation = _Evaluation(engine, ema, describe, recipe, device, telemetry)
    usable, bad_rows = UsableRows(), BadRows(store, rank)
    layout = payload.reader.layout._replace(slots=setup.slots)
    curriculum, steps = recipe.curriculum, payload.steps
    shorten = Shorten(lambda step: curriculum.text_length_at(step, steps), describe.tokenizer.end_id is not None)

    metrics, evaluated = dict(progress.metrics), progress.evaluated
    if progress.step == 0 and recipe.evaluate.datasets:
        # Where the run starts from: chance, or what the pretrained weights know.
        metrics, evaluated = evaluation(0), 0
        check_best(recipe.checkpoint.keep_best, metrics)
    elif evaluated != progress.step and _due(progress.step, recipe.evaluate.every_steps):
        # The run was asked to stop at this step, and saved before it measured.
        metrics, evaluated = evaluation(progress.step), progress.step
    with batches(
        plan,
        payload.reader,
        recipe.data,
        rank=rank,
        world=world,
        start_batch=progress.step,
        pad_id=describe.tokenizer.pad_id,
        length=full_length,
        shorten=shorten,
        name=recipe.name,
    ) as stream:
        clock, clipping = _Clock(stream), Clipping(recipe.optim.clip_norm)
        first = progress.step
        for step in range(first, payload.end):
            fault_point("train.step")
            batch = next(stream)
            rows = to_device(batch, device, layout)
            if (size := curriculum.image_size_at(step, steps)) is not None:
                rows = resized(rows, size)
            lr = recipe.optim.lr_at(step, payload.steps)
            set_lr(engine, lr)
            if (scheduled := recipe.temperature.scale_at(step, payload.steps)) is not None:
                set_scale(engine, scheduled)
            objective.when = When(step, payload.steps, plan.steps_per_epoch)
            result = train_step(
                engine,
                rows,
                objective,
                exchange_of(step),
                accumulate=recipe.train.accumulate,
                seed=step_seed(recipe.train.seed, step, rank),
                teacher=teacher,
            )
            if recipe.temperature.learnable:
                limit_scale(engine, lowest=1.0, highest=highest)
            if ema is not None:
                ema.update(model.named_parameters())
            done = step + 1
            agreed = _agreed(result, batch, stop=stop is not None and stop.asked(), device=device)
            if not math.isfinite(agreed.loss):
                raise diverged(f"the loss of step {done} is {agreed.loss}", saved)
            bad_rows.add(batch.problems)
            if done == first + 1:
                bad_rows.write()
            usable.seen(done, agreed.rows, batch.skipped, last=done == payload.end)
            clipping.seen(result.gradient_norm)
            seconds, waited = clock.lap()
            if telemetry is not None:
                telemetry.count(agreed.rows, batch.skipped)
                if done % recipe.log.every_steps == 0 or done == payload.end:
                    telemetry.write(
                        done,
                        {
                            "loss": agreed.loss,
                            **agreed.parts,
                            **agreed.rates,
                            "logit_scale": float(result.scale),
                            "lr": lr,
                            **clipping.lap(),
                            "samples_per_second": round(plan.batch_size / seconds, 3),
                            "data_wait_fraction": round(waited / seconds, 4),
                            "epoch": round(done / plan.steps_per_epoch, 4),
                            "skipped": agreed.skipped,
                        },
                    )
            ended = done == payload.end
            # Who asks a run to stop may wait only a minute: what is due is measured where it resumes.
            if (ended and recipe.evaluate.datasets) or (not agreed.stop and _due(done, recipe.evaluate.every_steps)):
                metrics, evaluated = evaluation(done), done
            if ended or agreed.stop or (_due(done, recipe.checkpoint.every_steps) and usable.learnt()):
                bad_rows.write()
                log = telemetry.flush() if telemetry is not None else None
                progress = Progress(done, plan.fingerprint, metrics, evaluated, recipe_digest(recipe), log)
                save(learner, progress, describe, rank=rank, saved=saved)
                saved = done
            if agreed.stop:
                break
    if telemetry is not None:
        telemetry.close()


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a rank draws in a step: a function of these three, so resuming needs no generator's state."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(2))


def _restored(learner: Learner, payload: Payload) -> Progress:
    """The run's own last checkpoint, else the one to begin from, else nothing."""
    recipe, plan, own = payload.recipe, payload.plan, ray_train.get_checkpoint()
    checkpoint = own
    if own is None and payload.begin is not None:
        begin = Store(payload.begin)
        checkpoint = ray_train.Checkpoint(begin.path("").rstrip("/"), filesystem=begin.filesystem)
    if checkpoint is None:
        return Progress(0, plan.fingerprint, {}, None)
    with checkpoint.as_directory() as folder:
        found = from_first(checkpoint_findings(Store(folder)) if _is_first() else [])
        if found:
            raise FinalError(
                "a checkpoint must be as it was written",
                f"{checkpoint.path}/{found[0].path}: {found[0].why}",
                "run it again: it resumes from the checkpoint before" if own else "restore the file from a copy",
            )
        progress = restore(learner, Path(folder))
    gc.collect()
    if progress.plan != plan.fingerprint:
        raise FinalError(
            "data must be what the checkpoint was trained on: the same files, rows and recipe keys, in the same order",
            f"a data plan of fingerprint {plan.fingerprint}; the checkpoint's: {progress.plan}",
            "restore the data, or give the run a new run_dir, with model.pretrained set to the checkpoint",
        )
    if own is None and not recipe.temperature.learnable and recipe.temperature.init is not None:
        set_scale(learner.engine, 1 / recipe.temperature.init)
    return progress


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


class _Agreed(NamedTuple):
    loss: float
    parts: dict[str, float]  #: by `loss/name`; none where the loss has a single part
    rows: int
    skipped: int
    stop: bool
    rates: dict[str, float]  #: shares of rows; those of no row are left out


def _agreed(result: StepResult, batch: Any, *, stop: bool, device: torch.device) -> _Agreed:
    """What all ranks together report of a step: the loss of the whole batch, and whether to stop."""
    parts = {f"loss/{name}": float(part) for name, part in result.parts.items()} if len(result.parts) > 1 else {}
    rows, skipped = float(batch.row_valid_B.sum()), float(sum(batch.skipped.values()))
    rates = [float(one) for rate in result.rates.values() for one in rate]
    own = [float(result.loss), rows, skipped, float(stop), *parts.values(), *rates]
    values = torch.tensor(own, dtype=torch.float64, device=device)
    world = 1
    if dist.is_initialized():
        dist.all_reduce(values)
        world = dist.get_world_size()
    total = values.tolist()
    counts = total[4 + len(parts) :]
    means = {name: value / world for name, value in zip(parts, total[4:], strict=False)}
    shares = {
        name: round(some / of, 6) for name, some, of in zip(result.rates, counts[::2], counts[1::2], strict=True) if of
    }
    return _Agreed(total[0] / world, means, int(total[1]), int(total[2]), total[3] > 0, shares)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


class _Clock:
    """Seconds since the last lap, and how many of them were spent waiting for data."""

    def __init__(self, stream: Batches) -> None:
        self._stream, self._at, self._waited = stream, time.perf_counter(), stream.waited_s

    def lap(self) -> tuple[float, float]:
        now, waited = time.perf_counter(), self._stream.waited_s
        lap = now - self._at, waited - self._waited
        self._at, self._waited = now, waited
        return lap


class _Stop:
    """Whether the run is asked to stop; storage that does not answer means no."""

    def __init__(self, store: Store) -> None:
        self._store, self._next = store, 0.0

    def asked(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _STOP_EVERY_S
        try:
            return self._store.read_text(STOP_FILE) is not None
        except OSError:
            return False


def check_best(keep_best: str | None, metrics: Mapping[str, float]) -> None:
    """Raises FinalError for a metric that the evaluation does not have."""
    if keep_best is not None and keep_best not in metrics:
        raise FinalError(
            "checkpoint.keep_best must be a metric of the evaluation",
            keep_best,
            f"perhaps you mean: {nearest(keep_best, metrics)}",
        )


class _Evaluation:
    """The recipe's evaluation, on rank 0, with the averaged weights if there are any; other ranks wait."""

    def __init__(
        self,
        engine: Any,
        ema: Ema | None,
        describe: Describe,
        recipe: TrainRecipe,
        device: torch.device,
        telemetry: Telemetry | None,
    ) -> None:
        self._engine, self._ema, self._describe, self._recipe = engine, ema, describe, recipe
        self._device, self._telemetry = device, telemetry
        # A group of its own, since it may take longer than any message of a step.
        self._waiting: Any = None
        if dist.is_initialized():
            self._waiting = dist.new_group(backend="gloo", timeout=_EVALUATION_TIMEOUT)

    def __call__(self, step: int) -> dict[str, float]:
        """Metrics by `dataset/metric`, the same on all ranks.  A collective call.

        Raises FinalError on all ranks if the recipe's datasets are wrong.
        """
        engine, recipe = self._engine, self._recipe
        model = engine.module.model
        if recipe.deepspeed.stage == 3:
            # No rank holds the weights: rank 0 evaluates a copy.
            weights = model_weights(engine, keep=self._telemetry is not None)
            if self._telemetry is not None:
                model = build_from_description(dict(self._describe.model)).to(self._device)
                model.load_state_dict(weights)
            del weights
        outcome: list[Any] = [None]
        if self._telemetry is not None:
            try:
                metrics = self._measured(model, step)
                self._telemetry.write(step, metrics)
                outcome = [metrics]
            except UserError as error:
                outcome = [FinalError(*parts_of(error))]
        if self._waiting is not None:
            dist.broadcast_object_list(outcome, src=0, group=self._waiting)
        if isinstance(outcome[0], FinalError):
            raise outcome[0]
        found: dict[str, float] = outcome[0]
        return found

    def _measured(self, model: Any, step: int) -> dict[str, float]:
        with self._ema.swapped_in(model) if self._ema is not None else nullcontext():
            records = evaluate(
                model,
                self._describe.tokenizer,
                eval_transform(model),
                self._recipe.evaluate,
                device=self._device,
                name=str(self._describe.model["name"]),
                pretrained=f"{self._recipe.name}, step {step}",
                autocast=AUTOCAST.get(self._recipe.train.precision),
            )
        return {f"{r['dataset']}/{name}": value for r in records for name, value in r["metrics"].items()}
