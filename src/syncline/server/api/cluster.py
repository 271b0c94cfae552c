"""The routes `/raft/…` of the cluster itself. People and joining nodes call them, so they are coroutines."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from syncline.client.schemas import (
    AddReply,
    Members,
    MembersReply,
    NodeStatus,
    SnapshotReply,
    TransferReply,
    UpgradeReply,
    UpgradeResult,
)
from syncline.decoding import UNDECODABLE, json_fault
from syncline.errors import ConfigError, NothingToSnapshot
from syncline.node.naming import is_id
from syncline.server.addresses import check_address, check_name, check_url
from syncline.server.api.backend import Backend
from syncline.server.api.declare import Reply, Route
from syncline.server.api.error_codes import CHANGING, UNKNOWN_MEMBER, ErrorCode
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Query, Schema, Seconds
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.auth import access
from syncline.server.auth.access import Access
from syncline.server.http.documents import check_charset, check_members
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response, json_response
from syncline.server.tasks import Tasks

__all__ = ["Fields", "RaftRoutes"]

DEFAULT_TIMEOUT_S: Final = 30.0
"""A change of the membership waits for a quorum, a new voter first for its log."""
MAX_TIMEOUT_S: Final = 600.0
MAX_BODY_BYTES: Final = 64 * KIB
MAX_ID: Final = 2**63

_SEPARATORS: Final = re.compile("[_-]")


class FieldName(msgspec.Struct, frozen=True):
    """A declared field of a request's JSON object."""

    shown: str
    type: type[str | bool]
    about: str
    choices: tuple[str, ...] = ()

    def schema(self) -> Schema:
        """The JSON Schema of its value."""
        schema: Schema = {"type": "boolean" if self.type is bool else "string", "description": self.about}
        return {**schema, "enum": list(self.choices)} if self.choices else schema


_NAMES: Final = ("id", "name", "nodeid")
_KNOWN: Final = {
    "id": FieldName("ID", str, "The member's name, or its id: 16 hexadecimal digits."),
    "name": FieldName("Name", str, "The member's name."),
    "nodeid": FieldName("NodeID", str, "The member's id: 16 hexadecimal digits."),
    "address": FieldName("Address", str, "Where its peers dial it: host:port."),
    "peer": FieldName("Peer", str, "The same as Address."),
    "http": FieldName("Http", str, "Its URL for clients."),
    "learner": FieldName("Learner", bool, "Whether it stays a learner."),
    "to": FieldName("To", str, "The name or id of the next leader; without it the most up-to-date voter."),
    "force": FieldName("Force", bool, "Do it also if no quorum of the voters would be alive after it."),
    "action": FieldName("Action", str, "What to do.", ("hold", "finalize")),
}


class FieldsBody:
    """A declared JSON object whose field names are accepted in several spellings. `required`: it needs some field."""

    def __init__(self, *accepted: str, required: bool = True) -> None:
        self.about: Final = "Names are taken in each usual spelling: `ID`, `id`, `NodeID`, `node_id`."
        self.required: Final = required
        self._accepted: Final = frozenset(accepted)

    def forms(self) -> Mapping[str, type | Schema]:
        properties = {one.shown: one.schema() for name, one in _KNOWN.items() if name in self._accepted}
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if self.required:
            schema["minProperties"] = 1
        return {"application/json": schema}

    def read(self, request: Request) -> Fields:
        """The fields of a request. Raises `RequestError`."""
        return Fields(request, self._accepted)


class Fields:
    """A JSON object whose field names are accepted in several spellings: `ID`, `id`, `NodeID`, `node_id`."""

    def __init__(self, request: Request, accepted: frozenset[str]) -> None:
        body = request.body
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"the body is above the limit of {MAX_BODY_BYTES} bytes", status=413, code="too_large")
        check_charset(request.headers)
        self._accepted = accepted
        self._values: dict[str, object] = {}
        seen: set[str] = set()
        for given, value in _object(body).items():
            name = _SEPARATORS.sub("", given).lower()
            if name not in accepted:
                known = ", ".join(one.shown for name, one in _KNOWN.items() if name in accepted) or "none"
                raise RequestError(f"unknown field {given[:80]!r}; accepted here: {known}")
            if name in seen:
                raise RequestError(f"the field {given!r} is given twice")
            seen.add(name)
            if value is not None:
                self._values[name] = value

    def text(self, name: str) -> str:
        """A text field; empty if it is absent."""
        assert name in self._accepted, name
        assert _KNOWN[name].type is str, name
        value = self._values.get(name, "")
        if not isinstance(value, str):
            raise RequestError(f"{_KNOWN[name].shown} is not a text")
        return value

    def boolean(self, name: str) -> bool:
        """Whether a field is true; false if it is absent."""
        assert name in self._accepted, name
        assert _KNOWN[name].type is bool, name
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise RequestError(f"{_KNOWN[name].shown} is neither true nor false")
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
    if not body:
        return {}
    try:
        found = msgspec.json.decode(body, type=dict[str, object])
    except UNDECODABLE as error:
        raise RequestError(f"the body is not a JSON object: {json_fault(error, body)}") from None
    check_members(body)
    return found


# --- the declarations

NO_QUERY: Final = Query()
TIMEOUT: Final = Seconds("timeout", "The deadline of the change.", default_s=DEFAULT_TIMEOUT_S, high_s=MAX_TIMEOUT_S)
QUERY: Final = Query(TIMEOUT)

ADD_BODY: Final = FieldsBody(*_NAMES, "address", "peer", "http", "learner")
FORCED_BODY: Final = FieldsBody(*_NAMES, "force")
UPDATE_BODY: Final = FieldsBody(*_NAMES, "address")
TRANSFER_BODY: Final = FieldsBody(*_NAMES, "to", required=False)
SNAPSHOT_BODY: Final = FieldsBody(required=False)
UPGRADE_BODY: Final = FieldsBody("action")


def _view(name: str, summary: str, reply: type) -> Route:
    answers = {200: Reply("The view.", (reply,))}
    return Route("GET", f"/raft/{name}", summary=summary, access=access.STATUS, query=NO_QUERY, answers=answers)


def _change(
    name: str, summary: str, body: FieldsBody, reply: type, *errors: ErrorCode, needs: Access = access.MEMBERS
) -> Route:
    answers = {200: Reply("It is done.", (reply,))}
    return Route(
        "POST",
        f"/raft/{name}",
        summary=summary,
        access=needs,
        query=QUERY,
        body=body,
        answers=answers,
        errors=(*CHANGING, *errors),
    )


STATUS: Final = _view("status", "Show this node's view of itself and the cluster", NodeStatus)
MEMBERS: Final = _view("members", "Show the membership", Members)
LEVELS: Final = _view("upgrade", "Show the levels of the cluster", UpgradeResult)

ADD: Final = _change("add", "Add a member", ADD_BODY, AddReply)
REMOVE: Final = _change("remove", "Remove a member", FORCED_BODY, MembersReply, UNKNOWN_MEMBER)
PROMOTE: Final = _change("promote", "Make a learner a voter", FORCED_BODY, MembersReply, UNKNOWN_MEMBER)
DEMOTE: Final = _change("demote", "Make a voter a learner", FORCED_BODY, MembersReply, UNKNOWN_MEMBER)
UPDATE: Final = _change("update", "Change a member's address", UPDATE_BODY, MembersReply, UNKNOWN_MEMBER)
TRANSFER: Final = _change(
    "transfer",
    "Transfer the leadership",
    TRANSFER_BODY,
    TransferReply,
    UNKNOWN_MEMBER,
    needs=access.LEADERSHIP,
)
SNAPSHOT: Final = _change(
    "snapshot", "Take a snapshot of this node's state", SNAPSHOT_BODY, SnapshotReply, needs=access.SNAPSHOT
)
UPGRADE: Final = _change(
    "upgrade", "Hold the levels, or finalize an upgrade", UPGRADE_BODY, UpgradeReply, needs=access.LEADERSHIP
)


class RaftRoutes:
    """The routes of the cluster. `status` adds the process to the node's own view."""

    def __init__(self, backend: Backend, tasks: Tasks, *, explain: Explain, status: Callable[[], NodeStatus]) -> None:
        self._backend = backend
        self._tasks = tasks
        self._explain = explain
        self._status = status

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        for read, handler in (
            (STATUS, self._get_status),
            (MEMBERS, self._get_members),
            (LEVELS, self._get_upgrade),
        ):
            router.declare(read, handler)
        work: tuple[tuple[Route, Callable[[Request], Awaitable[Response]]], ...] = (
            (ADD, self.add),
            (REMOVE, self.remove),
            (PROMOTE, self.promote),
            (DEMOTE, self.demote),
            (UPDATE, self.update),
            (TRANSFER, self.transfer),
            (SNAPSHOT, self.snapshot),
            (UPGRADE, self.upgrade),
        )
        for route, function in work:
            router.declare(route, coroutine(self._tasks, function, explain=self._explain))

    def _get_status(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(json_response(self._status()))

    def _get_members(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(json_response(self._backend.members()))

    def _get_upgrade(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(json_response(self._backend.upgrade()))

    async def add(self, request: Request) -> Response:
        """Add a member; answers when the change is committed."""
        timeout_s = _timeout_s(request)
        fields = ADD_BODY.read(request)
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
        return json_response(AddReply(**msgspec.structs.asdict(added)))

    async def remove(self, request: Request) -> Response:
        """Remove a member. An absent member is also answered only when its removal is durable."""
        timeout_s = _timeout_s(request)
        fields = FORCED_BODY.read(request)
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
        fields = UPDATE_BODY.read(request)
        address = _checked("Address", check_address, fields.text("address"))
        await self._backend.update_member(await self._named(fields, timeout_s), address, timeout_s)
        return self._changed()

    async def transfer(self, request: Request) -> Response:
        """Transfer the leadership; answers when the new leader leads."""
        timeout_s = _timeout_s(request)
        fields = TRANSFER_BODY.read(request)
        name, node_id = fields.name_and_id()
        if to := fields.text("to"):
            if name or node_id:
                raise RequestError("To and ID are the same field here: give one")
            name, node_id = ("", int(to, 16)) if is_id(to) else (to, None)
        target = await self._member(name, node_id, timeout_s) if name or node_id else None
        await self._backend.transfer_leadership(target, timeout_s)
        return json_response(TransferReply(self._backend.leader()))

    async def snapshot(self, request: Request) -> Response:
        """Take a snapshot of this node's state now."""
        timeout_s = _timeout_s(request)
        SNAPSHOT_BODY.read(request)
        try:
            index, created = await self._backend.snapshot(timeout_s), True
        except NothingToSnapshot:
            index, created = self._backend.view().snapshot_index, False
        return json_response(SnapshotReply(created, index))

    async def upgrade(self, request: Request) -> Response:
        """Hold the cluster's levels, or finalize the upgrade."""
        timeout_s = _timeout_s(request)
        action = UPGRADE_BODY.read(request).text("action")
        if action == "hold":
            view = await self._backend.hold_upgrade(timeout_s)
        elif action == "finalize":
            view = await self._backend.finalize_upgrade(timeout_s)
        else:
            raise RequestError('say what to do: {"Action": "hold"} or {"Action": "finalize"}')
        return json_response(UpgradeReply(**msgspec.structs.asdict(view)))

    async def _who(self, request: Request) -> tuple[float, int, bool]:
        """The time limit, the member, and whether the change is forced."""
        timeout_s = _timeout_s(request)
        fields = FORCED_BODY.read(request)
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
        return json_response(MembersReply(**msgspec.structs.asdict(members)))


def _timeout_s(request: Request) -> float:
    return TIMEOUT.of(QUERY.parse(request.query))


def _checked(field: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ConfigError as error:
        raise RequestError(f"{field}: {error}") from None
