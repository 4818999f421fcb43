"""Secrets by where they stand in a URL: a user and a password before the host, a parameter with a secret name."""

from __future__ import annotations

import re

from pairmill.secret_names import PLACEHOLDER, is_nothing, is_secret_parameter

#: `user:password@` (the password may hold / ? # @, if no port could begin there), and a lone `user@`.
_URL_USER = re.compile(
    r"(?:(?<=://)|(?<=:\\/\\/))(?:[^\s/?#'\"@\[\]<>:]{0,256}:(?!\d{1,5}(?:[/?#\s'\"]|\Z))[^\s'\"<>@]{1,512}@(?:[^\s'\"<>/?#@]{1,256}@)*"
    r"|[^\s/?#'\"<>]{1,512}@)"
)
_ENCODED_USER = re.compile(
    r"(?i)(?<=%3A%2F%2F)(?:(?:(?!%2F|%3F|%40|%3A)[^\s/?#'\"&]){0,256}%3A(?!\d{1,5}%2F)[^\s/?#'\"&]{1,512}?%40"
    r"|(?:(?!%2F|%3F|%40)[^\s/?#'\"&]){1,512}%40)"
)
_NO_SCHEME_USER = re.compile(
    r"(?<![\w.:/@-])(?:(?<=//)|(?://)?)[\w.%+-]{1,64}:[^\s/:@'\"]{3,128}@(?=[\w.-]+:\d{2,5}\b)"
)
_NETWORK_PATH_USER = re.compile(r"(?<![\w:/])//[^\s/?#'\"@]{1,128}:[^\s/?#'\"@]{1,256}@")
_THIN_USER = re.compile(r"(?<=:thin:)[^\s/@]{1,128}/[^\s@]{1,128}@")

_PARAMETER = re.compile(
    r"(?P<before>[?&;]|%(?:25)*(?:3F|26)|&amp;|\\u0026)(?P<name>[A-Za-z_][\w.\-\[\]]{0,63})(?P<sep>=|%(?:25)*3D|\\u003d)"
    r"(?P<value>(?:(?!%(?:25)*26|\\u0026)[^\s&;'\"<>#\\,)\]}])+)",
    re.IGNORECASE,
)

_WEBHOOK = re.compile(r"(hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/)[\w/-]+")


def masked_users(text: str, mask: str) -> str:
    """`text` with `mask` in place of every user and password of a URL, and of what makes a webhook secret."""
    for pattern in (_URL_USER, _ENCODED_USER, _NETWORK_PATH_USER, _NO_SCHEME_USER, _THIN_USER):
        text = pattern.sub(lambda found: _masked_user(found, mask), text)
    return _WEBHOOK.sub(lambda found: found[1] + mask, text)


def masked_parameters(text: str, mask: str) -> str:
    """`text` with `mask` in place of the values of a URL's secret parameters."""
    return _PARAMETER.sub(lambda found: _masked_parameter(found, mask), text)


def holds_url_secret(text: str) -> bool:
    """Whether a URL in `text` has a user, a secret parameter, or is a webhook's."""
    if _WEBHOOK.search(text) or _URL_USER.sub(lambda found: _masked_user(found, ""), text) != text:
        return True
    return any("://" in word and masked_parameters(word, "") != word for word in text.split())


def _masked_user(found: re.Match[str], mask: str) -> str:
    end = "%40" if found.re is _ENCODED_USER else "@"
    head = "//" if found[0].startswith("//") else ""
    user = found[0][len(head) : -len(end)]
    if PLACEHOLDER.fullmatch(user.partition(":")[2] or user) or user == "git" or user.lower() == "mailto":
        return found[0]
    # Not a user: gs:// without an account, and a container of Azure.
    if ":" not in user and re.search(r"(?:gs://anonymous|(?:abfs|wasb)s?://[^/]*)\Z", found.string[: found.end() - 1]):
        return found[0]
    return f"{head}{mask}{end}"


def _masked_parameter(found: re.Match[str], mask: str) -> str:
    if not is_secret_parameter(found["name"]) or is_nothing(found["value"]):
        return found[0]
    return f"{found['before']}{found['name']}{found['sep']}{mask}"
