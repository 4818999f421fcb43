from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_bodies as bodies
import psutil
import pytest

from curation.images.config import ImageConfig
from curation.images.decoder import BACKLOG_PER_WORKER, JOBS_PER_WORKER, DecoderPool
from curation.images.inspect import Inspected, inspect_image
from curation.schema import Status
from pairmill.errors import JobError

pytestmark = pytest.mark.slow


CONFIG = ImageConfig(size=64)
NOTHING_BLOCKED: frozenset[str] = frozenset()
EXPECTED = inspect_image(bodies.JPEG, CONFIG, NOTHING_BLOCKED)
SHA256 = hashlib.sha256(bodies.JPEG).hexdigest()


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Arm a fault in the processes that are started from now on."""

    def armed(spec: str) -> None:
        monkeypatch.setenv("PAIRMILL_FAULTS", spec)
        monkeypatch.setenv("PAIRMILL_FAULTS_DIR", str(tmp_path))

    return armed


def peak_memory(pid: int) -> int:
    """The most bytes that were ever resident (VmHWM)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def statuses(found: list[Inspected]) -> list[Status]:
    return [one.status for one in found]


def test_hostile_bodies_through_one_worker_keep_their_statuses_and_its_memory_small() -> None:
    async def run() -> None:
        config = ImageConfig()
        async with DecoderPool(config, workers=1) as pool:
            assert (await pool.inspect(bodies.PNG)).status is Status.SUCCESS
            (pid,) = pool.pids
            for name, (data, status) in bodies.HOSTILE.items():
                found = await pool.inspect(data)
                assert found.status is status, name
                assert found == inspect_image(data, config, NOTHING_BLOCKED), name
            assert pool.pids == [pid]  # no body took it down
            assert peak_memory(pid) < 1.5e9

    asyncio.run(run())


def test_a_decoder_that_would_outgrow_its_limit_fails_instead() -> None:
    async def run() -> None:
        # 300 MP, let through by this cap; one bit a pixel in the file, four bytes a pixel as Pillow's RGB.
        config = ImageConfig(max_pixels=400_000_000)
        width, height = 32_000, 9_375
        rows = bytes((width // 8 + 1) * height)
        async with DecoderPool(config, workers=1) as pool:
            found = await pool.inspect(bodies.png(width, height, rows=rows, depth=1, colour=0))
            assert found.status is Status.DECODE_ERROR
            assert "Memory" in found.error
            assert peak_memory(pool.pids[0]) < 1.5e9
            assert await pool.inspect(bodies.JPEG) == inspect_image(bodies.JPEG, config, NOTHING_BLOCKED)

    asyncio.run(run())


def test_many_bodies_at_once_each_get_their_own_answer() -> None:
    async def run() -> None:
        images = [bodies.encoded(bodies.photo(80 + i, 60), "PNG") for i in range(60)]
        async with DecoderPool(CONFIG, workers=2) as pool:
            found = await asyncio.gather(*(pool.inspect(image) for image in images))
            assert len(pool.pids) <= 2
        assert [one.original_width for one in found] == [80 + i for i in range(60)]

    asyncio.run(run())


def test_a_crash_loses_the_one_body_that_was_being_decoded(arm: Callable[[str], None]) -> None:
    async def run() -> None:
        arm("decode.job:kill@4;decode.job:kill@5")
        async with DecoderPool(CONFIG, workers=1) as pool:
            found = await asyncio.gather(*(pool.inspect(bodies.JPEG) for _ in range(12)))
        crash = Inspected(Status.DECODER_CRASH, "the process that decoded it died", sha256=SHA256)
        assert found == [EXPECTED] * 3 + [crash] + [EXPECTED] * 8

    asyncio.run(run())


def test_a_worker_killed_from_outside_costs_no_image(arm: Callable[[str], None]) -> None:
    async def run() -> None:
        arm("decode.job:kill@4")
        async with DecoderPool(CONFIG, workers=1) as pool:
            found = await asyncio.gather(*(pool.inspect(bodies.JPEG) for _ in range(8)))
        assert found == [EXPECTED] * 8

    asyncio.run(run())


def test_an_exception_in_a_worker_is_a_crash(arm: Callable[[str], None]) -> None:
    async def run() -> None:
        arm("decode.job:raise@1;decode.job:raise@2")
        async with DecoderPool(CONFIG, workers=1) as pool:
            found = await asyncio.gather(*(pool.inspect(bodies.JPEG) for _ in range(6)))
        assert sorted(statuses(found)) == sorted([Status.DECODER_CRASH] + [Status.SUCCESS] * 5)

    asyncio.run(run())


@pytest.mark.slow
def test_a_hang_ends_at_the_deadline(arm: Callable[[str], None]) -> None:
    async def run() -> None:
        arm("decode.job:stall@2")
        config = CONFIG.model_copy(update={"decode_timeout_s": 1.0})
        async with DecoderPool(config, workers=1) as pool:
            found = await asyncio.gather(*(pool.inspect(bodies.JPEG) for _ in range(4)))
        assert statuses(found) == [Status.SUCCESS, Status.DECODE_TIMEOUT, Status.SUCCESS, Status.SUCCESS]
        assert found[1] == Inspected(Status.DECODE_TIMEOUT, "not decoded after 1 s", sha256=SHA256)

    asyncio.run(run())


def test_a_worker_killed_while_idle_loses_nothing() -> None:
    async def run() -> None:
        async with DecoderPool(CONFIG, workers=1) as pool:
            for _ in range(3):
                assert await pool.inspect(bodies.JPEG) == EXPECTED
                (pid,) = pool.pids
                os.kill(pid, signal.SIGKILL)
                # Given to the dead worker, as its end has not been noticed yet.
                assert pool.pids == [pid]

    asyncio.run(run())


def test_close_leaves_no_process_and_may_be_called_again() -> None:
    async def run() -> None:
        pool = DecoderPool(CONFIG, workers=2)
        await pool.close()
        pool = DecoderPool(CONFIG, workers=2)
        await asyncio.gather(*(pool.inspect(bodies.JPEG) for _ in range(8)))
        waiting = [asyncio.create_task(pool.inspect(bodies.JPEG)) for _ in range(20)]
        await asyncio.sleep(0)
        await pool.close()
        await pool.close()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert not [p for p in psutil.Process().children() if "curation.images.decoder" in p.cmdline()]
        with pytest.raises(RuntimeError, match="closed"):
            await pool.inspect(bodies.JPEG)

    asyncio.run(run())


def test_a_cancelled_caller_does_not_disturb_the_others() -> None:
    async def run() -> None:
        async with DecoderPool(CONFIG, workers=1) as pool:
            calls = [asyncio.create_task(pool.inspect(bodies.JPEG)) for _ in range(9)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
        assert found[1::2] == [EXPECTED] * 4
        assert all(isinstance(one, asyncio.CancelledError) for one in found[::2])

    asyncio.run(run())


def test_workers_end_with_their_parent() -> None:
    script = (
        "import asyncio, os, signal\n"
        "from curation.images.decoder import DecoderPool\n"
        "from curation.images.config import ImageConfig\n"
        "async def run():\n"
        "    pool = DecoderPool(ImageConfig(), workers=1)\n"
        "    await pool.inspect(b'')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(run())\n"
    )
    root = Path(__file__).parents[3]
    # The worker shares its parent's standard error: this returns when the last of the two has ended.
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL


def test_blocked_bytes_never_reach_a_worker() -> None:
    async def run() -> None:
        async with DecoderPool(CONFIG, workers=1, blocked=frozenset({SHA256})) as pool:
            assert await pool.inspect(bodies.JPEG) == Inspected(Status.HASH_BLOCKED, sha256=SHA256)
            assert pool.pids == []
            assert (await pool.inspect(bodies.PNG)).status is Status.SUCCESS

    asyncio.run(run())


@pytest.mark.parametrize("python", ["/bin/false", "/no/such/python"])
def test_a_pool_whose_workers_cannot_start_says_so(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(sys, "executable", python)
        async with DecoderPool(CONFIG, workers=2) as pool:
            with pytest.raises(JobError, match="cannot be run"):
                await pool.inspect(bodies.JPEG)

    asyncio.run(run())


def test_the_package_of_the_working_directory_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curation").mkdir()
    (tmp_path / "curation" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)

    async def run() -> None:
        async with DecoderPool(CONFIG, workers=1) as pool:
            assert await pool.inspect(bodies.JPEG) == EXPECTED

    asyncio.run(run())


async def _backlog(pool: DecoderPool, count: int) -> list[asyncio.Task[Inspected]]:
    tasks = [asyncio.create_task(pool.inspect(bodies.JPEG)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_a_full_backlog_holds_fetching_back_until_it_shrinks() -> None:
    async def run() -> None:
        async with DecoderPool(ImageConfig(), workers=1) as pool:
            await asyncio.wait_for(pool.room(), 5)
            tasks = await _backlog(pool, BACKLOG_PER_WORKER + JOBS_PER_WORKER + 3)
            waiting = asyncio.create_task(pool.room())
            await asyncio.sleep(0)
            assert not waiting.done()
            await asyncio.wait_for(waiting, 60)
            assert sum(not task.done() for task in tasks) <= BACKLOG_PER_WORKER + JOBS_PER_WORKER
            await asyncio.gather(*tasks)

    asyncio.run(run())
