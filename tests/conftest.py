"""What holds for all tests."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.conformance.corpus import corpus_folder, missing_text, traces_in
from tests.helpers.async_tests import LoopFactory, call_test
from tests.helpers.steady_loop import new_steady_loop

FILE_LIMIT_S = 600.0
"""Processor time of one file's tests and of the programs that they start: ten times what the longest file takes. It is
not the time on a clock: on a busy machine that grew to ten minutes for a minute's work. What hangs has a limit of its
own (`timeout` in `pyproject.toml`)."""

_began: dict[Path, float] = {}
"""The processor time of this process when the first test of each file began."""

SLOW = [HealthCheck.too_slow]
"""It counts the time on a clock in which examples are drawn, and a process that is stopped draws none."""

settings.register_profile("syncline", deadline=None, suppress_health_check=SLOW)  # a busy machine is no error
settings.load_profile("syncline")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A node takes as long to compile Syncline as it takes for all the rest of its start. So where the caller keeps Python
# from writing compiled modules, those that tests start keep theirs out of the source tree, in the environment's folder.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", os.path.join(sys.prefix, "bytecode"))


COLLECT_EVERY = 10_000
"""New objects between two looks for cycles, as in a node (`syncline.platform.interpreter`). The usual 700 cost the
simulator a sixth of its time."""

gc.set_threshold(COLLECT_EVERY)


def pytest_collection_finish() -> None:
    """Exempt the thousands of collected tests and all modules from garbage collection: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail the rest of a file that takes too long: one slow test after another is noticed by nobody else."""
    used = os.times()
    now = used.user + used.system + used.children_user + used.children_system
    took_s = now - _began.setdefault(item.path, now)
    if took_s > FILE_LIMIT_S and item.get_closest_marker("slow") is None:
        text = f"its tests have taken {took_s:.0f} s of processor time, and the limit is {FILE_LIMIT_S:.0f} s"
        pytest.fail(f"{item.path.name}: {text}")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test that leaves Ctrl-C to another handler: later tests of the same process would hang."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pytest.fail(f"{item.nodeid}: SIGINT has another handler than before")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is an `async def` function on a loop of its own, until its deadline."""
    return call_test(pyfuncitem)


@pytest.fixture(params=[new_steady_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """For `usefixtures`: the test runs on a loop of asyncio, and again on one of uvloop."""
    factory: LoopFactory = request.param
    return factory


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, in red, that the core was not compared with etcd/raft: a skipped test is seen by nobody."""
    if not traces_in(corpus_folder()):
        terminalreporter.section("the recorded traces are missing", sep="!", red=True, bold=True)
        terminalreporter.line(missing_text(), red=True)
