"""Everything outside a node, a server or a client, in one value: what a test may replace."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from syncline.platform.disk import Disk, OsDisk
from syncline.platform.entropy import Entropy, system_entropy
from syncline.platform.network import Network, TcpNetwork
from syncline.platform.worker import ThreadWorkers, Workers
from syncline.version import FEATURE_LEVEL

__all__ = ["World"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a node, a server or a client reaches outside it. `World()` is the real one; a test replaces a part.

        raft = await Raft.open(config, fsm, world=World(rng=random.Random(1)))

    `syncline.testing` exports the protocols of its parts, which may change from release to release.
    """

    disk: Disk = field(default_factory=OsDisk)
    network: Network = field(default_factory=TcpNetwork)
    workers: Workers = field(default_factory=ThreadWorkers)
    rng: random.Random = field(default_factory=random.Random)
    """For timers and ids. Secrets are made of `entropy`."""
    entropy: Entropy = system_entropy
    digest_interval: int | None = None
    """Entries from one comparison of the members' states to the next, the same on all nodes; None: as usual."""
    feature_level: int = FEATURE_LEVEL
    """What this version can do. Tests run nodes of several versions side by side."""
    wall_time_s: Callable[[], float] = time.time
    """Seconds since 1970, UTC. It is read for what people plan by the clock (`kv.once`, `kv.every`, `Raft.every`), and
    by a leader for the time of entries (`Entry.time_s`). No timer uses it."""
