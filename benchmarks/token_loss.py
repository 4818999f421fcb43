"""Memory and time of FILIP's loss, forward and backward: pairmill's `token_max`, and x-clip's own code.

    python benchmarks/token_loss.py              about 5 minutes on 2 cores
    python benchmarks/token_loss.py --dry-run    few rows; nothing is recorded

49 patches, 32 text tokens, 256 numbers each.  Every case is a process of its own, so that its peak memory is its own;
both sides alternate, and agree in the loss.  x-clip holds all products of patches and tokens several times over: at
1,024 rows more than the benchmark's machine has.  There its memory and time are those of 512 rows times four, which is
less than it would take: both grow with the square of the rows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from peers import interpreter
from record import machine, record, table
from torch import Tensor, nn

#: What the issue asks for at ROWS: shares of the peer's.
BAR_MEMORY, BAR_TIME = 1 / 20, 1.0
ROWS, PATCHES, TOKENS, WIDTH, SCALE = 1024, 49, 32, 256, 14.3
#: Of which sizes x-clip is measured.
PEER_ROWS = (256, 512)
PEER = ("x-clip==0.14.4", "beartype==0.23.1", "einops==0.8.2")


def tokens(rows: int) -> tuple[Tensor, Tensor]:
    """Patches [B, P, D] and text tokens [B, L, D]."""
    torch.manual_seed(0)
    made = (F.normalize(torch.randn(rows, many, WIDTH), dim=-1) for many in (PATCHES, TOKENS))
    patches, words = (one.requires_grad_() for one in made)
    return patches, words


def pairmill(patches: Tensor, words: Tensor, form: str) -> Tensor:
    """The loss of tokens."""
    from training.objectives import loss_by_name

    of_row = torch.zeros(len(patches), 1)
    tensors = {
        "image": of_row,
        "text": of_row[:, None],
        "image_tokens": F.normalize(patches, dim=-1),
        "text_tokens": F.normalize(words, dim=-1)[:, None],
        "logit_scale": torch.tensor(SCALE),
    }
    return loss_by_name("token_max", tensors, form=form).total


def x_clip(patches: Tensor, words: Tensor) -> Tensor:
    """The loss of x-clip, whose towers give the tokens as they are."""
    from x_clip import CLIP

    class Given(nn.Module):
        def forward(self, *of: Any) -> Tensor:
            return words

    model = CLIP(
        image_encoder=nn.Identity(),
        text_encoder=Given(),
        dim_image=WIDTH,
        dim_text=WIDTH,
        dim_latent=WIDTH,
        use_all_token_embeds=True,
        visual_has_cls_token=False,
        text_has_cls_token=False,
    )
    model.to_text_latent = model.to_visual_latent = nn.Identity()
    model.temperature.data.fill_(math.log(SCALE))
    found: Tensor = model(torch.ones(len(words), TOKENS, dtype=torch.long), patches, return_loss=True)
    return found


def case(contender: str, rows: int) -> dict[str, float]:
    """Seconds and MB of one forward and backward, measured in this process."""

    def loss(patches: Tensor, words: Tensor) -> Tensor:
        if contender == "x_clip":
            return x_clip(patches, words)
        return pairmill(patches, words, contender)

    loss(*tokens(4)).backward()  # imports and threads
    given = tokens(rows)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize() / 1e6
    began = time.perf_counter()
    value = loss(*given)
    value.backward()
    seconds = time.perf_counter() - began
    outputs = sum(one.numel() for one in given) * 4 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "mb": peak - before - outputs, "loss": value.item()}


def measured(contender: str, rows: int, packages: str) -> dict[str, float]:
    """`case` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), packages])}
    command = [sys.executable, __file__, "--case", contender, str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternations at each size (default 3)")
    parser.add_argument("--dry-run", action="store_true", help="16 and 32 rows, one round; nothing is recorded")
    parser.add_argument("--case", nargs=2, metavar=("CONTENDER", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case[0], int(options.case[1]))))
        return
    began = machine()
    # Its packages beside this environment's torch, which they need.
    python = interpreter("x_clip", PEER, dependencies=False)
    packages = str(next((python.parent.parent / "lib").glob("python*/site-packages")))
    rounds, rows, peer_rows = (1, 32, (8, 16)) if options.dry_run else (options.rounds, ROWS, PEER_ROWS)
    equal = [measured(side, peer_rows[0], packages)["loss"] for side in ("x_clip", "released")]
    if not math.isclose(*equal, rel_tol=1e-4):
        sys.exit(f"both sides must give the same loss; they give {equal}")
    sizes: dict[int, dict[str, dict[str, float]]] = {}
    for size in (*peer_rows, rows):
        sides = ("x_clip", "paper") if size in peer_rows else ("paper",)
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                runs[side].append(measured(side, size, packages))
        sizes[size] = {side: {key: median(run[key] for run in of) for key in of[0]} for side, of in runs.items()}
        print(size, sizes[size], flush=True)
    squared = (rows / peer_rows[-1]) ** 2
    peer = {key: sizes[peer_rows[-1]]["x_clip"][key] * squared for key in ("seconds", "mb")}
    mine = sizes[rows]["paper"]
    time_ratio, memory_ratio = mine["seconds"] / peer["seconds"], mine["mb"] / peer["mb"]
    table(
        ["rows", "x-clip MB", "pairmill MB", "x-clip s", "pairmill s"],
        [
            [size, *(of.get(side, {}).get(key, "—") for key in ("mb", "seconds") for side in ("x_clip", "paper"))]
            for size, of in sizes.items()
        ],
    )
    print(f"{rows} rows: memory {memory_ratio:.3f}× (bar {BAR_MEMORY}), time {time_ratio:.2f}× (bar {BAR_TIME})")
    if options.dry_run:
        return
    figures = {
        "peer": PEER[0],
        "shape": {"rows": rows, "patches": PATCHES, "tokens": TOKENS, "width": WIDTH},
        "sizes": sizes,
        "memory_ratio": memory_ratio,
        "time_ratio": time_ratio,
        "bars": {"memory": BAR_MEMORY, "time": BAR_TIME},
    }
    record("token_loss", figures, began)


if __name__ == "__main__":
    main()
