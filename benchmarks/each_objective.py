"""Every objective in the demo's setting, as one sweep: does each learn, alone or beside clip, and how well?

    pairmill demo && python benchmarks/each_objective.py          about an hour on 2 idle cores; resumes

What the demo curated is trained on, with what some objectives need beside it: tags (the words of a caption), and texts
that do not fit (captions of other rows).  A small vision transformer gives patches, which the demo's ResNet has not;
`captioning` has the same towers with a decoder, as a CoCa, and `lotlip` has corner tokens.
Each objective is a point of the sweep, with three seeds: alone if it contrasts images with texts, else as a term beside
`clip`.  Measured is recall@1 of images by texts on Google's drawings, against chance.

Writes benchmarks/results/each_objective.json and the sweep's report, docs/each_objective.html.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from record import WORK, interval, machine, record, table

from training.objectives.config import OBJECTIVES

ROOT = Path(__file__).resolve().parent.parent
FOLDER = WORK / "each-objective"
METRIC, CHANCE = "google/image_retrieval_recall@1", "google/image_retrieval_chance@1"
SEEDS, STEPS = 3, 160

#: What is trained beside clip, with its weight: it compares no images with texts, or not enough to learn from alone.
BESIDE_CLIP: Mapping[str, float] = {
    **dict.fromkeys(("align", "uniform", "cross_uniform", "mv_infonce", "mv_dhel", "mixup", "siam", "swav"), 0.2),
    **dict.fromkeys(("rafa", "hycd", "backward_compatible", "grouping", "instance", "self_supervised"), 0.2),
    **dict.fromkeys(("intra_modal", "local_mi", "image_grounded", "text_grounded", "ema_distill"), 0.2),
    **dict.fromkeys(("denoise", "pixpro", "masked_image", "multilinear", "distill", "cwcl", "momentum"), 0.2),
    **dict.fromkeys(("local_global", "masked_prediction", "prototype"), 0.2),
    "barlow": 0.01,
    "captioning": 2.0,
}
#: Settings for a few hundred rows and steps, where the defaults are for hundreds of millions.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "momentum": {"queue": 512, "decay": 0.98},
    "intra_modal": {"queue_size": 512},
    "noise_adaptive": {"table": 4096},
    "codebook": {"codes": 512, "temperature": 10.0, "decay_steps": 40},
    "barlow": {"hidden": 256, "width": 256},
    "siam": {"hidden": 256},
    "swav": {"hidden": 256},
    "prototype": {"episode": 512, "clusters": 64, "restarts": 1, "hidden": 256},
    "local_global": {"hidden": 256, "prototypes": 512},
    "masked_prediction": {"hidden": 256, "prototypes": 512},
}


def loss_of(name: str) -> dict[str, Any]:
    """The recipe's section `loss` that learns an objective."""
    entry = {"name": name, **SETTINGS.get(name, {})}
    if name in BESIDE_CLIP:
        return {"objective": "clip", "terms": {name: {"objective": entry, "weight": BESIDE_CLIP[name]}}}
    return {"objective": entry}


def data() -> Path:
    """What the demo curated, with tags and texts that do not fit."""
    file = FOLDER / "pairs.parquet"
    if not file.is_file():
        pairs = pq.ParquetDataset(ROOT / "runs" / "demo" / "pairs").read().to_pylist()
        chance, rows = random.Random(0), []
        for row in pairs:
            texts = [{name: text[name] for name in ("text", "language", "kind")} for text in row["texts"]]
            wrong = [{"text": one["caption"], "language": "en", "kind": "negative"} for one in chance.sample(pairs, 2)]
            image = row["image"]["bytes"] if isinstance(row["image"], Mapping) else row["image"]
            tags = [word for word in row["caption"].casefold().replace(":", " ").split() if len(word) > 2]
            rows.append(
                {"image": image, "texts": texts + [one for one in wrong if one["text"] != row["caption"]], "tags": tags}
            )
        FOLDER.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=64)
    return file


def tower(name: str) -> Path:
    """The architecture of the demo with a vision transformer in place of its ResNet; coca: with a decoder too."""
    described = json.loads((ROOT / "pipelines" / "recipes" / "models" / "emoji-vit.json").read_text())
    if name == "coca":
        described["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
        text = {key: value for key, value in described["text_cfg"].items() if key not in ("pool_type", "eos_id")}
        text["context_length"] -= 1  # the embedding's own token is the last
        described |= {
            "custom_text": True,
            "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**text, "layers": 2},
        }
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps(described))
    return file


def needed(names: list[str]) -> dict[str, tuple[str, Any]]:
    """Objective -> the key of the recipe, and its value, that the model must have for it."""
    every = {"captioning": ("model.architecture", str(tower("coca"))), "lotlip": ("model.corner_tokens", 2)}
    return {name: of for name, of in every.items() if name in names}


def sweep(names: list[str], steps: int) -> dict[str, Any]:
    """Run or resume the sweep; its report."""
    recipe = {
        "run_dir": str(FOLDER / "sweep"),
        "name": "each-objective",
        "base": str(ROOT / "pipelines" / "recipes" / "train-demo.yaml"),
        "train": {
            "data": {"path": str(data()), "batch_size": 64, "columns": {"tags": "tags"}},
            "model": {"architecture": str(tower("vit"))},
            "train": {"epochs": None, "steps": steps},
            "optim": {"warmup_steps": 10},
            "checkpoint": {"every_steps": 1000, "keep_last": 1},
            "compute": {"workers": 1, "cpus_per_worker": 0.5, "threads": 1},
            "deepspeed": {"stage": 0},
        },
        "space": {
            "loss": {"grid": [loss_of(name) for name in names]},
            "train.seed": {"grid": list(range(SEEDS))},
            **{key: {"grid": [value], "when": {"loss": loss_of(name)}} for name, (key, value) in needed(names).items()},
        },
        "search": {"method": "random", "scheduler": "none"},
        "objectives": [{"metric": METRIC}],
        "repeat": {"best": 0},
        "keep_checkpoints": "best",
    }
    file = FOLDER / "sweep.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "sweep", str(file), "--json"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of each model (default {STEPS})")
    parser.add_argument("--only", nargs="+", metavar="OBJECTIVE", help="some of them; nothing is recorded")
    options = parser.parse_args()
    began = machine()
    names = options.only or list(OBJECTIVES.names)
    report = sweep(names, options.steps)
    found: dict[str, list[float]] = defaultdict(list)
    chance = 0.0
    for trial in report["trials"]:
        loss = trial["point"]["loss"]
        name = next(iter(loss.get("terms", {})), loss["objective"]["name"])
        if "metrics" in trial and METRIC in trial["metrics"]:
            found[name].append(trial["metrics"][METRIC])
            chance = trial["metrics"][CHANCE]
    figures: dict[str, Any] = {"steps": options.steps, "seeds": SEEDS, "chance": chance, "objectives": {}}
    for name in names:
        values = found[name]
        figures["objectives"][name] = {
            "beside clip": name in BESIDE_CLIP,
            "recall@1": {key: round(value, 4) for key, value in interval(values).items()} if len(values) > 1 else None,
            "times chance": round(sum(values) / len(values) / chance, 1) if values and chance else None,
            "runs": len(values),
        }
    rows = [(name, *one.values()) for name, one in figures["objectives"].items()]
    table(["objective", "beside clip", "recall@1", "times chance", "runs"], rows)
    if options.only is None:
        record("each_objective", figures, began)
        shutil.copyfile(FOLDER / "sweep" / "sweep.html", ROOT / "docs" / "each_objective.html")


if __name__ == "__main__":
    main()
