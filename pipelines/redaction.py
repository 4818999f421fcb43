"""Remove secrets from what is printed, logged or kept with a job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

MASK = "***"

_WORD = r"(?:token|secret|passw(?:or)?d|passphrase|api[-_]?key|access[-_]?key|credential|signature|authorization)"
# Not secret: `tokenizer`, a number of tokens, and `…_env`, which names the variable that holds the key.
_KEY = rf"{_WORD}(?!izer)[\w.-]{{0,64}}(?<!_tokens)(?<!_env)"

_URL_USER = re.compile(r"(?<=://)[^\s/?#'\"]{1,512}@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_PAIR = re.compile(rf"""(?ix) (?P<key> {_KEY} ["']? \s*[=:]\s* ) (?P<value> "[^"]*" | '[^']*' | [^\s,;&}}\])"']+ )""")
_SECRET_NAME = re.compile(rf"(?i){_KEY}$")

#: Shorter values of secret-named variables are left alone: `1` or `none` would be masked everywhere.
_LEAST_SECRET = 8


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with `***` for user:password@ in URLs, values of secret-named keys, and values of secret-named variables.

    A name is secret if it holds token, secret, password, api_key, access_key, credential, signature or authorization,
    in any case; `tokenizer`, `…_tokens` and `…_env` are not.  A key's value follows `=` or `:`, as in YAML, JSON, query
    strings and shell assignments.
    """
    for name, value in environment.items():
        if len(value) >= _LEAST_SECRET and _SECRET_NAME.search(name) and not value.startswith("/"):
            text = text.replace(value, MASK)
    text = _URL_USER.sub(f"{MASK}@", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return _PAIR.sub(rf"\g<key>{MASK}", text)
