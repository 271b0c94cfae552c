"""Tests that are `async def` functions: each runs on an event loop of its own, and fails at its deadline.

A test that needs another time than `DEADLINE_S` says so with `@pytest.mark.deadline(60.0)`. One that shall run on the
loops of asyncio and of uvloop says `@pytest.mark.usefixtures("loop_factory")`. All else is as in other tests: fixtures,
parameters, and `@given`, for which each example has a loop and a deadline of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest

from tests.helpers.steady_loop import new_steady_loop

Result = TypeVar("Result")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

DEADLINE_S = 30.0
"""Many times what a test takes, on a busy machine too. A loop that is blocked has `timeout` of `pyproject.toml`."""


def call_test(item: pytest.Function) -> bool | None:
    """For the hook `pytest_pyfunc_call`: run the test if it is asynchronous, or else leave it to pytest."""
    given = getattr(item.obj, "hypothesis", None)
    test = given.inner_test if given is not None else item.obj
    if not inspect.iscoroutinefunction(test):
        return None
    deadline_s = deadline_of(item)
    if given is not None:
        given.inner_test = _in_loop(test, deadline_s)  # each example calls it
        return None
    arguments = {name: item.funcargs[name] for name in inspect.signature(test).parameters}
    factory = cast("LoopFactory | None", item.funcargs.get("loop_factory"))
    returned = run(test(**arguments), timeout_s=deadline_s, loop_factory=factory)
    assert returned is None, f"a test asserts, and returns nothing: {returned!r}"
    return True


def deadline_of(item: pytest.Function) -> float:
    """What the test's nearest `deadline` mark says."""
    mark = item.get_closest_marker("deadline")
    if mark is None:
        return DEADLINE_S
    if mark.kwargs or len(mark.args) != 1 or not isinstance(mark.args[0], int | float) or mark.args[0] <= 0:
        raise pytest.UsageError(f"{item.nodeid}: a deadline is one number of seconds: @pytest.mark.deadline(60.0)")
    return float(mark.args[0])


def run(
    work: Coroutine[Any, Any, Result], *, timeout_s: float = DEADLINE_S, loop_factory: LoopFactory | None = None
) -> Result:
    """Run a coroutine to its end on a new event loop: that of `steady_loop`, if no other is given.

    Raises:
        AssertionError: It was not done at its deadline. The text says where it waited.
    """
    with asyncio.Runner(loop_factory=loop_factory or new_steady_loop) as runner:
        return runner.run(_until_deadline(work, timeout_s))


async def _until_deadline(work: Awaitable[Result], timeout_s: float) -> Result:
    limit = asyncio.timeout(timeout_s)
    failure: Exception | None = None
    try:
        async with limit:
            result = await work
    except Exception as error:
        if not limit.expired():
            raise
        failure = error
    if limit.expired():  # even if it swallowed its cancellation, and ended in peace after that
        raise AssertionError(f"not done at its deadline, after {timeout_s:g} s{_place(failure)}") from failure
    return result


def _place(failure: Exception | None) -> str:
    """Where the work was when it was cancelled."""
    cancelled = failure.__cause__ if isinstance(failure, TimeoutError) else failure
    frames = traceback.extract_tb(cancelled.__traceback__ if cancelled is not None else None)[1:]
    return "".join(f"\n  it waited in {at.name}, {at.filename}:{at.lineno}: {at.line}" for at in frames)


def _in_loop(test: Callable[..., Coroutine[Any, Any, object]], deadline_s: float) -> Callable[..., object]:
    @functools.wraps(test)
    def example(*arguments: object, **named: object) -> object:
        return run(test(*arguments, **named), timeout_s=deadline_s)

    return example
