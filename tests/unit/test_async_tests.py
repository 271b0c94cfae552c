"""Tests that are `async def` functions can fail: at an assertion, at their deadline, at a wrong mark."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.async_tests import run

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = "from tests.conftest import loop_factory, pytest_pyfunc_call"
SETTINGS = """
[pytest]
addopts = --strict-markers
filterwarnings = error
markers =
    deadline(seconds): as in pyproject.toml
"""
SAMPLES = """
import asyncio
import pytest
from hypothesis import given, settings, strategies as st

@pytest.fixture
def three():
    return 3

async def test_passes(three):
    await asyncio.sleep(0)
    assert three == 3

async def test_assertion_fails(three):
    await asyncio.sleep(0)
    assert three == 4, "three is not four"

@pytest.mark.parametrize("number", [1, 2])
async def test_one_parameter_fails(number):
    assert number == 1

class TestClass:
    async def test_method_fails(self):
        assert self is None

@pytest.mark.usefixtures("loop_factory")
async def test_loop_of_asyncio_passes():
    assert "uvloop" not in type(asyncio.get_running_loop()).__module__

@given(st.integers(min_value=0, max_value=9))
@settings(max_examples=200, deadline=None)
async def test_an_example_fails(number):
    await asyncio.sleep(0)
    assert number != 7

@given(st.integers(min_value=0, max_value=9))
@settings(max_examples=10, deadline=None)
async def test_examples_pass(number):
    await asyncio.sleep(0)
    assert number < 10

@pytest.mark.deadline(0.05)
async def test_hanging_fails():
    await asyncio.Event().wait()

@pytest.mark.deadline(0.05)
async def test_late_and_calm_fails():
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass

@pytest.mark.deadline("soon")
async def test_wrong_deadline_fails():
    pass

async def test_own_time_limit_fails():
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()

async def test_loop_is_closed_with_its_tasks(request):
    async def waiting():
        try:
            await asyncio.Event().wait()
        finally:
            print("the task has ended")
    request.config.task = asyncio.ensure_future(waiting())
    request.config.loop = asyncio.get_running_loop()
    await asyncio.sleep(0)

def test_loop_was_closed(request):
    assert request.config.loop.is_closed()
    assert request.config.task.cancelled()

async def test_value_that_is_returned_fails():
    return 1
"""
OUTCOMES = {
    "test_passes": "PASSED",
    "test_assertion_fails": "FAILED",
    "test_one_parameter_fails[1]": "PASSED",
    "test_one_parameter_fails[2]": "FAILED",
    "TestClass::test_method_fails": "FAILED",
    "test_loop_of_asyncio_passes[asyncio]": "PASSED",
    "test_loop_of_asyncio_passes[uvloop]": "FAILED",
    "test_an_example_fails": "FAILED",
    "test_examples_pass": "PASSED",
    "test_hanging_fails": "FAILED",
    "test_late_and_calm_fails": "FAILED",
    "test_wrong_deadline_fails": "FAILED",
    "test_own_time_limit_fails": "FAILED",
    "test_loop_is_closed_with_its_tasks": "PASSED",
    "test_loop_was_closed": "PASSED",
    "test_value_that_is_returned_fails": "FAILED",
}


def test_async_tests_fail_as_other_tests_do(tmp_path: Path) -> None:
    """A run of pytest over samples: each has the outcome that its name says."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_samples.py").write_text(SAMPLES)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    outcomes = dict(re.findall(r"^test_samples\.py::(\S+) (PASSED|FAILED)", done.stdout, re.MULTILINE))
    assert outcomes == OUTCOMES, done.stdout + done.stderr
    assert "AssertionError: three is not four" in done.stdout
    assert "not done at its deadline, after 0.05 s" in done.stdout
    assert "@pytest.mark.deadline(60.0)" in done.stdout


def test_work_at_its_deadline_is_told_where_it_waited() -> None:
    async def inner() -> None:
        await asyncio.Event().wait()  # for ever

    async def outer() -> None:
        await inner()

    with pytest.raises(AssertionError, match=r"after 0\.02 s\n") as caught:
        run(outer(), timeout_s=0.02)
    places = re.findall(r"it waited in (\w+), .*: (.*)", str(caught.value))
    assert places[0] == ("outer", "await inner()")
    assert places[1][0] == "inner"


def test_work_that_fails_while_it_is_cancelled_is_late_all_the_same() -> None:
    """What went wrong first is its deadline. What its cleanup said is the cause."""

    async def scenario() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("the cleanup failed")

    with pytest.raises(AssertionError, match="not done at its deadline") as caught:
        run(scenario(), timeout_s=0.02)
    assert isinstance(caught.value.__cause__, ValueError)
