from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.engines import Failure, Generated
from curation.engines.guard import MANY, answer_batch, stop_if_dead, stop_if_useless
from pairmill import faults
from pairmill.errors import JobError, UserError


def fails_on(*bad: int, most: int = 1000) -> Callable[[Sequence[int]], list[int]]:
    """An engine that cannot take some requests, nor more than `most` at once."""

    def generate(requests: Sequence[int]) -> list[int]:
        if len(requests) > most or set(bad) & set(requests):
            raise RuntimeError("out of memory" if len(requests) > most else "bad\n  request")
        return [10 * number for number in requests]

    return generate


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_a_failing_request_costs_no_other_its_answer(count: int, bad: set[int], most: int) -> None:
    answers = answer_batch(range(count), fails_on(*bad, most=most), fault="engine.recaption")
    expected = [Failure("RuntimeError: bad request") if n in bad else 10 * n for n in range(count)]
    assert answers == expected


def test_a_failure_that_passes_leaves_the_batch_whole() -> None:
    sizes = []

    def once(requests: Sequence[int]) -> list[int]:
        sizes.append(len(requests))
        if len(sizes) == 1:
            raise OSError("once")
        return list(requests)

    recovered: list[None] = []
    assert answer_batch(range(8), once, fault="engine.recaption", recover=lambda: recovered.append(None)) == [*range(8)]
    assert sizes == [8, 8]
    assert len(recovered) == 1


def test_an_injected_fault_is_an_engine_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse("engine.recaption:raise@1", str(tmp_path)))
    assert answer_batch([1, 2], fails_on(), fault="engine.recaption") == [10, 20]
    assert (tmp_path / "engine.recaption.passes").read_bytes() == b".."


def test_a_user_error_is_not_an_engine_failure() -> None:
    def wrong(requests: Sequence[int]) -> list[int]:
        raise UserError("rule", value=1, fix="fix")

    with pytest.raises(UserError):
        answer_batch([1], wrong, fault="engine.recaption")


def test_only_an_engine_that_answers_no_probe_is_dead() -> None:
    failed = [Failure("CUDA error"), Failure("CUDA error")]
    with pytest.raises(JobError, match="CUDA error"):
        stop_if_dead(failed, stage="recaption", probe=lambda: [Failure("CUDA error")])
    stop_if_dead(failed, stage="recaption", probe=lambda: [Generated("a", -1.0)])
    stop_if_dead([], stage="recaption", probe=lambda: [Failure("x")])
    stop_if_dead([*failed, Generated("a", -1.0)], stage="recaption", probe=lambda: [Failure("x")])


def test_a_table_that_fails_alike_throughout_stops_the_job() -> None:
    with pytest.raises(JobError, match="too long"):
        stop_if_useless([Failure("too long")] * MANY, stage="recaption")
    stop_if_useless([Failure("too long")] * (MANY - 1), stage="recaption")
    stop_if_useless([Failure("too long")] * MANY + [Failure("other")], stage="recaption")
    stop_if_useless([Failure("too long")] * MANY + [Generated("a", -1.0)], stage="recaption")
    stop_if_useless([], stage="recaption")
