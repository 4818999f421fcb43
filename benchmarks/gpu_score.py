"""Embedding on one GPU: pictures a second, the share of the time that the GPU is busy, and what the limit is.

    python benchmarks/gpu_score.py                          on a machine with a GPU, about 4 minutes
    python benchmarks/gpu_score.py --dry-run                the same steps on CPUs, with few pictures

Three rates, each a limit of the next: the model on pixels that are on the device already; the model with the transfer
of uint8 pixels; the stage `embed` as a job's actors run it, on a shard that CPU tasks have prepared.  Beside them, what
one core prepares, and so how many cores keep the GPU busy.

Busy is the share of the stage's time in which a kernel runs, pictures' or captions', as torch's profiler sees it.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from photos import photos
from record import WORK, machine, record, table
from score import weights

from curation.embedding.config import EmbedConfig
from curation.embedding.encoders import load_encoder
from curation.embedding.preparation import pixels_of, with_pixels
from curation.embedding.stage import Embed
from curation.stage import Runtime
from pairmill.towers.embed import embed_images


def seconds(work: Any, rounds: int) -> float:
    """The median time of a call, the device's work included."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return median(found[1:])  # the first one compiles and allocates


def busy(work: Any) -> float | None:
    """The share of a call's time in which the device computes; None without a device."""
    if not torch.cuda.is_available():
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took = time.perf_counter() - began
    spans = sorted((one.time_range.start, one.time_range.end) for one in seen.events() if _is_kernel(one))
    total, reached = 0.0, 0.0
    for start, end in spans:  # microseconds; kernels of two streams may overlap
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6 / took


def _is_kernel(event: Any) -> bool:
    """Whether the device computes in it, rather than copying or filling memory."""
    return event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L-14", help="open_clip architecture (default ViT-L-14)")
    parser.add_argument("--images", type=int, default=2000, help="pictures of a shard (default 2000)")
    parser.add_argument("--batch-size", type=int, default=256, help="pictures at once (default 256)")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--dry-run", action="store_true", help="ViT-B-32, 64 pictures, one round; nothing is recorded")
    options = parser.parse_args()
    if options.dry_run:
        options.model, options.images, options.batch_size, options.rounds = "ViT-B-32", 64, 32, 1
    elif not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu_score.py needs a GPU; fix: give --dry-run to try its steps on CPUs")
    WORK.mkdir(parents=True, exist_ok=True)
    began = machine()
    config = EmbedConfig(model=options.model, pretrained=str(weights(options.model)), batch_size=options.batch_size)
    stage = Embed(config, "b")
    stage.setup(Runtime())
    encoder: Any = load_encoder(config)
    side = encoder.preparation.size

    files = photos(WORK / "photos", min(options.images, 500))
    pictures = [(WORK / "photos" / name).read_bytes() for name in files]
    pictures = [pictures[at % len(pictures)] for at in range(options.images)]
    small = pictures[: min(200, options.images)]
    preparing = len(small) / seconds(lambda: pixels_of(small, [encoder.preparation]), 1)

    batch = np.random.default_rng(0).integers(0, 256, (options.batch_size, side, side, 3), np.uint8)
    device = encoder._device
    resident = torch.from_numpy(batch).to(device)

    def computed() -> None:
        pixels = resident.permute(0, 3, 1, 2).float().div_(255)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, encoder._autocast, enabled=encoder._autocast is not None),
        ):
            encoder._model.encode_image(pixels)

    def transferred() -> None:
        embed_images(
            encoder._model, batch, mean=encoder._mean, std=encoder._std, device=device, autocast=encoder._autocast
        )

    rows = pa.table(
        {
            "uid": [f"{at:032x}" for at in range(options.images)],
            "image": pa.array(pictures, pa.binary()),
            "caption": [f"a photograph of something, number {at}" for at in range(options.images)],
            **{name: pa.nulls(options.images, pa.string()) for name in ("drop_stage", "drop_reason")},
        }
    )
    rows = with_pixels(rows, np.ones(options.images, bool), [encoder.preparation])
    rates = {
        "model, pixels on the device": options.batch_size / seconds(computed, 4 * options.rounds),
        "model, with the transfer": options.batch_size / seconds(transferred, 4 * options.rounds),
        "stage, with captions and columns": options.images / seconds(lambda: stage(rows), options.rounds),
    }
    share = busy(lambda: stage(rows))
    table(["pictures/s", "median"], [[name, rate] for name, rate in rates.items()])
    if share is not None:
        print(f"the device computes {share:.0%} of the stage's time; the rest is transfer and columns")
    print(
        f"a core prepares {preparing:.0f} pictures/s: {rates['stage, with captions and columns'] / preparing:.1f} cores"
    )
    if options.dry_run:
        print("dry run: nothing is recorded")
        return
    figures = {
        "model": options.model,
        "device": torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "pictures_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "busy": None if share is None else round(share, 3),
        "prepared_per_core_and_second": round(preparing, 1),
    }
    record("gpu_score", figures, began)


if __name__ == "__main__":
    main()
