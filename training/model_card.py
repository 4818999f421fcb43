"""The model card of an export: what it is, how it is loaded, and where it differs from the model it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pairmill.towers.architecture import CONFIG_FILE, TEXT_TOWER_FOLDER
from pairmill.towers.vl_ffn import VL_FFN
from pairmill.towers.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from training.export_check import Difference

ARCHITECTURE_FILE = "architecture.json"
CARD_FILE = "README.md"

#: What to do about a group that differs.
_ADVICE = {
    "CMYK": 'Convert pictures first: `image.convert("RGB")`.',
    "grey and palette": 'Convert pictures first: `image.convert("RGB")`.',
    "transparent": "Put a transparent picture on white first, as training does: "
    '`Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))`.',
    "broken encodings": "Repair texts first, as training does: `ftfy.fix_text(text)`.",
}


def open_clip_card(description: Mapping[str, Any], state_dict: Mapping[str, Tensor], name: str) -> str:
    """Of a folder in open_clip's form.  Arguments as `training.export.export_open_clip`'s; name: of the folder."""
    if description.get(VL_FFN):
        return f"""{_top(description, state_dict, name, library="pairmill")}
It has feed-forward heads over both towers (`model.vl_ffn`), which no other library knows.  To train from it, or to
embed with it: `model.architecture: local-dir:{name}`.
"""
    return f"""{_top(description, state_dict, name, library="open_clip")}
```python
{_open_clip_code(description, name)}```

The same architecture by name: `open_clip.add_model_config("{name}/{ARCHITECTURE_FILE}")`, then
`open_clip.create_model_and_transforms("architecture", pretrained="{name}/{WEIGHTS_FILE}")`, with the mean and standard
deviation above.
"""


def transformers_card(description: Mapping[str, Any], state_dict: Mapping[str, Tensor], name: str) -> str:
    """Of a folder in transformers' form."""
    return f"""{_top(description, state_dict, name, library="transformers")}
```python
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")  # for texts: truncation=True
processor = AutoImageProcessor.from_pretrained("{name}")
```
"""


def measured(found: Sequence[Difference], library: str) -> str:
    """The section of a card that says what was measured.  library: name and version."""
    rows = []
    for one in found:
        ids = "" if one.other_ids is None else str(one.other_ids)
        rows.append(f"| {one.kind}: {one.group} | {one.number} | {ids} | {one.cosine:.4f} |")
    advice = dict.fromkeys(_ADVICE[one.group] for one in found if not one.same and one.group in _ADVICE)
    return "\n".join(
        [
            "",
            "## Measured differences",
            "",
            f"The same texts and pictures were encoded by the model as in training, and by this folder in {library}.",
            "Lowest cosine: between the two features of one text or picture; 1 means that they are equal.",
            "",
            "| encoded | number | with other token ids | lowest cosine |",
            "|---|---|---|---|",
            *rows,
            "",
            *(line for said in advice for line in (said, "")),
        ]
    )


def _top(description: Mapping[str, Any], state_dict: Mapping[str, Tensor], name: str, *, library: str) -> str:
    architecture, preprocess = description["architecture"], description["preprocess"]
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    image_tower = vision.get("timm_model_name") or f"{description['name']} ({vision.get('width')} wide)"
    text_tower = description["text_tower"]["model_type"] if description.get("text_tower") else "open_clip transformer"
    parameters = sum(t.numel() for t in state_dict.values() if t.is_floating_point())
    scale = float(state_dict["logit_scale"].float().exp().reshape(()))
    return f"""---
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- clip
- image-text-retrieval
---
# {name}

A dual encoder of images and texts, contrastively pretrained with pairmill.

| | |
|---|---|
| Architecture | {description["name"]}: {parameters / 1e6:.1f} M parameters, embedding {architecture["embed_dim"]} |
| Image tower | {image_tower}, {preprocess["size"]} pixels |
| Text tower | {text_tower}, up to {text.get("context_length", 77)} tokens |
| Image mean, std | {preprocess["mean"]}, {preprocess["std"]} |
| Logit scale | {scale:.2f} |
"""


def _open_clip_code(description: Mapping[str, Any], name: str) -> str:
    """What loads the folder in plain open_clip, wherever it was moved."""
    if not description.get("text_tower"):
        return f"""import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{name}")
tokenizer = open_clip.get_tokenizer("local-dir:{name}")
"""
    return f"""import json

import open_clip

folder = "{name}"
text = json.load(open(f"{{folder}}/{CONFIG_FILE}"))["model_cfg"]["text_cfg"]
text["hf_model_name"] = f"{{folder}}/{TEXT_TOWER_FOLDER}"
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{{folder}}", text_cfg=text)
tokenizer = open_clip.get_tokenizer(f"local-dir:{{folder}}")
"""
