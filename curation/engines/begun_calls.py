"""Calls of an engine that were killed: what of them is asked for again, and how, so that one request cannot end a job.

A process that dies takes its batch with it, and the record of the call (`generations`) tells the next one.  If it died
twice at the same batch in one job, a request of that batch may be the cause.  The batch's requests are then asked for
one by one, each recorded before; one at which the process dies again is not asked for any more.  It fails with what
happened, and the rest of the shard goes on.  The record stays, as the shard may meet the request again; another job
asks for it once more, last and alone.

A job that is stopped and run again is another job, whose processes died of nothing: it never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from curation.engines.generations import Begun, Generations

#: Deaths at a batch after which its requests are asked for one by one.  Ray restarts an actor four times.
_DEATHS = 2

#: What becomes of a request at which the process died when it was asked for alone.
FATAL = "the engine's process died at this request, the last time with nothing beside it"


class BegunCall:
    """A call whose record lies in the cache until it ends."""

    def __init__(self, cache: Generations, call: str, missing: Sequence[int], job: str | None) -> None:
        """missing: the requests that no one has answered yet, by their positions.  job: that this process works for."""
        self._cache, self._call, self._missing = cache, call, list(missing)
        found = cache.begun(call)
        self._killed = found is not None
        #: Whether a process of this job died during the call; then what it was at must be known exactly.
        self.died = found is not None and job is not None and found.job == job
        self._begun = found or Begun(
            new=self._missing, failed=[], fatal=[], suspects=[], job=job, at=-1, deaths=0, alone=-1
        )
        if not self.died:
            self._write(fatal=[], suspects=sorted({*self._begun.suspects, *self._begun.fatal}))
        elif self._begun.alone in self._missing:
            self._write(fatal=[*self._begun.fatal, self._begun.alone])
        self._write(job=job, alone=-1)

    @property
    def fatal(self) -> list[int]:
        """Requests that must not be asked for."""
        return self._begun.fatal

    def failed(self, positions: Iterable[int]) -> None:
        """Record requests that failed."""
        if more := [at for at in positions if at not in self._begun.failed]:
            self._write(failed=[*self._begun.failed, *more])

    def ended(self) -> None:
        """The call has ended, and what it made is kept."""
        if not self.fatal:
            self._cache.end(self._call)

    def wanted(self, cut: Callable[[Sequence[int]], Iterable[Sequence[int]]]) -> Iterator[list[int]]:
        """The requests that the engine must be asked for, one sequence after the other.

        cut: the engine's batches of some requests.
        """
        if not self._killed:
            yield self._missing
            return
        begun, left = self._begun, {*self._missing}.difference(self.fatal)
        lost = left.difference(begun.failed, begun.suspects)
        unfinished = [batch for batch in cut(sorted({*begun.new, *self._missing})) if lost & {*batch}]
        if unfinished and self._deaths_at(unfinished[0][0]) >= _DEATHS:
            alone = lost & {*unfinished.pop(0)}
            yield from self._one_by_one(alone)
            left -= alone
        again = {at for batch in unfinished for at in batch}
        yield sorted(again)
        yield sorted(left.difference(again, begun.suspects))
        yield from self._one_by_one(left & {*begun.suspects})

    def _one_by_one(self, requests: Iterable[int]) -> Iterator[list[int]]:
        for at in sorted(requests):
            self._write(alone=at)
            yield [at]
        self._write(alone=-1)

    def _deaths_at(self, position: int) -> int:
        """How often a process died at the batch that begins with a request, the last time included."""
        before = self._begun.deaths if self._begun.at == position else 0
        self._write(at=position, deaths=before + self.died)
        return self._begun.deaths

    def _write(self, **fields: Any) -> None:
        changed = self._begun._replace(**fields)
        if changed != self._begun or not self._killed:
            self._begun = changed
            self._cache.begin(self._call, changed)
