"""Take what models wrote of forgotten rows out of the caches of a run.

Of a row's picture every generation goes, whatever prompt or model it was for, and of its texts every translation, also
those of captions that the run has replaced since: they are made from what the picture's generations hold.  A text that
other rows have too is forgotten with them; whoever needs it again has it written again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from curation.caption_checks import checked
from curation.engines.generations import Generations, made_from
from curation.table import COLUMNS, IMAGES, tables_there
from pairmill.errors import JobError
from pairmill.store import Store, shard_file

T = TypeVar("T")

#: The columns with pictures and texts that generations are made from.
_SOURCES = ("image", "caption", "recaptions")


def forget_generations(
    store: Store, caches: Sequence[Generations], shard: int, uids: Collection[str]
) -> dict[str, str]:
    """Delete from the caches what was made from the rows of a shard with these uids, as long as its tables hold them.

    Repeating it does no harm.  Returns the caches that cannot be reached, and why.
    """
    digests = {made_from(source) for source in _sources(store, shard, uids)}
    unreached: dict[str, str] = {}

    def of_caches(work: Callable[[Generations], T]) -> list[T]:
        found = []
        for cache in caches:
            try:
                found.append(work(cache))
            except JobError as error:
                unreached[cache.uri] = str(error)
        return found

    held = [one for some in of_caches(lambda cache: cache.held(digests)) for one in some]
    texts = {text for one in held for text in (one.text, checked(one.text, cut=one.cut)[0])}
    # What tells of the others goes last, so that a run that is killed between the two finds them when it is repeated.
    of_caches(lambda cache: cache.forget({made_from(text) for text in texts} - digests))
    of_caches(lambda cache: cache.forget(digests))
    return unreached


def _sources(store: Store, shard: int, uids: Collection[str]) -> Iterator[bytes | str]:
    asked = pa.array(sorted(uids), pa.string())
    for table in (IMAGES, *tables_there(store, COLUMNS)):
        name = shard_file(table, shard)
        there = store.schema(name).names if store.exists(name) else []
        columns = [column for column in _SOURCES if column in there]
        if columns and "uid" in there:
            rows = store.load(table, shard, ["uid", *columns])
            for row in rows.filter(pc.is_in(rows["uid"], asked)).to_pylist():
                yield from _texts(row[column] for column in columns)


def _texts(values: Iterable[object]) -> Iterator[bytes | str]:
    for value in values:
        if isinstance(value, bytes | str):
            yield value
        elif isinstance(value, list):
            yield from _texts(one["text"] for one in value)
