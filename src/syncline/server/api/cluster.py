"""The routes `/raft/…` of the cluster itself. People and joining nodes call them, so they are coroutines."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from syncline.client.schemas import Members, NodeStatus
from syncline.decoding import UNDECODABLE
from syncline.errors import ConfigError, NothingToSnapshot
from syncline.server.addresses import check_address, check_name, check_url, is_id
from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.http.documents import check_charset, check_members
from syncline.server.http.limits import KIB
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import Respond, Response, json_response
from syncline.server.tasks import Tasks

__all__ = ["Fields", "RaftRoutes"]

DEFAULT_TIMEOUT_S: Final = 30.0
"""A change of the membership waits for a quorum, a new voter first for its log."""
MAX_TIMEOUT_S: Final = 600.0
MAX_BODY_BYTES: Final = 64 * KIB
MAX_ID: Final = 2**63

_NAMES: Final = frozenset({"id", "name", "nodeid"})
_SEPARATORS: Final = re.compile("[_-]")
_SHOWN: Final = {
    "id": "ID",
    "name": "Name",
    "nodeid": "NodeID",
    "address": "Address",
    "peer": "Peer",
    "http": "Http",
    "learner": "Learner",
    "to": "To",
    "force": "Force",
    "action": "Action",
}


class Fields:
    """A JSON object whose field names are accepted in several spellings: `ID`, `id`, `NodeID`, `node_id`."""

    def __init__(self, request: Request, accepted: frozenset[str]) -> None:
        body = request.body
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"the body is above the limit of {MAX_BODY_BYTES} bytes", status=413, code="too_large")
        check_charset(request.headers)
        self._values: dict[str, object] = {}
        seen: set[str] = set()
        for given, value in _object(body).items():
            name = _SEPARATORS.sub("", given).lower()
            if name not in accepted:
                known = ", ".join(_SHOWN[one] for one in _SHOWN if one in accepted) or "none"
                raise RequestError(f"unknown field {given[:80]!r}; accepted here: {known}")
            if name in seen:
                raise RequestError(f"the field {given!r} is given twice")
            seen.add(name)
            if value is not None:
                self._values[name] = value

    def text(self, name: str) -> str:
        """A text field; empty if it is absent."""
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise RequestError(f"{_SHOWN[name]} is not a text")
        return value

    def boolean(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise RequestError(f"{_SHOWN[name]} is neither true nor false")
        return value

    def name_and_id(self) -> tuple[str, int | None]:
        """The member of a request: by `Name`, by `NodeID`, or by `ID`, which takes either."""
        either, name, node_id = self.text("id"), self.text("name"), self.text("nodeid")
        if either and is_id(either):
            if node_id and node_id.lower() != either.lower():
                raise RequestError("ID and NodeID differ")
            node_id = either
        elif either:
            if name and name != either:
                raise RequestError("ID and Name differ")
            name = either
        if not node_id:
            return name, None
        if not is_id(node_id) or not 0 < int(node_id, 16) < MAX_ID:
            raise RequestError(f"{node_id[:80]!r} is not a node's id: sixteen hexadecimal digits, the first below 8")
        return name, int(node_id, 16)


def _object(body: bytes) -> dict[str, object]:
    if not body.strip():
        return {}
    try:
        found = msgspec.json.decode(body, type=dict[str, object])
    except UNDECODABLE as error:
        raise RequestError(f"the body is not a JSON object: {error}") from None
    check_members(body)
    return found


class RaftRoutes:
    """The routes of the cluster. `status` adds the process to the node's own view."""

    def __init__(self, backend: Backend, tasks: Tasks, *, explain: Explain, status: Callable[[], NodeStatus]) -> None:
        self._backend = backend
        self._tasks = tasks
        self._explain = explain
        self._status = status

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        router.add("GET", "/raft/status", self._get_status)
        router.add("GET", "/raft/members", self._get_members)
        router.add("GET", "/raft/upgrade", self._get_upgrade)
        work: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "add": self.add,
            "remove": self.remove,
            "promote": self.promote,
            "demote": self.demote,
            "update": self.update,
            "transfer": self.transfer,
            "snapshot": self.snapshot,
            "upgrade": self.upgrade,
        }
        for name, function in work.items():
            router.add("POST", f"/raft/{name}", coroutine(self._tasks, function, explain=self._explain))

    def _get_status(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(json_response(self._status()))

    def _get_members(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(json_response(self._backend.members()))

    def _get_upgrade(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(json_response(self._backend.upgrade()))

    async def add(self, request: Request) -> Response:
        """Add a member; answers when the change is committed."""
        timeout_s = _timeout_s(request)
        fields = Fields(request, _NAMES | {"address", "peer", "http", "learner"})
        name, node_id = fields.name_and_id()
        address, http = fields.text("address") or fields.text("peer"), fields.text("http")
        if fields.text("address") and fields.text("peer"):
            raise RequestError("Address and Peer are the same field: give one")
        _checked("ID", check_name, name)
        _checked("Address", check_address, address)
        if http:
            http = _checked("Http", check_url, http)
        added = await self._backend.add_member(
            name, address, http=http, node_id=node_id, learner=fields.boolean("learner"), timeout_s=timeout_s
        )
        return json_response({"status": "success", **msgspec.structs.asdict(added)})

    async def remove(self, request: Request) -> Response:
        """Remove a member. An absent member is also answered only when its removal is durable."""
        timeout_s = _timeout_s(request)
        fields = Fields(request, _NAMES | {"force"})
        force, (name, given_id) = fields.boolean("force"), fields.name_and_id()
        try:
            node_id = await self._named(fields, timeout_s)
        except RequestError as error:
            if error.code == "unknown_member" and given_id is not None and not name:
                await self._backend.remove_member(given_id, timeout_s, force=force)
            raise
        await self._backend.remove_member(node_id, timeout_s, force=force)
        return self._changed()

    async def promote(self, request: Request) -> Response:
        """Make a learner a voter."""
        timeout_s, node_id, force = await self._who(request)
        await self._backend.promote_member(node_id, timeout_s, force=force)
        return self._changed()

    async def demote(self, request: Request) -> Response:
        """Make a voter a learner."""
        timeout_s, node_id, force = await self._who(request)
        await self._backend.demote_member(node_id, timeout_s, force=force)
        return self._changed()

    async def update(self, request: Request) -> Response:
        """Change the address at which the peers dial a member that can't announce it itself."""
        timeout_s = _timeout_s(request)
        fields = Fields(request, _NAMES | {"address"})
        address = _checked("Address", check_address, fields.text("address"))
        await self._backend.update_member(await self._named(fields, timeout_s), address, timeout_s)
        return self._changed()

    async def transfer(self, request: Request) -> Response:
        """Transfer the leadership; answers when the new leader leads."""
        timeout_s = _timeout_s(request)
        fields = Fields(request, _NAMES | {"to"})
        name, node_id = fields.name_and_id()
        if to := fields.text("to"):
            if name or node_id:
                raise RequestError("To and ID are the same field here: give one")
            name, node_id = ("", int(to, 16)) if is_id(to) else (to, None)
        target = await self._member(name, node_id, timeout_s) if name or node_id else None
        await self._backend.transfer_leadership(target, timeout_s)
        return json_response({"status": "success", "leader": self._backend.leader()})

    async def snapshot(self, request: Request) -> Response:
        """Take a snapshot of this node's state now."""
        timeout_s = _timeout_s(request)
        Fields(request, frozenset())
        try:
            index, created = await self._backend.snapshot(timeout_s), True
        except NothingToSnapshot:
            index, created = self._backend.view().snapshot_index, False
        return json_response({"status": "success", "created": created, "index": index})

    async def upgrade(self, request: Request) -> Response:
        """Hold the cluster's levels, or finalize the upgrade."""
        timeout_s = _timeout_s(request)
        action = Fields(request, frozenset({"action"})).text("action")
        if action == "hold":
            view = await self._backend.hold_upgrade(timeout_s)
        elif action == "finalize":
            view = await self._backend.finalize_upgrade(timeout_s)
        else:
            raise RequestError('say what to do: {"Action": "hold"} or {"Action": "finalize"}')
        return json_response({"status": "success", **msgspec.structs.asdict(view)})

    async def _who(self, request: Request) -> tuple[float, int, bool]:
        """The time limit, the member, and whether the change is forced."""
        timeout_s = _timeout_s(request)
        fields = Fields(request, _NAMES | {"force"})
        return timeout_s, await self._named(fields, timeout_s), fields.boolean("force")

    async def _named(self, fields: Fields, timeout_s: float) -> int:
        name, node_id = fields.name_and_id()
        if not name and node_id is None:
            raise RequestError('say which member: {"ID": "its name or id"}')
        return await self._member(name, node_id, timeout_s)

    async def _member(self, name: str, node_id: int | None, timeout_s: float) -> int:
        """The id of an existing member, by its name, its id, or both."""
        found = self._find(name, node_id)
        if found is None:  # it may have been added through another node: check again after a linearizable read
            await self._backend.read_index(timeout_s)
            found = self._find(name, node_id)
        if found is None:
            who = " with id ".join(filter(None, (name, "" if node_id is None else f"{node_id:016x}")))
            raise RequestError(f"no member {who} in this cluster", status=404, code="unknown_member")
        return found

    def _find(self, name: str, node_id: int | None) -> int | None:
        for member in self._backend.members().members:
            member_id = int(member.id, 16)
            if node_id in (None, member_id) and name in ("", member.name):
                return member_id
        return None

    def _changed(self) -> Response:
        members: Members = self._backend.members()
        return json_response({"status": "success", **msgspec.structs.asdict(members)})


def _timeout_s(request: Request) -> float:
    parameters = Parameters(request.query, frozenset({"timeout"}))
    return parameters.duration_s("timeout", DEFAULT_TIMEOUT_S, high=MAX_TIMEOUT_S)


def _checked(field: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ConfigError as error:
        raise RequestError(f"{field}: {error}") from None
