"""What 1 M, 100 M and 6 B pairs take: nodes, hours, network, storage, politeness, GPU hours, money.

    python benchmarks/capacity.py            print the tables that docs/scaling.md holds
    python benchmarks/capacity.py --write    write them into that page

This is a model, not a measurement at scale.  It multiplies what was measured on two cores (benchmarks/results/), and
uses assumptions where nothing was measured.  Each figure names its source.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.plan import ShardsConfig
from curation.web.config import DownloadConfig

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/scaling.md"
BEGIN, END = "<!-- begin: python benchmarks/capacity.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Scale:
    """A number of URLs, and the machines used for it."""

    name: str
    urls: float
    download_nodes: int
    caption_gpus: int
    training_gpus: int


SCALES = (
    Scale("1 M", 1e6, download_nodes=1, caption_gpus=8, training_gpus=8),
    Scale("100 M", 1e8, download_nodes=16, caption_gpus=64, training_gpus=16),
    Scale("6 B", 6e9, download_nodes=64, caption_gpus=512, training_gpus=128),
)


@dataclass(frozen=True)
class Figure:
    """A constant of the model, and its source."""

    what: str
    value: float
    unit: str
    source: str


def measured() -> dict[str, Figure]:
    """The constants that benchmarks/results/download.json holds."""
    found: dict[str, Any] = json.loads((HERE / "results/download.json").read_text(encoding="utf-8"))
    rounds, cores = found["pairmill"], found["machine"]["cores"]
    source = f"measured, download.json, {found['date'][:10]}"
    return {
        "rate": Figure(
            "images downloaded and resized to 256 px by a core",
            statistics.median(r["steady"] for r in rounds) / cores,
            "images/s",
            f"{source}; from a server that answers at once",
        ),
        "received": Figure("an image as the web has it", found["photographs"]["mean_kb"], "kB", source),
        "stored": Figure(
            "an image as stored", statistics.median(r["bytes_per_image"] for r in rounds) / 1e3, "kB", source
        ),
    }


ASSUMED = {
    "success": Figure("URLs that bring an image", 0.77, "", "with retries, by a user of img2dataset (its issue 361)"),
    "node_cores": Figure("cores of a download node", 16, "", "c5.4xlarge; a vCPU taken for a core of the benchmark"),
    "answer": Figure("time in which a host answers", 0.5, "s", "a guess"),
    "captioner": Figure("parameters of the captioner", 8e9, "", "LLaVA with LLaMA-3-8B, as Recap-DataComp-1B"),
    "tokens": Figure("tokens of an image, its prompt and a long caption", 576 + 32 + 136, "", "LLaVA-1.5; LoTLIP"),
    "flops": Figure("peak of an A100, bfloat16", 312e12, "FLOP/s", "NVIDIA's data sheet"),
    "utilisation": Figure("of which captioning uses", 0.2, "", "a guess: half of decoding waits for memory"),
    "training": Figure("ViT-B/32 trained by an A100", 800, "samples/s", "published for open_clip: 785 to 850"),
    "epochs": Figure("passes over the data", 32, "", "Radford et al. 2021"),
    "samples": Figure("samples seen at most", 34e9, "", "ViT-B/32 on LAION-2B, Cherti et al. 2023"),
    "node_price": Figure("c5.4xlarge, spot", 0.341, "$/h", "example in the EC2 Auto Scaling guide, read 2026-11"),
    "gpu_price": Figure("A100", 14.75 / 8, "$/h", "p4d.24xlarge, EC2 Capacity Blocks price list, end of 2024"),
    "storage_price": Figure("S3 Standard", 0.023, "$/GB/month", "us-east-1, first tier, 2025; not looked up again"),
}


@dataclass(frozen=True)
class Needs:
    """What one scale takes."""

    urls_per_s: float
    download_h: float
    gbit_per_node: float
    received_tb: float
    stored_tb: float  # images/ and pairs/ both hold the picture
    shards: float
    hosts_at_once: float
    largest_host: float  # share of the URLs
    caption_gpu_h: float
    caption_h: float
    training_gpu_h: float
    training_h: float
    download_usd: float
    caption_usd: float
    training_usd: float
    storage_usd_month: float


def needs(scale: Scale, figures: dict[str, Figure]) -> Needs:
    """The model.  Every URL is assumed to cost what an image costs, so failures do not make a run look faster."""
    f = {name: figure.value for name, figure in figures.items()}
    urls_per_s = scale.download_nodes * f["node_cores"] * f["rate"]
    download_s = scale.urls / urls_per_s
    images = scale.urls * f["success"]
    per_host = DownloadConfig().per_host_concurrency / f["answer"]
    captions_per_s = f["flops"] * f["utilisation"] / (2 * f["captioner"] * f["tokens"])
    caption_h = images / captions_per_s / 3600
    training_h = min(images * f["epochs"], f["samples"]) / f["training"] / 3600
    stored_tb = 2 * images * f["stored"] / 1e9
    return Needs(
        urls_per_s=urls_per_s,
        download_h=download_s / 3600,
        gbit_per_node=urls_per_s / scale.download_nodes * f["success"] * f["received"] * 8 / 1e6,
        received_tb=images * f["received"] / 1e9,
        stored_tb=stored_tb,
        shards=scale.urls / ShardsConfig().rows_per_shard,
        hosts_at_once=urls_per_s / per_host,
        largest_host=min(1.0, per_host * download_s / scale.urls),
        caption_gpu_h=caption_h,
        caption_h=caption_h / scale.caption_gpus,
        training_gpu_h=training_h,
        training_h=training_h / scale.training_gpus,
        download_usd=scale.download_nodes * download_s / 3600 * f["node_price"],
        caption_usd=caption_h * f["gpu_price"],
        training_usd=training_h * f["gpu_price"],
        storage_usd_month=stored_tb * 1e3 * f["storage_price"],
    )


def _number(value: float) -> str:
    """Three significant digits at most, in words from a million on."""
    for size, word in ((1e12, " T"), (1e9, " B"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{round(value, -max(0, len(str(int(value))) - 3)):,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.2g} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tables() -> str:
    """The two tables, in Markdown: what it takes, and what that follows from."""
    figures = measured() | ASSUMED
    found = [needs(scale, figures) for scale in SCALES]

    def hours(values: Sequence[float], gpus: Sequence[int]) -> list[str]:
        return [f"{_number(value)}, {number}" for value, number in zip(values, gpus, strict=True)]

    def row(what: str, values: Sequence[str]) -> list[str]:
        return [what, *values]

    takes = _table(
        ["URLs", *(scale.name for scale in SCALES)],
        [
            row("download nodes of 16 cores", [str(s.download_nodes) for s in SCALES]),
            row("URLs/s", [_number(n.urls_per_s) for n in found]),
            row("**hours of downloading**", [_number(n.download_h) for n in found]),
            row("received, Gbit/s a node", [_number(n.gbit_per_node) for n in found]),
            row("received, TB", [_number(n.received_tb) for n in found]),
            row("stored, TB: `images/` and `pairs/`", [_number(n.stored_tb) for n in found]),
            row("shards", [_number(n.shards) for n in found]),
            row("hosts that must be at work at once", [_number(n.hosts_at_once) for n in found]),
            row("share of the URLs that one host may have", [_share(n.largest_host) for n in found]),
            row("captioning, A100 hours", [_number(n.caption_gpu_h) for n in found]),
            row("hours, on A100s", hours([n.caption_h for n in found], [s.caption_gpus for s in SCALES])),
            row("training ViT-B/32, A100 hours", [_number(n.training_gpu_h) for n in found]),
            row("hours, on A100s", hours([n.training_h for n in found], [s.training_gpus for s in SCALES])),
            row("dollars: downloading", [_number(n.download_usd) for n in found]),
            row("dollars: captioning", [_number(n.caption_usd) for n in found]),
            row("dollars: training", [_number(n.training_usd) for n in found]),
            row("dollars a month: storage", [_number(n.storage_usd_month) for n in found]),
        ],
    )
    follows = _table(
        ["constant", "value", "from"],
        [[f.what, f"{_number(f.value)} {f.unit}".strip(), f.source] for f in figures.values()],
    )
    return f"{takes}\n{follows}"


def main() -> None:
    """Print the tables, or put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"rewrite them in {PAGE.name}")
    if not parser.parse_args().write:
        print(tables(), end="")
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
