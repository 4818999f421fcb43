"""The actors of one job: how often they start again, their names, and that none is left when the job ends.

Ray ends an actor when nothing refers to it any more.  The traceback of an error refers to the whole job that failed, so
in a notebook, a service or a test its actors would keep their processes and cores until the driver ends.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

#: How often an actor that died is started again before the job fails.  Ray Data's own default is no limit, which turns
#: a worker that dies of its input into a job that never ends.
RESTARTS = 4

#: The same for an actor whose stage finds the row that kills it (`curation.engines.begun_calls`), after three deaths.
ISOLATING_RESTARTS = 16


class Actors:
    """Gives each actor of a job its options, and ends those that are left."""

    def __init__(self) -> None:
        self._job, self._numbers = uuid.uuid4().hex[:8], itertools.count()
        self._names: list[str] = []

    def options(self, stage: str, *, isolates: bool = False) -> dict[str, Any]:
        """Options of one more actor of a stage.  isolates: whether it finds rows that kill it."""
        # The names of a cluster's actors must differ, and several jobs may run on one.
        name = f"{stage} {self._job}-{next(self._numbers)}"
        self._names.append(name)
        restarts = ISOLATING_RESTARTS if isolates else RESTARTS
        return {"name": name, "max_restarts": restarts, "max_task_retries": restarts}

    def end(self) -> None:
        """End the actors that are left; there may be none."""
        while self._names:
            try:
                ray.kill(ray.get_actor(self._names.pop()))
            except ValueError:  # it has ended, or was never started
                continue
            except ray.exceptions.RayError:  # no cluster answers, so nothing of it is ours any more
                break


@contextmanager
def job_actors() -> Iterator[Actors]:
    """The actors of a job; they end with it."""
    actors = Actors()
    try:
        yield actors
    finally:
        actors.end()
