"""Train the sample captioner: image + "short" or "long" -> the emoji's English label, or label and tags.

    python samples/training/train_captioner.py WORK_DIR samples/models/captioner --minutes 48

Cost and result: see samples/models/captioner/README.md.  Needs torch, torchvision, transformers, timm,
tokenizers and pillow; WORK_DIR is filled by fetch_data.py.  One thread; bf16 autocast (fast where the CPU has AMX).

The model is `FastVlmForConditionalGeneration`: a small ResNet over 64 px gives 4 x 4 patches, which a two-layer
Qwen2 reads before the prompt.  While training, a linear classifier over all concepts hangs on the pooled patches;
it is dropped on save.  It teaches the ResNet from every image, so that half of the batch is enough for "short" and
a fifth for "long".

Shapes: B images, P patches, L tokens, D embedding, H W pixels.
"""
# ruff: noqa: N812 (shape suffixes, legend above; F is torch's own idiom)

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from atomic_save import save_atomically
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    TimmWrapperConfig,
)

SIZE = 64
PATCHES = 16
TAGS = 4
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<image>", "<answer>")
PAD, _, _, EOS, IMAGE, ANSWER = range(len(SPECIAL))
# The first prompt of each kind is the documented one; the others keep an unknown wording from breaking the model.
PROMPTS = {
    "short": ["short", "short caption", "name", "What is this?", "Describe the image in a few words.", "caption"],
    "long": ["long", "long caption", "name and tags", "Describe the image in detail.", "Describe this image."],
}
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<image>{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<answer>{%- endif -%}"
)


@dataclass(frozen=True)
class Concept:
    """One emoji without skin tone, with the two captions the model learns."""

    hexcode: str
    short: str
    long: str
    mirrored: bool
    """A mirrored drawing still means the same."""


def load_concepts(work: Path) -> list[Concept]:
    """All concepts of emojibase, in its order."""
    directional = ("left", "right", "o’clock", "thirty", "arrow", "clockwise", "face in clouds", "quarter", "crescent")
    concepts = []
    for entry in json.loads((work / "emojibase" / "en" / "data.json").read_text()):
        code = "-".join(part for part in entry["hexcode"].split("-") if part not in ("FE0F", "FE0E"))
        label, tags = entry["label"], entry.get("tags", [])[:TAGS]
        # emojibase groups: 8 symbols, 9 flags
        mirrored = entry.get("group") not in (None, 8, 9) and not any(word in label for word in directional)
        long = f"{label}: {', '.join(tags)}" if tags else label
        concepts.append(Concept(hexcode=code, short=label, long=long, mirrored=mirrored))
    return concepts


def train_tokenizer(concepts: list[Concept], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Lossless BPE over the captions and prompts: decoding gives back every label letter for letter."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[AddedToken(t, special=True) for t in SPECIAL], show_progress=False
    )
    prompts = [prompt for group in PROMPTS.values() for prompt in group]
    tokenizer.train_from_iterator([c.short for c in concepts] * 3 + [c.long for c in concepts] + prompts * 100, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={"image_token": "<image>", "answer_token": "<answer>"},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    image_processor = CLIPImageProcessor(
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=SIZE // math.isqrt(PATCHES),
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )


def build_model(vocabulary: int) -> FastVlmForConditionalGeneration:
    channels = [48, 96, 192, 256]
    config = FastVlmConfig(
        vision_config=TimmWrapperConfig(
            architecture="resnet18",
            model_args={"layers": [1, 1, 1, 1], "channels": channels, "output_stride": 16},
            hidden_size=channels[-1],
            num_labels=1,
            do_pooling=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=2,
            eos_token_id=EOS,
        ),
        image_token_index=IMAGE,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=EOS,
    )
    model = FastVlmForConditionalGeneration(config)
    for module in model.model.vision_tower.modules():
        # The wrapper leaves timm's convolutions to be loaded; here they are trained from scratch.
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=48, pad_token_id=PAD, bos_token_id=2, eos_token_id=EOS
    )
    return model


@dataclass(frozen=True)
class Drawings:
    """Every training drawing, and which of them show which concept."""

    pixels_NHW4: Tensor
    of_concept: list[list[int]]


def load_drawings(work: Path, concepts: list[Concept], *, leave_out: str | None) -> Drawings:
    vendors = sorted(d for d in (work / "drawings").iterdir() if d.is_dir() and d.name != leave_out)
    pixels: list[np.ndarray] = []
    of_concept: list[list[int]] = []
    for concept in concepts:
        indices = []
        for vendor in vendors:
            path = vendor / f"{concept.hexcode}.png"
            if path.exists():
                indices.append(len(pixels))
                pixels.append(np.asarray(Image.open(path).convert("RGBA")))
        of_concept.append(indices)
    print(f"{len(pixels)} drawings by {len(vendors)} vendors: {[v.name for v in vendors]}", flush=True)
    return Drawings(pixels_NHW4=torch.from_numpy(np.stack(pixels)), of_concept=of_concept)


def smooth_noise(batch: int, channels: int, *, cells: int) -> Tensor:
    """Low-frequency noise in [-1, 1], [B, channels, H, W]."""
    coarse = torch.rand(batch, channels, cells, cells) * 2 - 1
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=True)


def augment(rgba_B4HW: Tensor, *, mirrored_B: Tensor) -> Tensor:
    """Random view of each drawing on a random background; RGB in [-1, 1].

    Geometry, colour mixing, shading (a stand-in for rendered 3D light), blur, noise and a hidden rectangle.
    """
    batch = rgba_B4HW.shape[0]

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(batch) * (high - low) + low

    angle, shear = draw(-0.35, 0.35) * (torch.rand(batch) < 0.6), draw(-0.2, 0.2)
    zoom, stretch = draw(0.85, 1.35), torch.exp(draw(-0.15, 0.15))
    flip = torch.where((torch.rand(batch) < 0.4) & mirrored_B, -1.0, 1.0)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = flip * zoom * stretch * torch.cos(angle)
    theta[:, 0, 1] = zoom * (shear - torch.sin(angle))
    theta[:, 1, 0] = zoom * torch.sin(angle)
    theta[:, 1, 1] = zoom / stretch * torch.cos(angle)
    theta[:, :, 2] = torch.stack([draw(-0.15, 0.15), draw(-0.15, 0.15)], dim=1)
    grid = F.affine_grid(theta, [batch, 4, SIZE, SIZE], align_corners=False)
    warp = smooth_noise(batch, 2, cells=4) * draw(0.0, 0.08)[:, None, None, None]
    # Premultiplied, so that transparent pixels do not bleed their colour into the edges.
    alpha = rgba_B4HW[:, 3:]
    rgba = torch.cat([rgba_B4HW[:, :3] * alpha, alpha], dim=1)
    rgba = F.grid_sample(rgba, grid + warp.permute(0, 2, 3, 1), align_corners=False)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]

    mix = torch.eye(3) + torch.randn(batch, 3, 3) * 0.12 * (torch.rand(batch, 1, 1) < 0.7)
    mix = torch.where(torch.rand(batch, 1, 1) < 0.1, torch.full((3, 3), 1 / 3), mix)
    rgb = torch.einsum("bij,bjhw->bihw", mix, rgb)
    light = 1 + smooth_noise(batch, 1, cells=3) * draw(0.0, 0.4)[:, None, None, None]
    tint = smooth_noise(batch, 3, cells=3) * draw(0.0, 0.15)[:, None, None, None]
    rgb = rgb * light + (tint + draw(-0.1, 0.1)[:, None, None, None]) * alpha

    background = torch.rand(batch, 3, 1, 1) + smooth_noise(batch, 3, cells=3) * 0.2
    white = (torch.rand(batch, 1, 1, 1) < 0.7).float()
    view = (rgb + (white + (1 - white) * background) * (1 - alpha)).clamp(0, 1) * 2 - 1

    soft = F.interpolate(F.avg_pool2d(view, 2), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    view = torch.lerp(view, soft, (draw(-1.0, 1.0).clamp(min=0))[:, None, None, None])
    view = view + torch.randn_like(view) * draw(-0.05, 0.08).clamp(min=0)[:, None, None, None]

    rows, columns = torch.arange(SIZE)[None, :, None], torch.arange(SIZE)[None, None, :]
    top, left = (torch.randint(0, SIZE, (batch, 1, 1)) for _ in range(2))
    height, width = (torch.randint(6, 22, (batch, 1, 1)) for _ in range(2))
    hidden = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    hidden = hidden & (torch.rand(batch, 1, 1) < 0.4)
    return torch.where(hidden[:, None], torch.rand(batch, 3, 1, 1) * 2 - 1, view)


def encode_pairs(
    prompts: list[str], answers: list[str], *, tokenizer: PreTrainedTokenizerFast
) -> tuple[Tensor, Tensor]:
    """Token ids after the patches, right-padded, and labels over the answer only; both [B, L]."""
    rows, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        head = [*tokenizer.encode(prompt, add_special_tokens=False), ANSWER]
        tail = [*tokenizer.encode(answer, add_special_tokens=False), EOS]
        rows.append(torch.tensor(head + tail))
        labels.append(torch.tensor([-100] * len(head) + tail))
    pad = nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=PAD), pad(labels, batch_first=True, padding_value=-100)


def caption_loss(
    model: FastVlmForConditionalGeneration, patches_BPD: Tensor, tokens_BL: Tensor, labels_BL: Tensor
) -> Tensor:
    """Cross-entropy of the answer; padding is on the right, where a causal model never looks at it."""
    words_BLD = model.get_input_embeddings()(tokens_BL)
    inputs = torch.cat([patches_BPD, words_BLD.to(patches_BPD.dtype)], dim=1)
    hidden = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    hidden = hidden[:, PATCHES:-1]
    wanted = labels_BL[:, 1:]
    logits = model.get_output_embeddings()(hidden[wanted != -100])
    return F.cross_entropy(logits.float(), wanted[wanted != -100], label_smoothing=0.05)


def save(model: FastVlmForConditionalGeneration, processor: LlavaProcessor, target: Path) -> None:
    """Save in float16."""

    def write(folder: Path) -> None:
        copy.deepcopy(model).eval().half().save_pretrained(folder)
        processor.save_pretrained(folder)

    save_atomically(target, write)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the sample captioner.")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--minutes", type=float, default=48.0, help="length of the cosine schedule in wall time")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--leave-out", help="vendor not trained on, to choose a recipe without the held-out drawings")
    parser.add_argument("--save-every", type=float, default=10.0, help="minutes between saves")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)

    concepts = load_concepts(args.work_dir)
    drawings = load_drawings(args.work_dir, concepts, leave_out=args.leave_out)
    tokenizer = train_tokenizer(concepts, vocabulary=2048)
    processor = build_processor(tokenizer)
    model = build_model(len(tokenizer)).to(memory_format=torch.channels_last)
    classifier = nn.Linear(model.config.vision_config.hidden_size, len(concepts))
    average = copy.deepcopy(model).eval()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    weights = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights if w.ndim >= 2], "weight_decay": 0.05},
            {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=args.lr,
        betas=(0.9, 0.98),
    )

    started, saved, step, running = time.monotonic(), 0.0, 0, np.zeros(3)
    order: list[int] = []
    model.train()
    while (minutes := (time.monotonic() - started) / 60) < args.minutes:
        progress = minutes / args.minutes
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min((step + 1) / 300, 1) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        while len(order) < args.batch:
            order += rng.sample(range(len(concepts)), len(concepts))
        chosen, order = order[: args.batch], order[args.batch :]
        picks = [rng.choice(drawings.of_concept[c]) for c in chosen]
        raw = drawings.pixels_NHW4[picks].permute(0, 3, 1, 2).float() / 255
        mirrored = torch.tensor([concepts[c].mirrored for c in chosen])
        view = augment(raw, mirrored_B=mirrored).contiguous(memory_format=torch.channels_last)

        def pairs(kind: str, rows: list[int]) -> tuple[Tensor, Tensor]:
            prompts = [PROMPTS[kind][0] if rng.random() < 0.8 else rng.choice(PROMPTS[kind]) for _ in rows]
            return encode_pairs(prompts, [getattr(concepts[c], kind) for c in rows], tokenizer=tokenizer)

        with torch.autocast("cpu", dtype=torch.bfloat16):
            map_BDHW = model.model.vision_tower(view, return_dict=True).last_hidden_state
            patches_BPD = model.model.multi_modal_projector(map_BDHW.flatten(2).transpose(1, 2))
            class_loss = F.cross_entropy(
                classifier(map_BDHW.mean(dim=(2, 3))).float(), torch.tensor(chosen), label_smoothing=0.1
            )
        # The text model runs in float32: autocast only slows down short sequences of width 128.
        half, patches_BPD = args.batch // 2, patches_BPD.float()
        short_loss = caption_loss(model, patches_BPD[:half], *pairs("short", chosen[:half]))
        rest = slice(half, half + args.batch // 5)
        long_loss = caption_loss(model, patches_BPD[rest], *pairs("long", chosen[rest]))
        loss = short_loss + 0.4 * long_loss + 0.5 * class_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, step / (step + 20))
        with torch.no_grad():
            for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                if ours.dtype.is_floating_point:
                    ours.lerp_(theirs, 1 - decay)
        running += [short_loss.item(), long_loss.item(), class_loss.item()]
        if step % 200 == 0:
            short, long, kind = running / 200
            print(f"{minutes:.1f} min step {step} short {short:.3f} long {long:.3f} class {kind:.3f}", flush=True)
            running[:] = 0
        if minutes - saved >= args.save_every:
            save(average, processor, args.target)
            saved = minutes
    save(average, processor, args.target)
    print(f"{step} steps of {args.batch} images in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
