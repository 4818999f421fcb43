"""The rules of a robots.txt (RFC 9309), read and applied in time that grows with their length, whatever they say.

Whose file it is decides what is in it: half a megabyte of patterns, or of agents, must not hold up other sites.  So
rules are kept by group and not by agent, those without a wildcard are looked up, and the others cost at most `MAX_WORK`
a link.  Where people do not keep to the RFC it reads as protego does, with which the tests compare it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlsplit

#: Most characters of link and patterns compared for one link: 10,000 rules with wildcards, for a link of 200.
MAX_WORK = 2**21
#: After so many, and so many lines, another thread gets its turn.
_TURN = 2**13
_TURN_LINES = 200

_MISSPELT = ("dissallow", "dissalow", "disalow", "diasllow", "disallaw")
#: Names of fields without hyphens, underscores and spaces: sites write Crawl-delay, Crawl_delay and Crawldelay.
_FIELDS = {
    "useragent": "agent",
    **dict.fromkeys(("disallow", *_MISSPELT), "disallow"),
    "allow": "allow",
    "crawldelay": "delay",
    # Between agents and rules, these end a list of agents, as a rule does.
    **dict.fromkeys(("requestrate", "visittime"), "other"),
    # These belong to no group.
    **dict.fromkeys(("sitemap", "sitemaps", "host"), "site"),
}
_BETWEEN_WORDS = re.compile(r"[-_\s]+")
#: An agent's name ends before its version, a comment or an address; several may stand in a line.
_COMMENT = re.compile(r"\([^()]*\)")
_AGENT = re.compile(r"[a-z0-9_.*-]*")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.~/=-]*\Z")
_PLAIN_PATTERN = re.compile(r"[A-Za-z0-9_.~/=*-]+\$?\Z")
_SECONDS = re.compile(r"[0-9]*\.?[0-9]*")
_INDEX = "/index.html"


class TooMuchWork(Exception):
    """So many patterns with wildcards would have to be compared with so long a link that it is not done."""


class _Rule(NamedTuple):
    allow: bool
    pattern: str


class _Group(NamedTuple):
    agents: list[str]
    rules: list[_Rule]
    delays: list[str]


class Robots:
    """A robots.txt, for any agent."""

    def __init__(self, text: str) -> None:
        self._groups = list(_read_groups(text))
        self._chosen: dict[str, Rules] = {}

    def rules(self, agent: str) -> Rules:
        """Those that bind an agent, given by its product token."""
        if agent not in self._chosen:
            self._chosen[agent] = self._choose(agent.strip().lower())
        return self._chosen[agent]

    def can_fetch(self, url: str, agent: str) -> bool:
        """Whether the agent may request the URL.  Raises `TooMuchWork`."""
        return self.rules(agent).allow(path_of(url))

    def _choose(self, token: str) -> Rules:
        """Of the agents that the token begins with the longest, else `*`; with the rules of all groups that name it."""
        best, score = "", 0.0
        for group in self._groups:
            for name in group.agents:
                fits = 0.5 if name == "*" else len(name) if token.startswith(name) else 0
                if fits > score:
                    best, score = name, fits
        groups = [group for group in self._groups if best and best in group.agents]
        delays = (_seconds(delay) for group in groups for delay in group.delays)
        return Rules((rule for group in groups for rule in group.rules), [each for each in delays if each is not None])


class Rules:
    """The rules for one agent: of those that match a path, the longest decides, and of equal ones `Allow`."""

    def __init__(self, rules: Iterable[_Rule], delays: Sequence[float] = ()) -> None:
        #: Seconds between two requests (Crawl-delay); 0 if none is asked for.
        self.delay_s = delays[-1] if delays else 0.0
        self._begins: dict[str, bool] = {}
        self._whole: dict[str, bool] = {}
        wild: dict[str, bool] = {}
        for at, rule in enumerate(rules):
            _take_turns(at)
            for allow, pattern in _spelled(rule):
                kept = wild if "*" in pattern else self._whole if pattern.endswith("$") else self._begins
                kept[pattern] = allow or kept.get(pattern, False)
        self._lengths = sorted({len(pattern) for pattern in self._begins}, reverse=True)
        ordered = sorted(wild, key=lambda pattern: (len(pattern), wild[pattern]), reverse=True)
        self._wild = [_Wild(pattern, wild[pattern]) for pattern in ordered]

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.delay_s or self._begins or self._whole or self._wild)

    def work(self, path: str) -> int:
        """At most so many characters are compared for a path, by which it shows whether a thread should do it."""
        return len(self._wild) * len(path)

    def allow(self, path: str) -> bool:
        """Whether the path, from `path_of`, may be requested.  Raises `TooMuchWork`."""
        best, allowed = -1, True
        for length in self._lengths:
            if length <= len(path) and path[:length] in self._begins:
                best, allowed = length, self._begins[path[:length]]
                break
        if path + "$" in self._whole and (len(path) + 1, self._whole[path + "$"]) > (best, allowed):
            best, allowed = len(path) + 1, self._whole[path + "$"]
        work = turn = 0
        for rule in self._wild:
            if (rule.length, rule.allow) <= (best, allowed):
                break
            if not path.startswith(rule.parts[0]):
                work += 1
                continue
            if rule.match(path):
                return rule.allow
            work += len(path) + rule.length
            if work > MAX_WORK:
                raise TooMuchWork
            if work - turn > _TURN:
                turn = work
                time.sleep(0)  # lets the event loop have the interpreter
        return allowed


class _Wild:
    """A pattern with wildcards: its parts must follow each other in the path; the first place of each will do."""

    __slots__ = ("allow", "anchored", "length", "parts")

    def __init__(self, pattern: str, allow: bool) -> None:
        self.allow, self.length = allow, len(pattern)
        self.anchored = pattern.endswith("$")
        self.parts = re.sub(r"\*+", "*", pattern[:-1] if self.anchored else pattern).split("*")

    def match(self, path: str) -> bool:
        """path: begins with the first part."""
        at = len(self.parts[0])
        *between, last = self.parts[1:]
        for part in between:
            found = path.find(part, at)
            if found < 0:
                return False
            at = found + len(part)
        if self.anchored:
            return len(path) - len(last) >= at and path.endswith(last)
        return path.find(last, at) >= 0


def path_of(url: str) -> str:
    """What rules are compared with: path and query in the one spelling of their escapes."""
    if not url.startswith("/"):
        parts = urlsplit(url)
        url = url.partition("#")[0]
        url = (parts.path or "/") + (f"?{parts.query}" if "?" in url else "")
    return url if _PLAIN_PATH.match(url) else _spelling(url, "/%")


def _spelled(rule: _Rule) -> Iterable[tuple[bool, str]]:
    """A rule in the spelling of `path_of`; and what else its author may have meant by it."""
    allow, pattern = rule
    if "$" in pattern:  # perhaps a dollar sign of the path
        yield allow, _pattern(pattern.replace("$", "%24"))
    pattern = _pattern(pattern)
    if not pattern:
        return
    yield allow, pattern
    if allow and pattern.endswith(_INDEX):
        yield allow, pattern.removesuffix(_INDEX) + "/$"


def _pattern(pattern: str) -> str:
    if _PLAIN_PATTERN.match(pattern):
        return pattern
    if pattern.startswith(("https://", "http://")):
        pattern = "/" + pattern
    anchor = "$" if pattern.endswith("$") else ""
    return _spelling(pattern.removesuffix("$"), "/%*") + anchor


def _spelling(text: str, kept: str) -> str:
    """With escapes only where they are needed, in capitals; those of the characters in `kept` stay as they are."""

    def plain(escape: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(escape[1].decode())
        return escape[0].upper() if byte.decode("latin-1") in kept else byte

    return quote(_ESCAPE.sub(plain, text.encode("utf-8", "surrogateescape")), safe=kept + "=")


def _read_groups(text: str) -> Iterable[_Group]:
    group = _Group([], [], [])
    naming = False  # the last line that counts named an agent
    for at, line in enumerate(text.splitlines()):
        _take_turns(at)
        line = line.partition("#")[0].strip()
        field, value = _read_line(line) if line else ("", "")
        if field in ("", "site"):
            continue
        if field == "agent":
            if not naming and (group.rules or group.delays or group.agents):
                yield group
                group = _Group([], [], [])
            group.agents.extend(_agents(value))
        elif value and group.agents:
            if field == "delay":
                group.delays.append(value)
            elif field in ("allow", "disallow"):
                group.rules.append(_Rule(field == "allow", value))
        naming = field == "agent"
    yield group


def _agents(value: str) -> Iterable[str]:
    for part in re.split("[,;]", _COMMENT.sub("", value.lower())):
        named = _AGENT.match(part.strip())
        name = named[0] if named else ""
        # A wildcard in a name is none, but the rest of the name counts.
        yield from (each for each in (name, "" if name == "*" else name.replace("*", "")) if each)


def _take_turns(lines: int) -> None:
    if lines % _TURN_LINES == _TURN_LINES - 1:
        time.sleep(0)


def _read_line(line: str) -> tuple[str, str]:
    """What a line is about, and its value; "" for what is not known at all, "other" for any other field.

    `Disallow /x` without a colon counts too.
    """
    name, colon, value = line.partition(":")
    field = _field(name) if colon else ""
    if field:
        return field, value.strip()
    if colon and (not value or value[0].isspace()):
        return "other", value.strip()
    words = line.split(None, 2)
    for count in (1, 2):
        field = _field(" ".join(words[:count]))
        if field:
            return field, " ".join(line.split()[count:])
    return "other" if colon else "", ""


def _field(name: str) -> str:
    return _FIELDS.get(_BETWEEN_WORDS.sub("", name.lower()), "")


def _seconds(text: str) -> float | None:
    """The number that a Crawl-delay begins with; None if there is none."""
    number = _SECONDS.match(text)
    try:
        seconds = float(number[0]) if number else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None
