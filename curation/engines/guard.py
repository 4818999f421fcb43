"""Keep a bad request from affecting its neighbours, and distinguish it from a dead engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from curation.engines import Answered, Failure, Generated
from pairmill.errors import JobError, PairmillError, said_by
from pairmill.faults import fault_point

Request = TypeVar("Request")
Answer = TypeVar("Answer")

#: If this many requests of one table fail alike, they are not the cause, even if the engine still answers a probe.
MANY = 16
_MAX_ERROR_CHARACTERS = 300


def describe(error: BaseException) -> str:
    """The error on one short line, for a row's error column: the same whenever the same thing happens."""
    text = re.sub(r"\b0x[0-9a-f]+\b", "0x…", " ".join(said_by(error).split()))
    return f"{type(error).__name__}: {text}"[:_MAX_ERROR_CHARACTERS]


def answer_batch(
    requests: Sequence[Request],
    generate: Callable[[Sequence[Request]], Sequence[Answer]],
    *,
    fault: str,
    recover: Callable[[], None] | None = None,
) -> list[Answer | Failure]:
    """`generate(requests)`; if it raises, again, then in halves down to single requests.

    The second full try keeps a temporary failure from changing the batch, and so the last bits of the scores.  Out of
    memory ends at the size that fits; a request that fails on its own becomes a `Failure`.

    generate: returns one answer per request, in order.
    fault:    the fault point passed before each call.
    recover:  called after each failure, to free what it left behind.
    """
    if not requests:
        return []
    made = _try(requests, generate, fault, recover)
    if isinstance(made, Failure):
        made = _try(requests, generate, fault, recover)
    if not isinstance(made, Failure):
        return list(made)
    if len(requests) == 1:
        return [made]
    half = len(requests) // 2
    return [
        *answer_batch(requests[:half], generate, fault=fault, recover=recover),
        *answer_batch(requests[half:], generate, fault=fault, recover=recover),
    ]


def answer_in_batches(
    batches: Iterable[Sequence[int]],
    answer: Callable[[Sequence[int]], Sequence[Generated | Failure]],
    answered: Answered,
) -> list[Generated | Failure]:
    """The answers to all requests, in order, batch by batch.

    batches: positions, each request in one.  answer: one answer per position.  answered: gets each batch.
    """
    found: dict[int, Generated | Failure] = {}
    for batch in batches:
        made = answer(batch)
        answered(batch, made)
        found.update(zip(batch, made, strict=True))
    return [found[at] for at in range(len(found))]


def _try(
    requests: Sequence[Request],
    generate: Callable[[Sequence[Request]], Sequence[Answer]],
    fault: str,
    recover: Callable[[], None] | None,
) -> Sequence[Answer] | Failure:
    try:
        fault_point(fault)
        return generate(requests)
    except PairmillError:
        raise
    except Exception as error:
        failure = Failure(describe(error))
    # Outside the handler, whose traceback would still hold the batch's tensors.
    if recover is not None:
        recover()
    return failure


def stop_if_dead(answers: Sequence[object], *, stage: str, probe: Callable[[], Sequence[object]]) -> None:
    """Raise JobError if the engine answered no request of one call, and a harmless probe neither.

    The shard is then not committed, and running again resumes with it: better than thousands of rows without a text.
    If the engine answers the probe it is alive, and the requests are to blame.
    """
    errors = [answer.error for answer in answers if isinstance(answer, Failure)]
    if errors and len(errors) == len(answers) and all(isinstance(answer, Failure) for answer in probe()):
        raise JobError(
            f"{stage}: the engine answers nothing any more, not even a probe; last error: {errors[-1]}\n"
            "Check the engine, then run the job again: it resumes with this shard."
        )


def stop_if_useless(answers: Sequence[object], *, stage: str) -> None:
    """Raise JobError if all answers of a table, at least `MANY`, are one failure (a prompt that never fits, …)."""
    errors = {answer.error if isinstance(answer, Failure) else None for answer in answers}
    if len(answers) >= MANY and len(errors) == 1 and None not in errors:
        raise JobError(
            f"{stage}: the engine failed for all {len(answers)} texts of a shard with: {errors.pop()}\n"
            "Check the model and its settings against this error, then run the job again."
        )
