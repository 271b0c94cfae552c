"""The measured systems, one file each. `PEERS` is in the order of the pages; ours is first."""

from __future__ import annotations

from bench.peers.bare import Bare
from bench.peers.etcd import Etcd
from bench.peers.hashicorp_raft import HashicorpRaft
from bench.peers.library import Library
from bench.peers.peer import Peer
from bench.peers.pysyncobj import PySyncObj
from bench.peers.redis import Redis
from bench.peers.syncline import Syncline

_PEERS: tuple[Peer, ...] = (Syncline(), Etcd(), HashicorpRaft(), Library(), Bare(), PySyncObj(), Redis())

PEERS = {peer.name: peer for peer in _PEERS}
"""By name."""
