"""The clock of the loop that tests run on: what it counts, and what it leaves out."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers.async_tests import run
from tests.helpers.steady_loop import LONGEST_STEP_S, SteadyClock, stand_still

STANDSTILL_S = 0.2


async def test_steady_loop_counts_a_standstill_as_one_step() -> None:
    loop = asyncio.get_running_loop()
    before_s = loop.time()
    stand_still(STANDSTILL_S)
    assert loop.time() - before_s < STANDSTILL_S / 2


async def test_steady_loop_counts_all_of_a_wait() -> None:
    loop, before_s = asyncio.get_running_loop(), time.monotonic()
    began_s = loop.time()
    await asyncio.sleep(STANDSTILL_S)
    assert loop.time() - began_s >= STANDSTILL_S
    assert loop.time() - began_s <= time.monotonic() - before_s + LONGEST_STEP_S, "it overtakes no other clock"


async def test_steady_loop_deals_with_what_came_before_its_timer_is_due() -> None:
    """A question and its answer on sockets; the process stands still for longer than the asker's time limit."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(STANDSTILL_S):
        writer.write(b"x")
        stand_still(2 * STANDSTILL_S)
        assert await reader.readexactly(1) == b"x"
    writer.close()
    server.close()
    await server.wait_closed()


async def test_steady_loop_ends_a_wait_at_its_time_limit() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await asyncio.Event().wait()


async def test_steady_loop_tells_its_time_to_other_threads() -> None:
    loop = asyncio.get_running_loop()
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(loop.time()))
    before_s = loop.time()
    thread.start()
    thread.join()
    assert before_s <= found[0] <= loop.time() + LONGEST_STEP_S


def test_steady_clock_counts_waits_and_limits_steps() -> None:
    now = [100.0]
    clock = SteadyClock(lambda: now[0])
    now[0] += LONGEST_STEP_S / 2
    assert clock.time() == pytest.approx(100.0 + LONGEST_STEP_S / 2)
    now[0] += 50.0
    assert clock.glance() == pytest.approx(100.0 + 1.5 * LONGEST_STEP_S)
    clock.count(30.0)
    assert clock.time() == pytest.approx(130.0 + LONGEST_STEP_S / 2)


STOPPED = """
import asyncio
from tests.helpers.async_tests import run

async def main():
    await asyncio.get_running_loop().run_in_executor(None, print, "ready")
    reader = asyncio.StreamReader()
    import sys
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.timeout(0.5):
        print((await reader.readline()).decode().strip())

sys_stdout_flush = run(main())
"""


def test_steady_loop_of_a_stopped_process_takes_what_came_meanwhile() -> None:
    """The pause is longer than the time limit of the wait."""
    command = [sys.executable, "-u", "-c", STOPPED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        process.stdin.write("came\n")
        process.stdin.flush()
        stand_still(0.8)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "came\n"
    assert process.returncode == 0


def test_steady_loop_is_what_a_test_runs_on() -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(kind()) == "tests.helpers.steady_loop"
