"""One small model of `benchmarks/claims.py`, trained and measured in this process: the loop of a run without Ray.

A worker's own functions read, step and evaluate, so what is learnt is what `pairmill train` of the same recipe learns.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from claims_data import TARGET, path
from safetensors.torch import save_file

from pairmill.towers.build import eval_transform, image_size, image_statistics
from pairmill.towers.embed import embed_images
from pairmill.towers.encode import needs_full_length
from pairmill.towers.tokenizer import open_tokenizer
from training.data.batches import assemble, read_here
from training.data.cursor import local_rows, make_plan
from training.data.source import open_source, open_sources
from training.driver import open_reader
from training.engine import limit_scale, model_weights, set_lr, set_scale
from training.evaluate.encoder import Encoder
from training.evaluate.run import evaluate
from training.gather import open_exchange
from training.model import to_device
from training.objectives.declaration import Setup, When
from training.recipe import TrainRecipe
from training.step import train_step
from training.worker import build, start_learner, step_seed


def train(changes: dict[str, Any], weights: Path) -> dict[str, float]:
    """Train the recipe, write its weights, and measure them.  changes: the recipe."""
    recipe = TrainRecipe.checked(changes)
    steps = recipe.train.steps
    if steps is None:
        raise ValueError("a model of a claim must be trained for train.steps")
    sources = open_sources(recipe.data, recipe.loss.opened().columns)
    model, tokenizer = build(recipe), open_tokenizer(recipe.model)
    highest = recipe.temperature.highest(math.exp(float(model.state_dict()["logit_scale"])))
    reader = open_reader(recipe, sources, image_size(model), tokenizer.tokens)
    plan = make_plan(recipe.data, sources, seed=recipe.train.seed)
    rows, device = local_rows(plan, 1), torch.device("cpu")
    setup = Setup(
        width=128,
        slots=len(recipe.data.text_slots()),
        rows=rows,
        rank=0,
        world=1,
        tile=recipe.loss.tile,
        seed=recipe.train.seed,
        device=device,
        pad_id=tokenizer.pad_id,
    )
    whole = needs_full_length(model) or bool({"tokens", "masked"} & set(recipe.loss.opened().needs))
    learner = start_learner(model, recipe, setup)
    engine, _, objective, teacher = learner
    stream = assemble(
        read_here(plan, reader), plan, pad_id=tokenizer.pad_id, length=tokenizer.context_length if whole else None
    )
    exchange, seconds = open_exchange("gather")(0), 0.0
    for step in range(steps):
        batch = to_device(next(stream), device, reader.layout)
        began = time.process_time()
        set_lr(engine, recipe.optim.lr_at(step, steps))
        if (scheduled := recipe.temperature.scale_at(step, steps)) is not None:
            set_scale(engine, scheduled)
        objective.when = When(step, steps, plan.steps_per_epoch)
        result = train_step(
            engine,
            batch,
            objective,
            exchange,
            accumulate=recipe.train.accumulate,
            seed=step_seed(recipe.train.seed, step, 0),
            teacher=teacher,
        )
        if recipe.temperature.learnable:
            limit_scale(engine, lowest=1.0, highest=highest)
        seconds += time.process_time() - began
    if not math.isfinite(float(result.loss)):
        raise ValueError(f"the loss must stay finite: {float(result.loss)}")
    found = {"seconds": round(seconds, 2)}
    save_file({name: value.contiguous() for name, value in model_weights(engine).items()}, weights)
    inner = engine.module.model
    for record in evaluate(inner, tokenizer, eval_transform(inner), recipe.evaluate, name="claims"):
        found |= {f"{record['dataset']}/{name}": value for name, value in record["metrics"].items()}
    kind = Path(recipe.evaluate.datasets["test"].path).name.removesuffix("-test.parquet")
    found["attack success"] = attacked(inner, tokenizer, kind)
    return found


def attacked(model: Any, tokenizer: Any, kind: str) -> float:
    """Share of pictures with a trigger that are nearer to the backdoor's target than to any label, of other kinds."""
    model.eval()
    encoder = Encoder(model, tokenizer, eval_transform(model), torch.device("cpu"), None, 256, 1)
    source = open_source(path(kind, "triggered"))
    rows = [row for piece in range(source.pieces) for row in source.read(piece).to_pylist()]
    labels = sorted({row["texts"][0]["text"] for row in rows} - {TARGET})
    pictures = [encoder.transform(row["image"]) for row in rows if row["texts"][0]["text"] != TARGET]
    mean, std = image_statistics(model)
    images_NHWC = np.stack([picture for picture in pictures if picture is not None])
    image_ND = embed_images(model, images_NHWC, mean=mean, std=std)
    text_ND = encoder.texts([TARGET, *labels])
    return float((image_ND @ text_ND.T).argmax(1).eq(0).double().mean())


def main() -> None:
    """stdin: a JSON object {recipe, weights, result}."""
    torch.set_num_threads(1)
    # What Ray Train gives a lone worker; DeepSpeed must have it.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    asked = json.load(sys.stdin)
    found = train(asked["recipe"], Path(asked["weights"]))
    Path(asked["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
