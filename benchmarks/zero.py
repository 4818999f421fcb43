"""ZeRO stages 0 to 3: the same losses over 50 steps, and checkpoints that plain open_clip loads with equal features.

    python benchmarks/zero.py              about 5 minutes on 2 idle cores

Each stage is a whole run on Ray Train with two workers, from the same seed.  Bars: every loss is within 1e-3 (relative)
of stage 0's; the features of the last checkpoint in `open_clip.create_model_and_transforms` equal those of our own
loader within 1e-6, since it sums the patches of an image in another order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from record import machine, record, table
from train_resume import RECIPE, ROOT

from pairmill.towers.model_folder import load_exported
from training.recipe import TrainRecipe
from training.train import train

BAR = 1e-3
STAGES = (0, 1, 2, 3)


def run(folder: Path, stage: int, steps: int) -> dict[str, Any]:
    """Train with a stage; its losses, and the features of a fixed batch by both loaders."""
    sections = {
        # Wide enough to be split: DeepSpeed leaves parameters below 100,000 elements whole at stage 3.
        "model": {"architecture": str(ROOT / "tests" / "training" / "towers" / "configs" / "wide.json")},
        "train": {"steps": steps, "precision": "fp32"},
        "checkpoint": {"every_steps": steps},
    }
    run_dir = folder / f"stage-{stage}"
    data = RECIPE | sections | {"run_dir": str(run_dir), "deepspeed": {"stage": stage}}
    checkpoint = train(TrainRecipe.checked(data), quiet=True)["checkpoint"]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    ours, _tokenizer, _, _ = load_exported(Path(checkpoint))
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{checkpoint}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{checkpoint}")
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(8, 3, 64, 64, generator=generator)
    text = tokenize(["red apple", "红苹果", "a cat face", "grinning face with big eyes"])
    with torch.no_grad():
        features = [
            (model.eval().encode_image(image, normalize=True), model.encode_text(text, normalize=True))
            for model in (ours, theirs)
        ]
    return {
        "losses": [line["loss"] for line in lines if "loss" in line],
        "equal_features": all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(*features, strict=True)),
        "features": torch.cat(features[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps (default 50)")
    steps = parser.parse_args().steps
    began = machine()
    with tempfile.TemporaryDirectory(prefix="pairmill-zero-") as folder:
        runs = {stage: run(Path(folder), stage, steps) for stage in STAGES}
    first = runs[0]
    stages = [
        {
            "stage": stage,
            "steps": len(found["losses"]),
            "last_loss": found["losses"][-1],
            "largest_relative_difference": max(
                abs(a / b - 1) for a, b in zip(found["losses"], first["losses"], strict=True)
            ),
            "open_clip_features_equal_ours": found["equal_features"],
            "least_cosine_to_stage_0": float((found["features"] * first["features"]).sum(-1).min()),
        }
        for stage, found in runs.items()
    ]
    table(list(stages[0]), [list(stage.values()) for stage in stages])
    record("zero", {"bar": BAR, "stages": stages}, began)
    sys.exit(not all(s["largest_relative_difference"] <= BAR and s["open_clip_features_equal_ours"] for s in stages))


if __name__ == "__main__":
    main()
