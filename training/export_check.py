"""Whether an export gives what the model gives: both encode a fixed set of texts and pictures, files included.

The texts and pictures are made here, the same at every export.  The pictures go through both sides as files, so that
reading, resizing and normalising are compared too.  What differs is written into the model card.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F  # noqa: N812  torch's own name for it
from PIL import Image
from torch import Tensor

from pairmill.pixels import Pixels
from pairmill.towers.build import eval_transform, image_statistics, without_open_clips_log
from pairmill.towers.encode import encode_image, encode_text, needs_full_length
from pairmill.towers.tokenizer import Tokenizer
from training.export_transformers import without_progress_bars

#: Cosine above which features are the same: float32 sums in another order, and another library's resizing by a level.
SAME = 0.999

_LONG = "a wooden table with apples, pears, plums and grapes in front of an open window with a view of the sea, "

#: By what is special about them.
TEXTS: dict[str, tuple[str, ...]] = {
    "plain English": (
        "a dog",
        "A red, ripe apple!",
        "Two people riding bicycles along the beach at sunset",
        "3 x 5 = 15",
    ),
    "plain Chinese": ("一只狗在海滩上奔跑", "红色的苹果", "两个人在日落时骑自行车", "雨中的东京塔"),
    "other scripts": (
        "Größe und Straße",
        "un café à l'été",
        "Ночной город",
        "ΟΔΟΣ ΣΟΦΙΑΣ",
        "夜の街 ネオン",
        "도시의 밤",
    ),
    "quotes, commas and widths": (
        "the dog’s “best” friend",
        "一只狗，在海滩上！（夏天）",
        "ＬＯＵＤ　ＮＯＩＳＥＳ",
        "oﬃce ﬂowers",
        "l’été — a dash… and dots",
        "ﾈｵﾝ の 街",
    ),
    "HTML entities": ("fish &amp; chips", "Tom &amp;amp; Jerry", "it&#39;s &quot;new&quot;", "caf&eacute;&nbsp;bar"),
    "broken encodings": ("voilÃ\xa0 lâ€™Ã©tÃ©", "Ã¼ber GrÃ¶ÃŸe"),
    "spaces and control characters": ("  a  dog \t on\na beach ", "a\u200bdog", "\ufeffa\x07 dog", "a\u3000dog"),
    "emoji": ("❤️ a dog 🐕", "👩‍🚀 on the moon"),
    "longer than the model reads": (_LONG * 4, "海滩上的狗和猫，" * 40),
}


class Difference(NamedTuple):
    """How far an export is from the model on one group."""

    kind: str  #: texts or pictures
    group: str
    number: int  #: of the group
    other_ids: int | None  #: texts whose ids differ; None for pictures
    cosine: float  #: the lowest between a feature of the model and of the export

    @property
    def same(self) -> bool:
        """Whether nothing differs but rounding."""
        return not self.other_ids and self.cosine >= SAME


class Side(NamedTuple):
    """One of the two that are compared."""

    tokens: Callable[[Sequence[str]], list[list[int]]]
    """The ids of each text; the export's may be padded to one length."""
    texts: Callable[[Sequence[str]], Tensor]
    """Features [B, D]."""
    pictures: Callable[[Sequence[bytes]], Tensor]
    """Features [B, D] of encoded pictures."""
    pad: int = 0
    """The id that texts are padded with."""


def differences(model: Side, export: Side) -> list[Difference]:
    """The two compared, group by group."""
    found = []
    for group, texts in TEXTS.items():
        pairs = zip(model.tokens(texts), export.tokens(texts), strict=True)
        other = sum(ours + [model.pad] * (len(theirs) - len(ours)) != theirs for ours, theirs in pairs)
        cosine = _lowest_cosine(model.texts(texts), export.texts(texts))
        found.append(Difference("texts", group, len(texts), other, cosine))
    for group, files in pictures().items():
        cosine = _lowest_cosine(model.pictures(files), export.pictures(files))
        found.append(Difference("pictures", group, len(files), None, cosine))
    return found


def own_side(model: Any, tokenizer: Tokenizer) -> Side:
    """The model as training and evaluation use it.  model: an open_clip model, on the CPU, in evaluation mode."""
    transform = eval_transform(model)
    mean, std = (torch.tensor(values)[:, None, None] for values in image_statistics(model))
    length = tokenizer.context_length if needs_full_length(model) else None

    def texts(batch: Sequence[str]) -> Tensor:
        rows = tokenizer(batch)
        longest = length or max(1, *(len(row) for row in rows))
        tokens = np.full((len(rows), longest), tokenizer.pad_id, np.int64)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row)] = row
        with torch.inference_mode():
            return encode_text(model, torch.from_numpy(tokens))

    def images(files: Sequence[bytes]) -> Tensor:
        decoded = [transform(data) for data in files]
        pixels = torch.from_numpy(np.stack([image for image in decoded if image is not None]))
        with torch.inference_mode():
            return encode_image(model, (pixels.permute(0, 3, 1, 2) / 255 - mean) / std)

    return Side(lambda batch: [row.tolist() for row in tokenizer(batch)], texts, images, tokenizer.pad_id)


def open_clip_side(folder: Path) -> Side:
    """An export in open_clip's form, by open_clip alone."""
    name = f"local-dir:{folder}"
    with without_open_clips_log():
        model, _, preprocess = open_clip.create_model_and_transforms(name)
        tokenizer: Any = open_clip.get_tokenizer(name)
    model.eval()

    def texts(batch: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            encoded: Tensor = model.encode_text(tokenizer(list(batch)))
        return encoded

    def images(files: Sequence[bytes]) -> Tensor:
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data in files])
        with torch.inference_mode():
            encoded: Tensor = model.encode_image(pixels)
        return encoded

    return Side(lambda batch: list(tokenizer(list(batch)).tolist()), texts, images)


def transformers_side(folder: Path) -> Side:
    """An export in transformers' form, by transformers alone."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    with without_progress_bars():
        model: Any = AutoModel.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    processor: Any = AutoImageProcessor.from_pretrained(folder)
    # SigLIP's tower sees the padding, so there must be as much of it as in training.
    padding = "max_length" if "attention_mask" not in tokenizer.model_input_names else True

    def texts(batch: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(batch), padding=padding, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return _features(model.get_text_features(**tokens))

    def images(files: Sequence[bytes]) -> Tensor:
        pixels = processor(images=[Image.open(io.BytesIO(data)) for data in files], return_tensors="pt")
        with torch.inference_mode():
            return _features(model.get_image_features(**pixels))

    return Side(lambda batch: tokenizer(list(batch), truncation=True)["input_ids"], texts, images)


def pictures() -> dict[str, list[bytes]]:
    """Encoded pictures of many colours and edges, by what is special about them."""
    wide, tall, square = _drawn(240, 135), _drawn(120, 200), _drawn(96, 96)
    clear = np.dstack([wide, _disc(240, 135)])
    palette = Image.fromarray(square).quantize(16)
    return {
        "wide, tall and square": [_png(wide), _png(tall), _png(square)],
        "JPEG": [_encoded(Image.fromarray(pixels), "JPEG", quality=95) for pixels in (wide, tall)],
        "smaller and much wider than the model's": [_png(_drawn(20, 20)), _png(_drawn(400, 50))],
        "transparent": [
            _png(clear),
            _encoded(Image.fromarray(clear), "WEBP", lossless=True),
            _encoded(Image.fromarray(clear).convert("LA"), "PNG"),
            _encoded(palette, "PNG", transparency=0),
        ],
        "grey and palette": [_encoded(Image.fromarray(tall).convert("L"), "PNG"), _encoded(palette, "PNG")],
        "CMYK": [_encoded(Image.fromarray(wide).convert("CMYK"), "JPEG", quality=95)],
        "turned by Exif": [_turned(wide)],
    }


def _drawn(width: int, height: int) -> Pixels:
    """A gradient of each channel in its own direction, and a chequered disc in the upper left."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], axis=2)
    disc = (x - 0.3) ** 2 + (y - 0.35) ** 2 < 0.06
    checks = (np.floor(x * 12) + np.floor(y * 12)) % 2 == 0
    image[disc & checks] = (250, 240, 20)
    image[disc & ~checks] = (20, 30, 160)
    return image.astype(np.uint8)


def _disc(width: int, height: int) -> Pixels:
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return (255 * np.clip(1.2 - np.hypot(x, y), 0, 1)).astype(np.uint8)


def _png(pixels: Pixels) -> bytes:
    return _encoded(Image.fromarray(pixels), "PNG")


def _encoded(image: Image.Image, form: str, **how: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **how)
    return data.getvalue()


def _turned(pixels: Pixels) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return _encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif.tobytes())


def _features(found: Any) -> Tensor:
    # transformers 5 gives an output with several fields, 4 the tensor.
    tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return tensor


def _lowest_cosine(ours: Tensor, theirs: Tensor) -> float:
    return float(F.cosine_similarity(ours.double(), theirs.double()).min())
