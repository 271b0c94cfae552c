"""The pytest plugin, for every project with Syncline installed: `raft_cluster`, `syncline_cluster` and `kv`, and the
option `--syncline-guard`.

It imports nothing of Syncline until a test asks for a fixture, or the option is given, so it costs other tests nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from syncline.client import Client
    from syncline.node.fsm import FSM
    from syncline.testing.cluster import Settings
    from syncline.testing.process_cluster import ProcessCluster
    from syncline.testing.raft_cluster import RaftCluster

    M = TypeVar("M", bound=FSM[object])

__all__ = ["MakeCluster", "kv", "raft_cluster", "syncline_cluster"]

SCOPE_SETTING: Final = "syncline_cluster_scope"
_Scope = Literal["function", "module", "session"]
SCOPES: Final[dict[str, _Scope]] = {"function": "function", "module": "module", "session": "session"}


GUARD_SETTING: Final = "syncline_guard"
GUARD_OPTION: Final = "--syncline-guard"
GUARD_HELP: Final = "fail a test in which a state machine reads the clock, random numbers, files or the environment"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings: how long a cluster of processes lives, and whether state machines are guarded."""
    parser.addini(GUARD_SETTING, GUARD_HELP, type="bool", default=False)
    parser.getgroup("syncline").addoption(GUARD_OPTION, action="store_true", help=GUARD_HELP)
    parser.addini(SCOPE_SETTING, "how long a `syncline_cluster` lives: function, module or session", default="function")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a setting that can't be used, and guard state machines if that is asked for."""
    given = str(config.getini(SCOPE_SETTING))
    if given not in SCOPES:
        raise pytest.UsageError(f"{SCOPE_SETTING} is {given!r}: accepted are {', '.join(SCOPES)}")
    config.addinivalue_line("markers", "syncline_unguarded: let state machines of this test be, with --syncline-guard")
    if config.getoption(GUARD_OPTION) or config.getini(GUARD_SETTING):
        from syncline.testing.fsm.guarded_run import GuardedRun

        run = GuardedRun()
        config.pluginmanager.register(run, "syncline-guard")
        config.add_cleanup(run.close)


def _scope(fixture_name: str, config: pytest.Config) -> _Scope:  # noqa: ARG001 - pytest's form
    return SCOPES[str(config.getini(SCOPE_SETTING))]


class MakeCluster(Protocol):
    """The type of the fixture: call it for a cluster, more than once for several."""

    def __call__(
        self, machine: Callable[[], M], *, nodes: int = 3, seed: int = 0, settings: Settings | None = None
    ) -> RaftCluster[M]: ...


@pytest.fixture
def raft_cluster() -> Iterator[MakeCluster]:
    """Make clusters in memory, on virtual time: `cluster = raft_cluster(MyFSM)`. They are closed after the test."""
    from syncline.testing.raft_cluster import RaftCluster

    made: list[RaftCluster] = []

    def make(
        machine: Callable[[], M], *, nodes: int = 3, seed: int = 0, settings: Settings | None = None
    ) -> RaftCluster[M]:
        cluster = RaftCluster(machine, nodes=nodes, seed=seed, settings=settings)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope=_scope)
def _syncline_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    """Three nodes, for one test, one module, or the whole run."""
    from syncline.testing.process_cluster import ProcessCluster

    with ProcessCluster(str(tmp_path_factory.mktemp("syncline"))) as cluster:
        yield cluster


@pytest.fixture
def syncline_cluster(_syncline_processes: ProcessCluster) -> ProcessCluster:
    """A cluster of three real nodes on loopback, all of which serve, whatever an earlier test did to them."""
    _syncline_processes.heal()
    return _syncline_processes


@pytest.fixture
def kv(syncline_cluster: ProcessCluster) -> Client:
    """A blocking client of `syncline_cluster`. The store is empty: no key and no lease of an earlier test is left."""
    syncline_cluster.clear()
    return syncline_cluster.client()
