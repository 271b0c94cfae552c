"""`/role…`: roles, and what they allow."""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec import UNSET

from syncline.client.schemas import split
from syncline.client.user_schemas import (
    AccessName,
    AuthReply,
    KeyAccessItem,
    RoleAddBody,
    RoleGrantBody,
    RoleItem,
    RoleReply,
    RoleRevokeBody,
    RolesReply,
)
from syncline.errors import Rejected
from syncline.kv.auth.commands import KeyAccessChange, OperationAccessChange, RoleAdd, RoleRemove
from syncline.kv.auth.permissions import key_end
from syncline.kv.auth.records import BOTH, READ, WRITE, ClusterOperation, KeyGrant, RoleRecord
from syncline.kv.limits import MAX_KEY_BYTES
from syncline.kv.store import prefix_end
from syncline.server.api.auth_context import AUTH_QUERY, AuthContext, name_of
from syncline.server.api.bodies import JsonBody
from syncline.server.api.declare import Reply, Route
from syncline.server.api.error_codes import (
    AUTH_LIMIT,
    BAD_COMMAND,
    LAST_ADMINISTRATOR,
    NOT_GRANTED,
    READING,
    ROLE_EXISTS,
    ROLE_NOT_FOUND,
    WRITING,
)
from syncline.server.api.errors import RequestError
from syncline.server.api.json_bytes import one_of
from syncline.server.api.parameters import Text
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.auth.access import ADMIN
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response, json_response

__all__ = ["RoleRoutes"]

ROLE_NAME: Final = Text("name", "The name of the role.", required=True)

ACCESS: Final[dict[AccessName, int]] = {"read": READ, "write": WRITE, "readwrite": BOTH}
NAMES: Final[dict[int, AccessName]] = {bits: name for name, bits in ACCESS.items()}

ADD_BODY: Final = JsonBody(RoleAddBody, what="a role", about="The role.", max_bytes=4 * KIB)
GRANT_BODY: Final = JsonBody(
    RoleGrantBody,
    what="a grant",
    about="An `operation`, or `access` with one of `key`, `prefix` (empty: all keys), and `start` with `end` or"
    " without.",
    max_bytes=64 * KIB,
)
REVOKE_BODY: Final = JsonBody(
    RoleRevokeBody, what="a grant", about="An operation, or exactly a range as it was granted.", max_bytes=64 * KIB
)

LIST: Final = Route(
    "GET",
    "/role",
    summary="List the roles",
    access=ADMIN,
    query=AUTH_QUERY,
    answers={200: Reply("The roles.", (RolesReply,))},
    errors=READING,
)
ADD: Final = Route(
    "POST",
    "/role",
    summary="Add a role that allows nothing yet",
    access=ADMIN,
    query=AUTH_QUERY,
    body=ADD_BODY,
    answers={200: Reply("It is added.", (AuthReply,))},
    errors=(*WRITING, BAD_COMMAND, ROLE_EXISTS, AUTH_LIMIT),
)
SHOW: Final = Route(
    "GET",
    "/role/{name}",
    summary="Show a role",
    access=ADMIN,
    argument=ROLE_NAME,
    query=AUTH_QUERY,
    answers={200: Reply("The role.", (RoleReply,))},
    errors=(*READING, ROLE_NOT_FOUND),
)
REMOVE: Final = Route(
    "DELETE",
    "/role/{name}",
    summary="Remove a role, also from its users",
    access=ADMIN,
    argument=ROLE_NAME,
    query=AUTH_QUERY,
    answers={200: Reply("It is removed.", (AuthReply,))},
    errors=(*WRITING, BAD_COMMAND, ROLE_NOT_FOUND, LAST_ADMINISTRATOR),
)
GRANT: Final = Route(
    "POST",
    "/role/{name}/grant",
    summary="Let a role allow something",
    access=ADMIN,
    about="Another access to the same range replaces the one before.",
    argument=ROLE_NAME,
    query=AUTH_QUERY,
    body=GRANT_BODY,
    answers={200: Reply("It is allowed.", (AuthReply,))},
    errors=(*WRITING, BAD_COMMAND, ROLE_NOT_FOUND, AUTH_LIMIT),
)
REVOKE: Final = Route(
    "POST",
    "/role/{name}/revoke",
    summary="Let a role allow something no longer",
    access=ADMIN,
    argument=ROLE_NAME,
    query=AUTH_QUERY,
    body=REVOKE_BODY,
    answers={200: Reply("It is not allowed by this role any more.", (AuthReply,))},
    errors=(*WRITING, BAD_COMMAND, ROLE_NOT_FOUND, NOT_GRANTED),
)


class RoleRoutes:
    """Roles."""

    def __init__(self, context: AuthContext, *, explain_read: Explain) -> None:
        self._context = context
        self._explain_read = explain_read

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        read = partial(coroutine, self._context.tasks, explain=self._explain_read)
        router.declare(LIST, read(self.list))
        router.declare(ADD, self.add)
        router.declare(SHOW, read(self.show))
        router.declare(REMOVE, self.remove)
        router.declare(GRANT, self.grant)
        router.declare(REVOKE, self.revoke)

    async def list(self, request: Request) -> Response:
        """All roles."""
        await self._context.backend.read_index(TIMEOUT.of(AUTH_QUERY.parse(request.query)))
        roles = sorted(self._context.state.roles.values(), key=lambda role: role.name)
        return json_response(RolesReply([RoleItem(role.name, *_allowed(role)) for role in roles]))

    async def show(self, request: Request) -> Response:
        """One role."""
        await self._context.backend.read_index(TIMEOUT.of(AUTH_QUERY.parse(request.query)))
        role = self._context.state.roles.get(name_of(request))
        if role is None:
            raise Rejected(f"there is no role {name_of(request)!r}", code="role_not_found")
        return json_response(RoleReply(role.name, *_allowed(role)))

    def add(self, request: Request, respond: Respond) -> None:
        """Add a role."""
        self._context.propose(request, RoleAdd(self._context.read(request, ADD_BODY).name), respond)

    def remove(self, request: Request, respond: Respond) -> None:
        """Remove a role."""
        self._context.propose(request, RoleRemove(name_of(request)), respond)

    def grant(self, request: Request, respond: Respond) -> None:
        """Let it allow an operation, or access to keys."""
        body, role = self._context.read(request, GRANT_BODY), name_of(request)
        if body.operation is not None:
            _only_operation(body, body.access is not None)
            self._change_operation(request, role, body.operation, True, respond)
            return
        if body.access is None:
            raise RequestError("the body names neither an 'operation' nor an 'access'")
        self._context.propose(request, KeyAccessChange(role, *_range(body), ACCESS[body.access]), respond)

    def revoke(self, request: Request, respond: Respond) -> None:
        """Withdraw an operation, or a range."""
        body, role = self._context.read(request, REVOKE_BODY), name_of(request)
        if body.operation is not None:
            _only_operation(body, False)
            self._change_operation(request, role, body.operation, False, respond)
            return
        self._context.propose(request, KeyAccessChange(role, *_range(body), 0), respond)

    def _change_operation(self, request: Request, role: str, name: str, granted: bool, respond: Respond) -> None:
        operation = ClusterOperation[name.upper()]
        self._context.propose(request, OperationAccessChange(role, operation, granted), respond)


def _only_operation(body: RoleGrantBody | RoleRevokeBody, has_access: bool) -> None:
    if has_access or any(_given(body)):
        raise RequestError("the body names an 'operation' and keys: give one of them at a time")


def _given(body: RoleGrantBody | RoleRevokeBody) -> tuple[bool, bool, bool, bool]:
    return (
        body.key is not UNSET or body.key_base64 is not UNSET,
        body.prefix is not UNSET or body.prefix_base64 is not UNSET,
        body.start is not UNSET or body.start_base64 is not UNSET,
        body.end is not UNSET or body.end_base64 is not UNSET,
    )


def _range(body: RoleGrantBody | RoleRevokeBody) -> tuple[bytes, bytes | None]:
    by_key, by_prefix, by_start, by_end = _given(body)
    if by_key + by_prefix + by_start != 1 or (by_end and not by_start):
        raise RequestError("the body: give one of 'key', 'prefix', and 'start' (with 'end' or without)")
    if by_key:
        key = _checked(one_of(body.key, body.key_base64, "key", "the body"), MAX_KEY_BYTES)
        if not key:
            raise RequestError("the body: 'key' is empty; an empty 'prefix' is all keys")
        return key, key_end(key)
    if by_prefix:
        prefix = _checked(one_of(body.prefix, body.prefix_base64, "prefix", "the body"), MAX_KEY_BYTES)
        return prefix, prefix_end(prefix)
    start = _checked(one_of(body.start, body.start_base64, "start", "the body"), MAX_KEY_BYTES + 1)
    end = _checked(one_of(body.end, body.end_base64, "end", "the body"), MAX_KEY_BYTES + 1) if by_end else None
    if end is not None and end <= start:
        raise RequestError("the body: 'end' is not above 'start', so there is no key between them")
    return start, end


def _checked(bound: bytes, most: int) -> bytes:
    if len(bound) > most:
        message = f"the body: a key has {len(bound)} bytes; the limit is {most}"
        raise RequestError(message, status=413, code="too_large")
    return bound


def _allowed(role: RoleRecord) -> tuple[list[KeyAccessItem], list[str]]:
    operations = [ClusterOperation(number).name.lower() for number in role.operations]
    return [_item(grant) for grant in role.keys], operations


def _item(grant: KeyGrant) -> KeyAccessItem:
    item = KeyAccessItem(NAMES[grant.access], *split(grant.start))
    if grant.end is not None:
        item.end, item.end_base64 = split(grant.end)
    return item
