"""Calls that come while the loop of a thread ends: each is carried out or refused, and none waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from syncline.platform import loop_thread
from syncline.platform.loop_thread import LoopCall, LoopEnded, LoopThread

LIMIT_S = 10.0


async def nothing() -> None:
    pass


class HeldInbox(deque[LoopCall[object]]):
    """Stops each caller between its look whether the loop ends, and its place in the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.come: threading.Semaphore = threading.Semaphore(0)
        self.go: threading.Semaphore = threading.Semaphore(0)

    def append(self, call: LoopCall[object]) -> None:
        self.come.release()
        assert self.go.acquire(timeout=LIMIT_S)
        super().append(call)


def called(thread: LoopThread) -> Future[None]:
    """A call on a thread of its own, which a failed test leaves behind."""
    result: Future[None] = Future()

    def work() -> None:
        try:
            result.set_result(thread.call(nothing))
        except LoopEnded as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return result


def begun(callers: int) -> tuple[LoopThread, HeldInbox, list[Future[None]]]:
    """A loop, and callers that have found it open."""
    thread, inbox = LoopThread("test"), HeldInbox()
    thread._inbox = inbox
    calls = [called(thread) for _ in range(callers)]
    for _ in range(callers):
        assert inbox.come.acquire(timeout=LIMIT_S)
    return thread, inbox, calls


def assert_refused(call: Future[None]) -> None:
    with pytest.raises(LoopEnded) as refused:
        call.result(LIMIT_S)
    assert not refused.value.begun


def after(function: Callable[..., object], then: Callable[[], object]) -> Callable[..., object]:
    """The same function, and something after it."""

    def both(*arguments: object) -> object:
        result = function(*arguments)
        then()
        return result

    return both


def test_loop_thread_refuses_a_call_between_the_stop_and_the_close() -> None:
    """The loop takes its wake-up, and never carries it out."""
    thread, inbox, [call] = begun(1)
    loop, woken = thread._loop, threading.Event()
    close = loop.close
    loop.call_soon_threadsafe = after(loop.call_soon_threadsafe, woken.set)  # type: ignore[assignment,method-assign]

    def close_late() -> None:
        woken.clear()
        inbox.go.release()
        assert woken.wait(LIMIT_S)
        close()

    loop.close = close_late  # type: ignore[method-assign]
    thread.end(nothing)
    assert_refused(call)


def test_loop_thread_refuses_calls_that_come_after_the_close() -> None:
    """The first one marks a wake-up that fails: the second must not rely on it."""
    thread, inbox, calls = begun(2)
    thread.end(nothing)
    for _ in calls:
        inbox.go.release()
    for call in calls:
        assert_refused(call)
    with pytest.raises(LoopEnded):
        thread.call(nothing)


class Interrupting(deque[LoopCall[object]]):
    """A queue that is interrupted before or after a call is put into it, as by a signal's handler."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when

    def append(self, call: LoopCall[object]) -> None:
        if self.when == "before":
            raise KeyboardInterrupt
        super().append(call)
        raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["before", "after"])
def test_loop_thread_call_interrupted_on_its_way_ends_at_once(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller waited to the limit: for a call that was not in the queue, or a task cancelled before it began."""
    monkeypatch.setattr(loop_thread, "INTERRUPTED_S", 60.0)
    thread = LoopThread("test")
    thread.call(nothing)
    thread._inbox = Interrupting(when)
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        thread.call(nothing)
    assert time.monotonic() - began_s < 30.0
    thread._inbox = deque()
    thread.call(nothing)
    thread.end(nothing)


def test_loop_thread_call_interrupted_behind_its_answer_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes between the answer and the next step of the caller."""
    monkeypatch.setattr(loop_thread, "INTERRUPTED_S", 60.0)
    thread = LoopThread("test")

    class Gate:
        def __init__(self, call: LoopCall[object]) -> None:
            self.gate = call.gate
            self.passed = False

        def acquire(self, timeout: float = -1) -> bool:
            taken = self.gate.acquire(timeout=timeout)
            if not self.passed:
                self.passed = True
                raise KeyboardInterrupt
            return taken

        def release(self) -> None:
            self.gate.release()

    class Gated(deque[LoopCall[object]]):
        def append(self, call: LoopCall[object]) -> None:
            call.gate = Gate(call)  # type: ignore[assignment]
            super().append(call)

    thread._inbox = Gated()
    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        thread.call(nothing)
    assert time.monotonic() - began_s < 30.0
    thread._inbox = deque()
    thread.end(nothing)


def test_loop_thread_takes_the_next_call_after_an_answer_without_a_wake_up() -> None:
    """Only if another caller is there: a lone one is not waited for."""
    thread = LoopThread("test")
    taken: list[LoopCall[object]] = []
    begun, answered = threading.Event(), threading.Event()
    release: Future[None] = Future()

    async def long() -> None:
        begun.set()
        await asyncio.wrap_future(release)

    async def short() -> None:
        call: LoopCall[object] = LoopCall(nothing, lambda: None)
        thread._inbox.append(call)  # as a caller whose answer came in this turn
        taken.append(call)

    def wait_long() -> None:
        thread.call(long)
        answered.set()

    threading.Thread(target=wait_long, daemon=True).start()
    assert begun.wait(LIMIT_S)
    thread.call(short)
    assert taken[0].gate.acquire(timeout=LIMIT_S)
    release.set_result(None)
    assert answered.wait(LIMIT_S)
    thread.end(nothing)
