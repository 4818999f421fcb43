"""A step on a DeepSpeed engine: exact accumulation, every ZeRO stage the same, and its state whole by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo_ranks import run_on_ranks

from training.data.config import DataConfig
from training.gather import open_exchange
from training.model import DualEncoder, Rows
from training.objectives.declaration import Setup
from training.recipe import TrainRecipe

ROWS, SLOTS, LENGTH = 8, 2, 12


def recipe(**sections: dict[str, Any]) -> TrainRecipe:
    base: dict[str, Any] = {
        "run_dir": "unused",
        "data": {"path": "unused", "batch_size": ROWS, "lanes": 2},
        "model": {"architecture": "tests/pairmill/towers/configs/vit.json", "patch_dropout": 0.5},
        "loss": {"objective": "one_to_k", "tile": [4, 8]},
        "optim": {"lr": 1e-3, "warmup_steps": 0, "schedule": "constant", "eps": 1e-3},
        "train": {"steps": 10, "precision": "fp32", "accumulate": 1},
        "deepspeed": {"stage": 0},
    }
    return TrainRecipe.model_validate(
        {k: {**base.get(k, {}), **sections.get(k, {})} if isinstance(v, dict) else v for k, v in base.items()}
    )


def rows_of(step: int, rank: int, world: int) -> Rows:
    """This rank's share of a batch that is a function of the step."""
    random = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (ROWS, 64, 64, 3), generator=random, dtype=torch.uint8)
    tokens = torch.randint(1, 300, (ROWS, SLOTS, LENGTH), generator=random)
    tokens[..., -1] = 49407
    mask = torch.rand(ROWS, SLOTS, generator=random) > 0.2
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    kinds, languages = (torch.full((ROWS, SLOTS), -1, dtype=dtype) for dtype in (torch.int8, torch.int16))
    ids = torch.arange(ROWS) + step * ROWS
    return Rows(images, tokens, mask, torch.full((ROWS,), -1), kinds, languages, ids).part(share)


def setup_of(recipe: TrainRecipe, rank: int = 0, world: int = 1) -> Setup:
    return Setup(48, SLOTS, ROWS // world, rank, world, recipe.loss.tile, recipe.train.seed, torch.device("cpu"))


def trained(
    rank: int, recipe: TrainRecipe, first: int, last: int, state: Any = None, keep_state: bool = False
) -> dict[str, Any]:
    """Losses of steps [first, last) on this rank's share, then the engine's whole state if it is asked for."""
    import torch.distributed as dist

    from training.engine import limit_scale, load, model_weights, optimizer_state, set_lr
    from training.step import train_step
    from training.worker import build, start_learner, step_seed

    world = dist.get_world_size()
    engine, _, objective, _ = start_learner(build(recipe), recipe, setup_of(recipe, rank, world))
    if state is not None:
        load(engine, *state)
    losses, norms = [], []
    exchange = open_exchange(recipe.loss.mode)(0)
    for step in range(first, last):
        set_lr(engine, recipe.optim.lr_at(step, recipe.train.steps or 0))
        seed = step_seed(recipe.train.seed, step, rank)
        result = train_step(
            engine, rows_of(step, rank, world), objective, exchange, accumulate=recipe.train.accumulate, seed=seed
        )
        limit_scale(engine, lowest=1.0, highest=recipe.temperature.highest())
        losses.append(exchange.total(result.loss) / world)
        norms.append(result.gradient_norm)
    out: dict[str, Any] = {"losses": torch.stack(losses), "norms": norms}
    if keep_state:
        out["state"] = (model_weights(engine), optimizer_state(engine))
    return out


@pytest.mark.slow
def test_micro_batches_give_the_loss_and_the_update_of_the_whole_batch() -> None:
    # Patch dropout off: a micro-batch draws other numbers than the whole batch does.
    plain = {"model": {"patch_dropout": None}}
    whole = run_on_ranks(1, trained, recipe(**plain), 0, 4, None, True)[0]
    parts = run_on_ranks(1, trained, recipe(train={"accumulate": 4}, **plain), 0, 4, None, True)[0]
    torch.testing.assert_close(parts["losses"], whole["losses"], rtol=1e-5, atol=0)
    for name, weight in whole["state"][0].items():
        torch.testing.assert_close(parts["state"][0][name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"patch_dropout": None}, {"patch_dropout": 0.5}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_blocks_are_computed_again_as_they_were(model: dict[str, Any], accumulate: int) -> None:
    # In bfloat16 on a CPU the forward pass chooses its attention kernel.
    common = {"precision": "bf16", "accumulate": accumulate}
    found = [
        run_on_ranks(1, trained, recipe(train=common, model=model | {"gradient_checkpointing": again}), 0, 3)[0]
        for again in (False, True)
    ]
    torch.testing.assert_close(found[1]["losses"], found[0]["losses"], rtol=0, atol=0)


def test_micro_batches_encode_twice_with_the_same_random_numbers() -> None:
    # With dropout the second encoding must be the first one's: else the learnt step differs from the loss's gradient,
    # and two equal runs would still agree; so compare with one pass per part by plain autograd.
    found = run_on_ranks(1, _cached_against_plain)[0]
    for name, (cached, plain) in found.items():
        torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-7, msg=name)


def _cached_against_plain(rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    from training.step import train_step
    from training.worker import build

    used = recipe(train={"accumulate": 2})
    exchange = open_exchange("local")(0)
    objective = used.loss.opened()
    objective.begin(setup_of(used))
    batch = rows_of(3, 0, 1)

    class Engine:
        """Gradients only."""

        def __init__(self) -> None:
            self.module = DualEncoder(build(used), "fp32")

        def __call__(self, rows: Rows) -> Any:
            return self.module(rows)

        def backward(self, loss: torch.Tensor) -> None:
            (loss / 2).backward()

        def step(self) -> None:
            pass

        def zero_optimization(self) -> bool:
            return False

    engine = Engine()
    train_step(engine, batch, objective, exchange, accumulate=2, seed=11)
    module = DualEncoder(build(used), "fp32")
    parts = []
    for number in range(2):
        torch.manual_seed(11 + number)
        parts.append(module(batch.part(slice(4 * number, 4 * number + 4))))
    image, text = (torch.cat([part[i] for part in parts]) for i in range(2))
    objective(parts[0]._replace(image_BD=image, text_BKD=text), batch, exchange).total.backward()
    theirs = dict(module.named_parameters())
    return {n: (p.grad, theirs[n].grad) for n, p in engine.module.named_parameters() if p.grad is not None}


def _plain_norms(rank: int, used: TrainRecipe, steps: int) -> list[float]:
    """Norms of the gradient of the whole batch, by plain autograd and torch's own AdamW and clipping."""
    from training.parameter_groups import parameter_groups
    from training.worker import build

    objective, exchange = used.loss.opened(), open_exchange("local")(0)
    objective.begin(setup_of(used))
    module = DualEncoder(build(used), "fp32")
    groups = [
        {k: v for k, v in group.items() if k in ("params", "weight_decay")}
        for group in parameter_groups(module.model, weight_decay=used.optim.weight_decay, layer_decay=None)
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=used.optim.lr, betas=(used.optim.beta1, used.optim.beta2), eps=used.optim.eps
    )
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        batch = rows_of(step, 0, 1)
        objective(module(batch), batch, exchange).total.backward()
        gradients = [p.grad.double().flatten() for p in module.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        if used.optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), used.optim.clip_norm)
        optimizer.step()
    return norms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "stage", "accumulate", "clip"),
    [(1, 0, 1, None), (2, 0, 2, 0.1), (2, 1, 1, None), (2, 2, 2, 0.1), (2, 3, 1, None), (2, 3, 2, 0.1)],
)
def test_the_norm_is_that_of_the_whole_batch_s_gradient_before_clipping(
    world: int, stage: int, accumulate: int, clip: float | None
) -> None:
    plain = {"model": {"patch_dropout": None}, "optim": {"clip_norm": clip}}
    used = recipe(deepspeed={"stage": stage}, train={"accumulate": accumulate}, **plain)
    expected = run_on_ranks(1, _plain_norms, recipe(**plain), 3)[0]
    found = run_on_ranks(world, trained, used, 0, 3)
    for of_rank in found:
        assert of_rank["norms"] == pytest.approx(expected, rel=2e-3)
        assert of_rank["norms"][0] == pytest.approx(expected[0], rel=1e-5)
    assert min(expected) > 0.1  # so clipping, where it is on, changes every gradient


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_learns_the_same(stage: int) -> None:
    plain, split = (run_on_ranks(2, trained, recipe(deepspeed={"stage": s}), 0, 6, None, True)[0] for s in (0, stage))
    torch.testing.assert_close(split["losses"], plain["losses"], rtol=1e-3, atol=0)
    for name, weight in plain["state"][0].items():
        torch.testing.assert_close(split["state"][0][name], weight, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_weights_that_no_rank_holds_are_gathered_where_they_are_used(accumulate: int) -> None:
    # DeepSpeed leaves parameters below 100,000 elements whole at stage 3; here most weights are larger.
    wide = {"model": {"architecture": "tests/pairmill/towers/configs/wide.json", "patch_dropout": None}}
    more = {"train": {"accumulate": accumulate}, **wide}
    plain, split = (run_on_ranks(2, trained, recipe(deepspeed={"stage": s}, **more), 0, 3)[0] for s in (0, 3))
    torch.testing.assert_close(split["losses"], plain["losses"], rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_goes_on_bit_for_bit_from_its_state(stage: int) -> None:
    used = recipe(deepspeed={"stage": stage})
    whole = run_on_ranks(2, trained, used, 0, 6)[0]["losses"]
    first = run_on_ranks(2, trained, used, 0, 3, None, True)[0]
    rest = run_on_ranks(2, trained, used, 3, 6, first["state"])[0]
    assert torch.equal(torch.cat([first["losses"], rest["losses"]]), whole)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers_and_another_stage() -> None:
    plain = {"model": {"patch_dropout": None}}
    whole = run_on_ranks(2, trained, recipe(**plain), 0, 6)[0]["losses"]
    state, losses = None, []
    for world, stage, first in ((2, 1, 0), (1, 2, 2), (2, 3, 4)):
        used = recipe(deepspeed={"stage": stage}, **plain)
        part = run_on_ranks(world, trained, used, first, first + 2, state, True)[0]
        losses, state = [*losses, part["losses"]], part["state"]
    torch.testing.assert_close(torch.cat(losses), whole, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_the_scale_stays_below_its_limit_in_the_optimiser_too() -> None:
    used = recipe(temperature={"init": 0.1, "max": 10.0}, optim={"lr": 0.5}, deepspeed={"stage": 1})
    weights = run_on_ranks(2, trained, used, 0, 3, None, True)[0]["state"][0]
    assert weights["logit_scale"].exp().item() <= 10.0 * (1 + 1e-6)


def test_data_config_is_what_the_recipe_says() -> None:
    assert isinstance(recipe().data, DataConfig)


def test_rows_have_kinds_languages_and_ids() -> None:
    rows = rows_of(1, 0, 1)
    assert rows.kind_BK.shape == rows.language_BK.shape == (ROWS, SLOTS)
    assert rows.sample_id_B.tolist() == [*range(8, 16)]
