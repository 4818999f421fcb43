"""From a checkpoint's weights and description to a folder that plain transformers loads: CLIP or SigLIP.

FOLDER/config.json, model.safetensors      CLIPModel or SiglipModel
FOLDER/preprocessor_config.json            their image processor
FOLDER/tokenizer.json, …                   what AutoTokenizer loads
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, normalizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from pairmill.atomic import whole_folder
from pairmill.errors import UserError
from training.export_clip import clip_model, clip_parts_without_counterpart
from training.export_siglip import is_siglip, siglip_model, siglip_parts_without_counterpart
from training.towers.tokenizer import SAVED_FILE, Tokenizer

#: open_clip's `canonicalize`: no ASCII punctuation, lower case.
_CANONICALIZE = (
    normalizers.Replace("_", " "),
    normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
    normalizers.Lowercase(),
)


def export_transformers(
    state_dict: Mapping[str, Tensor], description: Mapping[str, Any], tokenizer: Tokenizer, folder: Path
) -> None:
    """Write a folder that `AutoModel`, `AutoImageProcessor` and `AutoTokenizer` load; whole or not at all.

    Arguments as `training.export.export_open_clip`'s.  Features are equal to float32 rounding.  The tokenizer gives
    equal ids for clean texts; it does not repair HTML entities and broken encodings, as open_clip's cleaning does.
    Raises UserError: a part of the architecture has no counterpart (the error names it), or `folder` exists already.
    """
    siglip = is_siglip(description["architecture"])
    if siglip:
        missing = siglip_parts_without_counterpart(description, tokenizer)
    else:
        missing = clip_parts_without_counterpart(description["architecture"], tokenizer)
    if missing:
        raise UserError(
            f"every part of the model must have a counterpart in transformers' "
            f"{'SiglipModel' if siglip else 'CLIPModel'}",
            value=f"{description['name']} has {', '.join(missing)}",
            fix="export it in open_clip's form",
        )
    make = siglip_model if siglip else clip_model
    with whole_folder(folder) as partial:
        make(state_dict, description, tokenizer).save_pretrained(partial)
        _image_processor(description["preprocess"]).save_pretrained(partial)
        _save_tokenizer(tokenizer, partial, siglip)


def _image_processor(preprocess: Mapping[str, Any]) -> Any:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    size = preprocess["size"][0]
    square = {"height": size, "width": size}
    statistics = {"image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"])}
    resample = {"bilinear": 2, "bicubic": 3}.get(preprocess.get("interpolation", "bicubic"), 3)
    if preprocess.get("resize_mode", "shortest") == "squash":
        return SiglipImageProcessor(size=square, resample=resample, **statistics)
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square, resample=resample, **statistics)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, siglip: bool) -> None:
    """open_clip's own tokenizer as transformers' CLIPTokenizer; a Hugging Face one with the cleaning built in."""
    from transformers import CLIPTokenizer

    if tokenizer.description["source"] is None:
        simple = SimpleTokenizer()
        special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        CLIPTokenizer(
            vocab={special.get(token, token): number for token, number in simple.encoder.items()},
            merges=list(simple.bpe_ranks),
            model_max_length=tokenizer.context_length,
        ).save_pretrained(folder)
        return
    tokenizer.save(folder)
    file = folder / SAVED_FILE
    config = json.loads(file.read_text(encoding="utf-8")) | {"model_max_length": tokenizer.context_length}
    if siglip:
        # Its text tower was trained to attend to the padding: no mask must be made.
        config["model_input_names"] = ["input_ids"]
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    if tokenizer.description["settings"].get("clean") == "canonicalize":
        path = str(folder / "tokenizer.json")
        backend = Backend.from_file(path)
        backend.normalizer = normalizers.Sequence([*_CANONICALIZE, backend.normalizer])
        backend.save(path)
