"""The portal: calls of threads on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from syncline.client.blocking.portal import HeldObject, Portal, PortalObject
from syncline.errors import Closed, ConfigError, DeadlineExceeded, UsageError

DEADLINE_S = 10.0

forking = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


async def thread_id() -> int:
    return threading.get_ident()


async def forever() -> None:
    await asyncio.Event().wait()


def begun(portal: Portal, check: Callable[[], object]) -> None:
    """Wait until `check` returns true on the loop."""

    async def look() -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not check():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)

    portal.call(look)


def test_portal_calls_run_on_one_other_thread(portal: Portal) -> None:
    first = portal.call(thread_id)
    with ThreadPoolExecutor(8) as threads:
        others = {future.result() for future in [threads.submit(portal.call, thread_id) for _ in range(200)]}
    assert others == {first}
    assert first != threading.get_ident()


def test_portal_raises_the_error_of_the_call(portal: Portal) -> None:
    async def fails() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        portal.call(fails)

    def fails_at_once() -> contextlib.nullcontext[None]:
        raise KeyError("x")

    with pytest.raises(KeyError):
        portal.call(fails_at_once)  # type: ignore[arg-type]


def test_portal_begins_no_thread_before_the_first_call() -> None:
    before = threading.active_count()
    portal = Portal()
    assert threading.active_count() == before
    portal.close()
    with pytest.raises(UsageError, match="closed"):
        portal.call(thread_id)


def test_portal_close_fails_calls_under_way_and_later_ones(portal: Portal) -> None:
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(portal.call, forever) for _ in range(4)]
        begun(portal, lambda: len(asyncio.all_tasks()) == 5)
        portal.close()
        for future in waiting:
            with pytest.raises(Closed):
                future.result(DEADLINE_S)
    with pytest.raises(UsageError, match="closed"):
        portal.call(thread_id)
    portal.close()


def test_portal_close_loses_no_call_of_many_threads() -> None:
    """Each call of the moment ends with a result or an error; none waits for ever."""
    for _ in range(20):
        portal, start = Portal(), threading.Barrier(5)

        def calls(portal: Portal = portal, start: threading.Barrier = start) -> str:
            start.wait()
            try:
                while True:
                    portal.call(thread_id)
            except (Closed, UsageError) as error:
                return type(error).__name__

        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(calls) for _ in range(4)]
            start.wait()
            portal.call(thread_id)
            portal.close()
            assert {future.result(DEADLINE_S) for future in running} <= {"Closed", "UsageError"}


async def test_portal_call_on_an_event_loop_is_a_usage_error() -> None:
    portal = Portal()
    with pytest.raises(UsageError, match="use AsyncClient"):
        portal.call(thread_id)
    with pytest.raises(UsageError, match="use AsyncClient"):
        portal.close()
    await asyncio.to_thread(portal.close)


def test_portal_call_from_its_own_thread_is_a_usage_error(portal: Portal) -> None:
    async def calls() -> None:
        portal.call(thread_id)

    with pytest.raises(UsageError, match="use AsyncClient"):
        portal.call(calls)


def test_portal_interrupt_cancels_the_call(portal: Portal) -> None:
    ended: list[str] = []

    async def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("released")

    with pytest.raises(KeyboardInterrupt):
        portal.call(interrupted)
    assert ended == ["released"]
    assert portal.call(thread_id)


async def numbers(ends: list[str], last: int = 1_000_000) -> AsyncIterator[int]:
    try:
        for number in range(last):
            yield number
    finally:
        ends.append("closed")


def test_iterator_gives_all_items_and_ends(portal: Portal) -> None:
    ends: list[str] = []
    assert list(portal.iterate(lambda: numbers(ends, 1000))) == list(range(1000))
    assert ends == ["closed"]


def test_iterator_left_by_break_is_closed(portal: Portal) -> None:
    ends: list[str] = []
    for number in portal.iterate(lambda: numbers(ends)):
        if number == 300:
            break
    begun(portal, lambda: ends == ["closed"])


def test_iterator_in_step_begins_the_next_item_when_it_is_wanted(portal: Portal) -> None:
    steps: list[int] = []

    async def steps_of() -> AsyncIterator[int]:
        for number in range(3):
            steps.append(number)
            yield number

    iterator = portal.iterate(steps_of, ahead=1)
    assert steps == []
    for number in iterator:
        portal.call(thread_id)
        assert steps == list(range(number + 1))


def test_iterator_raises_the_error_once_and_then_ends(portal: Portal) -> None:
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise ConfigError("no more")

    iterator = portal.iterate(fails)
    assert next(iterator) == 1
    with pytest.raises(ConfigError):
        next(iterator)
    assert list(iterator) == []


def test_iterator_close_ends_a_loop_of_another_thread(portal: Portal) -> None:
    ends: list[str] = []

    async def one_and_wait() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ends.append("closed")

    iterator = portal.iterate(one_and_wait)
    with ThreadPoolExecutor(1) as threads:
        assert next(iterator) == 1
        rest = threads.submit(list, iterator)
        begun(portal, lambda: len(asyncio.all_tasks()) == 3)
        iterator.close()
        assert rest.result(DEADLINE_S) == []
    assert ends == ["closed"]
    iterator.close()


def test_iterator_next_has_a_timeout_and_loses_nothing(portal: Portal) -> None:
    async def one_when_told(told: list[asyncio.Event]) -> AsyncIterator[int]:
        told.append(asyncio.Event())
        await told[0].wait()
        yield 7

    told: list[asyncio.Event] = []
    iterator = portal.iterate(lambda: one_when_told(told))
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        iterator.next(timeout=0.01)

    async def tell() -> None:
        told[0].set()

    portal.call(tell)
    assert iterator.next(timeout=DEADLINE_S) == 7
    with pytest.raises(StopIteration):
        iterator.next()
    with pytest.raises(ConfigError):
        iterator.next(timeout=-1)


@asynccontextmanager
async def noted(notes: list[str], fails: str = "") -> AsyncIterator[int]:
    task = asyncio.current_task()
    if fails == "begin":
        raise ConfigError("no begin")
    notes.append("begin")
    try:
        yield 5
        notes.append("good")
    except ConfigError as error:
        notes.append(f"raised {error}")
        if fails == "swallow":
            return
        raise
    finally:
        assert asyncio.current_task() is task
        notes.append("end")
        if fails == "end":
            raise ConfigError("no end")


def test_scope_begins_and_ends_in_one_task(portal: Portal) -> None:
    notes: list[str] = []
    with portal.scope(lambda: noted(notes), "the scope") as value:
        assert value == 5
    assert notes == ["begin", "good", "end"]


def test_scope_gets_the_error_of_the_block(portal: Portal) -> None:
    notes: list[str] = []
    with pytest.raises(ConfigError, match="mine"), portal.scope(lambda: noted(notes), "the scope"):
        raise ConfigError("mine")
    assert notes == ["begin", "raised mine", "end"]
    with portal.scope(lambda: noted(notes, "swallow"), "the scope"):
        raise ConfigError("mine")
    with pytest.raises(ConfigError, match="no begin"), portal.scope(lambda: noted(notes, "begin"), "the scope"):
        raise AssertionError("not reached")
    with pytest.raises(ConfigError, match="no end"), portal.scope(lambda: noted(notes, "end"), "the scope"):
        pass


def test_scope_is_for_one_block(portal: Portal) -> None:
    scope = portal.scope(lambda: noted([]), "the scope")
    with pytest.raises(UsageError, match="not begun"):
        scope.end()
    with scope:
        pass
    with pytest.raises(UsageError, match="one block"), scope:
        pass


def test_scope_that_cancels_its_task_raises_at_the_end_of_the_block(portal: Portal) -> None:
    @asynccontextmanager
    async def lost(told: list[asyncio.Event]) -> AsyncIterator[None]:
        task = asyncio.current_task()
        assert task is not None
        told.append(asyncio.Event())
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            yield
        except asyncio.CancelledError:
            task.uncancel()
            told[0].set()
            raise ConfigError("lost") from None

    told: list[asyncio.Event] = []
    with pytest.raises(ConfigError, match="lost"), portal.scope(lambda: lost(told), "the scope"):
        portal.call(told[0].wait)
    with pytest.raises(KeyError), portal.scope(lambda: lost(told), "the scope"):
        raise KeyError("the block's own error comes first")


def test_scope_interrupted_at_its_begin_is_ended(portal: Portal) -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
            yield
        finally:
            notes.append("released")

    with pytest.raises(KeyboardInterrupt), portal.scope(slow, "the scope"):
        raise AssertionError("not reached")
    assert notes == ["released"]


def in_child(work: Callable[[], object]) -> str:
    """What `work` returns in a forked child, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(DEADLINE_S))  # a deadlock ends the child
            os.write(writer, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


@forking
def test_fork_child_has_a_loop_of_its_own(portal: Portal) -> None:
    async def process_id() -> int:
        return os.getpid()

    parent = os.getpid()
    assert portal.call(process_id) == parent
    assert in_child(lambda: parent != os.getpid() == portal.call(process_id)) == "True"
    assert portal.call(process_id) == parent


@forking
def test_fork_child_makes_objects_of_its_own(portal: Portal) -> None:
    class Object:
        async def value(self) -> int:
            return id(self)

    class Face(PortalObject[Object]):
        def value(self) -> int:
            return self._call(lambda made: made.value())

    made: list[Object] = []

    def make() -> Object:
        made.append(Object())
        return made[-1]

    face = Face(portal, make)
    assert face.value() == face.value()
    assert in_child(lambda: (face.value() == face.value(), len(made))) == "(True, 2)"
    assert len(made) == 1


@forking
def test_fork_child_does_not_hold_what_the_parent_holds(portal: Portal) -> None:
    class Held(HeldObject[list[int]]):
        def size(self) -> int:
            async def size(held: list[int]) -> int:
                return len(held)

            return self._call(size)

    held = Held(portal, [1, 2], "the lock")
    iterator = portal.iterate(lambda: numbers([]))
    scope = portal.scope(lambda: noted([]), "the lease")
    assert (held.size(), next(iterator)) == (2, 0)
    with scope:
        for use, what in ((held.size, "lock"), (lambda: next(iterator), "iterator"), (scope.end, "lease")):
            assert f"the {what} belongs to the process that this one was forked from" in in_child(use)
    assert (held.size(), next(iterator)) == (2, 1)


@forking
def test_fork_while_threads_are_in_calls_does_not_deadlock(portal: Portal) -> None:
    """Forks at random moments of four threads that call without a pause. An alarm would end a child that waits."""
    stop = threading.Event()

    def calls() -> None:
        while not stop.is_set():
            portal.call(thread_id)

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(calls) for _ in range(4)]
        try:
            for _ in range(25):
                assert in_child(lambda: len({portal.call(thread_id) for _ in range(20)})) == "1"
        finally:
            stop.set()
        for future in running:
            future.result(DEADLINE_S)


@forking
def test_fork_while_a_thread_holds_the_lock_of_the_portal(portal: Portal) -> None:
    """As a thread does that begins or closes it. The child has a lock of its own."""
    portal.call(thread_id)
    with portal.process.lock:
        assert in_child(lambda: portal.call(thread_id) > 0) == "True"


@forking
def test_fork_child_of_a_closed_portal_is_closed() -> None:
    portal = Portal()
    portal.call(thread_id)
    portal.close()
    assert "the client is closed" in in_child(lambda: portal.call(thread_id))


FORGETS = """
    import asyncio, os, sys, threading, warnings
    from syncline.client.blocking.portal import Portal

    portal = Portal()
    async def forever():
        await asyncio.Event().wait()
    async def nothing():
        pass
    async def items():
        yield 1
        await asyncio.Event().wait()
    portal.call(nothing)
    iterator = portal.iterate(items)
    next(iterator)
    threading.Thread(target=portal.call, args=(forever,), daemon=True).start()
    if "fork" in sys.argv and os.fork() == 0:
        portal.call(nothing)
        sys.exit()
    if "fork" in sys.argv:
        os.wait()
    print("end")
"""


@pytest.mark.parametrize("how", ["plain", "fork"])
def test_program_that_forgets_to_close_ends_without_a_word(how: str) -> None:
    command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(FORGETS), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    said = [line for line in done.stderr.splitlines() if "multi-threaded" not in line and "os.fork()" not in line]
    assert (done.returncode, done.stdout, said) == (0, "end\n", [])
