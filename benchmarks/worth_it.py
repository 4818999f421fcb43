"""Is selecting worth it?  Models trained on selections of a noisy list, against all of it and as many rows by chance.

    python benchmarks/worth_it.py           about an hour on 2 idle cores; resumes from what is done

Drawings of emoji and clip art (`drawings.py`) are served, listed and curated; 30 % of the list's captions have changed
places.  A small dual encoder that is trained on other drawings, whose captions are right, embeds and scores the list;
`pairmill fit-filter` learns a filter from yet others.  Then one model for each selection and seed is trained from
scratch, as many steps each, and measured on emoji by another artist and on clip art, of which nothing was listed.
Every selection is compared with a random one of its size, another one for each seed: the mean of the differences, seed
by seed, with its interval of 95 % (Student's t).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from drawings import Drawing, drawings, flat, swapped
from record import WORK, interval, machine, record, table
from server import serve

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "pipelines" / "recipes"
FOLDER = WORK / "worth-it"
SWAPPED = 0.3
#: Share of the list that the two filters keep: of the captions, 70 % are right.
KEPT = 0.6
#: The balance's limit of captions of one entry.
LIMIT = 20
METRICS = {"emoji": "emoji/image_retrieval_recall@10", "clip art": "clipart/image_retrieval_recall@10"}
RULES: dict[str, Any] = {
    "everything": {"where": "width > 0"},
    "unswapped": {"where": "caption == input.own_text"},
    "clip": {"top": {"by": "score_clip", "share": KEPT}},
    "dfn": {"top": {"by": "dfn", "share": KEPT}},
    "deduplicated": {"dedup": ["exact", "near_image"]},
    "balanced": {"balance": {"metadata": str(FOLDER / "metadata.json"), "t": LIMIT}},
}
#: What is compared with a random selection of its size.
COMPARED = ("clip", "dfn", "deduplicated", "balanced")


def run(*command: str) -> dict[str, Any]:
    """A pairmill command as a process; its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *command, "--json"], stdout=subprocess.PIPE, check=True, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def pairs(chosen: Sequence[Drawing], file: Path) -> Path:
    """A plain Parquet dataset of some drawings."""
    images = [drawing.file.read_bytes() for drawing in chosen]
    rows = {"image": pa.array(images, pa.binary()), "caption": [drawing.text for drawing in chosen]}
    pq.write_table(pa.table(rows), file, row_group_size=100)
    return file


def training(path: Path, run_dir: Path, steps: int) -> list[str]:
    """The recipe's command line of one training run: the demo's model, one English text a picture."""
    return [
        str(RECIPES / "train-demo.yaml"),
        f"run_dir={run_dir}",
        f"data.path={path}",
        "data.texts=[[{}]]",
        "train.epochs=null",
        f"train.steps={steps}",
        "loss.objective=clip",
        "optim.warmup_steps=30",
        "checkpoint={every_steps: 100000, keep_last: 1}",
        "compute={workers: 1, cpus_per_worker: 1, threads: 1}",
        "evaluate.datasets={}",
    ]


def curated(found: list[Drawing], steps: int) -> list[str]:
    """Curate the list with scores of both filters; the recipe's command line."""
    scorer = FOLDER / "scorer"
    if not scorer.is_dir():
        trusted = pairs([d for d in found if d.part == "trusted"], FOLDER / "trusted.parquet")
        run("train", *training(trusted, FOLDER / "scorer-run", steps))
        run("export", str(FOLDER / "scorer-run"), "--to", str(scorer), "--format", "open_clip")
    good = pairs([d for d in found if d.part == "good"], FOLDER / "good.parquet")
    recipe = [
        *(str(RECIPES / "curate-demo.yaml"), f"run_dir={FOLDER / 'run'}", f"input.path={FOLDER / 'list.parquet'}"),
        *("shards.rows_per_shard=500", "image.size=128", "recaption.enabled=false", "translate.enabled=false"),
        *("filter.enabled=false", "deduplicate.enabled=false", "download.per_host_concurrency=64"),
        f"embed={json.dumps({'clip': {'model': str(scorer)}})}",
    ]
    listed = [d for d in found if d.part == "listed"]
    names = flat(FOLDER / "site", listed)
    texts = [d.text for d in listed]
    with serve(FOLDER / "site", FOLDER / "nginx") as server:
        if not (FOLDER / "dfn.safetensors").is_file():
            shutil.rmtree(FOLDER / "run", ignore_errors=True)
            rows = {
                "url": [f"{server.base}/{name}" for name in names],
                "text": swapped(texts, SWAPPED, seed=0),
                "own_text": texts,
                "kind": [d.kind for d in listed],
            }
            pq.write_table(pa.table(rows), FOLDER / "list.parquet")
            run("curate", *recipe)
            card = run(
                *("fit-filter", str(FOLDER / "run"), "--embedding", "clip", "--good", str(good), "--hidden", "64"),
                *("--to", str(FOLDER / "dfn.safetensors")),
            )
            (FOLDER / "dfn.json").write_text(json.dumps(card))
        words = metadata(found)
        run("metadata", str(words), "--to", str(FOLDER / "metadata.json"), "--least", "2")
        head = {"dfn": {"name": "mlp", "embedding": "clip", "weights": str(FOLDER / "dfn.safetensors")}}
        recipe += [f"score={json.dumps(head)}", f"selections={json.dumps(RULES)}"]
        run("curate", *recipe)
    return recipe


def metadata(found: list[Drawing]) -> Path:
    """Titles for the balance: what the trusted drawings are called and tagged with, and how many of them are."""
    counts: dict[str, int] = {}
    for drawing in found:
        if drawing.part in ("trusted", "good"):
            for part in drawing.text.casefold().split(", "):
                for words in {part, *part.split()}:
                    counts[words] = counts.get(words, 0) + 1
    file = FOLDER / "titles.tsv"
    lines = [f"{title}\t{count}\n" for title, count in sorted(counts.items()) if len(title) > 2 and "\t" not in title]
    file.write_text("title\tcount\n" + "".join(lines))
    return file


def sizes() -> dict[str, dict[str, float]]:
    """Rows of each selection, and the share of them whose captions are another drawing's."""
    found: dict[str, dict[str, float]] = {}
    for name in RULES:
        counts = run(
            "select", str(FOLDER / "run"), "--diff", "everything" if name == "unswapped" else name, "unswapped"
        )
        wrong = 0 if name == "unswapped" else counts["only"][name]["rows"]
        found[name] = {"rows": counts["both"] + wrong, "swapped": round(wrong / (counts["both"] + wrong), 4)}
    return found


def trained(
    found: list[Drawing], seed: int, steps: int, chosen: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """What models of one seed come to, by selection."""
    done = FOLDER / f"seed-{seed}.json"
    if done.is_file():
        kept: dict[str, dict[str, float]] = json.loads(done.read_text())
        return kept
    random = {
        f"random_{int(chosen[name]['rows'])}": {
            "top": {"by": f"random({100 + seed})", "rows": int(chosen[name]["rows"])}
        }
        for name in COMPARED
    }
    held_out = {
        name.replace(" ", ""): str(
            pairs([d for d in found if (d.part, d.kind) == ("held out", name)], FOLDER / f"{name}.parquet")
        )
        for name in METRICS
    }
    base = {
        "run_dir": str(FOLDER / f"sweep-{seed}"),
        "name": f"worth-it-{seed}",
        "base": str(RECIPES / "train-demo.yaml"),
        "train": {
            "data": {"path": str(FOLDER / "run"), "texts": [[{}]]},
            "loss": {"objective": "clip"},
            "train": {"epochs": None, "steps": steps, "seed": seed},
            "optim": {"warmup_steps": 30},
            "checkpoint": {"every_steps": 100000, "keep_last": 1},
            "compute": {"workers": 1, "cpus_per_worker": 1, "threads": 1},
            "evaluate": {"datasets": {name: {"path": path} for name, path in held_out.items()}},
        },
        "selections": {f"{name}_{seed}": rule for name, rule in random.items()},
        "space": {"data.selection": {"grid": [*RULES, *(f"{name}_{seed}" for name in random)]}},
        "search": {"method": "random", "scheduler": "none"},
        "objectives": [{"metric": metric} for metric in METRICS.values()],
        "repeat": {"best": 0},
        "keep_checkpoints": "best",
    }
    file = FOLDER / f"sweep-{seed}.yaml"
    file.write_text(json.dumps(base))  # JSON is YAML
    report = run("sweep", str(file))
    if not report["finished"]:
        raise SystemExit("stopped; run the same command again to resume")
    results = {
        trial["point"]["data.selection"].removesuffix(f"_{seed}"): {k: trial["metrics"][m] for k, m in METRICS.items()}
        for trial in report["trials"]
    }
    done.write_text(json.dumps(results))
    return results


def rounded(values: Sequence[float]) -> dict[str, float]:
    """Mean and interval, to four digits."""
    return {name: round(value, 4) for name, value in interval(values).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="models for each selection (default 5)")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each model (default 200)")
    options = parser.parse_args()
    began = machine()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = drawings()
    curated(found, 2 * options.steps)
    if not options.seeds:
        print("the run and the models that score it are made; no model is trained on a selection")
        return
    chosen = sizes()
    by_seed = [trained(found, seed, options.steps, chosen) for seed in range(options.seeds)]
    figures: dict[str, Any] = {"swapped": SWAPPED, "steps": options.steps, "seeds": options.seeds, "selections": {}}
    figures["filter"] = json.loads((FOLDER / "dfn.json").read_text())
    figures["filter"].pop("path", None)
    # Where the model lies on this machine says nothing.
    figures["filter"]["embedding"] = figures["filter"]["embedding"].rpartition("/")[2]
    lines = []
    for name in RULES:
        entry: dict[str, Any] = dict(chosen[name])
        for kind in METRICS:
            own = [results[name][kind] for results in by_seed]
            entry[kind] = {"recall@10": rounded(own)}
            against = {"everything": "everything", "random of its size": f"random_{int(chosen[name]['rows'])}"}
            for label, other in against.items():
                if name != other and other in by_seed[0]:
                    pairs_ = zip(own, (results[other][kind] for results in by_seed), strict=True)
                    entry[kind][f"minus {label}"] = rounded([a - b for a, b in pairs_])
            lines.append(
                [name, int(chosen[name]["rows"]), chosen[name]["swapped"], kind, *map(spelled, entry[kind].values())]
            )
        figures["selections"][name] = entry
    table(
        ["selection", "rows", "swapped", "measured on", "recall@10", "minus everything", "minus random"],
        [line + [""] * (7 - len(line)) for line in lines],
    )
    record("worth_it", figures, began)


def spelled(found: dict[str, float]) -> str:
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


if __name__ == "__main__":
    main()
