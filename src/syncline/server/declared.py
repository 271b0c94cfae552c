"""The settings of a server, each declared once, with the limits of its value: those of a node, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Meta

from syncline.kv.commands import MAX_KEY_BYTES, MAX_VALUE_BYTES
from syncline.node.settings.declare import setting
from syncline.node.settings.declared import DECLARED

__all__ = ["DECLARED_BY_SERVER"]

LARGEST_HISTORY_REVISIONS: Final = 1_000_000_000
"""Each revision takes memory: this is more than any machine has."""

OWN: Final[Mapping[str, Meta]] = {
    # clients
    "http_listen": setting(
        "HOST:PORT on which it listens for clients. Port 0: any free one. Empty: none, for a node mounted as ASGI."
    ),
    "http_advertise": setting("URL by which clients and members reach this server, if that is not `http_listen`."),
    "allowed_hosts": setting(
        "Names under which clients may ask a server that listens on loopback, beside localhost, loopback addresses and"
        " the host of `http_advertise`; by comma, * for any. Given for another listener they hold there too."
    ),
    "allowed_origins": setting(
        "Origins of web pages that may read and change what is here, such as https://console.example; by comma, * for"
        " any."
    ),
    "etcd_api": setting(
        "Whether clients of etcd are served on the same port: `loopback` does so if the server listens on a loopback"
        " address, on at any, off never."
    ),
    "console": setting(
        "The web console at /console: on, off, or read-only, whose page shows no button that changes something. It does"
        " what the HTTP interface allows for the same credential."
    ),
    "console_lab": setting(
        "URL of the program that kills and starts nodes for the console's page Learn. `syncline up` sets it."
    ),
    "http_tls_cert": setting("PEM file: with `http_tls_key`, clients are served over TLS."),
    "http_tls_key": setting("PEM file with the private key of `http_tls_cert`."),
    "http_tls_ca": setting("PEM file: clients must show a certificate of these authorities."),
    "insecure_clients": setting("Let any machine that reaches the port for clients do everything, without TLS."),
    "max_connections": setting(
        "Clients at a time; more are answered 503.", trade_off="Each takes a descriptor and memory.", ge=1
    ),
    "max_requests": setting(
        "Requests of all clients that are answered at a time; more are answered 503 at once.",
        trade_off="A high limit takes a longer burst, and the last of it waits longer.",
        ge=1,
    ),
    "max_user_requests": setting(
        "The same of one user, where clients need credentials; more are answered 429 at once.",
        trade_off="A limit below `max_requests` leaves room for the other users.",
        ge=1,
    ),
    "max_user_write_bytes": setting(
        "Bytes of one user's writes that are answered at a time, where clients need credentials; more are answered 429"
        " at once. A single write is taken in any case.",
        trade_off="A node has room for 64 MiB of proposals: a limit below leaves some of it for the other users.",
        ge=1,
    ),
    "max_watches": setting("Watches of all clients; more are answered 429.", trade_off="Each takes a kilobyte.", ge=1),
    "max_user_watches": setting(
        "Watches of one user, where clients need credentials; more are answered 429.",
        trade_off="As that of `max_user_requests`.",
        ge=1,
    ),
    "max_held_bytes": setting(
        "Bodies and answers of all clients in memory; above it requests are answered 503.",
        trade_off="A high limit takes more large requests at a time.",
        ge=1,
    ),
    "drain_s": setting(
        "How long requests may take to end when the server is stopped.",
        trade_off="A long time loses no answer, and delays a restart that waits for a slow request. With the default a"
        " stop takes less than 5 seconds: a leadership transfer takes at most 2.",
        ge=0,
        le=600,
    ),
    # peers and members
    "peer_listen": setting("HOST:PORT on which it listens for other nodes."),
    "peer_advertise": setting("HOST:PORT by which other nodes reach it, if that is not `peer_listen`."),
    "initial_cluster": setting(
        "Start a cluster: a=HOST:PORT,b=HOST:PORT,…, the same on all nodes. Hints at later starts."
    ),
    "join": setting(
        "Join a running cluster: URLs of any of its members, by comma. At later starts they are asked for addresses,"
        " while the node has no leader."
    ),
    "join_tls_ca": setting("PEM file: authorities to trust for `join` over https, instead of the system's."),
    "join_token_file": setting(
        "File with a token, of mode 0600, for `join` where clients need credentials: its user needs the permissions"
        " status and members."
    ),
    "join_as_learner": setting("true: stay a learner, which serves reads and never votes."),
    "join_timeout_s": setting("How long to try to join.", gt=0, le=86_400),
    # keys and values
    "max_store_bytes": setting(
        "Memory for keys and values: keys, values and 384 bytes for each key. Above it the leader refuses puts (507"
        " no_space); deletes pass.",
        default="half of this machine's memory, or of its control group's",
        trade_off="Give all nodes the same limit, one that the smallest can hold.",
        ge=0,
    ),
    "history_revisions": setting(
        "Revisions that can be read, while this node leads. Older ones are compacted, also if there are more than"
        " `history_bytes`.",
        trade_off="A long history lets watches resume after long absences, and takes memory.",
        ge=1,
        le=LARGEST_HISTORY_REVISIONS,
    ),
    "history_bytes": setting(
        "Bytes of older versions of values, while this node leads. Up to a tenth more is kept for a while.",
        trade_off="As that of `history_revisions`.",
        ge=0,
    ),
    "max_key_bytes": setting("The longest key.", ge=1, le=MAX_KEY_BYTES),
    "max_value_bytes": setting(
        "The largest value.",
        trade_off="Values of megabytes delay all that waits behind them.",
        ge=1,
        le=MAX_VALUE_BYTES,
    ),
    # log lines
    "log_level": setting("Log lines of this level and above are written."),
    "log_format": setting("Form of the log lines."),
    "slow_request_s": setting(
        "Requests that take as long are logged, with the time of each stage, 20 in ten seconds; 0: none.",
        trade_off="A short time shows more, and fills the log of a node under load.",
        ge=0,
        le=3600,
    ),
    "traces": setting(
        "true: make spans of requests, for OpenTelemetry (`syncline[otel]`).",
        trade_off="Each request takes tens of microseconds more.",
    ),
}

DECLARED_BY_SERVER: Final[Mapping[str, Meta]] = {**DECLARED, **OWN}
"""By name. `ServerConfig` has its types and defaults."""
