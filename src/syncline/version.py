"""The version of this program."""

from __future__ import annotations

__all__ = ["FEATURE_LEVEL", "__version__"]

__version__ = "0.1.0"

FEATURE_LEVEL = 2
"""The highest feature level that this version can do (`node.levels`). It rises when others must read something new.

1: log and snapshots in format 2, peer protocol 2 (members check the term of a forward), announced levels. The level of
each new cluster.
2: the leader's stamp on entries (`node.entry_stamps`); a snapshot is restored into a live cluster by entries of the log
(`node.restore_entries`).
"""
