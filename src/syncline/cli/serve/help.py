"""The help text of each setting for `serve --help`. Defaults are taken from the settings themselves."""

from __future__ import annotations

from typing import Final

import msgspec

from syncline.server.config import ServerConfig

__all__ = ["help_of"]

_HELP: Final = {
    "name": "This node's name in the cluster.",
    "data_dir": "Directory of its log and snapshots.",
    "cluster": "The cluster's name, part of its identity.",
    "http_listen": "HOST:PORT on which it listens for clients.",
    "http_advertise": "URL by which clients reach it, if that differs.",
    "http_tls_cert": "PEM file: with --http-tls-key, clients are served over TLS.",
    "http_tls_key": "PEM file with the private key.",
    "allowed_hosts": "Further host names by which clients may call a server on loopback, by comma; * for any.",
    "allowed_origins": "Origins of web pages that may use this server, by comma; * for any.",
    "peer_listen": "HOST:PORT on which it listens for other nodes.",
    "peer_advertise": "HOST:PORT by which other nodes reach it, if that differs.",
    "peer_tls_cert": "PEM file: with the next two, the nodes speak mutual TLS.",
    "peer_tls_key": "PEM file with the private key.",
    "peer_tls_ca": "PEM file with the authority of all nodes' certificates.",
    "peer_secret_file": "File with the cluster secret (mode 0600), or SYNCLINE_PEER_SECRET: see 'syncline secret new'.",
    "peer_auth": "require, or accept: take peers without a proof too, for one rolling restart.",
    "insecure_peers": "Let any machine that reaches the peer port take part: no secret, no TLS.",
    "insecure": "The same as --insecure-peers.",
    "initial_cluster": "Start a cluster: a=HOST:PORT,b=HOST:PORT,…, the same on all nodes. Hints at later starts.",
    "join": "Join a cluster: URLs of any of its members. Hints at later starts.",
    "join_tls_ca": "PEM file: authorities to trust for --join over https, instead of the system's.",
    "join_as_learner": "true: stay a learner, which serves reads and never votes.",
    "join_timeout_s": "How long to try to join.",
    "heartbeat_s": "How often a leader sends heartbeats.",
    "election_s": "A follower that hears nothing for one to two times this long becomes a candidate.",
    "snapshot_entries": "Take a snapshot after so many entries, or",
    "snapshot_bytes": "after so many bytes of entries, whichever is first.",
    "snapshots_retained": "Snapshots kept on disk.",
    "trailing_entries": "Entries kept in the log behind a snapshot.",
    "segment_bytes": "Size of a file of the log; each is reserved on the disk as a whole.",
    "reserve_bytes": "Disk space that writes never use: below it they are refused, and reads go on.",
    "log_sync": "What syncs the log: auto, kernel or thread.",
    "max_store_bytes": "Memory for keys and values, in bytes; above it puts are refused.",
    "hold_level": "After an upgrade, keep the cluster at this level until 'syncline upgrade finalize'.",
    "max_key_bytes": "The longest key.",
    "max_value_bytes": "The largest value.",
    "max_connections": "Clients at a time; more are answered 503.",
    "max_held_bytes": "Bodies and answers of all clients in memory; above it requests are answered 503.",
    "drain_s": "How long requests may take to end when the server is stopped.",
    "log_level": "debug, info, warning or error.",
    "log_format": "text or json.",
}

_DEFAULTS: Final = {
    field.name: field.default
    for field in msgspec.structs.fields(ServerConfig)
    if isinstance(field.default, str | int | float) and not isinstance(field.default, bool)
}

_CHOSEN: Final = {
    "max_store_bytes": "half of this machine's memory, or of its control group's",
    "hold_level": "0, which holds nothing",
}
"""Settings whose default has a special meaning, and that meaning."""


def help_of(setting: str) -> str | None:
    """The description of a setting, with its unit and its default; None if it has none."""
    text = _HELP.get(setting)
    default = _DEFAULTS.get(setting, "")
    if text is None or default == "":
        return text
    if chosen := _CHOSEN.get(setting):
        return f"{text}  [default: {chosen}]"
    unit = " s" if setting.endswith("_s") else " bytes" if setting.endswith("_bytes") else ""
    return f"{text}  [default: {default}{unit}]"
