"""The plan of `up`: its nodes with their ports and files. Decided once and kept in the data directory.

    D/up.json            the port and the nodes' names, for the next start
    D/up.pid             locked while `up` runs, with its process id
    D/up.log             the output of `up --detach`
    D/certs/             with --tls: an authority, and the certificates of the nodes
    D/peer-secret        the cluster secret: reaching a node's port does not make a program a member
    D/<name>/            a node's data directory, with its settings (node.toml) and its log beside its data

`D` is the directory that `up` is given.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import socket
import sys
from typing import Final

import msgspec

from syncline.cli.certificates import AUTHORITY_DAYS, CERTIFICATE_DAYS, make_authority, make_node
from syncline.decoding import UNDECODABLE
from syncline.errors import ConfigError, StorageError
from syncline.kv.serving.memory import MEMORY_SHARE
from syncline.node.secret_file import write_secret_file
from syncline.node.tls_directory import authority_path, certificate_path
from syncline.platform.disk import Disk
from syncline.platform.memory import memory_bytes
from syncline.platform.texts import counted
from syncline.storage.atomic_file import replace_file
from syncline.storage.datadir import IDENTITY_NAME

__all__ = [
    "MAX_NODES",
    "DEFAULT_DATA_DIR",
    "NodePlan",
    "UpPlan",
    "command_for",
    "command_line",
    "free_ports_or_raise",
    "make_plan",
    "note_started",
    "write_plan",
]

HOST: Final = "127.0.0.1"
DEFAULT_DATA_DIR: Final = "syncline-data"
DEFAULT_NODES: Final = 3
DEFAULT_PORT: Final = 8080
PEER_PORT_OFFSET: Final = 100
MAX_NODES: Final = 9
"""More voters only slow a cluster down; it bounds the ports that are taken, too."""

PLAN_NAME: Final = "up.json"
LOCK_NAME: Final = "up.pid"
LOG_NAME: Final = "up.log"
TLS_DIRECTORY: Final = "certs"
SECRET_FILE: Final = "peer-secret"  # noqa: S105 - a name, not a secret
HIGHEST_PORT: Final = 65535

SEGMENT_BYTES: Final = 4 << 20
"""Segment size of the nodes' logs: all of them are on one disk, for trials. A node's default would take 64 MiB of it
at once."""


class NodePlan(msgspec.Struct, frozen=True):
    """One node: its name, directory and ports. `join`: it enters the cluster of the nodes before it.

    `lost`: it started the cluster, and its data is gone. Only a repair brings it back.
    """

    name: str
    data_dir: str
    http_port: int
    peer_port: int
    join: bool
    lost: bool
    tls: bool = False

    @property
    def http_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.http_port}"

    @property
    def peer_address(self) -> str:
        return f"{HOST}:{self.peer_port}"

    @property
    def config_path(self) -> str:
        return os.path.join(self.data_dir, "node.toml")

    @property
    def log_path(self) -> str:
        return os.path.join(self.data_dir, "log")


class UpPlan(msgspec.Struct, frozen=True):
    """All nodes, in order. The first `founders` of them start the cluster, the others join it.

    `started`: the cluster was up once. From then on an initial member whose data is gone must join as a new
    node: under its old identity it could vote twice in a term, or lose an acknowledged entry.
    """

    data_dir: str
    port: int
    founders: int
    started: bool
    nodes: list[NodePlan]
    tls: bool = False
    etcd_api: str = ""
    """Where the nodes serve clients of etcd; empty: as `serve` does by default."""
    lab: str = ""
    """The URL of the lab's door of this run; empty: there is none."""
    lab_token: str = ""
    """What a request to the door must show."""

    @property
    def tls_dir(self) -> str:
        return os.path.abspath(os.path.join(self.data_dir, TLS_DIRECTORY))

    @property
    def authority_path(self) -> str:
        """The authority that clients trust; empty without TLS."""
        return authority_path(os.path.join(self.data_dir, TLS_DIRECTORY)) if self.tls else ""

    @property
    def secret_path(self) -> str:
        return os.path.abspath(os.path.join(self.data_dir, SECRET_FILE))

    @property
    def absolute_dir(self) -> str:
        return os.path.abspath(self.data_dir)

    @property
    def plan_path(self) -> str:
        return os.path.join(self.data_dir, PLAN_NAME)

    @property
    def lock_path(self) -> str:
        return os.path.join(self.data_dir, LOCK_NAME)

    @property
    def own_log_path(self) -> str:
        return os.path.join(self.data_dir, LOG_NAME)

    @property
    def endpoints(self) -> str:
        return ",".join(node.http_url for node in self.nodes)


class _Kept(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The content of `up.json`."""

    port: int
    founders: int
    nodes: int
    started: bool = False
    tls: bool = False
    etcd_api: str = ""


def make_plan(
    data_dir: str, *, nodes: int | None, port: int | None, tls: bool = False, etcd_api: str | None = None
) -> UpPlan:
    """The plan for a directory: the kept one, with further nodes if more are asked for. Nothing is written.

    `tls`: from this start on, nodes and clients speak TLS. A cluster that has it keeps it. `etcd_api`: from this start
    on, the setting of that name; None: as before.

    Raises `ConfigError` if the options contradict the kept plan, `StorageError` if `up.json` can't be read.
    """
    if not data_dir.isprintable():
        raise ConfigError(f"--data-dir {data_dir!r}: its name must be printable text")
    kept = _read_kept(data_dir)
    if kept is None:
        count = nodes or DEFAULT_NODES
        kept = _Kept(port=port or DEFAULT_PORT, founders=count, nodes=count)
    else:
        if port is not None and port != kept.port:
            raise ConfigError(
                f"--port {port}: the nodes in {data_dir} know each other under the ports from {kept.port} on; "
                "leave --port out, or choose another --data-dir"
            )
        if nodes is not None and nodes < kept.nodes:
            raise ConfigError(
                f"--nodes {nodes}: the cluster in {data_dir} has {counted(kept.nodes, 'node')}; leave --nodes out, or"
                " choose another --data-dir (members are removed with 'syncline member remove')"
            )
        kept.nodes = max(kept.nodes, nodes or 0)
    kept.tls = kept.tls or tls
    kept.etcd_api = kept.etcd_api if etcd_api is None else etcd_api
    highest = kept.port + PEER_PORT_OFFSET + kept.nodes - 1
    if highest > HIGHEST_PORT:
        raise ConfigError(f"--port {kept.port}: ports up to {highest} are needed, {HIGHEST_PORT} is the last one")
    return UpPlan(
        data_dir=data_dir,
        port=kept.port,
        founders=kept.founders,
        started=kept.started,
        nodes=[_node(data_dir, kept, at) for at in range(kept.nodes)],
        tls=kept.tls,
        etcd_api=kept.etcd_api,
    )


def write_plan(plan: UpPlan, disk: Disk) -> None:
    """Write the plan and each node's settings, each as a whole or not at all."""
    disk.make_dirs(plan.data_dir)
    if not os.path.exists(plan.secret_path):
        write_secret_file(plan.secret_path)
    if plan.tls:
        _make_certificates(plan)
    for node in plan.nodes:
        disk.make_dirs(node.data_dir)
        replace_file(disk, node.config_path, _toml(plan, node))
    _keep(plan, disk)


def _make_certificates(plan: UpPlan) -> None:
    """Make the authority, and the certificates of nodes that have none."""
    if not os.path.lexists(authority_path(plan.tls_dir)):
        make_authority(plan.tls_dir, days=AUTHORITY_DAYS)
    for node in plan.nodes:
        if not os.path.lexists(certificate_path(plan.tls_dir, node.name)):
            make_node(plan.tls_dir, node.name, (HOST,), days=CERTIFICATE_DAYS, replace=False)


def note_started(plan: UpPlan, disk: Disk) -> None:
    """Record that the cluster is up: its nodes have data from now on."""
    if not plan.started:
        _keep(msgspec.structs.replace(plan, started=True), disk)


def _keep(plan: UpPlan, disk: Disk) -> None:
    kept = _Kept(
        port=plan.port,
        founders=plan.founders,
        nodes=len(plan.nodes),
        started=plan.started,
        tls=plan.tls,
        etcd_api=plan.etcd_api,
    )
    replace_file(disk, plan.plan_path, msgspec.json.encode(kept) + b"\n")


def free_ports_or_raise(plan: UpPlan) -> None:
    """Raise `ConfigError` for the first port that something else listens on."""
    for node in plan.nodes:
        for port, use in ((node.http_port, "clients"), (node.peer_port, "other nodes")):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, port))
                except OSError as error:
                    raise ConfigError(_port_trouble(error, port, node, use, plan)) from error


def command_line(*arguments: str) -> str:
    """A `syncline` command as the user would type it: with the name by which this one was called."""
    called = sys.argv[0] if os.path.basename(sys.argv[0]) == "syncline" else ""
    if called and shutil.which("syncline") == os.path.abspath(called):
        called = "syncline"
    begin = [called] if called else [sys.executable, "-m", "syncline"]
    return shlex.join([*begin, *arguments])


def command_for(command: str, data_dir: str) -> str:
    """The command for `up`, `down` or `logs` on a directory."""
    return command_line(command, *([] if data_dir == DEFAULT_DATA_DIR else ["--data-dir", data_dir]))


def _read_kept(data_dir: str) -> _Kept | None:
    path = os.path.join(data_dir, PLAN_NAME)
    try:
        with open(path, "rb") as file:
            kept = msgspec.json.decode(file.read(), type=_Kept)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    except UNDECODABLE as error:
        raise StorageError(f"{path} is damaged ({error}): restore it, or choose another --data-dir") from error
    if not (1 <= kept.founders <= kept.nodes <= MAX_NODES and 1 <= kept.port <= HIGHEST_PORT):
        raise StorageError(f"{path} is damaged (numbers out of range): restore it, or choose another --data-dir")
    return kept


def _node(data_dir: str, kept: _Kept, at: int) -> NodePlan:
    name = f"n{at + 1}"
    node_dir = os.path.join(data_dir, name)
    founder = at < kept.founders
    lost = founder and kept.started and not os.path.exists(os.path.join(node_dir, IDENTITY_NAME))
    return NodePlan(
        name=name,
        data_dir=node_dir,
        http_port=kept.port + at,
        peer_port=kept.port + PEER_PORT_OFFSET + at,
        join=not founder or lost,
        lost=lost,
        tls=kept.tls,
    )


def _toml(plan: UpPlan, node: NodePlan) -> bytes:
    founders = plan.nodes[: plan.founders]
    lines = [
        f"# Written by 'syncline up' at each start. To run this node alone: syncline serve --config {node.config_path}",
        f"name = {_toml_text(node.name)}",
        f"data_dir = {_toml_text(os.path.abspath(node.data_dir))}",
        f"http_listen = {_toml_text(f'{HOST}:{node.http_port}')}",
        f"peer_listen = {_toml_text(node.peer_address)}",
        f"peer_secret_file = {_toml_text(plan.secret_path)}",
        f"segment_bytes = {SEGMENT_BYTES}",
    ]
    if plan.tls:
        lines.append(f"tls_dir = {_toml_text(plan.tls_dir)}")
    if plan.etcd_api:
        lines.append(f"etcd_api = {_toml_text(plan.etcd_api)}")
    if plan.lab:
        lines.append(f"console_lab = {_toml_text(plan.lab)}")
    if memory := memory_bytes():  # all nodes share one machine
        lines.append(f"max_store_bytes = {memory // MEMORY_SHARE // len(plan.nodes)}")
    if node.join:
        others = [_toml_text(founder.http_url) for founder in founders if founder is not node]
        lines.append(f"join = [{', '.join(others)}]")
    else:
        lines += ["", "[initial_cluster]"]
        lines += [f"{founder.name} = {_toml_text(founder.peer_address)}" for founder in founders]
    return ("\n".join(lines) + "\n").encode()


def _toml_text(text: str) -> str:
    """A TOML basic string; its escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _port_trouble(error: OSError, port: int, node: NodePlan, use: str, plan: UpPlan) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"port {port} (of {node.name}, for {use}) can't be used: {error.strerror}"
    return (
        f"port {port} (of {node.name}, for {use}) is in use by another program: stop it, or choose other ports with "
        f"--port (now {plan.port}: {len(plan.nodes)} ports from there for clients, from {plan.port + PEER_PORT_OFFSET} "
        "for the nodes)"
    )
