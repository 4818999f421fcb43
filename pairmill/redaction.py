"""Remove secrets from what is printed, logged or kept: `redact` a text, `redact_data`, or refuse what `holds_secret`.

What is a secret is known in four ways: where it stands in a URL (user:password@, ?token=), by the name before it
(`pairmill.secret_names`), by its shape (a private key, the prefix of a service's tokens), and by being the value of an
environment variable with a secret name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pairmill.secret_names import NULLS, is_nothing, is_secret_name, may_be_secret_name, words
from pairmill.secret_urls import holds_url_secret, masked_parameters, masked_users
from pairmill.token_shapes import is_drawn, masked_tokens

MASK = "***"

#: Shorter values of secret-named variables are left alone: `1` or `none` would be masked everywhere.
_LEAST_SECRET = 8

# By shape

_KEY_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----.*?(?:-----END \1-----|\Z)"
    r"|PuTTY-User-Key-File.*?(?:Private-MAC[^\n]*|\Z)",
    re.DOTALL,
)

# After a name

_QUOTE = r"(?:\\{0,31}[\"']|&quot;|&\#34;|&\#39;|%(?:25)*2[27])"
_SEPARATOR = re.compile(
    rf"{_QUOTE}?\s{{0,20}}(?:=>|:=|==?|:(?!//)|%(?:25)*3[AD]|\\u003[ad]|\\x3[ad]|&\#61;)\s{{0,20}}"
    r"(?:[>|][+-]?[0-9]?[ \t]*\n\s*)?",
    re.IGNORECASE,
)
_NAME = re.compile(r"[\w .-]{1,80}")
_NAME_BEFORE = re.compile(r"[A-Za-z_][\w.\-\[\]]{0,80}\Z")
_QUOTED = re.compile(rf"(?:[bru]{{0,2}})({_QUOTE})(.*?)(?<!\\)\1", re.DOTALL | re.IGNORECASE)
_LIST = re.compile(r"\[[^\[\]]*\]?")
_PLAIN = re.compile(r"(?:(?!%(?:25)*(?:26|2[27C])|\\u0026|&quot;|&amp;|\\[\"'])[^\s,;&})\]\"'<>|])+")
_LINE = re.compile(r"(?:(?!&quot;)[^\n\"'])+")
_WORD_BEFORE = re.compile(r"(\w+)[ \t]+\Z")
_HEADERS = re.compile(r"(?i)(?:proxy-?)?authorization\Z")
#: `Digest username="…", response="…"`.
_PARAMETERS = re.compile(r"[\w-]+ +[\w-]+=")
_COOKIES = re.compile(r"(?i)(?:set-)?cookie2?\Z")

_OPTION = re.compile(
    r"(?<![\w-])(?P<name>--?[A-Za-z][\w.-]{1,63})(?P<sep>[\"']?,?\s+)(?P<value>[\"'][^\"']*[\"']|[^\s\"',\]-][^\s\"',\]]*)"
)
_SHORT_PASSWORD = re.compile(r"(?<!\S)(-p[ =])(?!\d+(?::\d+)*(?:/\w+)?(?!\S)|[./~-])([^\s'\"]{3,}|'[^']*'|\"[^\"]*\")")
#: Commands whose `-p` is no password: it makes parents, keeps modes, or names a port.
_NO_PASSWORD = re.compile(
    r"\b(?:mkdir|cp|tar|install|rsync|scp|ssh|patch|docker|python|pytest|unzip|test)\b[^\n|;&]*\Z"
)
#: Commands whose `-u` is followed by no user: it updates, or names what is sent where.
_NO_USER = re.compile(r"\b(?:git|rsync|cp|mv|docker|podman|chown|sort|date|tar)\b[^\n|;&]*\Z")
_LOGIN = re.compile(
    r"(\b(?:wandb|comet|clearml|hf|huggingface-cli|neptune)\s+(?:auth\s+)?login\s+)([^\s'\"-][^\s'\"]{15,})"
)
_CLIENT_PASSWORD = re.compile(r"(\b(?:mysql\w*|mariadb\w*|sshpass)\b[^\n|;&]{0,200}?\s-p ?)([^\s-]\S*)")
_USER_OPTION = re.compile(r"(?<!\S)((?:-u|-U|--user|--proxy-user)(?:[ =]['\"]?)[^\s:'\"]{1,64}:)([^\s'\"]+)")
_CURL_COOKIE = re.compile(
    r"(\bcurl\b[^\n|;&]{0,200}?\s-b[ =]?)('[^'=\n]+=[^'\n]*'|\"[^\"=\n]+=[^\"\n]*\"|[^\s='\"]+=\S+)"
)
_ELEMENT = re.compile(r"<([A-Za-z][\w:.-]{0,63})(?:\s[^<>]{0,200})?>([^<>]+)(?=</)")
_ATTRIBUTE = re.compile(r"(?i)((?:key|name)=[\"']([\w:.-]{1,64})[\"']\s+(?:value|content)=[\"'])([^\"']*)")
_PAIR_OF = re.compile(r"(\(\s*b?[\"']([\w.-]{1,64})[\"']\s*,\s*b?[\"'])([^\"']*)")
_NETRC = re.compile(r"(?i)(\blogin\s+\S+\s+password\s+)(\S+)")
_SQL = re.compile(r"(?i)(\b(?:identified\s+by|password)\s+)('[^']*'|\"[^\"]*\")")
_SAID = re.compile(
    r"(?i)(\b(?:password|passphrase|passcode|token|secret|api[ _-]?key)\s+(?:is|was|of|be)\s+[\"'`]?)"
    r"([^\s\"'`,;]{4,}[^\s\"'`,;.])"
)
#: `passwd x1`, and a variable with its value: `WANDB_API_KEY x1`.  A path is none.
_SPACED = re.compile(
    r"((?:(?i:(?<![\w./-])(?:password|passwd|passphrase))|(?<![\w$./-])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)[ \t]+[\"']?)"
    r"(?![/.~$<({\[-])([^\s\"',;=:]{6,})"
)
#: Any value: `ENV NAME x`, `setenv NAME x`.
_SET_VARIABLE = re.compile(r"((?<![\w-])(?:ENV|setenv|set -gx|set -x)[ \t]+([A-Za-z_]\w*)[ \t]+[\"']?)([^\s\"']+)")
_SCHEME = re.compile(
    r"(?i)\b(bearer|basic|token|apikey|digest|negotiate)((?:\s|%20|\+)+)(?![a-z_]\w*=[^=\s])([\w.~+/=%-]{6,})"
)

#: What may be several words, as nothing else that is secret.
_PASSWORD = re.compile(r"(?i)password|passwd|passphrase|pwd|kennwort")
#: What follows `password:` in a sentence.
_PROSE = NULLS | words(
    "required optional missing unset undefined empty invalid expected wrong not is to or and must with in for from the "
    "a an of it was has that"
)
_MESSAGE_WORDS = words("unexpected invalid unknown special next bad illegal each per first last any wrong")


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with `***` in place of every secret that can be recognised; all else stays as it is.

    environment: values of its variables with secret names are masked wherever they stand.  Names that only tell where a
    secret is (`api_key_env`, `password_file`), placeholders (`${KEY}`) and words about texts (`max_tokens`,
    `tokenizer`) are not secret.
    """
    for name, value in environment.items():
        if len(value) >= _LEAST_SECRET and is_secret_name(name) and (not value.startswith("/") or is_drawn(value)):
            text = text.replace(value, MASK)
    text = _KEY_BLOCK.sub(MASK, text)
    text = masked_users(text, MASK)
    text = _after_names(text)
    text = masked_parameters(text, MASK)
    text = _OPTION.sub(_masked_option, text)
    for pattern in (_SHORT_PASSWORD, _CLIENT_PASSWORD, _LOGIN, _CURL_COOKIE, _USER_OPTION, _NETRC, _SQL):
        text = pattern.sub(_masked_second, text)
    text = _SAID.sub(lambda m: m[1] + MASK if _opaque(m[2]) else m[0], text)
    text = _SPACED.sub(_masked_spaced, text)
    for pattern in (_ELEMENT, _ATTRIBUTE, _PAIR_OF, _SET_VARIABLE):
        text = pattern.sub(_masked_named, text)
    text = _SCHEME.sub(_masked_scheme, text)
    return masked_tokens(text, MASK)


def redact_data(data: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Plain JSON data with `***` in place of secrets: in its texts, and under names of secrets."""
    if isinstance(data, str):
        return redact(data, environment)
    if isinstance(data, Mapping):
        return {key: _redacted_value(str(key), value, environment) for key, value in data.items()}
    return [redact_data(one, environment) for one in data] if isinstance(data, list | tuple) else data


def _redacted_value(name: str, value: Any, environment: Mapping[str, str]) -> Any:
    """A value of a mapping, masked if it is secret under its name; of a list each one by itself."""
    if isinstance(value, list | tuple):
        return [_redacted_value(name, one, environment) for one in value]
    return MASK if isinstance(value, str) and _secret_value(name, value) else redact_data(value, environment)


def holds_secret(text: str) -> bool:
    """Whether a text holds something that `redact` would mask, without regard to the environment."""
    return redact(text, {}) != text


def secret_places(data: Any) -> Iterator[str]:
    """The dotted keys of plain data whose texts hold secrets; what is part of it twice, or of itself, is read once.

    A text is only read as `name=value` if it holds no space, so that a sentence or an expression about tokens is none.
    """
    return _places(data, "", set())


def _places(data: Any, place: str, seen: set[int]) -> Iterator[str]:
    if isinstance(data, Mapping | list | tuple):
        if id(data) in seen:
            return
        seen.add(id(data))
    if isinstance(data, Mapping):
        for key, value in data.items():
            inner = f"{place}.{key}" if place else str(key)
            if _is_secret(str(key), value):
                yield inner
            elif isinstance(value, list | tuple) and any(_is_secret(str(key), one) for one in value):
                yield from (f"{inner}[{at}]" for at, one in enumerate(value) if _is_secret(str(key), one))
            else:
                yield from _places(value, inner, seen)
    elif isinstance(data, str):
        # An expression or a prompt may speak of tokens; what has a secret's place or shape is one there too.
        if holds_secret(data) and (not re.search(r"\s", data) or _certain(data)):
            yield place
    elif isinstance(data, list | tuple):
        for at, value in enumerate(data):
            before = data[at - 1] if at else None
            # Arguments of a command: [--password, x].
            option = isinstance(before, str) and before.startswith("-") and "=" not in before
            if option and isinstance(value, str) and _secret_value(str(before), value):
                yield f"{place}[{at}]"
            else:
                yield from _places(value, f"{place}[{at}]", seen)


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and _secret_value(name, str(value))


def _certain(text: str) -> bool:
    if _KEY_BLOCK.search(text) or masked_tokens(text, MASK) != text or _SCHEME.sub(_masked_scheme, text) != text:
        return True
    return holds_url_secret(text)


def _secret_value(name: str, value: str) -> bool:
    """Whether `value` is a secret for standing under `name`."""
    if not value or is_nothing(value):
        return False
    if not _NAME.fullmatch(name):
        return False
    return is_secret_name(name) or (may_be_secret_name(name) and _opaque(value))


def _opaque(value: str) -> bool:
    """Whether this, or a word of it, looks like a key and not like a word."""
    if re.search(r"\s", value):
        return any(map(_opaque, value.split()))
    if len(value) < 6 or is_nothing(value):
        return False
    digits, letters = re.search(r"[0-9]", value), re.search(r"[A-Za-z]", value)
    mixed = re.search(r"[a-z][A-Z]", value) or value.endswith("=")
    return bool(
        (digits and letters) or mixed or (digits and len(value) >= 8) or (len(value) >= 24 and "/" not in value)
    )


def _after_names(text: str) -> str:
    """The text with the values masked that follow names of secrets and `=`, `:` or their escapes."""
    parts: list[str] = []
    done = 0
    for found in _SEPARATOR.finditer(text):
        start = found.start()
        if start < done:
            continue
        window = text[max(0, start - 82) : start]
        named = _NAME_BEFORE.search(window)
        if named is None:
            continue
        name = _last_escape(named[0])
        before = text[max(0, start - len(name) - 24) : start - len(name)]
        span = _value_span(text, found, name, before)
        if span is not None:
            parts += [text[done : span[0]], MASK]
            done = span[1]
    return "".join([*parts, text[done:]])


def _last_escape(name: str) -> str:
    """The name without what is left of an escape before it: `n` of a written `\\n`, or `22` of `%22`."""
    return re.sub(r"\A(?:u00[0-9a-f]{2}|2[267C]|3F)(?=[A-Za-z_])", "", name)


def _value_span(text: str, separator: re.Match[str], name: str, before: str) -> tuple[int, int] | None:
    """Where the secret stands that follows a name and a separator; None if none does."""
    at = separator.end()
    if _HEADERS.search(name) and _QUOTED.match(text, at) is None:
        closing = before[-1:] if before[-1:] in ("'", '"') else ""
        if _PARAMETERS.match(text, at) and not closing:
            line = re.compile(r"[^\n]+").match(text, at)
        else:
            line = re.compile(rf"[^\n{closing}]+").match(text, at) if closing else _LINE.match(text, at)
        return None if line is None or is_nothing(line[0].strip(), _PROSE) else line.span()
    if _COOKIES.search(name):
        quoted = _QUOTED.match(text, at)
        value, span = (quoted[2], quoted.span(2)) if quoted else ((m := _LINE.match(text, at)) and m[0], m and m.span())
        return span if value and "=" in value else None
    sure, perhaps = is_secret_name(name), may_be_secret_name(name)
    if not (sure or perhaps):
        return None
    word = _WORD_BEFORE.search(before)
    if word and word[1].lower() in _MESSAGE_WORDS:
        return None
    if quoted := _QUOTED.match(text, at):
        value, span = quoted[2], quoted.span(2)
    elif listed := _LIST.match(text, at):
        value, span = listed[0], listed.span()
        if len(value) < 4:
            return None
    else:
        value, span = _plain_value(text, separator, before, at)
    if not value or is_nothing(value, NULLS if quoted else _PROSE) or (perhaps and not sure and not _opaque(value)):
        return None
    if (
        re.search(r"\s", value)
        and not (quoted or text[at] == "[")
        and not _PASSWORD.search(name)
        and not _opaque(value)
    ):
        return None  # a sentence: `secret: always smile`, `token: 123 tokens a second`
    if name in ("PWD", "OLDPWD") and value.startswith("/"):
        return None
    return span


def _plain_value(text: str, separator: re.Match[str], before: str, at: int) -> tuple[str, tuple[int, int]]:
    """A value without quotes: a word; to the end of the line in YAML; to the quote that opened before the name."""
    if before[-1:] in ("'", '"') and separator[0][:1] not in ("'", '"', "\\"):
        end = text.find(before[-1], at)
        if end >= 0 and "\n" not in text[at:end]:
            return text[at:end], (at, end)
    line_start = (before.rpartition("\n")[2].strip(" \t") in ("", "-", "#") and len(before) < 24) or "\n" in before
    alone = line_start and before.rpartition("\n")[2].strip(" \t-#") == ""
    if alone and ":" in separator[0]:
        if "\n" in separator[0]:  # a block, or a value on a line of its own
            block = re.compile(r"[^\n]+(?:\n[ \t]+[^\n]+)*").match(text, at)
            return (block[0], block.span()) if block else ("", (at, at))
        line = re.compile(r"(?!\{)(?:(?! #)[^\n\"',])+").match(text, at)
        if line:
            value = line[0].rstrip()
            return value, (at, at + len(value))
        return "", (at, at)
    plain = _PLAIN.match(text, at)
    return (plain[0], plain.span()) if plain else ("", (at, at))


def _masked_option(found: re.Match[str]) -> str:
    value = found["value"].strip("\"'")
    if is_nothing(value, _PROSE) or not _secret_value(found["name"], value):
        return found[0]
    return f"{found['name']}{found['sep']}{MASK}"


def _masked_second(found: re.Match[str]) -> str:
    no_secret = {_SHORT_PASSWORD: _NO_PASSWORD, _USER_OPTION: _NO_USER}.get(found.re)
    if no_secret is not None and no_secret.search(found.string, max(0, found.start() - 80), found.start()):
        return found[0]
    return found[0] if is_nothing(found[2].strip("'\"")) else found[1] + MASK


def _masked_named(found: re.Match[str]) -> str:
    if found.re is _ELEMENT:
        return found[0] if not _secret_value(found[1], found[2]) else found[0][: -len(found[2])] + MASK
    return found[1] + MASK if _secret_value(found[2], found[3]) else found[0]


def _masked_spaced(found: re.Match[str]) -> str:
    return found[1] + MASK if is_secret_name(found[1].strip(" \t\"'")) and _opaque(found[2]) else found[0]


def _masked_scheme(found: re.Match[str]) -> str:
    scheme, space, value = found[1].lower(), found[2], found[3]
    if scheme == "basic":
        secret = _is_basic(value)
    else:
        secret = _opaque(value) or (found[1] == "Bearer" and len(value) >= 16)
    return f"{found[1]}{space}{MASK}" if secret else found[0]


def _is_basic(value: str) -> bool:
    """Whether this is `user:password` in base 64."""
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
