"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest

from tests.helpers.transport import Run, runner


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine with a deadline on a fresh loop of each kind that a node may run on."""
    return runner(str(request.param))
