"""The settings of a node, each declared once, with the limits of its value. Types and defaults stand in the structs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Meta

from syncline.node.settings.declare import setting
from syncline.storage.space import RESERVE_BYTES

__all__ = ["DECLARED", "LARGEST_MESSAGE_BYTES", "MIB"]

MIB: Final = 1 << 20

LARGEST_MESSAGE_BYTES: Final = 60 * MIB
"""Entries of one message in bytes: less than a frame of the transport (64 MiB), which has headers too."""

LARGEST_PENDING_BYTES: Final = 192 * MIB
"""Waiting proposals may go to the log in one write, which is one frame of it (256 MiB), guards and headers counted."""

SMALLEST_SEGMENT_BYTES: Final = 4 << 10
LARGEST_SEGMENT_BYTES: Final = 1 << 30
"""Size of a file of the log: smaller ones would be mostly head, larger ones are not read at once."""

LONGEST_ELECTION_S: Final = 3600.0
"""A cluster whose leader dies is without one for so long."""

SHORTEST_SESSION_S: Final = 1.0
LONGEST_SESSION_S: Final = 30 * 24 * 3600.0
"""A session that is idle for longer belongs to a caller that is gone."""

DECLARED: Final[Mapping[str, Meta]] = {
    # identity and addresses
    "name": setting("This node's name, unique in its cluster. For people; the id is what counts."),
    "data_dir": setting("Directory of its log and snapshots. One process at a time. A `pathlib.Path` is taken too."),
    "listen": setting('Address on which the node listens for peers: "host:port".'),
    "advertise": setting(
        "Where peers reach this node, if that is not `listen`: behind NAT, with a wildcard, by a host name."
    ),
    "http": setting("Where clients reach this node. Replicated to all members; empty: it serves none."),
    "peers": setting(
        'The members that the cluster starts with, by name: "host:port" each, this node among them. They make the'
        " cluster at the first start only. Later each address is a hint: it is dialled when its member does not answer"
        " where the cluster expects it."
    ),
    "cluster": setting(
        "The cluster's name. With the first members it makes the cluster's id: nodes of others are refused."
    ),
    "cluster_id": setting("The id of the running cluster to join; 0: none is joined."),
    "node_id": setting("The node's id, given by the cluster to join; 0: none is joined."),
    # timers
    "heartbeat_s": setting(
        "How often a leader sends heartbeats; also the resolution of every other timer.",
        trade_off="A short time costs messages and processor time on an idle cluster. A long one makes reads without"
        " traffic slower and asks for a longer election timeout.",
        ge=0.001,
        le=60,
    ),
    "election_s": setting(
        "A follower that hears nothing for one to two times this long becomes a candidate. At least twice, better ten"
        " times the heartbeat interval.",
        trade_off="A short time replaces a dead leader sooner. If it is near the pauses of disks, networks or the"
        " interpreter, leaders that live are replaced, and writes wait for each election.",
        ge=0.002,
        le=LONGEST_ELECTION_S,
    ),
    "session_idle_s": setting(
        "While this node leads, it ends sessions that were idle for so long. A retry in an ended session is not"
        " applied.",
        trade_off="A long time lets callers retry after long absences. The answers of their last commands are kept in"
        " memory and in snapshots for so long.",
        ge=SHORTEST_SESSION_S,
        le=LONGEST_SESSION_S,
    ),
    # limits of memory and messages
    "max_entry_bytes": setting(
        "The largest command. Larger ones are refused.",
        trade_off="Commands of hundreds of KiB already delay what waits behind them, heartbeats included.",
        why="to fit in a frame",
        ge=1,
        le=LARGEST_MESSAGE_BYTES,
    ),
    "max_message_bytes": setting(
        "Entries of one append message.",
        trade_off="Large messages give throughput, small ones don't delay heartbeats on a slow line.",
        why="to fit in a frame",
        ge=1,
        le=LARGEST_MESSAGE_BYTES,
    ),
    "max_inflight_messages": setting(
        "Append messages on their way to one follower.",
        trade_off="More of them fill a line with a long delay; each takes memory on the leader.",
        ge=1,
    ),
    "max_inflight_bytes": setting(
        "Bytes of append messages on their way to one follower.",
        trade_off="Throughput to a follower is at most this much for each round trip; memory of the leader for each"
        " follower.",
        ge=1,
    ),
    "max_uncommitted_bytes": setting(
        "Proposals in the leader's log that no quorum has yet; more are refused as `Dropped`.",
        trade_off="A high limit takes a longer burst; callers wait longer behind it.",
        ge=1,
    ),
    "max_pending_bytes": setting(
        "Proposals made on this node and not yet answered; more are refused as `Dropped`.",
        trade_off="A high limit takes a longer burst, in the memory of this process.",
        why="because all that waits may be one write to the log",
        ge=1,
        le=LARGEST_PENDING_BYTES,
    ),
    # log and snapshots
    "snapshot_entries": setting(
        "Take a snapshot after so many entries, or after `snapshot_bytes`, whichever is first.",
        trade_off="Rare snapshots make a start longer, because more entries are applied again. Frequent ones cost"
        " writes of the whole state.",
        ge=1,
    ),
    "snapshot_bytes": setting(
        "Take a snapshot after so many bytes of entries.",
        trade_off="As that of `snapshot_entries`; the log takes this much more disk between two snapshots.",
        ge=1,
    ),
    "snapshots_retained": setting(
        "Snapshots kept on disk.",
        trade_off="With one there is no older copy if the newest can't be read. Each takes the disk space of the"
        " state.",
        ge=1,
    ),
    "trailing_entries": setting(
        "Entries kept in the log behind a snapshot.",
        trade_off="With many a follower that was away briefly needs no snapshot. They take disk space.",
        ge=0,
    ),
    "segment_bytes": setting(
        "Size of a file of the log. Each is reserved on the disk as a whole.",
        trade_off="Large files are begun and deleted less often. Small ones give disk space back sooner, which matters"
        " on small disks.",
        ge=SMALLEST_SEGMENT_BYTES,
        le=LARGEST_SEGMENT_BYTES,
    ),
    "reserve_bytes": setting(
        "Disk space that writes never use: below it they are refused, and reads go on. 0: a full disk stops the node.",
        trade_off=f"A large reserve stops writes earlier, and leaves room to take a snapshot and recover"
        f" ({RESERVE_BYTES >> 20} MiB do for most).",
        ge=0,
    ),
    "log_sync": setting(
        "What syncs the log: the kernel beside the node (Linux; if it can't, a thread does, with a warning), a thread,"
        " or auto: the kernel if it offers that.",
        trade_off="The kernel saves processor time on each write. A sandbox that ends a process for such a system call"
        " needs thread.",
    ),
    # protection
    "peer_tls": setting("Mutual TLS between the nodes."),
    "secret": setting(
        "The cluster secret, the same on all nodes: at least 32 random bytes. Peers prove that they know it. Of"
        " several, the first is used and all are accepted, for a change of the secret without a stop. Never shown."
    ),
    "insecure_peers": setting(
        "Listen beyond loopback with neither a secret nor TLS: any program that reaches the peer port can take part."
    ),
    "peer_auth": setting(
        "With a secret: accept lets peers without a proof in too, for the one rolling restart that brings it in."
    ),
    "hold_level": setting(
        "While this node leads, the cluster's feature level does not rise above this, and its machine version not at"
        " all (docs/upgrades.md).",
        default="0, which holds nothing: both rise as soon as all members can do more",
        trade_off="As long as it holds, an older version can still be started. New features wait.",
        ge=0,
    ),
    # protection, as it is given in a file
    "peer_secret": setting(
        "The cluster secret as text, hexadecimal digits or base64, for the environment: SYNCLINE_PEER_SECRET. Never"
        " shown, and no flag: every user of the machine would see it."
    ),
    "peer_secret_file": setting(
        "File of mode 0600 with the cluster secret, the same on all nodes, or SYNCLINE_PEER_SECRET: see"
        " 'syncline secret new'."
    ),
    "tls_dir": setting(
        "Directory of 'syncline certs': its ca.pem, NAME.pem and NAME.key serve where no other files are given."
    ),
    "peer_tls_cert": setting("PEM file: with `peer_tls_key` and `peer_tls_ca`, the nodes speak mutual TLS."),
    "peer_tls_key": setting("PEM file with the private key of `peer_tls_cert`."),
    "peer_tls_ca": setting("PEM file with the authority of all nodes' certificates."),
    "insecure": setting("The same as `insecure_peers` and `insecure_clients` together."),
}
"""By name. `Config`, the settings of a server and `PeerFiles` have those that they need."""
