"""The errors a user can cause, and the exit code each one means.

    PairmillError
    ├── UserError            exit 2: the recipe, the input or the environment is wrong; nothing was lost
    │   ├── RecipeError      an unknown key, a value out of range, a file that is not a recipe
    │   ├── InputError       an input file is missing, malformed, or lacks a column
    │   └── RunDirError      the run directory holds another input, or is in use
    ├── JobError             exit 1: the job itself failed; what was committed stays, running again resumes
    └── IntegrityError       exit 1: a promise of ours is broken; the job stops before it carries on with wrong data

Everything else that is raised is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class PairmillError(Exception):
    """Base of every error that pairmill raises on purpose."""

    exit_code = 1


class UserError(PairmillError):
    """Something the user can fix: the rule, the value that broke it, and what to do.

    rule: a sentence with "must" that names the key, file or option.  value: what was found.  fix: an imperative.
    """

    exit_code = 2

    def __init__(self, rule: str, *, value: object, fix: str) -> None:
        super().__init__(f"{rule}\n  got: {value}\n  fix: {fix}")
        self.rule = rule
        self.value = value
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and Ray ships exceptions between processes.
        return _rebuild, (type(self), self.rule, str(self.value), self.fix)


def _rebuild(kind: type[UserError], rule: str, value: str, fix: str) -> UserError:
    return kind(rule, value=value, fix=fix)


class RecipeError(UserError):
    """The recipe is not valid."""


class InputError(UserError):
    """An input list cannot be read as the recipe says."""


class RunDirError(UserError):
    """The run directory cannot be used for this run."""


class JobError(PairmillError):
    """The job failed after it had started; what was committed is kept."""


class IntegrityError(PairmillError):
    """What pairmill promises does not hold: rows unaccounted for, tables that are not aligned, an unknown reason.

    Raised instead of `assert`, so that `python -O` keeps every promise too.
    """


@contextmanager
def reworded(words: Mapping[str, str], *, value: bool = False) -> Iterator[None]:
    """Around work whose UserErrors call things by other names than the user does.

    words: as the errors call them -> as the user does; in rule and fix.
    value: also in a value that is text, which must not be the user's own, such as a path.
    """

    def said(text: Any) -> Any:
        for theirs, ours in words.items():
            text = text.replace(theirs, ours) if isinstance(text, str) else text
        return text

    try:
        yield
    except UserError as error:
        raise type(error)(
            said(error.rule), value=said(error.value) if value else error.value, fix=said(error.fix)
        ) from error


def said_by(error: BaseException) -> str:
    """The text of an error; "" if it has none that can be read, as one of a user's own may."""
    try:
        return str(error)
    except Exception:
        return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is `name` but for its case, up to three that look like it, or all, for a message."""
    names = sorted(known)
    if same := [one for one in names if one.casefold() == name.casefold()]:
        return ", ".join(same)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return ", ".join(close or names)
