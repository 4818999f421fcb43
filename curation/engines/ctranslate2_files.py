"""A checkpoint as CTranslate2 reads it: converted once for each kind of numbers, and kept on this machine.

ctranslate2's own converter of transformers' models takes no revision for the tokenizer and the configuration, and
assumes of Marian that `<pad>` is the last token and a zero vector.  That holds for OPUS-MT and not for every model that
transformers loads, so only its reading of the layers is used here.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curation.engines.guard import describe
from curation.engines.model_files import Checkpoint, load_arguments
from pairmill.atomic import whole_folder
from pairmill.config import digest
from pairmill.errors import UserError
from pairmill.faults import fault_point

#: Raised when what is converted from the same checkpoint changes, so that older conversions are not used.
_FORMAT = 1

#: model_type of transformers -> whether layers normalise before they compute, and whether embeddings are normalised.
_FAMILIES = {"marian": (False, False), "m2m_100": (True, False), "mbart": (True, True)}


def converted_before(checkpoint: Checkpoint) -> Path | None:
    """The folder of a checkpoint that somebody converted; None for one of transformers."""
    if checkpoint.commit is None:
        folder = Path(checkpoint.source)
        return folder if (folder / "model.bin").is_file() else None
    from huggingface_hub import hf_hub_download, snapshot_download

    config = json.loads(Path(hf_hub_download(checkpoint.source, "config.json", revision=checkpoint.commit)).read_text())
    if "model_type" in config:
        return None
    return Path(snapshot_download(checkpoint.source, revision=checkpoint.commit))


def converted(checkpoint: Checkpoint, compute_type: str, conversions: str | None) -> Path:
    """The folder of a checkpoint of transformers for CTranslate2.

    compute_type: of the numbers that are stored.  conversions: the folder that keeps them; None: in the user's folder
    for caches.  Another process that converts the same is waited for.
    Raises UserError if the checkpoint is of no family that can be converted, or the folder cannot be written.
    """
    kept = _folder(conversions)
    key = digest([_FORMAT, checkpoint.revision, compute_type, version("ctranslate2")])
    folder = kept / f"{Path(checkpoint.source).name}-{compute_type}-{key}"
    if folder.is_dir():
        return folder
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with _locked(kept / f".{folder.name}.lock"):
            if not folder.is_dir():
                with whole_folder(folder) as partial:
                    _model_spec(checkpoint, compute_type).save(str(partial))
                    fault_point("engine.convert.before_rename")
    except OSError as error:
        if folder.is_dir():  # on a file system of several nodes, whose locks this one does not see
            return folder
        raise UserError(
            "translate.engine.conversions must be a folder that can be written",
            value=f"{kept}: {error}",
            fix="free space there, or set translate.engine.conversions to another folder",
        ) from error
    return folder


def _folder(given: str | None) -> Path:
    try:
        if given is not None:
            return Path(given).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pairmill" / "ctranslate2"
    except RuntimeError as error:  # the user has no home
        raise UserError(
            "translate.engine.conversions must be a folder, and this user has no folder for caches",
            value=given,
            fix="set translate.engine.conversions to a folder that every node has",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file until the block, or this process, ends; wait for another process that does."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _model_spec(checkpoint: Checkpoint, compute_type: str) -> Any:
    """The model as ctranslate2 saves it.  Raises UserError if it cannot be converted."""
    import torch
    from ctranslate2.converters.transformers import BartLoader, M2M100Loader
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    where = load_arguments(checkpoint)
    try:
        family = AutoConfig.from_pretrained(checkpoint.source, **where).model_type
        if family not in _FAMILIES:
            raise ValueError(f"a model of type {family}, not {', '.join(_FAMILIES)}")
        # Weights may be stored as float16: what follows is rounded once, to the type that was asked for.
        model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint.source, dtype=torch.float32, **where).eval()
        if not getattr(model.config, "share_encoder_decoder_embeddings", True):
            raise ValueError("a model with a vocabulary of its own for each side")
        tokens = vocabulary(AutoTokenizer.from_pretrained(checkpoint.source, **where), model.config.vocab_size)
        model.config.normalize_before, model.config.normalize_embedding = _FAMILIES[family]
        with torch.no_grad():
            spec = (M2M100Loader if family == "m2m_100" else BartLoader)().get_model_spec(model)
        spec.config.decoder_start_token = tokens[_id_of("decoder_start_token_id", model)]
        spec.config.eos_token = tokens[_id_of("eos_token_id", model)]
        # Never read: texts come with the tokens that their tokenizer adds, and no token is unknown.
        spec.config.bos_token = spec.config.unk_token = spec.config.eos_token
        spec.register_source_vocabulary(tokens)
        spec.register_target_vocabulary(tokens)
        spec.validate()
        spec.optimize(quantization=compute_type)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, NotImplementedError) as error:
        raise UserError(
            "translate.model must be a Marian, NLLB, M2M100 or mBART-50 checkpoint that ctranslate2 can convert",
            value=f"{checkpoint.source}: {describe(error)}",
            fix="check the files of the checkpoint, or set translate.engine: transformers",
        ) from error
    return spec


def _id_of(name: str, model: Any) -> int:
    """An id that the model's settings name; of several the first."""
    ids = getattr(model.generation_config, name, None)
    ids = getattr(model.config, name) if ids is None else ids
    return int(ids[0] if isinstance(ids, list) else ids)


def vocabulary(tokenizer: Any, size: int) -> list[str]:
    """The tokens of the first `size` ids, each another one; an id without a token of its own gets one that no text has.

    tokenizer: of transformers.
    """
    tokens: dict[str, None] = {}
    for at in range(size):
        token = tokenizer.convert_ids_to_tokens(at)
        tokens[f"<id {at}>" if token is None or token in tokens else token] = None
    return list(tokens)
