"""What a worker raised, out of what Ray raises here: Ray keeps of many errors only their text, amid advice of its own.

a task of Ray:              the error is the cause of Ray's
a task of Ray Data:         its traceback, then Ray's own error and advice
an actor's constructor:     its traceback, in the message of the actor's death
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pairmill.errors import JobError, PairmillError, UserError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

#: What Python prints between an error and the one that was raised for it, or meanwhile.
_BETWEEN = re.compile(
    r"\n\s*\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\s*\n"
)

#: A class and its message, as a traceback ends.
_ENDING = re.compile(r"(?P<kind>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\.<locals>)*)(?:: (?P<message>.*))?", re.DOTALL)


#: How Ray names the actor of a process that was killed or crashed.
_DIED = re.compile(r"died unexpectedly.*?class_name: (\S+)", re.DOTALL)


class Raised(NamedTuple):
    """An error as a traceback ends: its class with its module, and its message."""

    kind: str
    message: str


def raised_by(error: BaseException) -> PairmillError | None:
    """The PairmillError of a worker that made Ray raise `error`, of its own class; None if it was another error."""
    for cause in _chain(error):
        # Ray's own error is of the cause's class as well, and prints as a traceback.
        if isinstance(cause, PairmillError) and not type(cause).__module__.startswith("ray."):
            return cause
    known = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _subclasses(PairmillError)}
    for cause in _chain(error):
        for raised in _tracebacks(str(cause)):
            if raised.kind in known:
                return _again(known[raised.kind], raised.message)
    return None


def first_cause(error: BaseException) -> str:
    """What made a worker fail, without Ray's advice: class of the error in our code or a user's, and the first line of
    its message.
    """
    ends = [raised for cause in _chain(error) for raised in _tracebacks(str(cause))]
    for raised in ends:
        if not raised.kind.startswith("ray."):
            first = next(iter(raised.message.strip().splitlines()), "")
            return f"{raised.kind.rpartition('.')[2]}: {first}" if first else raised.kind
    # It has no traceback, so its process is gone, or Ray refused the task itself.
    found = next((cause for cause in _chain(error) if str(cause).strip()), error)
    text = _COLOURS.sub("", str(found)).strip()
    if died := _DIED.search(text):
        return f"a worker process ({died[1]}) died unexpectedly; its machine may be short of memory"
    return f"{type(found).__name__}: {text.splitlines()[0]}" if text else type(found).__name__


def died(error: BaseException) -> bool:
    """Whether a worker's process ended, so that no traceback says why."""
    ends = [
        raised for cause in _chain(error) for raised in _tracebacks(str(cause)) if not raised.kind.startswith("ray.")
    ]
    return not ends and any("died unexpectedly" in str(cause) for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        found = getattr(found, "cause", None) or getattr(found, "_base_exc", None) or found.__cause__
    return iter(seen)


def _tracebacks(text: str) -> Iterator[Raised]:
    """The errors whose tracebacks are in a text, the latest first."""
    for part in reversed(_BETWEEN.split(_COLOURS.sub("", text))):
        lines = part.strip("\n").splitlines()
        frames = [at for at, line in enumerate(lines) if line.startswith('  File "')]
        if not frames:
            continue
        end = frames[-1] + 1
        while end < len(lines) and lines[end].startswith("    "):
            end += 1
        found = _ENDING.fullmatch("\n".join(lines[end:]))
        if found:
            yield Raised(found["kind"], found["message"] or "")


def _again(kind: type[PairmillError], message: str) -> PairmillError:
    try:
        if not issubclass(kind, UserError):
            return kind(message)
        rule, _, rest = message.partition("\n  got: ")
        value, _, fix = rest.rpartition("\n  fix: ")
        return kind(rule, value=value, fix=fix)
    except TypeError:  # a user's own subclass, with arguments of its own
        return JobError(message)


def _subclasses(kind: type[PairmillError]) -> Iterator[type[PairmillError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _subclasses(inner)
