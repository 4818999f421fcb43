"""Whether two processes on one GPU give the loss and gradients of one, for every objective and mode.

    python benchmarks/gpu_modes.py              on a machine with a GPU, a few minutes
    python benchmarks/gpu_modes.py --dry-run    the same on CPUs, small and with few rows; nothing is recorded

Each of two ranks has half of the rows and computes in float32 on the device; the mean over ranks is compared with one
process on the whole batch in float64, on the device too: the largest relative error of the value and of any gradient.
In mode local and for groups of one rank, one process computes each half by itself.  NCCL takes one process for each
device, so messages go through the host here, by gloo.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from losses import SMALL, models_of, tensors_of_needs
from record import machine, record, table
from torch import Tensor

from training import gather
from training.gather import Exchange, open_exchange
from training.objectives.by_name import computed, drawn_heads
from training.objectives.config import OBJECTIVES

RANKS, SLOTS, WIDTH, TILE = 2, 2, 256, (256, 512)
#: Mode of `loss.mode` -> ranks of a group.
MODES: dict[str, int | None] = {"gather": None, "ring": None, "group": 2, "local": None}


def tensors(objective: str, rows: int, device: torch.device) -> dict[str, Any]:
    """The whole batch, the same in each process."""
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # of tags

    def units(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1).to(device)

    found = {
        "image": units(rows, WIDTH),
        "text": units(rows, SLOTS, WIDTH),
        "sample_id": torch.arange(rows, device=device),
        "logit_scale": torch.tensor(14.3, dtype=torch.float64, device=device),
        "logit_bias": torch.tensor(-10.0, dtype=torch.float64, device=device),
    }
    return {**found, **tensors_of_needs(objective, rows, units, device, WIDTH)}


def weights_of_heads(objective: str, given: dict[str, Any], *, dry: bool) -> dict[str, Tensor]:
    """What an objective's own heads begin with, in float64: drawn once, since a draw depends on the precision."""
    settings = SMALL.get(objective, {}) if dry else {}
    opened = computed(objective, given, settings, "paper", Exchange(), TILE)[1]
    heads = drawn_heads(opened, torch.float64)
    return {} if heads is None else {name: weight.detach() for name, weight in heads.named_parameters()}


def gradients(
    objective: str,
    given: dict[str, Any],
    weights: dict[str, Tensor],
    exchange: Exchange,
    dtype: torch.dtype,
    *,
    dry: bool,
) -> dict[str, Tensor]:
    """Value and gradients of what is given, in a precision.  weights: of the heads."""
    settings = SMALL.get(objective, {}) if dry else {}
    leaves, taken = {}, {}
    for name, value in {**given, **weights}.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            taken[name] = value.detach().to(given["image"].device, dtype)
            if not name.startswith("teacher"):
                leaves[name] = taken[name].requires_grad_()
        else:
            taken[name] = value
    total = computed(objective, taken, settings, "paper", exchange, TILE)[0].total
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    by_name = zip(leaves.items(), found, strict=True)
    return {"": total.detach(), **{n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in by_name}}


def half(given: dict[str, Any], rank: int, rows: int) -> dict[str, Any]:
    """The rows of a rank."""
    here = slice(rank * rows // RANKS, (rank + 1) * rows // RANKS)
    return {name: value[here] if value.ndim and len(value) == rows else value for name, value in given.items()}


def on_rank(rank: int, folder: str, rows: int, cuda: bool) -> None:
    """What a rank computes, by objective and mode, for the parent to compare."""
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // RANKS))
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    if cuda:
        through_the_host()
    found = {}
    for mode, size in MODES.items():
        exchange = open_exchange(mode, group_size=size)(0)
        for objective in OBJECTIVES.names:
            kind = OBJECTIVES.get(objective)
            if mode in kind.modes and models_of(objective)[-1:] == ["loss"]:
                whole = tensors(objective, rows, device)
                weights = weights_of_heads(objective, whole, dry=not cuda)
                given = half(whole, rank, rows)
                made = gradients(objective, given, weights, exchange, torch.float32, dry=not cuda)
                found[objective, mode] = {name: value.cpu() for name, value in made.items()}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def through_the_host() -> None:
    """Let gloo send what lies on the device, which it can only do for some messages."""

    def staged(function: Callable[..., Any], outputs: int) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            there = [one.cpu() if isinstance(one, Tensor) else one for one in args]
            done = function(*there, **options)
            for at in range(outputs):
                args[at].copy_(there[at])
            return done

        return call

    dist.all_reduce = staged(dist.all_reduce, 1)
    gather._all_gather, gather._reduce_scatter = staged(gather._all_gather, 1), staged(gather._reduce_scatter, 1)

    def passed_on(operations: list[dist.P2POp]) -> list[Any]:
        staged_ = [dist.P2POp(one.op, one.tensor.cpu(), one.peer) for one in operations]
        for request in original(staged_):
            request.wait()
        for one, other in zip(operations, staged_, strict=True):
            if one.op is dist.irecv:
                one.tensor.copy_(other.tensor)
        return []

    original, dist.batch_isend_irecv = dist.batch_isend_irecv, passed_on


def expected(objective: str, mode: str, rows: int, device: torch.device) -> dict[str, Tensor]:
    """Value and gradients of one process in float64."""
    dry = device.type == "cpu"
    whole = tensors(objective, rows, device)
    weights = weights_of_heads(objective, whole, dry=dry)
    if mode != "local":
        return gradients(objective, whole, weights, Exchange(), torch.float64, dry=dry)
    halves = [half(whole, rank, rows) for rank in range(RANKS)]
    parts = [gradients(objective, one, weights, Exchange(), torch.float64, dry=dry) for one in halves]
    return together(parts, whole, rows)


def together(parts: list[dict[str, Tensor]], whole: dict[str, Any], rows: int) -> dict[str, Tensor]:
    """The mean over ranks: of values and shared tensors, and of each rank's own rows, which no other has."""
    found = {}
    for name in parts[0]:
        by_row = name in whole and whole[name].ndim and len(whole[name]) == rows
        of_ranks = [part[name] for part in parts]
        found[name] = torch.cat(of_ranks) / RANKS if by_row else torch.stack(of_ranks).mean(0)
    return found


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest relative error; of a gradient that is nought but for rounding, relative to the largest gradient.

    Such is that of a bias before a batch norm.
    """
    norms = {name: float(value.norm()) for name, value in wanted.items()}
    largest = max(norms.values()) or 1.0
    return max(
        float((found[name].double() - value.cpu()).norm()) / (norms[name] if norms[name] > 1e-9 * largest else largest)
        for name, value in wanted.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096, help="of the whole batch (default 4096)")
    parser.add_argument("--dry-run", action="store_true", help="on CPUs, 64 rows")
    options = parser.parse_args()
    cuda = torch.cuda.is_available() and not options.dry_run
    if not cuda and not options.dry_run:
        raise SystemExit("benchmarks/gpu_modes.py needs a GPU; fix: give --dry-run to try its steps on CPUs")
    rows, began = 64 if options.dry_run else options.rows, machine()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(on_rank, (folder, rows, cuda), nprocs=RANKS)
        of_ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    errors: dict[str, dict[str, float]] = {}
    for objective, mode in itertools.product(OBJECTIVES.names, MODES):
        if (objective, mode) in of_ranks[0]:
            wanted = expected(objective, mode, rows, device)
            found = together([part[objective, mode] for part in of_ranks], tensors(objective, rows, device), rows)
            errors.setdefault(objective, {})[mode] = largest_error(found, wanted)
    table(
        ["objective", *MODES], [[n, *(f"{of[m]:.1e}" if m in of else "—" for m in MODES)] for n, of in errors.items()]
    )
    if not options.dry_run:
        record("gpu_modes", {"device": torch.cuda.get_device_name(), "rows": rows, "errors": errors}, began)


if __name__ == "__main__":
    main()
