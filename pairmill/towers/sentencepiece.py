"""A SentencePiece .model file (unigram) as a Hugging Face fast tokenizer: the same pieces, then the end token.

open_clip 3.3 opens .model files through classes that transformers 5 no longer has in that form, and an export must hold
a tokenizer that `AutoTokenizer` loads; so the file is translated once, here, and one tokenizer serves both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from pairmill.errors import RecipeError

_SPACE = "▁"
_UNIGRAM = 1  # ModelProto.TrainerSpec.model_type; 2 is BPE
_USER_DEFINED = 4  # ModelProto.SentencePiece.type


def load_sentencepiece(path: Path) -> Any:
    """A transformers tokenizer over the pieces of a SentencePiece model, ids unchanged.

    Every text ends with the model's end token (as in T5 and SigLIP).  Padding is the model's own padding piece, or the
    end token if it has none (SigLIP's).  Raises RecipeError: not such a file, not a unigram model, no end token.
    """
    from sentencepiece import sentencepiece_model_pb2 as formats
    from transformers import PreTrainedTokenizerFast

    model = formats.ModelProto()  # type: ignore[attr-defined]  # protobuf makes its classes at run time
    try:
        model.ParseFromString(path.read_bytes())
        readable = bool(model.pieces)
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise RecipeError(
            "a tokenizer's .model file must be a SentencePiece model",
            value=f"{path}: {error}",
            fix="give another file, or a folder with tokenizer.json",
        ) from error
    spec = model.trainer_spec
    if not readable or spec.model_type != _UNIGRAM or spec.eos_id < 0:
        raise RecipeError(
            "a SentencePiece tokenizer must be a unigram model with an end token",
            value=path,
            fix="train it with --model_type=unigram --eos_id=1, or give a folder with tokenizer.json",
        )
    tokenizer = Tokenizer(
        Unigram([(p.piece, p.score) for p in model.pieces], unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    )
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    prepend = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=prepend, split=True)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=prepend, split=True)
    end = model.pieces[spec.eos_id].piece
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, spec.eos_id)])
    tokenizer.add_tokens([AddedToken(p.piece, normalized=False) for p in model.pieces if p.type == _USER_DEFINED])
    pad = model.pieces[spec.pad_id].piece if spec.pad_id >= 0 else end
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=pad,
        unk_token=model.pieces[spec.unk_id].piece,
        model_max_length=int(1e9),
    )


def _normalizer(spec: Any) -> Any:
    """SentencePiece's own character map, then spaces: none at the ends, one between words."""
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)
