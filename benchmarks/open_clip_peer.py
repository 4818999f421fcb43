"""One worker of `open_clip_train`, as `torchrun` would start it, with a clock around its parts.

    RANK=… WORLD_SIZE=… MASTER_ADDR=… MASTER_PORT=… open_clip_peer.py NOTES WATCH [CONFIG.json] -- ARGUMENTS

Its own code runs unchanged, from `main` on.  NOTES: the folder for the measurements.  WATCH: a `train_clock.Watch` as a
JSON list.  CONFIG.json: an architecture that it must know by the file's name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from train_clock import Clock, Notes, Watch


def main() -> None:
    at = sys.argv.index("--")
    folder, watch, *configs = sys.argv[1:at]
    notes = Notes(Path(folder), int(os.environ["RANK"]), Watch(*json.loads(watch)))
    notes.clock.wrap_messages()

    import open_clip
    from open_clip_train.main import main as train

    for config in configs:
        open_clip.add_model_config(config)
    _time_batches(notes)
    _time_loss(notes)
    notes.clock.wrap(open_clip.model.CLIP, "forward", "towers")
    notes.clock.wrap_backward(torch.Tensor, "backward")
    for method in ("zero_grad", "step"):
        notes.clock.wrap(torch.optim.AdamW, method, "optimiser")
    _on_cpu(notes.clock)
    train(sys.argv[at + 1 :])
    notes.write()


def _time_batches(notes: Notes) -> None:
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    ask = _BaseDataLoaderIter.__next__

    def asked(batches: Any) -> Any:
        batch = notes.batch(lambda: ask(batches))
        notes.text_tokens.append(batch[1].shape[1])
        return batch

    _BaseDataLoaderIter.__next__ = asked


def _time_loss(notes: Notes) -> None:
    from open_clip.loss import ClipLoss

    forward = ClipLoss.forward

    def timed(loss: Any, image_features: Any, text_features: Any, *args: Any, **kwargs: Any) -> Any:
        with notes.clock.part("loss"):
            notes.clock.watch(image_features, text_features)
            found = forward(loss, image_features, text_features, *args, **kwargs)
        notes.losses.append(found["contrastive_loss"].detach())
        return found

    ClipLoss.forward = timed


def _on_cpu(clock: Clock) -> None:
    """Let DistributedDataParallel run here, and record when it only waits.

    open_clip_train names a device for it even on a CPU, which torch refuses.  The hook does what torch does by itself:
    a bucket is sent while backward continues, so nothing waits until the last one is sent.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    parallel = torch.nn.parallel.DistributedDataParallel

    def exchange(group, bucket):  # torch wants its own annotations here, or none
        with clock.part("communication"):
            sent = allreduce_hook(group, bucket)
        if bucket.is_last():
            clock.becomes("communication")
        return sent

    def on_cpu(model: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> torch.nn.Module:
        found = parallel(model, **kwargs)
        found.register_comm_hook(None, exchange)
        return found

    torch.nn.parallel.DistributedDataParallel = on_cpu


if __name__ == "__main__":
    main()
