"""The measured systems, one file each. `PEERS` is in the order of the pages; ours is first."""

from __future__ import annotations

from bench.peers.etcd import Etcd
from bench.peers.hashicorp_raft import HashicorpRaft
from bench.peers.peer import Peer
from bench.peers.syncline import Syncline

PEERS: dict[str, Peer] = {peer.name: peer for peer in (Syncline(), Etcd(), HashicorpRaft())}
"""By name."""
