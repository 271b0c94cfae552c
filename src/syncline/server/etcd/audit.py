"""The audit log of etcd's interface: the same lines that the own routes write, whichever protocol a call came by."""

from __future__ import annotations

from typing import Final

from syncline.server.auth.audit import AuditLog
from syncline.server.etcd.admission import request_of
from syncline.server.etcd.errors import HTTP_STATUS, INTERNAL, PERMISSION_DENIED, EtcdError
from syncline.server.etcd.face import EtcdCaller
from syncline.server.etcd.methods import METHODS, Method

__all__ = ["CallAudit"]

_READS: Final = frozenset({"AuthStatus", "Authenticate", "MemberList", "RoleGet", "RoleList", "UserGet", "UserList"})
_CHANGES: Final = frozenset(
    {
        *(
            name
            for name in METHODS
            if name.startswith(("/etcdserverpb.Auth/", "/etcdserverpb.Cluster/"))
            and name.rpartition("/")[2] not in _READS
        ),
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Maintenance/MoveLeader",
    }
)
"""Methods that change the cluster or its users: each call has a line."""


class CallAudit:
    """Writes the lines of calls. Missing and wrong credentials have theirs from the gate."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def concerns(self, method: Method) -> bool:
        """Whether each call of the method has a line."""
        return method.name in _CHANGES

    def ended(self, method: Method, caller: EtcdCaller, error: EtcdError | None) -> None:
        """Note how a call ended. Calls of other methods need be told of only if they fail."""
        if not self.concerns(method) and (error is None or error.code != PERMISSION_DENIED):
            return
        status = 200 if error is None else HTTP_STATUS.get(error.code, HTTP_STATUS[INTERNAL])
        user = "" if caller.principal is None else caller.principal.user
        request = request_of(caller.address, method.name)
        if error is not None and error.code == PERMISSION_DENIED:
            self._log.refused(request, user, status)
        if self.concerns(method):
            self._log.done(request, user, status)
