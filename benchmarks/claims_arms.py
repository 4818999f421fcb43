"""The claims of `benchmarks/claims.py`: what a paper says, which small models test it, and what is compared.

An arm is a training recipe.  Two claims that name the same recipe share its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from claims_data import FOLDER, KINDS, LANGUAGES, path

Recipe = Mapping[str, Any]

STEPS, TUNING_STEPS = 160, 50
SHORT, LONG = {"kind": "short", "language": "en"}, {"kind": "long", "language": "en"}
#: What a comparison is of, by name: (dataset of the evaluation, metric).
RECALL, LONG_RECALL = "test/kind_short/image_retrieval_recall@10", "test/kind_long/image_retrieval_recall@10"
CHINESE_RECALL = "bilingual/language_zh/image_retrieval_recall@10"
RANK_VARIANCE = "bilingual/mrv_language/variance_capped"
GAP, ATTACK, SECONDS = "test/geometry/modality_gap", "attack success", "seconds"


class Arm(NamedTuple):
    """A model of a claim.  part: of `claims_data.path`.  begins: the arm whose weights it starts from."""

    recipe: Recipe = {}  # noqa: RUF012  nobody changes it
    part: str = "train"
    tower: str = "resnet"
    begins: Arm | None = None


class Comparison(NamedTuple):
    """What a claim expects: arm minus other is above (+) or below (-) 0, or at least not clearly below it (=)."""

    metric: str
    arm: str
    other: str
    expected: str


class Claim(NamedTuple):
    """name: as docs/objectives.md spells it.  says: the paper's claim.  setting: ours, beyond what all share."""

    name: str
    paper: str
    says: str
    setting: str
    arms: Mapping[str, Arm]
    comparisons: tuple[Comparison, ...]
    kinds: tuple[str, ...] = KINDS


def changed(base: Recipe, changes: Recipe) -> dict[str, Any]:
    """A recipe with sections merged, key by key; a list and a section of keys with names replace what was there."""
    found = dict(base)
    for key, value in changes.items():
        there = found.get(key)
        found[key] = changed(there, value) if isinstance(there, Mapping) and isinstance(value, Mapping) else value
    return found


def recipe_of(arm: Arm, kind: str, seed: int, begins: str | None) -> dict[str, Any]:
    """The training recipe of an arm's model.  begins: file of weights."""
    measured = {"test": {"path": path(kind, "test")}}
    if kind == "emoji":
        measured["bilingual"] = {"path": path(kind, "bilingual")}
    base: dict[str, Any] = {
        "run_dir": "unused",
        "data": {
            "path": path(kind, arm.part),
            "batch_size": 128,
            "bundle_rows": 128,
            "texts": [[SHORT]],
            "augment": {"scale": [0.5, 1.0]},
        },
        "model": {
            "architecture": str(FOLDER / f"{arm.tower}.json"),
            "tokenizer": str(FOLDER / "tokenizer"),
            "pretrained": begins,
        },
        "loss": {"objective": "clip"},
        "optim": {"lr": 1e-3, "weight_decay": 0.1, "warmup_steps": 20},
        "train": {"steps": STEPS, "precision": "fp32", "seed": seed},
        "deepspeed": {"stage": 0},
        "evaluate": {"datasets": measured},
    }
    return changed(base, arm.recipe)


def tuned(loss: Recipe, lr: float) -> Recipe:
    """A short training that starts from weights."""
    return {"loss": loss, "train": {"steps": TUNING_STEPS}, "optim": {"lr": lr, "warmup_steps": 5}}


TEXT = {
    "context_length": 64,
    "vocab_size": 6000,
    "pool_type": "eos",
    "eos_id": 1,
    "width": 128,
    "heads": 4,
    "layers": 3,
}
#: Architectures, in open_clip's form.
TOWERS: Mapping[str, Any] = {
    "resnet": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
        "text_cfg": TEXT,
    },
    "vit": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": TEXT,
    },
}

CLIP = Arm()
PATCHES = Arm(tower="vit")
TRANSLATED = [{"kind": "translated", "language": language} for language in LANGUAGES]
NINE = Arm({"data": {"texts": [[SHORT, *TRANSLATED]]}})
SENTENCES = {**LONG, "transforms": ["sentences"]}
NOISY = Arm(part="swapped")
POISONED = Arm(part="poisoned")

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "per_slot",
        "DreamLIP, Zheng et al. 2024",
        "Several sentences of a long caption, each a positive of its own, retrieve better than the caption alone, and "
        "grouping patches for each sentence adds to it.",
        "A small ViT.  Caption alone: the short one.  Sentences: the short one and three drawn from the long one.",
        {
            "caption alone": PATCHES,
            "sentences": PATCHES._replace(
                recipe={"data": {"texts": [[SHORT], [SENTENCES]], "slots": 4}, "loss": {"objective": "per_slot"}}
            ),
            "sentences and grouping": PATCHES._replace(
                recipe={
                    "data": {"texts": [[SHORT], [SENTENCES]], "slots": 4},
                    "loss": {"objective": "per_slot", "terms": {"grouping": {}}},
                }
            ),
        },
        (
            Comparison(RECALL, "sentences", "caption alone", "+"),
            Comparison(LONG_RECALL, "sentences", "caption alone", "+"),
            Comparison(RECALL, "sentences and grouping", "sentences", "+"),
        ),
    ),
    Claim(
        "lotlip",
        "LoTLIP, Wu et al. 2024",
        "Long captions beside short ones help retrieval by long texts but cost retrieval by short ones; corner tokens "
        "give that back, and help with long ones too.",
        "A small ViT; two corner tokens.  Short and long: each caption a positive of its own.",
        {
            "short": PATCHES,
            "short and long": PATCHES._replace(
                recipe={"data": {"texts": [[SHORT], [LONG]]}, "loss": {"objective": "per_slot"}}
            ),
            "corner tokens": PATCHES._replace(
                recipe={
                    "data": {"texts": [[SHORT], [LONG]]},
                    "model": {"corner_tokens": 2},
                    "loss": {"objective": "lotlip"},
                }
            ),
        },
        (
            Comparison(LONG_RECALL, "short and long", "short", "+"),
            Comparison(RECALL, "short and long", "short", "-"),
            Comparison(RECALL, "corner tokens", "short and long", "+"),
            Comparison(LONG_RECALL, "corner tokens", "short and long", "+"),
        ),
    ),
    Claim(
        "one_to_k",
        "CCRK, Nie et al. 2024",
        "All languages of an image in one softmax rank it alike in each: mean rank variance falls, and recall rises, "
        "against one language a step.",
        "English and Chinese labels.  One language a step: either, with equal chance.  Variance of ranks up to 100.",
        {
            "one language a step": Arm({"data": {"texts": [[SHORT, TRANSLATED[0]]]}}),
            "1-to-K": Arm({"data": {"texts": [[SHORT], [TRANSLATED[0]]]}, "loss": {"objective": "one_to_k"}}),
        },
        (
            Comparison(RANK_VARIANCE, "1-to-K", "one language a step", "-"),
            Comparison(RECALL, "1-to-K", "one language a step", "+"),
            Comparison(CHINESE_RECALL, "1-to-K", "one language a step", "+"),
        ),
        ("emoji",),
    ),
    Claim(
        "align, uniform, cross_uniform",
        "Contrastive gap, Fahim et al. 2024",
        "Alignment, uniformity and cross-uniformity added to CLIP narrow the gap between the modalities, at equal "
        "retrieval.",
        "Weights 1, from scratch; the paper fine-tunes.",
        {
            "clip": CLIP,
            "with the three terms": Arm(
                {"loss": {"objective": "clip", "terms": {"align": {}, "uniform": {}, "cross_uniform": {}}}}
            ),
        },
        (
            Comparison(GAP, "with the three terms", "clip", "-"),
            Comparison(RECALL, "with the three terms", "clip", "="),
        ),
    ),
    Claim(
        "rafa, hycd",
        "CLIP-Refine, Yamaguchi et al. 2025",
        "A short post-training with random feature alignment and hybrid distillation narrows the gap and keeps or "
        "improves retrieval; with CLIP's loss it does not.",
        f"{TUNING_STEPS} further steps of a trained model, learning rate 1e-4.",
        {
            "trained": CLIP,
            "refined": Arm(tuned({"objective": "rafa", "terms": {"hycd": {}}}, 1e-4), begins=CLIP),
            "continued": Arm(tuned({"objective": "clip"}, 1e-4), begins=CLIP),
        },
        (
            Comparison(GAP, "refined", "trained", "-"),
            Comparison(RECALL, "refined", "trained", "="),
            Comparison(GAP, "refined", "continued", "-"),
            Comparison(RECALL, "refined", "continued", "="),
        ),
    ),
    Claim(
        "noise_adaptive",
        "NEVLP, Tao et al. 2024",
        "A mixture model of losses tells noisy pairs, and a softer target for them retrieves better than CLIP.",
        "30 % of the captions have changed places.  The mixture begins after one epoch.",
        {"clip": NOISY, "noise adaptive": NOISY._replace(recipe={"loss": {"objective": "noise_adaptive"}})},
        (Comparison(RECALL, "noise adaptive", "clip", "+"),),
    ),
    Claim(
        "momentum",
        "ALBEF, Li et al. 2021",
        "Soft targets of a moving average make training robust against captions that do not fit.",
        "30 % of the captions have changed places.  A queue of 1,024 rows, as there are only thousands; decay 0.98, as "
        "there are only hundreds of steps.",
        {
            "clip": NOISY,
            "momentum": NOISY._replace(
                recipe={"loss": {"objective": {"name": "momentum", "queue": 1024, "decay": 0.98}}}
            ),
        },
        (Comparison(RECALL, "momentum", "clip", "+"),),
    ),
    Claim(
        "self_supervised",
        "CleanCLIP, Bansal et al. 2023",
        "Fine-tuning on clean pairs with a self-supervised term removes a backdoor; with CLIP's loss alone it stays.",
        f"2 % of the pictures have a chequered corner and the caption of the target.  {TUNING_STEPS} further steps on "
        "clean pairs, learning rate 3e-4.",
        {
            "poisoned": POISONED,
            "tuned with clip": Arm(tuned({"objective": "clip"}, 3e-4), begins=POISONED),
            "tuned with the term": Arm(
                tuned({"objective": "clip", "terms": {"self_supervised": {}}}, 3e-4), begins=POISONED
            ),
        },
        (
            Comparison(ATTACK, "tuned with the term", "poisoned", "-"),
            Comparison(ATTACK, "tuned with the term", "tuned with clip", "-"),
            Comparison(RECALL, "tuned with the term", "tuned with clip", "="),
        ),
    ),
    Claim(
        "loss.mode: group",
        "M2-Encoder, Guo et al. 2024",
        "Negatives from within groups of workers cost less communication, at equal retrieval.",
        "128 rows a step; groups: four of 32 rows.",
        {"whole batch": CLIP, "groups": Arm({"loss": {"objective": "claims_groups:InGroups"}})},
        (Comparison(RECALL, "groups", "whole batch", "="),),
    ),
    Claim(
        "token_max",
        "FILIP, Yao et al. 2022",
        "Comparing tokens retrieves better than comparing embeddings; what does it cost?",
        "A small ViT.  `token_max` is added to `clip`, and retrieval is by embeddings, as it is in use.  Longer: clip "
        "for 1.5 times the steps.",
        {
            "clip": PATCHES,
            "with tokens": PATCHES._replace(recipe={"loss": {"objective": "clip", "terms": {"token_max": {}}}}),
            "longer": PATCHES._replace(recipe={"train": {"steps": STEPS * 3 // 2}}),
        },
        (
            Comparison(RECALL, "with tokens", "clip", "+"),
            Comparison(RECALL, "with tokens", "longer", "+"),
            Comparison(SECONDS, "with tokens", "longer", "-"),
        ),
    ),
    Claim(
        "texts of several languages",
        "RS-M-CLIP, Silva et al. 2024",
        "Captions in nine languages retrieve better in each of them, and in English not worse, than English alone; "
        "self-distillation between crops of the picture adds to it.",
        "Labels as people wrote them, in place of machine translation; a language is drawn for each row and step.  "
        "Self-distillation: the term `local_global`, weight 0.2, of two local crops, with a head for few pictures.",
        {
            "English": CLIP,
            "nine languages": NINE,
            "with self-distillation": NINE._replace(
                recipe={
                    "data": {**NINE.recipe["data"], "views": {"number": 2, "scale": [0.1, 0.4]}},
                    "loss": {
                        "objective": "clip",
                        "terms": {
                            "local_global": {
                                "objective": {
                                    "name": "local_global",
                                    "decay": 0.98,
                                    "hidden": 256,
                                    "prototypes": 512,
                                },
                                "weight": 0.2,
                            }
                        },
                    },
                }
            ),
        },
        (
            Comparison(CHINESE_RECALL, "nine languages", "English", "+"),
            Comparison(RECALL, "nine languages", "English", "="),
            Comparison(RECALL, "with self-distillation", "nine languages", "+"),
            Comparison(CHINESE_RECALL, "with self-distillation", "nine languages", "+"),
        ),
        ("emoji",),
    ),
    Claim(
        "temperature",
        "CLIP, Radford et al. 2021; temperature schedules, Kukleva et al. 2023",
        "A learnt temperature, or one that changes by schedule, retrieves better than a fixed one.",
        "Fixed at 0.07; falling to 0.02 geometrically; learnt from 0.07 on.",
        {
            "fixed": Arm({"temperature": {"init": 0.07, "learnable": False}}),
            "schedule": Arm({"temperature": {"init": 0.07, "final": 0.02, "learnable": False}}),
            "learnt": CLIP,
        },
        (Comparison(RECALL, "learnt", "fixed", "+"), Comparison(RECALL, "schedule", "fixed", "+")),
    ),
)
