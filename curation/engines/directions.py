"""Which languages a translator's checkpoint names, and by which tokens.

The tokens in the vocabulary identify the family: a tokenizer's class differs between versions and copies of a
checkpoint, its tokens do not:

    NLLB      zho_Hans            FLORES-200 codes
    M2M100    __zh__
    mBART-50  zh_CN
    Marian    >>zh<<, >>cmn_Hans<<   before the text, only if the checkpoint has several target languages
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pairmill.languages import FLORES, canonical

#: mBART-50 names a country where others name a script; only Chinese has two candidates.
_COUNTRY_SCRIPTS = {"zh_TW": "zh-hant", "zh_HK": "zh-hant"}

#: What a Marian checkpoint that translates from many languages has in its name instead of one.
MANY = "mul"

_MARIAN = re.compile(r">>([A-Za-z_\-]+)<<")
_M2M = re.compile(r"__([a-z]{2,3})__")
_MBART = re.compile(r"([a-z]{2})_[A-Z]{2}")


def language_tokens(vocabulary: Collection[str]) -> dict[str, str]:
    """Language -> the token that stands for it, for a model whose vocabulary names languages; empty if it names none.

    Marian's multi-target checkpoints are not included: see `marian_targets`.
    """
    if FLORES["en"] in vocabulary:
        return {iso: token for iso, token in FLORES.items() if token in vocabulary}
    m2m = {canonical(match[1]): match[0] for match in map(_M2M.fullmatch, vocabulary) if match}
    if "en" in m2m:
        return m2m
    if "en_XX" in vocabulary:
        mbart = (match for match in map(_MBART.fullmatch, sorted(vocabulary)) if match)
        return {_COUNTRY_SCRIPTS.get(match[0], canonical(match[1])): match[0] for match in mbart}
    return {}


def marian_targets(vocabulary: Collection[str]) -> dict[str, str]:
    """Language -> `>>…<<` token, for a Marian checkpoint with several targets; a language's shortest token wins."""
    found = sorted((match for match in map(_MARIAN.fullmatch, vocabulary) if match), key=lambda m: (-len(m[0]), m[0]))
    return {canonical(match[1]): match[0] for match in found}


def pair_of_name(name: str) -> tuple[str, str] | None:
    """Source and target that a Marian checkpoint's name states (`Helsinki-NLP/opus-mt-en-zh`), or None."""
    match = re.search(r"opus-mt(?:-tc)?(?:-big|-tiny|-base)?-([a-z]{2,3})[-_]([a-z]{2,3})$", name.rstrip("/").lower())
    return (canonical(match[1]), canonical(match[2])) if match else None
