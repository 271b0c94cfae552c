"""The pytest plugin: the fixture `raft_cluster` for every project with Syncline installed.

It imports nothing of Syncline until a test asks for the fixture, so it costs other tests nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from syncline.testing.cluster import Settings
    from syncline.testing.fsm.run import MakeFSM
    from syncline.testing.raft_cluster import RaftCluster

__all__ = ["MakeCluster", "raft_cluster"]


class MakeCluster(Protocol):
    """The type of the fixture: call it for a cluster, more than once for several."""

    def __call__(
        self, machine: MakeFSM, *, nodes: int = 3, seed: int = 0, settings: Settings | None = None
    ) -> RaftCluster: ...


@pytest.fixture
def raft_cluster() -> Iterator[MakeCluster]:
    """Make clusters in memory, on virtual time: `cluster = raft_cluster(MyFSM)`. They are closed after the test."""
    from syncline.testing.raft_cluster import RaftCluster

    made: list[RaftCluster] = []

    def make(machine: MakeFSM, *, nodes: int = 3, seed: int = 0, settings: Settings | None = None) -> RaftCluster:
        made.append(RaftCluster(machine, nodes=nodes, seed=seed, settings=settings))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()
