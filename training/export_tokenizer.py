"""A tokenizer for transformers that cleans texts as open_clip does, as far as rules of replacement can.

open_clip repairs a text before it is cut into tokens (ftfy, HTML entities, spaces, case).  transformers has no such
step, but a saved tokenizer has a normaliser: a list of replacements, which is built here from ftfy's own tables.
What is beyond them: encodings that were mistaken for one another, rare entities, those that ftfy leaves alone in
a text with `<`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from html.entities import name2codepoint
from pathlib import Path
from typing import Any

from ftfy import chardata
from ftfy.fixes import fix_c1_controls, uncurl_quotes
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Regex, decoders, normalizers
from tokenizers import Tokenizer as Backend

from pairmill.towers.tokenizer import SAVED_FILE, Tokenizer

#: Characters that are often written as numbered entities.
_BY_NUMBER = "\u00a0&'\"<>\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2022\u2026\u20ac\u2122"

#: Line ends that ftfy makes `\n` of, and whatever else `str.split` takes for space.
_SPACE = Regex(r"[\s\x{1c}-\x{1f}\x{85}\x{2028}\x{2029}]+")

#: A capital sigma at the end of a word, of which `str.lower` makes another letter than elsewhere: after a letter with
#: case and before none, whatever marks lie between (Unicode's Final_Sigma; `\K` starts the match where it stands).
_CASED, _MARKS = r"[\p{Lu}\p{Ll}\p{Lt}]", r"[\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:·‘’․‧]*"
_FINAL_SIGMA = Regex(rf"{_CASED}{_MARKS}\KΣ(?!{_MARKS}{_CASED})")


def save_for_transformers(tokenizer: Tokenizer, folder: Path, *, masked: bool) -> None:
    """Write what `AutoTokenizer` loads, cleaning included.

    masked: whether the text tower may be given a mask of the padding (not SigLIP's, which was trained to attend to it).
    A Hugging Face tokenizer without a Rust part is saved as it is, without cleaning.
    """
    if tokenizer.description["source"] is None:
        _of_open_clip(tokenizer.context_length).save_pretrained(folder)
    else:
        tokenizer.save(folder)
    file = folder / SAVED_FILE
    config = json.loads(file.read_text(encoding="utf-8")) | {"model_max_length": tokenizer.context_length}
    if not masked:
        config["model_input_names"] = ["input_ids"]
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    rules = folder / "tokenizer.json"
    if rules.is_file():
        default = "lower" if tokenizer.description["source"] is None else "whitespace"
        clean = tokenizer.description["settings"].get("clean", default)
        backend = Backend.from_file(str(rules))
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([*cleaning(clean), *own])
        backend.save(str(rules))


def cleaning(clean: str) -> list[Any]:
    """The steps of one of open_clip's ways of cleaning, by its name (`pairmill.towers.tokens.CLEANERS`)."""
    steps = [*_entities(), *_characters(), normalizers.NFC()]
    if clean == "canonicalize":
        steps += [normalizers.Replace("_", " "), normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), "")]
    if clean in ("lower", "canonicalize"):
        steps += [normalizers.Replace(_FINAL_SIGMA, "ς"), normalizers.Lowercase()]
    return [*steps, normalizers.Replace(_SPACE, " "), normalizers.Strip()]


def _entities() -> Iterator[Any]:
    """HTML's named entities, and the most common of the numbered; `&amp;` first, twice: `&amp;amp;` is common."""
    yield from (normalizers.Replace("&amp;", "&") for _ in range(2))
    for name, point in name2codepoint.items():
        if name != "amp":
            yield normalizers.Replace(f"&{name};", chr(point))
    for character in _BY_NUMBER:
        number = ord(character)
        yield normalizers.Replace(Regex(rf"&#(0*{number}|[xX]0*(?i:{number:x}));"), character)


def _characters() -> Iterator[Any]:
    """ftfy's tables: characters that become others, and those that go."""
    yield normalizers.Replace(Regex(r"\x{1b}\[[\d;]*[a-zA-Z]"), "")  # terminal colours
    table: dict[int, str] = {point: fix_c1_controls(chr(point)) for point in range(0x80, 0xA0)}
    table |= dict(chardata.LIGATURES) | dict(chardata.WIDTH_MAP)
    table |= {point: chr(point) for point in (*range(0x2B0, 0x300), *range(0x2000, 0x2070))}
    whole = {point: uncurl_quotes(text) for point, text in table.items()}
    yield normalizers.Precompiled(_charsmap({point: text for point, text in whole.items() if chr(point) != text}))
    gone = "".join(rf"\x{{{point:x}}}" for point in chardata.CONTROL_CHARS)
    yield normalizers.Replace(Regex(f"[{gone}]"), "")


def _charsmap(table: dict[int, str]) -> bytes:
    """SentencePiece's form of a table of characters, which takes one pass where a step a character takes hundreds."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as formats

    sentencepiece.set_min_log_level(2)
    plain: dict[str, Any] = {"add_dummy_prefix": False, "escape_whitespaces": False, "remove_extra_whitespaces": False}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.writelines(f"{point:X}\t{' '.join(f'{ord(c):X}' for c in text)}\n" for point, text in table.items())
        file.flush()
        normalizer = sentencepiece.SentencePieceNormalizer(rule_tsv=file.name, **plain)
    model = formats.ModelProto()  # type: ignore[attr-defined]  # protobuf makes its classes at run time
    model.ParseFromString(normalizer.serialized_model_proto())
    return bytes(model.normalizer_spec.precompiled_charsmap)


def _of_open_clip(length: int) -> Any:
    """open_clip's own tokenizer in transformers' form.

    Not as a CLIPTokenizer: transformers 5 builds one from its vocabulary alone, without the saved normaliser.
    """
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    simple = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    plain = CLIPTokenizer(
        vocab={special.get(token, token): number for token, number in simple.encoder.items()},
        merges=list(simple.bpe_ranks),
    )
    backend = Backend.from_str(plain.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([])
    backend.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace("</w>", " "), decoders.Strip(" ", 0, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=length,
    )
