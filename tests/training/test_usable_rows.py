import pytest

from training.errors import FinalError
from training.usable_rows import EMPTY_STEPS, UsableRows


def test_steps_without_a_usable_row_end_the_run() -> None:
    usable = UsableRows()
    for step in range(1, EMPTY_STEPS):
        usable.seen(step, 0, {"no_text": 3, "corrupt_image": 1}, last=False)
    with pytest.raises(FinalError) as raised:
        usable.seen(EMPTY_STEPS, 0, {"no_text": 3}, last=False)
    rule, value, fix = raised.value.parts
    assert "must" in rule and "data.texts" in fix
    assert f"no_text: {3 * EMPTY_STEPS}" in value and f"corrupt_image: {EMPTY_STEPS - 1}" in value


def test_a_usable_row_now_and_then_is_enough() -> None:
    usable = UsableRows()
    learnt = []
    for step in range(1, 10 * EMPTY_STEPS):
        usable.seen(step, int(step % EMPTY_STEPS == 0), {"no_text": 8}, last=False)
        learnt.append(usable.learnt())
    assert [at + 1 for at, new in enumerate(learnt) if new] == list(range(EMPTY_STEPS, 10 * EMPTY_STEPS, EMPTY_STEPS))


@pytest.mark.parametrize(("first", "ends"), [(1, True), (4, False)])
def test_a_short_run_ends_at_its_last_step_unless_it_had_rows_before_it_was_resumed(first: int, ends: bool) -> None:
    usable = UsableRows()
    usable.seen(first, 0, {}, last=False)
    if ends:
        with pytest.raises(FinalError):
            usable.seen(first + 1, 0, {}, last=True)
    else:
        usable.seen(first + 1, 0, {}, last=True)
