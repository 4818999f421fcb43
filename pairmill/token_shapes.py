"""Tokens that are known by their shape: the prefix of a service, and behind it what nobody writes as a name.

Many prefixes are words too (`sk-learn`, `xai-methods`, `pypi-downloads`), so that only what follows tells a token from
the name of a file.  Prefixes and lengths: the services' own pages on their tokens, among them GitLab's token overview.
"""

from __future__ import annotations

import re

#: No words, unlike those below.
_GITLAB = r"gl(?:pat|dt|rtr?|cbt|ptt|ft|fct|ffct|soat|oas|imt|agent|wt)-"
_STRONG = (
    *(_GITLAB, r"gh[pousr]_", r"[srp]k_live_", r"whsec_", r"GOCSPX-", r"dckr_[po]at_", r"hv[sbr]\."),
    *(r"sntry[su]_", r"ATATT3x", r"LTAI", r"AKID"),
)
#: Prefixes before letters, digits, `_` and `-`.
_PREFIXES = (
    *(r"sk-", r"hf_", r"github_pat_", r"api_org_", r"npm_", r"gsk_", r"r8_", r"pypi-", r"nvapi-", r"[srp]k_test_"),
    *(r"do[opr]_v1_", r"tskey-", r"xai-", r"lin_api_", r"pplx-", r"ntn_", r"wandb_v1_", r"sq0[a-z]{3}-", r"ya29\."),
    r"secret_",
    r"SG\.[\w-]{16,64}\.",
)
_PREFIXED = re.compile(
    rf"(?<![A-Za-z0-9])(?P<prefix>(?P<strong>{'|'.join(_STRONG)})|{'|'.join(_PREFIXES)})(?P<body>[\w-]{{16,256}})"
)
_INNER = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_STRONG)})")
#: What may follow: the rest, and the parts of a routable token of GitLab.
_TAIL = re.compile(r"[\w-]*(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?")
_LONGEST_PREFIX = 90
#: What is a token whatever follows.
_FIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:xox[abcdeprs](?:\.xox[a-z])?-(?=[\w-]{0,80}[0-9])[\w-]{8,}|xoxo-\d{6,}-[\w-]{8,}"
    r"|xapp-\d-[\w-]{16,}|AKIA[A-Z0-9]{16,}|(?:ASIA|ABIA|ACCA)(?=[A-Z]{0,80}[0-9])[A-Z0-9]{16,}|AIza[\w-]{30,}"
    r"|dapi[0-9a-f]{24,}|shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{16,}"
    r"|eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*|\d{8,10}:AA[\w-]{30,})"
    r"|(?<=/bot)\d{8,10}:AA[\w-]{30,}"
)
_RUN = re.compile(r"[A-Za-z0-9]+")
#: Between two letters or digits: where a word in camel case begins, a number begins, or one ends.
_CHANGE = re.compile(r"(?<=[a-z])[A-Z]|(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]")

# A run of letters and digits that is long enough to be no word; shorter ones must change kind at every third character
# at least (drawn from 62 characters they do at 45 % of them; `ResNet50VersusViT2024` does at 29 %).
_LEAST_RUN, _LEAST_LOWER_RUN, _LEAST_LONG_RUN = 16, 20, 28
_LEAST_CHANGES = 1 / 3
# Behind a prefix that is no word, all pieces between `-` and `_` count, and a lower share is enough, or hardly a word.
_LEAST_STRONG_CHANGES, _LEAST_STRONG_SHARE = 5, 1 / 4
_WORDLESS_CHANGES, _MOST_WORDS = 3, 1 / 4
#: A piece that is a word, words in camel case, or a number.
_WORD = re.compile(r"(?:[A-Z]?[a-z]{2,}|[A-Z]{2,})[0-9]{0,4}|(?:[A-Z]?[a-z]{2,}[0-9]{0,4}){2,4}|[0-9]+")


def masked_tokens(text: str, mask: str) -> str:
    """`text` with `mask` in place of every token of a known shape."""
    text = _FIXED.sub(mask, text)
    parts: list[str] = []
    done = at = 0
    while found := _PREFIXED.search(text, at):
        if not _is_random(found["body"], strong=found["strong"] is not None):
            # Then no part of the body is a token either, unless a stronger prefix stands in it or a longer body begins.
            inner = _INNER.search(text, found.end("prefix"), found.end())
            at = inner.start() if inner else max(found.end("prefix"), found.end() - _LONGEST_PREFIX)
            continue
        parts += [text[done : found.start()], mask]
        done = at = _TAIL.match(text, found.end()).end()  # type: ignore[union-attr]  # it matches nothing too
    return "".join([*parts, text[done:]])


def is_drawn(text: str) -> bool:
    """Whether a run of letters and digits in this was drawn at random, as keys are, and not written as a name."""
    return any(map(_is_random_run, _RUN.findall(text)))


def _is_random(body: str, *, strong: bool) -> bool:
    """Whether this was drawn and not written.  strong: the prefix alone makes it likely."""
    if is_drawn(body):
        return True
    runs = _RUN.findall(body)
    changes, length = sum(map(_changes, runs)), sum(map(len, runs))
    wordless = (
        changes >= _WORDLESS_CHANGES and sum(len(run) for run in runs if _WORD.fullmatch(run)) < length * _MOST_WORDS
    )
    return strong and (wordless or (changes >= _LEAST_STRONG_CHANGES and changes > length * _LEAST_STRONG_SHARE))


def _changes(run: str) -> int:
    return sum(1 for _ in _CHANGE.finditer(run))


def _is_random_run(run: str) -> bool:
    digits = sum(character.isdigit() for character in run)
    letters = len(run) - digits
    if len(run) >= _LEAST_LONG_RUN and letters and (digits or _changes(run) >= len(run) / 6):
        return True
    if len(run) < _LEAST_RUN or letters < 4 or not digits:
        return False
    lower = run == run.lower() and digits * 3 >= len(run) and len(run) >= _LEAST_LOWER_RUN
    return lower or _changes(run) >= len(run) * _LEAST_CHANGES
