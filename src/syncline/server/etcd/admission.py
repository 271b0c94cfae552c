"""Users of etcd's interface: tokens and passwords are checked by the gate that checks those of the own routes."""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from syncline.errors import Unauthenticated
from syncline.server.auth.access import USER
from syncline.server.auth.gate import AccessGate
from syncline.server.auth.principal import Principal
from syncline.server.etcd.errors import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAUTHENTICATED, UNAVAILABLE, EtcdError
from syncline.server.etcd.face import EtcdCaller, Finished
from syncline.server.etcd.messages import Message
from syncline.server.http.request import AddressOrigin, Request
from syncline.server.http.response import TEXT, Respond, Response, bare

__all__ = ["GateAdmission", "request_of"]

_BEARER: Final = b"Bearer "
_ADMITTED: Final = bare(200, TEXT, b"")


class GateAdmission:
    """Finds the user of a call."""

    def __init__(self, gate: AccessGate) -> None:
        self._gate = gate

    @property
    def needed(self) -> bool:
        """Whether clients need credentials now."""
        return self._gate.flag.on

    def known(self, caller: EtcdCaller) -> bool:
        """Set the caller's principal, if its token was found good before; whether that is the case."""
        caller.principal = self._gate.known(_field(caller.token)) if caller.token else None
        return caller.principal is not None

    async def admit(self, caller: EtcdCaller) -> None:
        """Set the caller's principal. Raises `EtcdError`."""
        if self.known(caller):
            return
        if not caller.token:
            self._gate.audit.refused(request_of(caller.address, "/v3/"), "", 401)
            raise EtcdError(INVALID_ARGUMENT, "etcdserver: user name is empty")
        refused = EtcdError(UNAUTHENTICATED, "etcdserver: invalid auth token")
        caller.principal = await self._find(_field(caller.token), caller.address, refused)

    def counted(self, caller: EtcdCaller, finished: Finished) -> Finished:
        """Count a call among those of its user until `finished`. Raises `RequestError`."""
        principal = caller.principal
        end = self._gate.user_requests.begin(principal.user, caller.request_bytes) if principal is not None else None
        if end is None:
            return finished

        def ended(answer: Message | None, error: EtcdError | None) -> None:
            end()
            finished(answer, error)

        return ended

    async def log_in(self, user: str, password: str, address: str) -> Principal:
        """The user behind a password. Raises `EtcdError`."""
        credential = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogatepass"))
        refused = EtcdError(INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
        if not user or ":" in user:
            raise refused
        return await self._find(b"Basic " + credential, address, refused)

    async def _find(self, field: bytes, address: str, refused: EtcdError) -> Principal:
        found: asyncio.Future[Principal] = asyncio.get_running_loop().create_future()

        def admitted(request: Request, respond: Respond) -> None:
            if not found.done():
                if request.principal is None:
                    found.set_exception(Unauthenticated("the request has no user"))
                else:
                    found.set_result(request.principal)
            respond(_ADMITTED)  # the gate counts it among the user's requests until it is answered

        def answered(response: Response) -> None:
            if found.done():
                return
            if response.status in (401, 403):
                found.set_exception(refused)
            elif response.code == "limit":
                found.set_exception(EtcdError(RESOURCE_EXHAUSTED, "etcdserver: too many requests"))
            elif response.status == 429:
                text = "etcdserver: too many wrong passwords of this user came from this address: try again later"
                found.set_exception(EtcdError(UNAVAILABLE, text))
            else:
                text = "etcdserver: the user could not be checked: try again, or another node"
                found.set_exception(EtcdError(UNAVAILABLE, text))

        request = request_of(address, "/etcdserverpb.Auth/Authenticate")
        request.headers = {b"authorization": field}
        self._gate.handle(request, answered, admitted, USER)
        return await found


def request_of(address: str, route: str) -> Request:
    """A request that stands for a call: for the gate, and for the audit log."""
    return Request("POST", b"/v3/", b"", {}, b"", route=route, origin=AddressOrigin(address))


def _field(token: bytes) -> bytes:
    """The token as the field `Authorization` that the gate knows it by."""
    return token if token[:7].lower() == b"bearer " else _BEARER + token
