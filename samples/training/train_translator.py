"""Train the sample translator, English -> Simplified Chinese, on emoji labels and tags.

    python samples/training/train_translator.py WORK_DIR samples/models/translator --minutes 15

Cost and result: see samples/models/translator/README.md.  Needs torch, transformers and tokenizers;
WORK_DIR is filled by fetch_data.py.  One thread, float32.

A tenth of the concepts (seeded) is unseen: neither their labels, skin-tone variants, shortcodes nor tags are
trained on, and names that equal an unseen label are taken out of the other sources.  Sources of pairs:
    labels     emojibase label -> label
    variants   labels with a skin tone, shortcodes spelt out
    lexicon    English tag -> Chinese tag, aligned by how often they describe the same concepts; CLDR names of
               symbols, territories, languages and scripts
    long       "label: tag, tag" as the captioner writes it -> "label：tag、tag"
    lists      random "a, b, c" of the above -> "a、b、c"
"""
# ruff: noqa: N812 (F is torch's own idiom)

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from atomic_save import save_atomically
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

PAD, EOS, UNK = range(3)
TAGS = 4
UNSEEN_SHARE, SPLIT_SEED = 0.1, 20
SHORTCODES = ("emojibase", "iamcal", "joypixels", "github")
HAS_HAN = re.compile(r"[\u4e00-\u9fff]")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Concept:
    """One emoji: its label and tags in both languages, and other (English, Chinese) names of it."""

    hexcode: str
    english: str
    chinese: str
    english_tags: list[str]
    chinese_tags: list[str]
    is_flag: bool
    variants: list[Pair] = field(default_factory=list)


def load_concepts(work: Path) -> list[Concept]:
    """Concepts of emojibase with their skin-tone variants and shortcodes."""
    base = work / "emojibase"
    chinese = {e["hexcode"]: e for e in json.loads((base / "zh" / "data.json").read_text())}
    shortcodes: dict[str, set[str]] = {}
    for preset in SHORTCODES:
        for code, names in json.loads((base / "en" / "shortcodes" / f"{preset}.json").read_text()).items():
            shortcodes.setdefault(code, set()).update([names] if isinstance(names, str) else names)
    concepts = []
    for entry in json.loads((base / "en" / "data.json").read_text()):
        other = chinese[entry["hexcode"]]
        tones = {skin["hexcode"]: skin["label"] for skin in other.get("skins", [])}
        variants = [(s["label"], tones[s["hexcode"]]) for s in entry.get("skins", []) if s["hexcode"] in tones]
        spelt = {re.sub(r"[_-]", " ", name) for name in shortcodes.get(entry["hexcode"], set())}
        variants += [(name, other["label"]) for name in sorted(spelt - {entry["label"]}) if len(name) > 3]
        concepts.append(
            Concept(
                hexcode=entry["hexcode"],
                english=entry["label"],
                chinese=other["label"],
                english_tags=entry.get("tags", []),
                chinese_tags=[tag for tag in other.get("tags", []) if HAS_HAN.search(tag)],
                is_flag=entry.get("group") == 9,
                variants=variants,
            )
        )
    return concepts


def split_concepts(concepts: list[Concept]) -> tuple[list[Concept], list[Concept]]:
    """(seen, unseen); the same for training and evaluation."""
    hidden = set(random.Random(SPLIT_SEED).sample(range(len(concepts)), round(len(concepts) * UNSEEN_SHARE)))
    seen = [c for i, c in enumerate(concepts) if i not in hidden]
    return seen, [c for i, c in enumerate(concepts) if i in hidden]


def align_tags(concepts: list[Concept], *, threshold: float = 0.5) -> dict[str, str]:
    """English tag -> the Chinese tag of the highest Dice coefficient over the concepts that carry them."""
    english: Counter[str] = Counter()
    chinese: Counter[str] = Counter()
    both: Counter[Pair] = Counter()
    for concept in concepts:
        ours, theirs = {*concept.english_tags}, {*concept.chinese_tags, concept.chinese}
        english.update(ours)
        chinese.update(theirs)
        both.update((a, b) for a in ours for b in theirs)
    best: dict[str, tuple[float, int, str]] = {}
    for (a, b), count in both.items():
        score = 2 * count / (english[a] + chinese[b])
        if count >= 2 and score >= threshold:
            best[a] = max(best.get(a, (0.0, 0, "")), (score, count, b))
    lexicon = {a: b for a, (_, _, b) in best.items()}
    # A tag that is itself the label of a concept has a translation written by a human.
    labels = {concept.english: concept.chinese for concept in concepts}
    return lexicon | {tag: labels[tag] for tag in english if tag in labels}


def load_cldr(work: Path, *, forbidden: set[str]) -> list[Pair]:
    """Names of non-emoji symbols, territories, languages and scripts that are not an unseen label."""

    def read(language: str, file: str) -> dict[str, str]:
        data: Any = json.loads((work / "cldr" / language / f"{file}.json").read_text())
        if file == "annotations":
            return {k: v["tts"][0] for k, v in data["annotations"]["annotations"].items() if v.get("tts")}
        return dict(data["main"][language]["localeDisplayNames"][file])

    pairs: set[Pair] = set()
    for file in ("annotations", "territories", "languages", "scripts"):
        english, chinese = read("en", file), read("zh", file)
        pairs |= {(english[key], chinese[key]) for key in english.keys() & chinese.keys()}
    return sorted(p for p in pairs if HAS_HAN.search(p[1]) and p[0].lower() not in forbidden)


@dataclass(frozen=True)
class Pairs:
    """The sources of training pairs."""

    labels: list[Pair]
    variants: list[Pair]
    lexicon: list[Pair]
    long: list[Pair]

    def draw(self, rng: random.Random) -> Pair:
        """One pair, with a random spelling of the English side."""
        kind = rng.random()
        if kind < 0.35:
            pair = rng.choice(self.labels)
        elif kind < 0.60:
            pair = rng.choice(self.long)
        elif kind < 0.72:
            pair = rng.choice(self.variants)
        elif kind < 0.87:
            pair = rng.choice(self.lexicon)
        else:
            parts = [rng.choice(rng.choice((self.labels, self.lexicon))) for _ in range(rng.randint(2, 4))]
            pair = ", ".join(p[0] for p in parts), "、".join(p[1] for p in parts)
        source = pair[0].replace("’", "'") if rng.random() < 0.3 else pair[0]
        spelling = rng.random()
        if spelling < 0.1:
            source = source.lower()
        elif spelling < 0.15:
            source = source[:1].upper() + source[1:]
        return source, pair[1]


def long_captions(concept: Concept, lexicon: dict[str, str]) -> Pair:
    """The captioner's long form; Chinese tags follow the English ones where aligned, then the concept's own."""
    english = concept.english_tags[:TAGS]
    chinese = [lexicon[tag] for tag in english if tag in lexicon]
    chinese += [tag for tag in concept.chinese_tags if tag not in chinese]
    chinese = list(dict.fromkeys(chinese))[: len(english)]
    source = f"{concept.english}: {', '.join(english)}" if english else concept.english
    return source, f"{concept.chinese}：{'、'.join(chinese)}" if chinese else concept.chinese


def collect_pairs(work: Path, seen: list[Concept], unseen: list[Concept]) -> Pairs:
    forbidden = {c.english.lower() for c in unseen} | {c.english.removeprefix("flag: ").lower() for c in unseen}
    lexicon = {a: b for a, b in align_tags(seen).items() if a.lower() not in forbidden}
    return Pairs(
        labels=[(c.english, c.chinese) for c in seen],
        variants=[pair for c in seen for pair in c.variants if pair[0].lower() not in forbidden],
        lexicon=sorted(lexicon.items()) + load_cldr(work, forbidden=forbidden),
        long=[long_captions(c, lexicon) for c in seen],
    )


def train_tokenizer(pairs: Pairs, *, vocabulary: int) -> PreTrainedTokenizerFast:
    """One unigram vocabulary for both languages, as a plain tokenizer.json: no sentencepiece at run time."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    corpus = [*pairs.labels * 3, *pairs.variants, *pairs.lexicon, *pairs.long]
    tokenizer.train_from_iterator([text for pair in corpus for text in pair], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def build_model(vocabulary: int) -> MarianMTModel:
    config = MarianConfig(
        vocab_size=vocabulary,
        d_model=128,
        encoder_layers=3,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        max_position_embeddings=128,
        activation_function="gelu",
        dropout=0.15,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        forced_eos_token_id=None,
        num_beams=1,
    )
    model = MarianMTModel(config)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=48, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample translator.")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0, help="length of the cosine schedule in wall time")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    seen, unseen = split_concepts(load_concepts(args.work_dir))
    pairs = collect_pairs(args.work_dir, seen, unseen)
    print({name: len(value) for name, value in vars(pairs).items()}, flush=True)
    tokenizer = train_tokenizer(pairs, vocabulary=4400)
    model = build_model(len(tokenizer))
    average = copy.deepcopy(model).eval()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.02)

    started, step, running = time.monotonic(), 0, 0.0
    pool: list[list[Pair]] = []
    model.train()
    while (minutes := (time.monotonic() - started) / 60) < args.minutes:
        progress = minutes / args.minutes
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min((step + 1) / 400, 1) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        if not pool:
            # Batches of similar length, in random order.
            drawn = sorted((pairs.draw(rng) for _ in range(args.batch * 16)), key=lambda p: (len(p[1]), len(p[0])))
            pool = [drawn[i : i + args.batch] for i in range(0, len(drawn), args.batch)]
            rng.shuffle(pool)
        batch = pool.pop()
        source = tokenizer([p[0] for p in batch], return_tensors="pt", padding=True)
        labels = tokenizer([p[1] for p in batch], return_tensors="pt", padding=True)["input_ids"]
        # Marian starts decoding from the padding token.
        inputs = torch.cat([torch.full_like(labels[:, :1], PAD), labels[:, :-1]], dim=1)
        hidden = model.model(**source, decoder_input_ids=inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[labels != PAD])
        loss = F.cross_entropy(logits, labels[labels != PAD], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            decay = min(0.998, step / (step + 20))
            for ours, theirs in zip(average.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs, 1 - decay)
        running += loss.item()
        if step % 200 == 0:
            print(f"{minutes:.1f} min step {step} loss {running / 200:.3f}", flush=True)
            running = 0.0

    def write(folder: Path) -> None:
        copy.deepcopy(average).half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    save_atomically(args.target, write)
    print(f"{step} steps of {args.batch} pairs in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
