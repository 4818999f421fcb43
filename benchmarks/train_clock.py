"""Where a training worker's seconds go, measured in the same way for pairmill and for open_clip_train.

A step lasts from one request for a batch to the next.  Its seconds are divided into

    data            waiting for the batch
    towers          forward and backward of both towers
    loss            the loss, forward and backward
    communication   waiting for messages between workers; packing gradients, where that is a separate part
    optimiser       the update
    other           the rest: logging, learning rates, agreeing on when to stop

A part within another is subtracted from it.  Backward counts as the loss until the first gradient of an embedding
enters its tower, and as the towers from then on.  Each contender is wrapped where the same thing happens; a wrapper
costs microseconds.  The CPU seconds of all processes of a run are counted too: other load on the machine changes those
little.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist

PARTS = ("data", "towers", "loss", "communication", "optimiser", "other")

#: Every function by which either of them communicates, under its names in all versions of torch.
_MESSAGES = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single", "reduce", "reduce_scatter"),
    *("reduce_scatter_tensor", "reduce_scatter_single", "broadcast", "barrier", "scatter", "gather", "all_to_all"),
)


class Clock:
    """The seconds of one thread by part, step by step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._spent: defaultdict[str, float] | None = None  # None: before the first request for a batch
        self._stack = ["other"]
        self._at = time.perf_counter()
        self._thread = threading.get_ident()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens within counts as `name`, except on other threads."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._mark()
        self._stack.append(name)
        try:
            yield
        finally:
            self._mark()
            self._stack.pop()

    def becomes(self, name: str) -> None:
        """From here on another part is the innermost."""
        self._mark()
        self._stack[-1] = name

    def next_step(self) -> None:
        """A batch is requested: the step before is over."""
        self._mark()
        if self._spent is not None:
            self.steps.append({name: self._spent[name] for name in PARTS})
        self._spent = defaultdict(float)

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count calls of `owner.name` as a part."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return original(*args, **kwargs)

        setattr(owner, name, timed)

    def wrap_messages(self) -> None:
        """Of `torch.distributed`; before anything else takes the functions from it by name."""
        for name in _MESSAGES:
            if hasattr(dist, name):
                self.wrap(dist, name, "communication")

    def wrap_backward(self, owner: Any, name: str) -> None:
        """Count a backward pass as the loss until a `watch`ed embedding has its gradient, then as the towers."""
        self.wrap(owner, name, "loss")

    def watch(self, *embeddings: torch.Tensor) -> None:
        """The embeddings of a forward pass: when the gradient of the first enters its tower, the loss is done.

        Autograd runs in reverse order of creation, so all of the loss comes before either tower.
        """
        done = False

        def arrived(_: torch.Tensor) -> None:
            nonlocal done
            if not done:
                self.becomes("towers")
            done = True

        for embedding in embeddings:
            embedding.register_hook(arrived)

    def _mark(self) -> None:
        now = time.perf_counter()
        if self._spent is not None:
            self._spent[self._stack[-1]] += now - self._at
        self._at = now


class Watch(NamedTuple):
    """Which processes' CPU seconds count, and at which steps (from 0) the count starts and ends."""

    root: int  #: process id: this process and all its descendants
    first: int
    last: int


class Notes:
    """What a worker leaves for the benchmark: its clock, its losses, the rows it saw and how long their texts were."""

    def __init__(self, folder: Path, rank: int, watch: Watch) -> None:
        self.clock = Clock()
        self.cpu_seconds: list[float] = []
        self._watch = watch if rank == 0 else None
        self.losses: list[torch.Tensor] = []
        self.rows: list[list[int]] = []
        self.text_tokens: list[int] = []
        self._file = folder / f"rank-{rank}.json"

    def batch(self, ask: Callable[[], Any]) -> Any:
        """Ask for a batch."""
        self.clock.next_step()
        if self._watch is not None and len(self.clock.steps) in self._watch[1:]:
            self.cpu_seconds.append(_cpu_seconds(self._watch.root))
        with self.clock.part("data"):
            return ask()

    def write(self) -> None:
        """Keep them."""
        found = {
            "steps": self.clock.steps,
            "losses": [float(loss) for loss in self.losses],
            "rows": self.rows,
            "text_tokens": self.text_tokens,
            "cpu_seconds": self.cpu_seconds,
        }
        self._file.write_text(json.dumps(found))


def _cpu_seconds(root: int) -> float:
    """Of a process and all its descendants, including those that ended and were waited for."""
    process = psutil.Process(root)
    seconds = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])  # own and children's, in user and in system mode
    return seconds


def launch_pairmill(config: Any, folder: Path, watch: Watch) -> None:
    """`training.launch.launch` with a clock, on one of Ray Train's workers."""
    notes = Notes(folder, dist.get_rank(), watch)
    clock = notes.clock
    clock.wrap_messages()

    import deepspeed

    from training.data.stream import Batches
    from training.launch import launch
    from training.losses import compose
    from training.model import DualEncoder

    ask, compute = Batches.__next__, compose.compute_loss

    def asked(batches: Batches) -> Any:
        batch = notes.batch(lambda: ask(batches))
        notes.rows.append(batch.sample_id_B.tolist())
        notes.text_tokens.append(batch.tokens_BKL.shape[2])
        return batch

    def computed(inputs: Any, *args: Any, **named: Any) -> Any:
        with clock.part("loss"):
            clock.watch(inputs.image_BD, inputs.text_BKD)
            total = compute(inputs, *args, **named)
        notes.losses.append(total.detach())
        return total

    Batches.__next__ = asked
    compose.compute_loss = computed
    clock.wrap(DualEncoder, "forward", "towers")
    clock.wrap_backward(deepspeed.DeepSpeedEngine, "backward")
    clock.wrap(deepspeed.DeepSpeedEngine, "allreduce_gradients", "communication")
    clock.wrap(deepspeed.DeepSpeedEngine, "step", "optimiser")
    launch(config)
    notes.write()
