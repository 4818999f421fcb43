"""All that an objective may need at once, from a recipe and its data to steps, their checkpoint and their resume."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from gloo_ranks import run_on_ranks
from small_datasets import jpeg, uid
from test_step import recipe as step_recipe
from torch import Tensor

from training.data.asked_columns import MOST_TAGS
from training.data.cursor import make_plan
from training.data.source import open_sources
from training.data.stream import batches
from training.gather import Exchange, open_exchange
from training.losses.loss_inputs import LossOutput
from training.model import Features, Rows, to_device
from training.objectives.declaration import NEEDS, Objective, Setup, When
from training.objectives.saved import resume, to_save
from training.recipe import TrainRecipe

ROWS, CONTEXT, STEPS = 8, 32, 4


class Everything(Objective):
    """Takes a little of everything that the loop delivers."""

    needs = tuple(name for name in NEEDS if name != "captions")  # of a CoCa alone
    columns = ("noise_prob", "sample_weight", "tags")

    def __call__(self, features: Features, rows: Rows, exchange: Exchange) -> LossOutput:
        if features.teacher is None or features.frozen is None:
            raise RuntimeError("this objective must have two teachers")
        valid, noise = rows.text_mask_BK[:, 0], rows.asked["noise_prob"][:, 0]
        weight = rows.asked["sample_weight"] * (1 - noise.clamp(min=0))
        weight = torch.where((rows.asked["tags"] == 1).any(1), 2 * weight, weight)
        image, asked, parts = features.image_BD[:, None], features.asked, []
        for of in (features, features.teacher, features.frozen):
            parts += [(image * of.asked[name]).sum(2).mean(1) for name in ("image_views", "text_views", "image_tokens")]
            words = (image * of.asked["text_tokens"][:, 0]).sum(2).square()
            parts.append(-torch.where(of.asked["text_token_mask"][:, 0], words, torch.zeros_like(words)).sum(1))
            wrong = (image * of.asked["neg_text"]).sum(2)
            parts.append(-torch.where(of.asked["neg_mask"], wrong, torch.zeros_like(wrong)).sum(1))
            parts.append((image[:, None] * of.asked["text_extra"]).sum(3)[:, 0].mean(1))
            parts.append(-0.1 * of.asked["raw_image"].square().sum(1))
            views = of.asked["view_tokens"] * of.asked["view_boxes"].sum(2)[..., None, None].div(100).sin()
            parts.append((image[:, None] * views).sum(3).mean((1, 2)))
            parts.append(0.1 * of.asked["image_patches"].square().mean((1, 2)))
        for name, hidden in (
            ("masked_image_tokens", "image_token_hidden"),
            ("masked_text_tokens", "text_token_hidden"),
        ):
            close = (features.image_BD.view(len(image), *[1] * (asked[hidden].ndim - 1), -1) * asked[name]).sum(-1)
            parts.append(torch.where(asked[hidden], close, torch.zeros_like(close)).flatten(1).sum(1))
            if features.teacher.asked[hidden].any():
                raise RuntimeError("nothing must be hidden from a teacher")
        each = -torch.stack(parts).sum(0) * weight
        total = exchange.world * each[valid].sum() / exchange.total(valid.sum().float()).clamp(min=1)
        return LossOutput(total, {"total": total.detach()})


def of_run(path: str, *, accumulate: int = 1) -> TrainRecipe:
    texts = [[{"kind": "alt"}, {"kind": "long"}]]
    data = {"path": path, "texts": texts, "negatives": {"number": 2}, "columns": {"sample_weight": "w"}}
    return step_recipe(
        data={**data, "batch_size": ROWS, "lanes": 4, "bundle_rows": 6},
        loss={"objective": f"{__name__}:Everything"},
        model={"patch_dropout": None, "corner_tokens": 2},
        train={"accumulate": accumulate},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file, n = tmp_path_factory.mktemp("data") / "a.parquet", 24
    texts = [
        [{"text": f"{kind} {row} {at}", "kind": kind} for kind in ("alt", "long", "negative") for at in range(row % 4)]
        for row in range(n)
    ]
    columns = {
        "uid": [uid(row) for row in range(n)],
        "image": [jpeg(row) for row in range(n)],
        "texts": texts,
        "w": [0.1 * row for row in range(n)],
        "noise_prob": [0.03 * row for row in range(n)],
        "tags": [[row % 3] for row in range(n)],
    }
    pq.write_table(pa.table(columns), file)
    return str(file)


def batches_of(used: TrainRecipe, rank: int, world: int, first: int) -> Iterator[Rows]:
    """A worker's batches, as `training.worker` takes them, without Ray."""
    from pairmill.towers.tokenizer import open_tokenizer
    from training.driver import open_reader

    sources = open_sources(used.data, used.loss.opened().columns)
    tokenizer = open_tokenizer(used.model)
    reader = open_reader(used, sources, 64, tokenizer.tokens)
    plan = make_plan(used.data, sources, seed=3, workers=world)
    with batches(
        plan, reader, used.data, rank=rank, world=world, start_batch=first, length=CONTEXT, with_ray=False
    ) as stream:
        for batch in stream:
            yield to_device(batch, torch.device("cpu"), reader.layout)


def _steps(rank: int, used: TrainRecipe, first: int, last: int, begin: Path | None = None) -> tuple[Tensor, Any]:
    import torch.distributed as dist

    from training.engine import load, model_weights, objective_weights, optimizer_state, set_lr
    from training.step import train_step
    from training.worker import build, start_learner

    world = dist.get_world_size()
    setup = Setup(48, 1, ROWS // world, rank, world, used.loss.tile, 0, torch.device("cpu"))
    engine, _, objective, teacher = start_learner(build(used), used, setup)
    if begin is not None:
        weights, moments, saved = torch.load(begin, weights_only=True)
        resume(objective, teacher, saved)
        load(engine, weights | saved["parameters"], moments)
    exchange, found = open_exchange("gather")(0), []
    for step, rows in zip(range(first, last), batches_of(used, rank, world, first), strict=False):
        set_lr(engine, 1e-3)
        objective.when = When(step, STEPS, 3)
        result = train_step(
            engine, rows, objective, exchange, accumulate=used.train.accumulate, seed=step, teacher=teacher
        )
        found.append(exchange.total(result.loss) / world)
    saved = to_save(objective, teacher, objective_weights(engine, keep=rank == 0), rank=rank)
    weights, moments = model_weights(engine), optimizer_state(engine)
    return torch.stack(found), None if rank else (weights, moments, saved)


def test_a_batch_has_what_is_needed_and_no_more(path: str) -> None:
    [rows] = itertools.islice(batches_of(of_run(path), 0, 1, 0), 1)
    assert rows.further is not None and rows.crops is not None and rows.tokens_BKL.shape == (ROWS, 1, CONTEXT)
    assert [len(values[0]) for values in rows.further] == [1, 1, 2, 2]
    assert rows.crops.images_BVHWC.shape == (ROWS, 2, 64, 64, 3) and rows.crops.boxes_BV4.shape == (ROWS, 2, 4)
    assert {name: values.shape for name, values in rows.asked.items()} == {
        "noise_prob": (ROWS, 1),
        "sample_weight": (ROWS,),
        "tags": (ROWS, MOST_TAGS),
    }
    plain = of_run(path).model_copy(update={"loss": step_recipe().loss})
    [rows] = itertools.islice(batches_of(plain, 0, 1, 0), 1)
    assert rows.further is None and rows.crops is None and not rows.asked


@pytest.mark.slow
def test_steps_are_the_same_over_ranks_and_micro_batches_and_resume_bit_for_bit(path: str, tmp_path: Path) -> None:
    whole, _ = run_on_ranks(1, _steps, of_run(path), 0, STEPS)[0]
    split, _ = run_on_ranks(2, _steps, of_run(path, accumulate=2), 0, STEPS)[0]
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-6)
    begun, state = run_on_ranks(2, _steps, of_run(path, accumulate=2), 0, 2)[0]
    torch.save(state, tmp_path / "state.pt")
    rest, _ = run_on_ranks(2, _steps, of_run(path, accumulate=2), 2, STEPS, tmp_path / "state.pt")[0]
    assert torch.equal(torch.cat([begun, rest]), split) and len(set(split.tolist())) == STEPS
