"""The rows that cannot be used as they are, in RUN/bad_rows-RANK.jsonl: by file and row, with the reason."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

from pairmill.aside import keep_aside
from pairmill.damage import DamagedError
from pairmill.store import Store

logger = logging.getLogger("pairmill")

#: Rows that are listed; more than that is a fault of the dataset, which the first ones show.
_LISTED = 1000


def bad_rows_file(rank: int) -> str:
    """The file of a worker."""
    return f"bad_rows-{rank}.jsonl"


class BadRows:
    """A worker's list; rows that it met before the run was resumed stay on it."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._name = store, bad_rows_file(rank)
        try:
            lines = (store.read_text(self._name) or "").splitlines()
        except DamagedError as error:
            lines = []
            keep_aside(store, self._name, error, "it begins anew")
        self._rows = dict.fromkeys(line for line in lines if line.strip())
        self._written = len(self._rows)

    def add(self, problems: Iterable[str]) -> None:
        """Rows with what is wrong with them; those of an earlier epoch are listed already."""
        for problem in problems:
            line = json.dumps({"problem": problem}, ensure_ascii=False)
            if line not in self._rows and len(self._rows) < _LISTED:
                self._rows[line] = None
                if len(self._rows) <= 3:
                    logger.warning("a row cannot be used as it is: %s", problem)

    def write(self) -> None:
        """Write the list where it has grown."""
        if len(self._rows) > self._written:
            self._store.write_bytes(self._name, "".join(line + "\n" for line in self._rows).encode())
            self._written = len(self._rows)
