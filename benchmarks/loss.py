"""Memory and time of the contrastive loss, forward and backward: pairmill's tiled kernel and open_clip's ClipLoss.

    python benchmarks/loss.py             about 6 minutes on 2 cores; a CUDA device is used where there is one

Every case is a process of its own, so that its peak memory is its own; open_clip and pairmill alternate.  Memory is
the peak of the process over what it holds with the inputs in place.

The limit is the matrix products alone, of tiles as the kernel has them, at the speed that this machine gives them: one
forward, and three backward, where the logits are made again.  open_clip keeps the logits of both directions and needs
six.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from record import machine, record, table

#: What the issue asks for, at B = 16,384 and D = 512: shares of open_clip's.
BAR_MEMORY, BAR_TIME = 0.03, 0.5

WIDTH = 512
SIZES = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
#: open_clip needs 16 bytes a pair: beyond this the benchmark's machine swaps.
LARGEST_PEER = 16384
COMPARED = 16384


def case(contender: str, rows: int) -> dict[str, float]:
    """Seconds and MB of one forward and backward, measured in this process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(rows, WIDTH, device=device), dim=-1).requires_grad_() for _ in range(2))
    scale = torch.tensor(1 / 0.07, device=device, requires_grad=True)
    loss = _pairmill if contender == "pairmill" else _open_clip
    loss(image[:64], text[:64], scale).backward()  # imports, threads, code compiled at first use
    image.grad = text.grad = scale.grad = None
    before = _memory_mb(device)
    began = time.perf_counter()
    value = loss(image, text, scale)
    value.backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    assert image.grad is not None and text.grad is not None
    # The gradients are an output that both must have.
    outputs = 2 * image.numel() * 4 / 1e6
    return {
        "seconds": seconds,
        "mb": _memory_mb(device, peak=True) - before - outputs,
        "loss": value.item(),
        "gradient_norm": float(image.grad.norm()),
    }


def _pairmill(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    from training.gather import Exchange
    from training.losses.compose import compute_loss
    from training.losses.contrast import one_slot
    from training.losses.loss_inputs import LossInputs
    from training.objectives.config import LossConfig

    rows = len(image)
    mask = torch.ones(rows, 1, dtype=torch.bool, device=image.device)
    group = torch.full((rows,), -1, device=image.device)
    inputs = LossInputs(image, text[:, None], mask, scale, None, group)
    return compute_loss(inputs, [one_slot(mask, 0)], Exchange(), tile=LossConfig().tile)


def _open_clip(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    from open_clip.loss import ClipLoss

    value: torch.Tensor = ClipLoss()(image, text, scale)
    return value


def limit(rows: int) -> float:
    """Seconds of the four matrix products of every tile, by the median of one tile's."""
    from training.objectives.config import LossConfig

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    height, width = LossConfig().tile
    query, key, logits = (
        torch.randn(*shape, device=device) for shape in ((height, WIDTH), (width, WIDTH), (height, width))
    )
    d_query, d_key = torch.zeros_like(query), torch.zeros_like(key)
    each = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(2):
            logits.addmm_(query, key.T, beta=0)
        d_query.addmm_(logits, key)
        d_key.addmm_(logits.T, query)
        if device.type == "cuda":
            torch.cuda.synchronize()
        each.append(time.perf_counter() - began)
    return median(each) * rows**2 / (height * width)


def _memory_mb(device: torch.device, *, peak: bool = False) -> float:
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e6
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def measured(contender: str, rows: int) -> dict[str, float]:
    """`case` in a process of its own."""
    command = [sys.executable, __file__, "--case", contender, str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="alternations at the compared size (default 5)")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="largest batch (default 65536)")
    parser.add_argument("--case", nargs=2, metavar=("CONTENDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        contender, rows = options.case[0], int(options.case[1])
        print(json.dumps({"seconds": limit(rows)} if contender == "limit" else case(contender, rows)))
        return

    began = machine()
    sizes: list[dict[str, Any]] = []
    for rows in SIZES:
        if rows > options.largest:
            continue
        line: dict[str, Any] = {"rows": rows}
        rounds = options.rounds if rows == COMPARED else 1
        contenders = ["open_clip", "pairmill"] if rows <= LARGEST_PEER else ["pairmill"]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name in contenders:
                runs[name].append(measured(name, rows))
        for name, found in runs.items():
            line[name] = {key: median(run[key] for run in found) for key in found[0]} | {"runs": found}
        if len(contenders) == 2:
            pairs = list(zip(runs["pairmill"], runs["open_clip"], strict=True))
            line["time_ratio"] = median(a["seconds"] / b["seconds"] for a, b in pairs)
            line["memory_ratio"] = median(a["mb"] / b["mb"] for a, b in pairs)
        line["limit"] = measured("limit", rows)
        sizes.append(line)
        print(f"{rows} rows done", flush=True)

    table(
        [
            *("rows", "open_clip MB", "pairmill MB", "ratio", "open_clip s", "pairmill s", "ratio", "limit s"),
            "logits alone MB",
        ],
        [
            [
                line["rows"],
                *_cells(line, "mb", "memory_ratio"),
                *_cells(line, "seconds", "time_ratio"),
                f"{line['limit']['seconds']:.2f}",
                line["rows"] ** 2 * 4 / 1e6,
            ]
            for line in sizes
        ],
    )
    print(f"bars at {COMPARED} rows: memory {BAR_MEMORY}, time {BAR_TIME}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = {"width": WIDTH, "device": device, "sizes": sizes, "bars": {"memory": BAR_MEMORY, "time": BAR_TIME}}
    record("loss", figures, began)


def _cells(line: dict[str, Any], figure: str, ratio: str) -> list[object]:
    peer = f"{line['open_clip'][figure]:.2f}" if "open_clip" in line else "—"
    return [peer, f"{line['pairmill'][figure]:.2f}", f"{line[ratio]:.2f}" if ratio in line else "—"]


if __name__ == "__main__":
    main()
