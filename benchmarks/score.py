"""Embedding: `pairmill curate` with a section `embed`, from image files to columns, against a bare open_clip loop.

    python benchmarks/score.py              about 15 minutes on 2 cores

The bare loop reads the same Parquet files, prepares pictures with open_clip's own transform, pads texts to 77 tokens
as open_clip's tokenizer does, and writes nothing.  It uses all cores for the model; with a DataLoader of one worker,
or without, whichever is faster.  Ours is timed over the same pictures from the first commit of a shard to the last.

Both are bound by the model's matrix products; the share of decoding is printed.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
from photos import photos
from record import WORK, machine, ratios, record, table
from server import serve

#: What the issue asks for.
BAR = 0.9

SHARD = 128
BATCH = 64


def weights(architecture: str) -> Path:
    """Drawn weights: speed does not depend on them."""
    import open_clip
    import torch

    file = WORK / f"{architecture}.pt"
    if not file.is_file():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(architecture).state_dict(), file)
    return file


def bare(architecture: str, folder: Path, workers: int, results: Any) -> None:
    """Put the pictures a second of open_clip alone, without its start, and the share of time spent on preparing."""
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(os.cpu_count() or 1)
    model, _, prepare = open_clip.create_model_and_transforms(architecture, pretrained=str(weights(architecture)))
    tokenize = open_clip.get_tokenizer(architecture)
    model.eval()
    pairs = []
    for file in sorted((folder / "images").glob("shard-*.parquet")):
        kept = pq.read_table(file, columns=["image"])["image"].to_pylist()
        texts = pq.read_table(folder / "columns" / "filter" / file.name, columns=["caption"])["caption"].to_pylist()
        pairs += [(image, text) for image, text in zip(kept, texts, strict=True) if image is not None and text]

    def prepared(pair: tuple[bytes, str]) -> Any:
        return prepare(Image.open(io.BytesIO(pair[0]))), pair[1]

    def together(batch: list[Any]) -> Any:
        return torch.stack([pixels for pixels, _ in batch]), tokenize([text for _, text in batch])

    preparing = 0.0

    def batches() -> Any:
        nonlocal preparing
        if workers:
            data = [*pairs]
            loader = torch.utils.data.DataLoader(
                _Prepared(data, prepared),
                batch_size=BATCH,
                num_workers=workers,
                collate_fn=together,
                multiprocessing_context="fork",  # the default of Linux, which a process that was spawned has not
            )
            yield from loader
            return
        for at in range(0, len(pairs), BATCH):
            began = time.perf_counter()
            batch = together([prepared(pair) for pair in pairs[at : at + BATCH]])
            preparing += time.perf_counter() - began
            yield batch

    with torch.inference_mode():
        for pixels, tokens in [together([prepared(pair) for pair in pairs[:BATCH]])]:
            model.encode_image(pixels), model.encode_text(tokens)  # what is slower the first time
        began = time.perf_counter()
        for pixels, tokens in batches():
            image = model.encode_image(pixels, normalize=True)
            text = model.encode_text(tokens, normalize=True)
            (image * text).sum(1)
        seconds = time.perf_counter() - began
    results.put((len(pairs) / seconds, preparing / seconds))


class _Prepared:
    def __init__(self, pairs: list[Any], prepare: Any) -> None:
        self._pairs, self._prepare = pairs, prepare

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, at: int) -> Any:
        return self._prepare(self._pairs[at])


def ours(architecture: str, recipe: list[str], folder: Path) -> float:
    """Pictures a second of a job that only embeds, from its first committed shard to its last."""
    subprocess.run(["rm", "-rf", str(folder / "columns" / "embed-b")], check=True)
    embed = {"b": {"model": architecture, "pretrained": str(weights(architecture)), "batch_size": BATCH}}
    command = [sys.executable, "-m", "pipelines", "curate", *recipe, f"embed={json.dumps(embed)}", "--json"]
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = []
    for file in (folder / "columns" / "embed-b" / "_manifest").rglob("*.json"):
        manifest = json.loads(file.read_text())
        found.append((manifest["committed_at"], manifest["stages"]["embed-b"]["rows_kept"]))
    found.sort()
    return sum(rows for _, rows in found[1:]) / (found[-1][0] - found[0][0])


def curated(images: int) -> tuple[list[str], Path]:
    """The recipe's command line and the run, with its pictures and filters committed."""
    run = WORK / "score-run"
    shutil.rmtree(run, ignore_errors=True)  # of another port of the server
    files = photos(WORK / "photos", min(2000, images))
    with serve(WORK / "photos", WORK / "nginx") as server:
        urls = server.urls(files, images)
        listing = WORK / "score-urls.jsonl"
        texts = (f"a photograph of something, number {number}, taken with a camera" for number in range(len(urls)))
        listing.write_text("".join(json.dumps({"url": u, "text": t}) + "\n" for u, t in zip(urls, texts, strict=True)))
        recipe = [
            *("pipelines/recipes/curate.yaml", f"run_dir={run}", f"input.path={listing}", "image.size=256"),
            *(f"shards.rows_per_shard={SHARD}", "deduplicate.enabled=false", "filter.max_images_per_text=null"),
            *("recaption.enabled=false", "translate.enabled=false", "download.allow_networks=[127.0.0.0/8]"),
            *("filter.languages=null", "download.per_host_concurrency=64"),
        ]
        subprocess.run(
            [sys.executable, "-m", "pipelines", "curate", *recipe, "--json"], check=True, stdout=subprocess.PIPE
        )
    return recipe, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500, help="pictures (default 1500)")
    parser.add_argument("--rounds", type=int, default=3, help="alternations (default 3)")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture (default ViT-B-32)")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    began = machine()
    weights(options.model)
    recipe, run = curated(options.images)
    speeds: dict[str, list[float]] = {"open_clip": [], "open_clip, DataLoader of 1 worker": [], "pairmill": []}
    shares = []
    context = multiprocessing.get_context("spawn")
    for number in range(options.rounds):
        for workers, name in enumerate(list(speeds)[:2]):
            results = context.Queue()
            process = context.Process(target=bare, args=(options.model, run, workers, results))
            process.start()
            speed, share = results.get(timeout=1800)
            process.join()
            speeds[name].append(speed)
            shares += [share] if not workers else []
        speeds["pairmill"].append(ours(options.model, recipe, run))
        print(f"round {number + 1}:", ", ".join(f"{n} {s[-1]:.1f}" for n, s in speeds.items()), flush=True)
    fastest = max(list(speeds)[:2], key=lambda name: median(speeds[name]))
    against = ratios(speeds["pairmill"], speeds[fastest])
    table(["pictures and captions/s", "median"], [[name, median(found)] for name, found in speeds.items()])
    print(f"pairmill against {fastest}: {against['median']:.2f} (bar: {BAR})")
    print(f"the bare loop spends {median(shares):.0%} of its time on preparing pictures")
    figures = {
        "images": options.images,
        "model": options.model,
        "bar": BAR,
        "fastest_bare": fastest,
        "ratio": against,
        "share_of_preparing_in_the_bare_loop": round(median(shares), 3),
        "per_second": {name: [round(one, 2) for one in found] for name, found in speeds.items()},
    }
    record("score", figures, began)


if __name__ == "__main__":
    main()
