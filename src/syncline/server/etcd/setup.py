"""Puts etcd's interface together, over the node, the gate and the watches that the own routes use."""

from __future__ import annotations

from typing import Final

from syncline.kv.watch_hub import WatchHub
from syncline.platform.entropy import Entropy
from syncline.server.auth.gate import AccessGate
from syncline.server.etcd.admission import GateAdmission
from syncline.server.etcd.audit import CallAudit
from syncline.server.etcd.context import EtcdNode, ServiceContext
from syncline.server.etcd.face import EtcdFace
from syncline.server.etcd.services.auth import AuthService
from syncline.server.etcd.services.cluster import ClusterService
from syncline.server.etcd.services.election import ElectionService
from syncline.server.etcd.services.kv import KvService
from syncline.server.etcd.services.lease import LeaseService
from syncline.server.etcd.services.lock import LockService
from syncline.server.etcd.services.maintenance import MaintenanceService
from syncline.server.etcd.services.snapshot import SnapshotService
from syncline.server.etcd.services.watch import PROGRESS_S, WatchService
from syncline.server.tasks import Tasks

__all__ = ["DEFAULT_REQUEST_BYTES", "open_face"]

DEFAULT_REQUEST_BYTES: Final = 3 * 512 * 1024
"""The largest command, as etcd's default limit of a request: 1.5 MiB."""


def open_face(
    node: EtcdNode,
    *,
    gate: AccessGate,
    watches: WatchHub,
    tasks: Tasks,
    entropy: Entropy,
    max_request_bytes: int = DEFAULT_REQUEST_BYTES,
    watch_progress_s: float = PROGRESS_S,
) -> EtcdFace:
    """All services of one node. `max_request_bytes`: larger commands are refused.
    `watch_progress_s`: how often a watch that asks for it is told of progress.
    """
    context = ServiceContext(node, gate, max_request_bytes=max_request_bytes)
    admission = GateAdmission(gate)
    face = EtcdFace(tasks, admission=admission, first=context, audit=CallAudit(gate.audit))
    KvService(context, tasks).add_to(face)
    WatchService(context, watches, progress_s=watch_progress_s).add_to(face)
    LeaseService(context).add_to(face)
    ClusterService(context).add_to(face)
    MaintenanceService(context).add_to(face)
    SnapshotService(context).add_to(face)
    AuthService(context, admission, entropy).add_to(face)
    LockService(face, tasks).add_to(face)
    ElectionService(face, tasks).add_to(face)
    return face
