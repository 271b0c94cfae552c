"""Every planted bug: those of the first list, and those that came later."""

from __future__ import annotations

from tests.mutations.catalogue import MUTATIONS, Mutation
from tests.mutations.failover import FAILOVER
from tests.mutations.newer import NEWER

__all__ = ["ALL"]

ALL: tuple[Mutation, ...] = (*MUTATIONS, *NEWER, *FAILOVER)
