"""Measure the two saved sample models and write samples/models/*/metrics.json.

    python samples/training/evaluate.py WORK_DIR samples/models

Cost: about two minutes on one core.  WORK_DIR is filled by fetch_data.py; the models are loaded by plain
`from_pretrained`, as a user would.  Captioner: Microsoft's Fluent drawings, an artist it never saw, of every concept
without a skin tone, on white.  Translator: labels it was trained on, and labels of concepts it never saw.  Flags look
alike at every vendor and share one pattern of name, so every figure is also given without them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from atomic_save import KEPT
from PIL import Image
from train_captioner import load_concepts as load_caption_concepts
from train_translator import align_tags, load_concepts, long_captions, split_concepts
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

BATCH = 64


def exact_match(guesses: Sequence[str], references: Sequence[str]) -> float:
    return sum(g == r for g, r in zip(guesses, references, strict=True)) / len(references)


def token_f1(guesses: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of the bags of lower-case words."""
    total = 0.0
    for guess, reference in zip(guesses, references, strict=True):
        ours, theirs = Counter(guess.lower().split()), Counter(reference.lower().split())
        total += 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)
    return total / len(references)


def ngrams(text: str, n: int) -> Counter[str]:
    """Character n-grams of the text without its spaces."""
    text = "".join(text.split())
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def chrf(guesses: Sequence[str], references: Sequence[str], *, order: int = 6, beta: float = 2.0) -> float:
    """Corpus chrF2 in percent (Popović 2015): character n-grams without spaces, as sacrebleu computes it."""
    precisions, recalls = [], []
    for n in range(1, order + 1):
        common = ours = theirs = 0
        for guess, reference in zip(guesses, references, strict=True):
            bag, wanted = ngrams(guess, n), ngrams(reference, n)
            common += (bag & wanted).total()
            # Like sacrebleu, a reference too short for this order excuses the guess's n-grams.
            ours, theirs = ours + (bag.total() if wanted else 0), theirs + wanted.total()
        if ours and theirs:
            precisions.append(common / ours)
            recalls.append(common / theirs)
    if not precisions:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    weighted = beta**2 * precision + recall
    return 100 * (1 + beta**2) * precision * recall / weighted if weighted else 0.0


def area_under_roc(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Probability that a right answer scores above a wrong one."""
    ranked = sorted(range(len(scores)), key=lambda i: scores[i])
    right = sum(correct)
    rank_sum = sum(rank for rank, i in enumerate(ranked, start=1) if correct[i])
    return (rank_sum - right * (right + 1) / 2) / (right * (len(scores) - right))


def on_white(path: Path) -> Image.Image:
    drawing = Image.open(path).convert("RGBA")
    page = Image.new("RGBA", drawing.size, "white")
    return Image.alpha_composite(page, drawing).convert("RGB")


@torch.inference_mode()
def caption(folder: Path, images: Sequence[Image.Image], prompt: str) -> tuple[list[str], list[float], float]:
    """(captions, mean log-probability of their tokens, seconds)."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    captions: list[str] = []
    confidences: list[float] = []
    started = time.monotonic()
    for start in range(0, len(images), BATCH):
        batch = list(images[start : start + BATCH])
        inputs = processor(text=[text] * len(batch), images=batch, return_tensors="pt", padding=True)
        output = model.generate(**inputs, max_new_tokens=48, return_dict_in_generate=True, output_scores=True)
        answers = output.sequences[:, inputs["input_ids"].shape[1] :]
        captions += processor.batch_decode(answers, skip_special_tokens=True)
        scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        written = answers != processor.tokenizer.pad_token_id
        confidences += ((scores.masked_fill(~written, 0)).sum(1) / written.sum(1)).tolist()
    return [c.strip() for c in captions], confidences, time.monotonic() - started


def measure_captioner(folder: Path, work: Path) -> dict[str, Any]:
    concepts = [c for c in load_caption_concepts(work) if (work / "heldout" / f"{c.hexcode}.webp").exists()]
    images = [on_white(work / "heldout" / f"{c.hexcode}.webp") for c in concepts]
    short, confidence, seconds = caption(folder, images, "short")
    long, _, long_seconds = caption(folder, images, "long")
    result: dict[str, Any] = {
        "held_out": "@lobehub/fluent-emoji-3d 1.1.0, concepts without skin tone, on white, greedy, float32",
        "short_images_per_second": round(len(images) / seconds, 1),
        "long_images_per_second": round(len(images) / long_seconds, 1),
        "confidence_auc": round(
            area_under_roc(confidence, [g == c.short for g, c in zip(short, concepts, strict=True)]), 3
        ),
    }
    for name, keep in (("with_flags", lambda label: True), ("without_flags", lambda label: label[:5] != "flag:")):
        rows = [i for i, c in enumerate(concepts) if keep(c.short)]
        shorts, longs = [concepts[i].short for i in rows], [concepts[i].long for i in rows]
        shuffled = random.Random(0).sample(shorts, len(shorts))
        guesses, long_guesses = [short[i] for i in rows], [long[i] for i in rows]
        tags = [text.partition(": ")[2].replace(",", "") for text in long_guesses]
        wanted = [text.partition(": ")[2].replace(",", "") for text in longs]
        result[name] = {
            "images": len(rows),
            "short_exact_match": round(exact_match(guesses, shorts), 4),
            "short_token_f1": round(token_f1(guesses, shorts), 4),
            "short_token_f1_shuffled_references": round(token_f1(guesses, shuffled), 4),
            "long_exact_match": round(exact_match(long_guesses, longs), 4),
            "long_label_exact_match": round(
                sum(g.startswith(f"{s}: ") for g, s in zip(long_guesses, shorts, strict=True)) / len(rows), 4
            ),
            "long_token_f1": round(token_f1(long_guesses, longs), 4),
            "long_tags_f1": round(token_f1(tags, wanted), 4),
        }
    result["examples"] = [
        {"label": concepts[i].short, "short": short[i], "long": long[i]} for i in range(0, len(concepts), 150)
    ]
    return result


@torch.inference_mode()
def translate(folder: Path, texts: Sequence[str]) -> tuple[list[str], float]:
    """(translations, seconds)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    translations = [""] * len(texts)
    started = time.monotonic()
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True)
        output = model.generate(**inputs, max_new_tokens=48)
        for i, text in zip(rows, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
            translations[i] = text
    return translations, time.monotonic() - started


def measure_translator(folder: Path, work: Path) -> dict[str, Any]:
    seen, unseen = split_concepts(load_concepts(work))
    lexicon = align_tags(seen)
    result: dict[str, Any] = {"references": "emojibase-data 17.0.0, zh (Simplified), greedy, float32"}
    for name, group in (("seen", seen), ("unseen", unseen)):
        labels, seconds = translate(folder, [c.english for c in group])
        longs = [long_captions(c, lexicon) for c in group]
        long_guesses, _ = translate(folder, [source for source, _ in longs])
        result[f"{name}_labels_per_second"] = round(len(group) / seconds, 1)
        for suffix, rows in (
            ("with_flags", list(range(len(group)))),
            ("without_flags", [i for i, c in enumerate(group) if not c.is_flag]),
        ):
            guesses, references = [labels[i] for i in rows], [group[i].chinese for i in rows]
            result[f"{name}_{suffix}"] = {
                "labels": len(rows),
                "exact_match": round(exact_match(guesses, references), 4),
                "chrf": round(chrf(guesses, references), 2),
                "long_chrf": round(chrf([long_guesses[i] for i in rows], [longs[i][1] for i in rows]), 2),
            }
        step = max(len(group) // 8, 1)
        result[f"{name}_examples"] = [
            {"english": group[i].english, "reference": group[i].chinese, "translation": labels[i]}
            for i in range(0, len(group), step)
        ]
    return result


def size_in_bytes(folder: Path) -> int:
    """Of the files a model is loaded from."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in KEPT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the saved sample models.")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--only", choices=("captioner", "translator"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, measure in (("captioner", measure_captioner), ("translator", measure_translator)):
        if args.only in (None, name):
            folder = args.models / name
            metrics = {"model_bytes": size_in_bytes(folder), **measure(folder, args.work_dir)}
            (folder / "metrics.json").write_text(json.dumps(metrics, ensure_ascii=False, indent=2) + "\n")
            print(name, json.dumps(metrics, ensure_ascii=False, indent=2), flush=True)


if __name__ == "__main__":
    main()
