"""Keep a file that is not as it was written, and say so: nothing that a run holds is thrown away."""

from __future__ import annotations

import logging

from pairmill.damage import DamagedError, one_line
from pairmill.errors import UserError
from pairmill.layout import ASIDE
from pairmill.store import Store

logger = logging.getLogger("pairmill")


def keep_aside(store: Store, name: str, why: object, then: str) -> str:
    """Move a file or a folder of a run to `damaged/`, with a warning; returns where it is kept.

    why: what is wrong with it, or the error that its reader raised.  then: what becomes of it, for the warning.
    The caller must hold the run's lock.
    """
    if isinstance(why, DamagedError):
        why = why.why
    elif isinstance(why, UserError):
        why = why.value
    kept = store.set_aside(name, ASIDE)
    logger.warning("%s is not as it was written (%s) and kept as %s: %s", name, one_line(why), kept, then)
    return kept
