"""Ask an engine only for what no one has paid for yet, and keep each answer as soon as it is there.

A text comes out of the cache (`generations`) as the engine first wrote it, with the score that it had then.  Checks of
the stage come after that, so changed checks cost nothing.  Failures are not kept, and are asked for again.

The hard part is that a score depends in its last bits on the texts that were computed beside it: their number chooses
the kernels, the longest one the padding.  And a run that is killed must end, once resumed, with the dataset that it
would have had, bit for bit.  Three rules see to that.

1. A batch is kept or lost as a whole.  Requests are cut into batches by the engine's `batches`, which gives the same
   batches for what is left when some whole batches are taken away.  Before a call asks for anything, it records which
   of its requests are new.  When the same call is made again after a kill, those are cut again, as they were; batches
   that are finished are taken, and each of the others is asked for again in full.  So a kill costs the batches that
   were at work, and none before.  The record names the requests that failed too: they are asked for again after the
   others, and cost their neighbours nothing.  When a call has ended, its record goes.  `begun_calls` keeps it, and
   finds the request of which an engine's process dies again and again.
2. A shard takes nothing from the other shards of its plan, where neighbours count.  Which of two shards is first is
   chance, so it must not decide a score; each asks for equal texts itself, as it would without a cache.  Texts of other
   plans (other runs, this run before it was extended) and of the shard itself were there before, and do count.
3. Where an engine says that its answers do not depend on their neighbours (`independent`), neither rule is needed:
   what is missing is asked for, wherever it was written.

Equal requests of one call are asked for once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from curation.engines import Failure, Generated, unheard
from curation.engines.begun_calls import FATAL, BegunCall
from curation.engines.generations import IN_FLIGHT, Generations, Name, Work
from pairmill.config import digest
from pairmill.errors import IntegrityError
from pairmill.faults import fault_point

#: Raised when the code of an engine is corrected so that the texts that earlier versions wrote must be written again.
VERSION = 1


class Answers(NamedTuple):
    """all: an answer for each request, in order.  new: those of them that the engine gave in this call."""

    all: list[Generated | Failure]
    new: list[Generated | Failure]


class Asking:
    """An engine behind a cache of what it wrote."""

    def __init__(
        self,
        engine: Any,
        *,
        name: str,
        decides: Mapping[str, Any],
        cache: Generations | None,
        plan: str | None = None,
        job: str | None = None,
        count: Callable[[str, int], None] = lambda outcome, requests: None,
    ) -> None:
        """name: the engine's, for messages.  decides: plain data that decides all texts.  cache: None: nothing is kept.

        plan: the digest of that whose shards are worked on; None: of no run.  job: that this process works for.
        count: gets how many requests were found (`hit`) and not found (`miss`, among them `damaged`), and how many
        texts were kept (`kept`).
        """
        self.engine = engine
        self._name, self._decides, self._cache, self._count = name, dict(decides), cache, count
        self._plan, self._job = plan, job
        self._work: Work | None = None
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="generations")

    def for_rows(self, rows: pa.Table) -> None:
        """The next requests are for these rows, a shard or a part of it."""
        known = self._plan is not None and "_shard" in rows.schema.names and len(rows) and not self._independent
        self._work = Work(str(self._plan), rows["_shard"][0].as_py()) if known else None

    def name_of(self, made_from: str, **decides: Any) -> Name:
        """The name of a text.  made_from: the digest of its picture or source.  decides: all else of the request."""
        return Name(made_from, digest([VERSION, self._decides, decides], size=16))

    def answers(self, method: str, requests: Sequence[Any], names: Sequence[Name], **how: Any) -> Answers:
        """The answers to some requests.

        method: of the engine; it gets the requests and `how`.  names: of the texts.
        Raises IntegrityError unless the engine answers every request, JobError if the cache is not reachable.
        """
        places = {name: at for at, name in reversed(list(enumerate(names)))}  # equal requests are asked for once
        first = sorted(places.values())
        once, named = [requests[at] for at in first], [names[at] for at in first]
        found, new = self._answered(partial(getattr(self.engine, method), **how), once, named, how)
        order = {name: at for at, name in enumerate(named)}
        every = [order[name] for name in names]
        return Answers([found[at] for at in every], [found[at] for at in every if at in new])

    def _answered(
        self, ask: Callable[..., Any], requests: Sequence[Any], names: Sequence[Name], how: Mapping[str, Any]
    ) -> tuple[list[Generated | Failure], set[int]]:
        """An answer for each request, and which of them are new."""
        if self._cache is None:
            return self._asked(ask, requests, unheard), set(range(len(requests)))
        cache, work = self._cache, self._work
        places = cache.look_up(names, work, self._pool)
        missing = [at for at, place in enumerate(places) if place.answer is None]
        self._count("hit", len(places) - len(missing))
        self._count("miss", len(missing))
        self._count("damaged", sum(place.damaged for place in places))
        call, begun = digest([work, names], size=16), None
        if missing and not self._independent:
            begun = BegunCall(cache, call, missing, self._job)
        writing: list[Future[None]] = []
        kept = 0
        made: dict[int, Generated | Failure] = {}

        def settle() -> None:
            """Raise what the cache raised; an engine that computes batches waits until the one before is kept."""
            nonlocal kept
            if not self._independent:  # the event loop of one that is must not wait
                wait(writing)
            for one in [one for one in writing if one.done()]:
                writing.remove(one)
                one.result()
                kept += 1

        def ask_for(wanted: Sequence[int]) -> None:
            def answered(positions: Sequence[int], answers: Sequence[Generated | Failure]) -> None:
                settle()
                there = [wanted[position] for position in positions]
                made.update(zip(there, answers, strict=True))
                for at in there:
                    answer = made[at]
                    if isinstance(answer, Generated) and places[at].answer is None:
                        writing.append(self._pool.submit(cache.keep, names[at], places[at], answer, work))
                if begun is not None:
                    begun.failed(at for at in there if isinstance(made[at], Failure))
                    if begun.died:
                        settle()
                fault_point("engine.answered")

            self._asked(ask, [requests[at] for at in wanted], answered)

        try:
            for wanted in [missing] if begun is None else begun.wanted(partial(self._batches, requests, how)):
                ask_for(wanted)
        finally:
            wait(writing)  # what was paid for is kept, whatever happened after it
        settle()
        if begun is not None:
            made.update((at, Failure(FATAL)) for at in begun.fatal)
            begun.ended()
        elif not self._independent:
            cache.end(call)
        self._count("kept", kept)
        # What is kept stays as it was first written.
        return [place.answer or made[at] for at, place in enumerate(places)], set(missing)

    @property
    def _independent(self) -> bool:
        return bool(getattr(self.engine, "independent", False))

    def _batches(self, requests: Sequence[Any], how: Mapping[str, Any], wanted: Sequence[int]) -> list[list[int]]:
        """The engine's batches of some requests, by their positions."""
        given = [requests[at] for at in wanted]
        cut = getattr(self.engine, "batches", None)
        batches = [range(len(given))] if cut is None else cut(given, **how)
        return [[wanted[at] for at in batch] for batch in batches]

    def _asked(self, ask: Callable[..., Any], requests: Sequence[Any], answered: Callable[..., None]) -> list[Any]:
        """The engine's answers; `answered` gets each as soon as it is there, with its position."""
        if not requests:
            return []
        reported: dict[int, Generated | Failure] = {}

        def report(positions: Sequence[int], answers: Sequence[Generated | Failure]) -> None:
            # An engine of a user's own may fail after it reported some, and is then asked for them again.
            new = {at: answer for at, answer in zip(positions, answers, strict=True) if at not in reported}
            reported.update(new)
            answered(list(new), list(new.values()))

        given = ask(requests, answered=report) if takes_answered(ask) else ask(requests)
        if len(given) != len(requests):
            raise IntegrityError(f"{self._name} must answer every request: {len(given)} answers to {len(requests)}")
        rest = [at for at in range(len(requests)) if at not in reported]
        if rest:
            report(rest, [given[at] for at in rest])
        return [reported[at] for at in range(len(requests))]


def takes_answered(ask: Callable[..., Any]) -> bool:
    """Whether an engine's method reports answers as they come: whether it has a parameter `answered`."""
    return "answered" in inspect.signature(ask).parameters
