"""Locks of stores on Raft: processes that hold them are killed and stopped. `make compat` has the other engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.store_holders import RAFT_TTL_S, raft_urls, survive_holders

pytestmark = [pytest.mark.timeout(580), pytest.mark.deadline(560.0)]


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_store_lock_on_raft_passes_on_when_its_holder_goes(rounds: int, tmp_path: Path) -> None:
    await survive_holders(raft_urls(tmp_path), rounds, RAFT_TTL_S)
