"""Every planted bug: those of the first list, and those that came later."""

from __future__ import annotations

from tests.mutations.catalogue import MUTATIONS, Mutation
from tests.mutations.coordination import COORDINATION
from tests.mutations.failover import FAILOVER
from tests.mutations.history_bugs import HISTORY
from tests.mutations.http import HTTP
from tests.mutations.leases import LEASES
from tests.mutations.machines import MACHINES
from tests.mutations.newer import NEWER
from tests.mutations.sessions import SESSIONS
from tests.mutations.watches import WATCHES

__all__ = ["ALL"]

ALL: tuple[Mutation, ...] = (
    *MUTATIONS,
    *NEWER,
    *FAILOVER,
    *HISTORY,
    *HTTP,
    *LEASES,
    *SESSIONS,
    *MACHINES,
    *WATCHES,
    *COORDINATION,
)
