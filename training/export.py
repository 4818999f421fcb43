"""From a checkpoint's weights and description to a model folder that plain open_clip loads.

    FOLDER/open_clip_config.json          model_cfg and preprocess_cfg
    FOLDER/open_clip_model.safetensors    float32 weights
    FOLDER/architecture.json              model_cfg alone, for `open_clip.add_model_config`
    FOLDER/tokenizer.json, …              where the tokenizer is not open_clip's own
    FOLDER/text_tower/config.json         where the text tower is a Hugging Face encoder
    FOLDER/README.md                      model card

This is open_clip's hub form: `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads it, and so does
`hf-hub:OWNER/NAME` once the folder is uploaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pairmill.atomic import whole_folder
from pairmill.errors import UserError
from pairmill.towers.architecture import CONFIG_FILE, TEXT_TOWER_FOLDER
from pairmill.towers.tokenizer import Tokenizer
from pairmill.towers.vl_ffn import VL_FFN
from pairmill.towers.weights import WEIGHTS_FILE
from training.model_card import ARCHITECTURE_FILE, CARD_FILE, open_clip_card

#: NAME or OWNER/NAME.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(?<!\.model)")


def export_open_clip(
    state_dict: Mapping[str, Tensor],
    description: Mapping[str, Any],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    home: str | None = None,
) -> None:
    """Write a model folder in open_clip's hub form; whole or not at all.

    state_dict: of the open_clip model, consolidated.  description: `model_description`'s.  folder: must not exist yet.
    home: where the folder will be read, if it is moved there from `folder`.
    Raises UserError if it does; OSError if it cannot be written.
    """
    model_cfg = deepcopy(description["architecture"])
    _point_at(model_cfg["text_cfg"], home or str(folder.absolute()))
    with whole_folder(folder) as partial:
        tokenizer.save(partial)
        if description.get("text_tower"):
            (partial / TEXT_TOWER_FOLDER).mkdir()
            _write_json(partial / TEXT_TOWER_FOLDER / "config.json", description["text_tower"])
        preprocess = {k: v for k, v in description["preprocess"].items() if k != "size"}
        config = {"name": description["name"], "model_cfg": model_cfg, "preprocess_cfg": preprocess}
        if description.get(VL_FFN):
            config[VL_FFN] = description[VL_FFN]
        _write_json(partial / CONFIG_FILE, config)
        _write_json(partial / ARCHITECTURE_FILE, model_cfg)
        save_file(_own_storage(state_dict), partial / WEIGHTS_FILE, metadata={"format": "pt"})
        (partial / CARD_FILE).write_text(open_clip_card(description, state_dict, folder.name), encoding="utf-8")


def check_exportable(description: Mapping[str, Any]) -> None:
    """Raise UserError for a model that no other library loads, though its checkpoints are in open_clip's form."""
    if description.get(VL_FFN):
        raise UserError(
            "a model must be without model.vl_ffn to be exported: no other library has such heads",
            value=description["name"],
            fix="use its checkpoint in pairmill, as architecture local-dir:FOLDER, or train without model.vl_ffn",
        )


def _point_at(text_cfg: dict[str, Any], home: str) -> None:
    """Name the files of the export where they will lie; a hub id, which can be fetched from anywhere, stays."""
    if is_local(text_cfg.get("hf_tokenizer_name")):
        text_cfg["hf_tokenizer_name"] = home
    if "hf_model_name" in text_cfg:
        text_cfg["hf_model_pretrained"] = False  # its weights are in the export
        if is_local(text_cfg["hf_model_name"]):
            text_cfg["hf_model_name"] = f"{home}/{TEXT_TOWER_FOLDER}"


def is_local(name: str | None) -> bool:
    """Whether a name of a tokenizer or a tower is a path, there or gone, and no hub id."""
    return bool(name) and (_HUB_ID.fullmatch(str(name)) is None or Path(str(name)).exists())


def _own_storage(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous float32 (integers as they are), each tensor with storage of its own, as safetensors asks."""
    seen: set[int] = set()
    tensors = {}
    for name, value in state_dict.items():
        tensor = (value.detach().float() if value.is_floating_point() else value.detach()).cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
