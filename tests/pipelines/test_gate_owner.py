"""The gate learns which worker a fetcher lives in, so that a killed one's leases end when its worker starts again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from curation.web.host_gate import Grant, HostGate, Report
from pipelines.stages import row_stage
from pipelines.stages.row_stage import Setting


class Remote:
    """A handle of the gate's actor, as far as a worker uses it."""

    def __init__(self, gate: HostGate) -> None:
        self._gate = gate
        self.exchange = SimpleNamespace(remote=self._exchange)

    async def _exchange(self, member: str, reports: Mapping[str, Report], owner: str) -> dict[str, Grant]:
        return self._gate.exchange(member, reports, owner)


def test_a_worker_that_starts_again_takes_its_fetchers_leases_back(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    setting = Setting(nothing, nothing, nothing, gate=Remote(HostGate(concurrency=2, lease_s=50.0)))

    def slots(actor: str, member: str) -> int:
        monkeypatch.setattr(row_stage.ray, "get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: actor))
        exchange = setting.runtime(None, "download").exchange
        assert exchange is not None
        return int(asyncio.run(exchange(member, {"h": Report(waiting=2)}))["h"].slots)

    assert slots("actor 1", "first") == 2
    assert slots("actor 2", "other") == 0  # the first has them all
    assert slots("actor 1", "first, started again") == 1  # it is alone, but for the other that waits
    assert slots("actor 2", "other") == 1
