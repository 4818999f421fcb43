"""From text to token ids: cleaned, tokenized, truncated with the end token kept, not padded.

The ids are those of open_clip's tokenizer of the architecture (SimpleTokenizer, or HFTokenizer around a Hugging Face
tokenizer), without its padding to the context length: a batch is padded to its longest text.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from tokenizers import Tokenizer as Backend

from pairmill.errors import RecipeError
from pairmill.towers.architecture import resolve_architecture
from pairmill.towers.config import ModelConfig
from pairmill.towers.sentencepiece import load_sentencepiece
from pairmill.towers.tokens import CLEANERS, BackendTokens, OpenClipTokens

#: open_clip's, where an architecture names none.
CONTEXT_LENGTH = 77

#: What a folder saved by `Tokenizer.save` and loadable by `AutoTokenizer` always holds.
SAVED_FILE = "tokenizer_config.json"


class Tokenizer:
    """texts -> ids of each, unpadded.  Pickles small, or whole where other nodes may lack its files."""

    def __init__(self, description: dict[str, Any], inner: Any) -> None:
        """description: as `tokenizer_description` makes it.  inner: the open_clip tokenizer it describes."""
        self.description = description
        self.context_length = int(description["context_length"])
        self._inner = inner
        self._payload: bytes | None = None
        if isinstance(inner, SimpleTokenizer):
            self.pad_id, self.vocabulary_size = 0, int(inner.vocab_size)
        else:
            self.pad_id, self.vocabulary_size = int(inner.tokenizer.pad_token_id), len(inner.tokenizer)
        #: What makes the ids, for readers: as light as this tokenizer allows.
        self.tokens = _tokens(inner, description)
        specials = self([""])[0]
        #: The id every text ends with; None if the tokenizer adds no such token.
        self.end_id = int(specials[-1]) if len(specials) else None

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [L] of each text, 0 <= L <= context_length: start token (where there is one), text, end token."""
        return self.tokens(list(texts)) if texts else []

    def save(self, folder: Path) -> None:
        """Write what `AutoTokenizer` loads; nothing for open_clip's own tokenizer, which is part of open_clip."""
        if isinstance(self._inner, SimpleTokenizer):
            return
        if hasattr(self._inner.tokenizer, "backend_tokenizer"):
            # Their settings of the last call would come back as settings of the loaded tokenizer.
            self._inner.tokenizer.backend_tokenizer.no_truncation()
            self._inner.tokenizer.backend_tokenizer.no_padding()
        self._inner.tokenizer.save_pretrained(folder)

    def __reduce__(self) -> tuple[object, ...]:
        if isinstance(self._inner, SimpleTokenizer):
            return _restore_simple, (self.description,)
        if self._payload is None:
            self._payload = pickle.dumps((self.description, self._inner))
        return _restore, (self._payload,)


class _PaddedTokens:
    """The ids of an open_clip tokenizer that only it makes: one that draws tokens, `clips` mode.  Pickles whole."""

    def __init__(self, inner: Any, context_length: int) -> None:
        self._parts = inner, context_length

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [L] of each text."""
        inner, length = self._parts
        rows = list(inner(list(texts), length).numpy().astype(np.int32))
        if isinstance(inner, SimpleTokenizer):
            return [row[: row.tolist().index(inner.eot_token_id) + 1] for row in rows]
        # `clips` mode puts its class token after the padding, so the padding is part of the text.
        return rows


class _PythonTokens:
    """The ids of a Hugging Face tokenizer that has no Rust part (ByT5, ProphetNet, …).  Pickles whole."""

    def __init__(self, inner: Any, context_length: int) -> None:
        self._parts = inner, context_length

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """int32 [L] of each text, 0 <= L <= context_length."""
        inner, length = self._parts
        cleaned = [inner.clean_fn(text) for text in texts]
        ids = inner.tokenizer(cleaned, max_length=length, truncation=True, padding=False)["input_ids"]
        rows = [np.array(row, np.int32) for row in ids]
        zeroed = inner.tokenizer.sep_token_id if inner.strip_sep_token else None
        return rows if zeroed is None else [np.where(row == zeroed, 0, row).astype(np.int32) for row in rows]


def _tokens(inner: Any, description: dict[str, Any]) -> Callable[[Sequence[str]], list[npt.NDArray[np.int32]]]:
    length = int(description["context_length"])
    if isinstance(inner, SimpleTokenizer):
        plain = description["settings"].keys() <= {"clean"}
        return OpenClipTokens(length, **description["settings"]) if plain else _PaddedTokens(inner, length)
    if inner.tokenizer_mode:
        return _PaddedTokens(inner, length)
    if not hasattr(inner.tokenizer, "backend_tokenizer"):
        return _PythonTokens(inner, length)
    backend = Backend.from_str(inner.tokenizer.backend_tokenizer.to_str())
    backend.enable_truncation(length, direction=inner.tokenizer.truncation_side)
    backend.no_padding()
    clean = next(name for name in CLEANERS if get_clean_fn(name) is inner.clean_fn)
    return BackendTokens(backend, clean, inner.tokenizer.sep_token_id if inner.strip_sep_token else None)


def open_tokenizer(config: ModelConfig) -> Tokenizer:
    """The tokenizer of the architecture, or of `model.tokenizer`.

    Raises RecipeError: it cannot be loaded; it has more ids than the text tower has embeddings; or the tower would pool
    at, or mask, another token than the tokenizer puts there.
    """
    text_cfg = resolve_architecture(config).model_cfg["text_cfg"]
    tokenizer = _open(tokenizer_description(text_cfg))
    if "hf_model_name" in text_cfg:
        from transformers import AutoConfig

        try:
            check_hugging_face(tokenizer, AutoConfig.from_pretrained(text_cfg["hf_model_name"]))
        except (OSError, ValueError) as error:
            raise RecipeError(
                "the text tower must have a configuration that can be loaded",
                value=f"{text_cfg['hf_model_name']} ({type(error).__name__})",
                fix="give a folder with config.json, or a hub id that can be reached",
            ) from error
    else:
        check_native(tokenizer, text_cfg)
    return tokenizer


def tokenizer_description(text_cfg: dict[str, Any]) -> dict[str, Any]:
    """What tokenizer open_clip's `text_cfg` names, as JSON data: source (None: open_clip's own), mode, settings."""
    return {
        "source": text_cfg.get("hf_tokenizer_name") or None,
        "context_length": int(text_cfg.get("context_length", CONTEXT_LENGTH)),
        "mode": text_cfg.get("tokenizer_mode"),
        "settings": dict(text_cfg.get("tokenizer_kwargs") or {}),
    }


def tokenizer_from_description(description: dict[str, Any], folder: Path | None = None) -> Tokenizer:
    """The tokenizer of a `tokenizer_description`; of the files in `folder`, if `Tokenizer.save` wrote any there."""
    if folder is not None and (folder / SAVED_FILE).is_file() and description["source"] is not None:
        description = {**description, "source": str(folder)}
    return _open(description)


def check_native(tokenizer: Tokenizer, text_cfg: dict[str, Any]) -> None:
    """Raise RecipeError unless an open_clip text tower of this `text_cfg` can read the tokenizer's ids."""
    size = int(text_cfg.get("vocab_size", 49408))
    _check_size(tokenizer, size, "text_cfg.vocab_size")
    pool, end = text_cfg.get("pool_type", "argmax"), tokenizer.end_id
    if pool == "argmax" and end != tokenizer.vocabulary_size - 1 and not text_cfg.get("embed_cls"):
        raise RecipeError(
            "the end token must have the highest id for a tower that pools there (pool_type argmax)",
            value=f"end token {end} of {tokenizer.vocabulary_size} ids",
            fix=f'use a JSON architecture with "pool_type": "eos", "eos_id": {end} in its text_cfg',
        )
    if pool == "eos" and text_cfg.get("eos_id", 2) != end:
        raise RecipeError(
            "the text tower must pool at the tokenizer's end token",
            value=f"text_cfg.eos_id: {text_cfg.get('eos_id', 2)}",
            fix=f'use a JSON architecture with "eos_id": {end} in its text_cfg',
        )


def check_hugging_face(tokenizer: Tokenizer, tower_config: Any) -> None:
    """Raise RecipeError unless a Hugging Face tower of this configuration can read the tokenizer's ids."""
    _check_size(tokenizer, int(tower_config.vocab_size), "vocab_size of the tower's config.json")
    if tower_config.pad_token_id != tokenizer.pad_id:
        raise RecipeError(
            "the text tower must mask the id that the tokenizer pads with",
            value=f"pad_token_id of the tower {tower_config.pad_token_id}, of the tokenizer {tokenizer.pad_id}",
            fix="use the tower's own tokenizer",
        )
    positions = int(getattr(tower_config, "max_position_embeddings", 0) or 0)
    # RoBERTa counts positions from after its padding id.
    usable = positions - (tokenizer.pad_id + 1 if "roberta" in tower_config.model_type else 0)
    if positions and tokenizer.context_length > usable:
        raise RecipeError(
            "model.context_length must fit the text tower",
            value=f"{tokenizer.context_length} tokens",
            fix=f"set it to {usable} or less",
        )


def _check_size(tokenizer: Tokenizer, embeddings: int, name: str) -> None:
    if tokenizer.vocabulary_size > embeddings:
        raise RecipeError(
            f"the tokenizer must have no more ids than the text tower has embeddings ({name})",
            value=f"{tokenizer.vocabulary_size} ids, {embeddings} embeddings",
            fix=f'use another tokenizer, or a JSON architecture with "vocab_size": {tokenizer.vocabulary_size}',
        )


def _open(description: dict[str, Any]) -> Tokenizer:
    source = description["source"]
    if source is None:
        return _restore_simple(description)
    try:
        inner = _open_sentencepiece(description) if source.endswith(".model") else _open_hugging_face(description)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise RecipeError(
            "the tokenizer must be one that can be loaded",
            value=f"{source} ({type(error).__name__})",
            fix="give a tokenizer's folder, a hub id that can be reached, or a .model file",
        ) from error
    if inner.tokenizer.pad_token_id is None or inner.tokenizer.padding_side != "right":
        raise RecipeError(
            "the tokenizer must have a padding token and pad on the right",
            value=source,
            fix="set pad_token and padding_side in its tokenizer_config.json",
        )
    return Tokenizer(description, inner)


def _open_hugging_face(description: dict[str, Any]) -> HFTokenizer:
    return HFTokenizer(
        description["source"],
        context_length=description["context_length"],
        tokenizer_mode=description["mode"],
        **description["settings"],
    )


def _open_sentencepiece(description: dict[str, Any]) -> HFTokenizer:
    # HFTokenizer's constructor only knows what AutoTokenizer loads.
    inner = HFTokenizer.__new__(HFTokenizer)
    inner.tokenizer = load_sentencepiece(Path(description["source"]))
    inner.tokenizer_mode = ""
    inner.context_length = description["context_length"]
    inner.clean_fn = get_clean_fn(description["settings"].get("clean", "canonicalize"))
    inner.strip_sep_token = False
    return inner


def _restore_simple(description: dict[str, Any]) -> Tokenizer:
    return Tokenizer(description, _simple_tokenizer(tuple(sorted(description["settings"].items()))))


@functools.lru_cache(maxsize=4)
def _simple_tokenizer(settings: tuple[tuple[str, Any], ...]) -> SimpleTokenizer:
    return SimpleTokenizer(**dict(settings))


@functools.lru_cache(maxsize=2)
def _restore(payload: bytes) -> Tokenizer:
    """One tokenizer a process, however many tasks bring it along."""
    return Tokenizer(*pickle.loads(payload))
