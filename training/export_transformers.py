"""From a checkpoint's weights and description to a folder that plain transformers loads: CLIP or SigLIP.

FOLDER/config.json, model.safetensors      CLIPModel or SiglipModel
FOLDER/preprocessor_config.json            their image processor
FOLDER/tokenizer.json, …                   what AutoTokenizer loads
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from pairmill.atomic import whole_folder
from pairmill.errors import UserError
from pairmill.towers.tokenizer import Tokenizer
from training.export_clip import clip_model, clip_parts_without_counterpart
from training.export_siglip import is_siglip, siglip_model, siglip_parts_without_counterpart
from training.export_tokenizer import save_for_transformers
from training.model_card import CARD_FILE, transformers_card


def export_transformers(
    state_dict: Mapping[str, Tensor], description: Mapping[str, Any], tokenizer: Tokenizer, folder: Path
) -> None:
    """Write a folder that `AutoModel`, `AutoImageProcessor` and `AutoTokenizer` load; whole or not at all.

    Arguments as `training.export.export_open_clip`'s.  Features are equal to float32 rounding.  The tokenizer cleans
    texts as `training.export_tokenizer` says.
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
    with whole_folder(folder) as partial, without_progress_bars():
        make(state_dict, description, tokenizer).save_pretrained(partial)
        _image_processor(description["preprocess"]).save_pretrained(partial)
        save_for_transformers(tokenizer, partial, masked=not siglip)
        (partial / CARD_FILE).write_text(transformers_card(description, state_dict, folder.name), encoding="utf-8")


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """transformers draws one for each file of weights, on standard error."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _image_processor(preprocess: Mapping[str, Any]) -> Any:
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    size = preprocess["size"][0]
    square = {"height": size, "width": size}
    statistics = {"image_mean": list(preprocess["mean"]), "image_std": list(preprocess["std"])}
    resample = {"bilinear": 2, "bicubic": 3}.get(preprocess.get("interpolation", "bicubic"), 3)
    if preprocess.get("resize_mode", "shortest") == "squash":
        return SiglipImageProcessor(size=square, resample=resample, **statistics)
    if preprocess.get("resize_mode") == "longest":
        # A crop that is larger than the picture puts it in the middle of black.
        longest = {"max_height": size, "max_width": size}
        return CLIPImageProcessor(size=longest, crop_size=square, resample=resample, **statistics)
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square, resample=resample, **statistics)
