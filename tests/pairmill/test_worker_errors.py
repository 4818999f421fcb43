"""An error of a worker arrives as it was raised, whatever Ray puts around it."""

from __future__ import annotations

import pytest
import ray
from ray import cloudpickle

from pairmill.errors import InputError, IntegrityError, JobError, PairmillError, RecipeError
from pairmill.worker_errors import first_cause, raised_by

FRAMES = """\x1b[36mray::MapWorker(MapBatches(BlurStage)).submit()\x1b[39m (pid=3, ip=192.0.2.2)
  File "/home/me/blur.py", line 23, in __call__
    if self.config.where == "call": fail(self.config.what)
                                    ^^^^^^^^^^^^^^^^^^^^^^
  File "/home/me/blur.py", line 9, in fail
    raise found
"""
BETWEEN = "\n\nThe above exception was the direct cause of the following exception:\n\n"
ADVICE = """\x1b[36mray::MapBatches(BlurStage)->Write()\x1b[39m (pid=4, ip=192.0.2.2)
  File "/home/me/curation/shards.py", line 184, in write
    for rows in blocks:
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()`"""
DEATH = "The actor died because of an error raised in its creation task, "
ACTOR = "MapWorker(MapBatches(BlurStage))"
KILLED = f"""The actor died unexpectedly before finishing this task.
\tclass_name: {ACTOR}
\tpid: 6709
The actor is dead because its worker process has died. (1) the process was killed by the OOM killer"""

SAID = "blur.model must be a model\n  got: x:\n\ny\n  fix: name one"


def task(raised: str) -> str:
    return FRAMES + raised + BETWEEN + ADVICE


@pytest.mark.parametrize(
    "text", [task("{}"), DEATH + FRAMES + "{}", FRAMES + "KeyError: 'x'" + BETWEEN + FRAMES + "{}"]
)
@pytest.mark.parametrize("kind", [RecipeError, InputError])
def test_a_users_error_keeps_its_class_and_its_three_parts(text: str, kind: type[RecipeError]) -> None:
    found = raised_by(ray.exceptions.RaySystemError(text.replace("{}", f"pairmill.errors.{kind.__name__}: {SAID}")))
    assert type(found) is kind
    assert (found.rule, found.value, found.fix) == ("blur.model must be a model", "x:\n\ny", "name one")
    assert found.exit_code == 2


def test_a_broken_promise_stays_one() -> None:
    found = raised_by(RuntimeError(task("pairmill.errors.IntegrityError: two\nlines")))
    assert isinstance(found, IntegrityError)
    assert str(found) == "two\nlines"


class Elsewhere(RecipeError):
    """Defined outside `pairmill.errors`."""


class WithArguments(PairmillError):
    """Cannot be made of its message."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


def test_subclasses_are_found_and_one_that_cannot_be_made_again_is_a_failed_job() -> None:
    assert type(raised_by(RuntimeError(task(f"{__name__}.Elsewhere: {SAID}")))) is Elsewhere
    found = raised_by(RuntimeError(task(f"{__name__}.WithArguments: both")))
    assert (type(found), str(found)) == (JobError, "both")


def test_the_error_that_was_raised_for_another_is_the_one_that_counts() -> None:
    inner = f"pairmill.errors.InputError: {SAID}"
    found = raised_by(RuntimeError(FRAMES + inner + BETWEEN + task("pairmill.errors.IntegrityError: outer")))
    assert isinstance(found, IntegrityError)


def test_an_error_that_ray_carries_is_taken_as_it_is() -> None:
    error = RecipeError("x must be y", value=1, fix="set x")
    carried = ray.exceptions.RayTaskError("task", "a traceback", error).as_instanceof_cause()
    found = raised_by(cloudpickle.loads(cloudpickle.dumps(carried)))
    assert type(found) is RecipeError
    assert str(found) == str(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (task("ValueError: a plain\nerror"), "ValueError: a plain"),
        (task("some.where.Odd: text"), "Odd: text"),
        (task("KeyboardInterrupt"), "KeyboardInterrupt"),
        (DEATH + FRAMES + "ModuleNotFoundError: No module named 'x'", "ModuleNotFoundError: No module named 'x'"),
        (
            KILLED,
            "a worker process (MapWorker(MapBatches(BlurStage))) died unexpectedly; its machine may be short of memory",
        ),
        ("one line\nand advice", "RuntimeError: one line"),
        ("", "RuntimeError"),
    ],
)
def test_of_any_other_error_its_own_message_is_left(text: str, says: str) -> None:
    outer = RuntimeError(text)
    outer.__cause__ = ValueError("")
    assert raised_by(outer) is None
    assert first_cause(outer) == says
