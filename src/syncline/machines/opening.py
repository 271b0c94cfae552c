"""`syncline.open`: a replicated state machine on the engine that a URL names."""

from __future__ import annotations

from typing import TypeVar, cast

from syncline.engines.backends import make_backend
from syncline.engines.protocol import Engine
from syncline.engines.replica import open_log
from syncline.engines.urls import RAFT, is_url, raft_file
from syncline.errors import ConfigError
from syncline.node.arguments import check_world
from syncline.node.fsm import FSM
from syncline.node.raft import Raft
from syncline.node.settings.load import config_of
from syncline.node.startups import Startup
from syncline.platform.world import World

__all__ = ["open"]

R = TypeVar("R")
"""What the state machine answers."""


def open(url: str, machine: FSM[R], *, world: World | None = None) -> Startup[Engine[R]]:  # noqa: A001 - its name
    """Start a node of a state machine on the engine that `url` names (docs/engines.md).

        replica = await syncline.open("raft:cluster.toml", Counter())       # the caller calls `close`
        async with syncline.open("etcd://10.0.0.1:2379/jobs", Counter()) as replica:
            answer = await replica.apply(b"1")

    | url | engine |
    | --- | --- |
    | `raft:cluster.toml` | Syncline's own Raft: `Raft.open` with the settings of the file |
    | `etcd://HOST:PORT,HOST:PORT/LOG` | an etcd cluster; `etcds://` with TLS |
    | `postgresql://USER@HOST/DATABASE?log=LOG` | a PostgreSQL server |
    | `memory:`, `memory:NAME` | the memory of this process, for tests |

    On return the state machine has everything that was in the log at the call. `world` replaces what is outside the
    node, for tests.

    Raises:
        ConfigError: this is no URL of an engine, a library is missing, or the backend refuses the credentials. Or it
            has settings with which it may lose data. Nothing was written.
        TypeError: `machine` is no state machine.
        Unreachable: no server answers (`not_applied`).
        NodeFailed: the log is of another machine, or the state machine can't apply it.
        StorageError, OSError: as `Raft.open` does.
    """
    if not isinstance(url, str):
        raise ConfigError(f"url must be a text such as 'raft:cluster.toml', not {type(url).__name__}")
    if url.startswith(RAFT):
        return cast("Startup[Engine[R]]", Raft.open(config_of(raft_file(url)), machine, world=world))
    if not is_url(url):
        raise ConfigError(f"{url!r} is no URL of an engine: for the settings of a node of Raft write raft:{url}")
    if world is not None:
        check_world(world)
    made = world or World()
    return cast("Startup[Engine[R]]", open_log(make_backend(url, made.rng), machine, world=made))
