"""An engine of a user's own, called as one of ours is: no request hurts another, and no call takes forever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from curation.engines import Answered, CaptionRequest, Failure, Generated, unheard
from curation.engines.asking import takes_answered
from curation.engines.guard import answer_batch
from pairmill.errors import JobError
from pairmill.own_code import Guard


class OwnEngine:
    """A captioner or translator of a user's own, within a time limit.

    What it raises for one request becomes a `Failure` of that request.  Raises JobError for a call that takes longer
    than the limit, and for answers that are not one `Generated` or `Failure` a request.
    """

    def __init__(self, engine: Any, guard: Guard) -> None:
        self._engine, self._guard = engine, guard

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # of this object, before it has an engine
        return getattr(self._engine, name)

    def caption(self, requests: Sequence[CaptionRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets those that the engine reports."""
        return self._answered(requests, self._engine.caption, answered)

    def translate(
        self, texts: Sequence[str], *, source: str, target: str, answered: Answered = unheard
    ) -> list[Generated | Failure]:
        """One answer per text, in order.  answered: as for `caption`."""
        return self._answered(texts, partial(self._engine.translate, source=source, target=target), answered)

    def _answered(
        self, requests: Sequence[Any], generate: Callable[..., Any], answered: Answered
    ) -> list[Generated | Failure]:
        reports = takes_answered(generate)

        def called(some: Sequence[tuple[int, Any]]) -> Sequence[Generated | Failure]:
            """Answers to some requests, with their positions: what the engine raises for is asked for in halves."""
            places, given = [at for at, _ in some], [request for _, request in some]

            def report(positions: Sequence[int], answers: Sequence[Generated | Failure]) -> None:
                answered([places[at] for at in positions], self._checked(positions, answers))

            ask = partial(generate, answered=report) if reports else generate
            return self._checked(given, self._guard.limited(lambda: ask(given)))

        return answer_batch(list(enumerate(requests)), called, fault="engine.own")

    def _checked(self, requests: Sequence[Any], answers: Any) -> Sequence[Generated | Failure]:
        rule = f"{self._guard.named} must answer every request, in order, with a Generated or a Failure"
        if not isinstance(answers, list | tuple):
            raise JobError(f"{rule}; found: {type(answers).__name__}\nFix its code; then run the job again.")
        wrong = [type(one).__name__ for one in answers if not isinstance(one, Generated | Failure)]
        if wrong or len(answers) != len(requests):
            found = f"a {wrong[0]}" if wrong else f"{len(answers)} answers to {len(requests)}"
            raise JobError(f"{rule}; found: {found}\nFix its code; then run the job again.")
        return answers
