"""Do the papers' claims hold here?  Small models, several seeds, intervals; what does not hold is reported as such.

    python benchmarks/claims.py                     hours on 2 idle cores; resumes from what is done
    python benchmarks/claims.py --only one_to_k     some claims; the result keeps what it has of the others

Drawings of emoji and clip art, with short, long and translated captions (`claims_data.py`); claims and models are in
`claims_arms.py`.  Models are trained from the same seeds by the functions of a training run (`claims_training.py`), two
at a time, and measured on drawings by another artist (emoji) and of other families (clip art).  A comparison is the
difference of two models of one seed: its mean over seeds, with the interval of 95 % (Student's t).  It holds if the
whole interval is on the expected side of 0; where "no worse" is expected, unless it is wholly below 0.

Writes benchmarks/results/claims.json and docs/claims.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import claims_data
from claims_arms import CLAIMS, STEPS, TOWERS, Arm, Claim, recipe_of
from claims_data import FOLDER, KINDS
from record import RESULTS, interval, machine, record

ROOT = Path(__file__).resolve().parent.parent
MODELS = FOLDER / "models"
PAGE = ROOT / "docs" / "claims.md"
SEEDS = 5

#: Last part of a metric's name -> how it is called, factor, and unit.
_SHOWN: Mapping[str, tuple[str, float, str]] = {
    "test/kind_short/image_retrieval_recall@10": ("recall@10, short captions", 100, "points"),
    "test/kind_long/image_retrieval_recall@10": ("recall@10, long captions", 100, "points"),
    "bilingual/language_zh/image_retrieval_recall@10": ("recall@10, Chinese", 100, "points"),
    "bilingual/mrv_language/variance_capped": ("mean rank variance", 1, ""),
    "test/geometry/modality_gap": ("modality gap", 1, ""),
    "attack success": ("attack success", 100, "points"),
    "seconds": ("seconds of a core", 1, "s"),
}
_EXPECTED = {"+": "higher", "-": "lower", "=": "no lower"}


def trained(arm: Arm, kind: str, seed: int) -> Path:
    """Train an arm's model, and first what it begins from, unless that is done; the file of what it came to."""
    begins = None if arm.begins is None else trained(arm.begins, kind, seed).with_suffix(".safetensors")
    recipe = recipe_of(arm, kind, seed, None if begins is None else str(begins))
    key = hashlib.sha256(json.dumps([recipe, TOWERS], sort_keys=True).encode()).hexdigest()[:16]
    result = MODELS / f"{key}.json"
    if not result.is_file():
        asked = {"recipe": recipe, "weights": str(MODELS / f"{key}.safetensors"), "result": str(result)}
        subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "claims_training.py")],
            input=json.dumps(asked),
            text=True,
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"},
        )
    return result


def train_all(claims: Sequence[Claim], seeds: Iterable[int], processes: int) -> None:
    """Train every model of the claims, those of the first seed first, each once."""
    for seed in seeds:
        chosen = [(arm, kind) for claim in claims for kind in claim.kinds for arm in claim.arms.values()]
        begun_from = [(arm.begins, kind) for arm, kind in chosen if arm.begins is not None]
        for wave in (begun_from, chosen):
            # Claims share models; one by another name is not trained twice.
            each = {repr((arm, kind)): (arm, kind) for arm, kind in wave}
            with ThreadPoolExecutor(processes) as pool:
                jobs = [pool.submit(trained, arm, kind, seed) for arm, kind in each.values()]
                for number, job in enumerate(jobs):
                    job.result()
                    print(f"seed {seed}: {number + 1} of {len(jobs)} models", flush=True)


def verdict(found: Mapping[str, float], expected: str) -> str:
    """What an interval says of an expectation: holds, not seen, or the opposite."""
    if expected == "=":
        return "the opposite" if found["high"] < 0 else "holds"
    low, high = (found["low"], found["high"]) if expected == "+" else (-found["high"], -found["low"])
    return "holds" if low > 0 else "the opposite" if high < 0 else "not seen"


def judged(claim: Claim, kind: str, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Each comparison of a claim on one dataset."""
    results = {
        label: [json.loads(trained(arm, kind, seed).read_text()) for seed in seeds] for label, arm in claim.arms.items()
    }
    found = []
    for one in claim.comparisons:
        if one.metric.startswith("bilingual") and kind != "emoji":
            continue
        called, factor, unit = _SHOWN[one.metric]
        arm, other = ([factor * r[one.metric] for r in results[label]] for label in (one.arm, one.other))
        difference = interval([a - b for a, b in zip(arm, other, strict=True)])
        found.append(
            {
                "metric": called,
                "unit": unit,
                "arm": one.arm,
                "other": one.other,
                "expected": _EXPECTED[one.expected],
                "arm's mean": round(mean(arm), 3),
                "other's mean": round(mean(other), 3),
                "difference": {name: round(value, 3) for name, value in difference.items()},
                "verdict": verdict(difference, one.expected),
            }
        )
    return found


def kept_results(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of the committed result, if they were measured with as many seeds and steps."""
    file = RESULTS / "claims.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found["claims"] if all(found.get(key) == figures[key] for key in ("seeds", "steps")) else {}


def page(figures: Mapping[str, Any]) -> str:
    """docs/claims.md."""
    lines = [
        "# Claims of the papers, tried on small models",
        "",
        "Generated by `python benchmarks/claims.py` from `benchmarks/results/claims.json`; do not edit.",
        "",
        f"Models of about two million parameters learn from scratch for {STEPS} steps of 128 drawings, from "
        f"{figures['seeds']} seeds.  Emoji are measured as another artist draws them, clip art on families that nobody "
        "trained on.  A difference is of two models of one seed, with its interval of 95 % over seeds (Student's t).  "
        "A claim *holds* here if the whole interval is on the side that the paper says, and is *not seen* if 0 is in "
        "it.  *No lower* holds unless the interval is wholly below 0.  Such models and so little data say little about "
        "large ones: a claim that is not seen here is not refuted.",
        "",
    ]
    for name, claim in figures["claims"].items():
        lines += [f"## {name}", "", f"{claim['paper']}.  {claim['says']}", "", f"Here: {claim['setting']}", ""]
        lines += ["| on | what | arm | against | expected | difference | verdict |", "|---|---|---|---|---|---|---|"]
        for kind in KINDS:
            for one in claim["found"].get(kind, ()):
                d, unit = one["difference"], f" {one['unit']}" if one["unit"] else ""
                digits = 3 if not one["unit"] and abs(one["arm's mean"]) < 10 else 1
                shown = f"{d['mean']:+.{digits}f} [{d['low']:+.{digits}f}, {d['high']:+.{digits}f}]{unit}"
                arm, other = (
                    f"{one[who]} ({one[value]:.{digits}f})"
                    for who, value in (("arm", "arm's mean"), ("other", "other's mean"))
                )
                lines.append(
                    f"| {kind} | {one['metric']} | {arm} | {other} | {one['expected']} | {shown} | {one['verdict']} |"
                )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"models for each arm (default {SEEDS})")
    parser.add_argument("--only", nargs="+", metavar="CLAIM", help="names of claims; the result keeps the others")
    parser.add_argument("--processes", type=int, default=2, help="models trained at a time (default 2)")
    options = parser.parse_args()
    began = machine()
    claims_data.made()
    MODELS.mkdir(exist_ok=True)
    for name, architecture in TOWERS.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(architecture))
    known = {claim.name: claim for claim in CLAIMS}
    if unknown := set(options.only or ()) - set(known):
        raise SystemExit(f"--only must name claims: {', '.join(known)}; not {', '.join(sorted(unknown))}")
    claims = [known[name] for name in options.only or known]
    train_all(claims, range(options.seeds), options.processes)
    figures: dict[str, Any] = {"seeds": options.seeds, "steps": STEPS, "claims": {}}
    before = kept_results(figures) if options.only else {}
    for claim in CLAIMS:
        if claim in claims:
            figures["claims"][claim.name] = {
                "paper": claim.paper,
                "says": claim.says,
                "setting": claim.setting,
                "found": {kind: judged(claim, kind, range(options.seeds)) for kind in claim.kinds},
            }
        elif claim.name in before:
            figures["claims"][claim.name] = before[claim.name]
    text = page(figures)
    print(text)
    record("claims", figures, began)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
