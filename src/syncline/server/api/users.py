"""`/auth`, `/user…` and `/token…`: users, their passwords, roles and tokens, and whether clients need credentials."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from syncline.client.user_schemas import (
    AuthReply,
    AuthStatusReply,
    PasswordBody,
    RoleChangeBody,
    TokenBody,
    TokenItem,
    TokenReply,
    UserAddBody,
    UserItem,
    UserReply,
    UsersReply,
)
from syncline.errors import Rejected
from syncline.kv.auth.commands import (
    AuthAnswer,
    AuthSwitch,
    TokenAdd,
    TokenRemove,
    UserAdd,
    UserPassword,
    UserRemove,
    UserRoleChange,
)
from syncline.kv.auth.names import check_user_name
from syncline.kv.auth.records import ROOT, PasswordVerifier, UserRecord
from syncline.server.api.auth_context import AUTH_QUERY, AuthContext, name_of, require_own
from syncline.server.api.bodies import JsonBody
from syncline.server.api.declare import Reply, Route
from syncline.server.api.error_codes import (
    AUTH_LIMIT,
    BAD_COMMAND,
    LAST_ADMINISTRATOR,
    NO_ADMINISTRATOR,
    READING,
    ROLE_NOT_FOUND,
    TOKEN_NOT_FOUND,
    USER_EXISTS,
    USER_NOT_FOUND,
    WRITING,
    ErrorCode,
)
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Parameter, Text
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain, Router, coroutine
from syncline.server.auth.access import ADMIN, OWN, USER, Access
from syncline.server.auth.passwords import MAX_PASSWORD_BYTES
from syncline.server.auth.tokens import hash_of_token, id_of_token, new_token
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request, parse_duration
from syncline.server.http.response import Respond, Response, json_response

__all__ = ["UserRoutes"]

LEAST_TOKEN_S: Final = 60.0
MOST_TOKEN_S: Final = 10 * 365 * 86_400.0

USER_NAME: Final = Text("name", "The name of the user.", required=True)
TOKEN_ID: Final = Text("id", "The id of the token: 16 hexadecimal digits.", required=True)
_ID: Final = re.compile(rb"[0-9a-f]{16}")

ADD_BODY: Final = JsonBody(UserAddBody, what="a user", about="The user.", max_bytes=64 * KIB)
PASSWORD_BODY: Final = JsonBody(
    PasswordBody, what="a password", about="The new password; null: none any more.", max_bytes=64 * KIB
)
ROLE_BODY: Final = JsonBody(RoleChangeBody, what="a role", about="The role.", max_bytes=4 * KIB)
TOKEN_BODY: Final = JsonBody(TokenBody, what="a token", about="How long it is good, and what for.", max_bytes=4 * KIB)


def _read(pattern: str, summary: str, access: Access, reply: type, *errors: ErrorCode, named: bool = False) -> Route:
    return Route(
        "GET",
        pattern,
        summary=summary,
        access=access,
        argument=USER_NAME if named else None,
        query=AUTH_QUERY,
        answers={200: Reply("The answer.", (reply,))},
        errors=(*READING, *errors),
    )


def _change(
    methods: str,
    pattern: str,
    summary: str,
    access: Access,
    *errors: ErrorCode,
    about: str = "",
    argument: Parameter | None = None,
    body: JsonBody[UserAddBody] | JsonBody[PasswordBody] | JsonBody[RoleChangeBody] | JsonBody[TokenBody] | None = None,
    reply: type = AuthReply,
) -> Route:
    return Route(
        methods,
        pattern,
        summary=summary,
        access=access,
        about=about,
        argument=argument,
        query=AUTH_QUERY,
        body=body,
        answers={200: Reply("It is done.", (reply,))},
        errors=(*WRITING, BAD_COMMAND, *errors),
    )


STATUS: Final = _read("/auth", "Show whether clients need credentials", USER, AuthStatusReply)
ENABLE: Final = _change(
    "POST",
    "/auth/enable",
    "Require credentials from clients",
    ADMIN,
    NO_ADMINISTRATOR,
    about="There must be a user with the role `root` and a password.",
)
DISABLE: Final = _change("POST", "/auth/disable", "Require no credentials any more", ADMIN)
LIST: Final = _read("/user", "List the users", ADMIN, UsersReply)
ADD: Final = _change("POST", "/user", "Add a user", ADMIN, USER_EXISTS, ROLE_NOT_FOUND, AUTH_LIMIT, body=ADD_BODY)
SHOW: Final = _read("/user/{name}", "Show a user and its tokens", OWN, UserReply, USER_NOT_FOUND, named=True)
REMOVE: Final = _change(
    "DELETE", "/user/{name}", "Remove a user", ADMIN, USER_NOT_FOUND, LAST_ADMINISTRATOR, argument=USER_NAME
)
PASSWORD: Final = _change(
    "POST",
    "/user/{name}/password",
    "Change a password",
    OWN,
    USER_NOT_FOUND,
    LAST_ADMINISTRATOR,
    about="A user that shows its password may change it; one that shows a token may not.",
    argument=USER_NAME,
    body=PASSWORD_BODY,
)
GRANT: Final = _change(
    "POST",
    "/user/{name}/grant",
    "Give a user a role",
    ADMIN,
    USER_NOT_FOUND,
    ROLE_NOT_FOUND,
    AUTH_LIMIT,
    argument=USER_NAME,
    body=ROLE_BODY,
)
REVOKE: Final = _change(
    "POST",
    "/user/{name}/revoke",
    "Withdraw a role from a user",
    ADMIN,
    USER_NOT_FOUND,
    ROLE_NOT_FOUND,
    LAST_ADMINISTRATOR,
    argument=USER_NAME,
    body=ROLE_BODY,
)
TOKEN: Final = _change(
    "POST",
    "/user/{name}/token",
    "Make a token of a user",
    OWN,
    USER_NOT_FOUND,
    AUTH_LIMIT,
    about="Its text is in this answer alone: the cluster keeps a hash. A user that shows its password may make one.",
    argument=USER_NAME,
    body=TOKEN_BODY,
    reply=TokenReply,
)
END_TOKEN: Final = _change("DELETE", "/token/{id}", "End a token", OWN, TOKEN_NOT_FOUND, argument=TOKEN_ID)


class UserRoutes:
    """Users, tokens, and the switch."""

    def __init__(self, context: AuthContext, *, explain_read: Explain) -> None:
        self._context = context
        self._explain_read = explain_read

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        read = partial(coroutine, self._context.tasks, explain=self._explain_read)
        router.declare(STATUS, read(self.status))
        router.declare(ENABLE, partial(self._switch, True))
        router.declare(DISABLE, partial(self._switch, False))
        router.declare(LIST, read(self.list))
        router.declare(ADD, self.add)
        router.declare(SHOW, read(self.show))
        router.declare(REMOVE, self.remove)
        router.declare(PASSWORD, self.password)
        router.declare(GRANT, partial(self._role, True))
        router.declare(REVOKE, partial(self._role, False))
        router.declare(TOKEN, self.token)
        router.declare(END_TOKEN, self.end_token)

    # --- reading

    async def _confirmed(self, request: Request) -> None:
        await self._context.backend.read_index(TIMEOUT.of(AUTH_QUERY.parse(request.query)))

    async def status(self, request: Request) -> Response:
        """Whether clients need credentials."""
        await self._confirmed(request)
        state = self._context.state
        user = None if request.principal is None else request.principal.user
        reply = AuthStatusReply(
            state.enabled, state.revision, len(state.users), len(state.roles), len(state.tokens), user
        )
        return json_response(reply)

    async def list(self, request: Request) -> Response:
        """All users."""
        await self._confirmed(request)
        users = sorted(self._context.state.users.values(), key=lambda user: user.name)
        return json_response(
            UsersReply([UserItem(user.name, list(user.roles), user.password is not None) for user in users])
        )

    async def show(self, request: Request) -> Response:
        """One user and its tokens."""
        AUTH_QUERY.parse(request.query)
        name = name_of(request)
        require_own(request, name)
        await self._confirmed(request)
        state = self._context.state
        user = self._user(name)
        tokens = sorted(
            (token for token in state.tokens.values() if token.user == name), key=lambda token: token.expires_ms
        )
        items = [TokenItem(token.id.hex(), _time(token.expires_ms), token.about) for token in tokens]
        return json_response(UserReply(name, list(user.roles), user.password is not None, items))

    def _user(self, name: str) -> UserRecord:
        user = self._context.state.users.get(name)
        if user is None:
            raise Rejected(f"there is no user {name!r}", code="user_not_found")
        return user

    # --- changes

    def _switch(self, enabled: bool, request: Request, respond: Respond) -> None:
        _no_body(request)
        self._context.propose(request, AuthSwitch(enabled), respond)

    def add(self, request: Request, respond: Respond) -> None:
        """Add a user."""
        body = self._context.read(request, ADD_BODY)
        check_user_name(body.name)
        roles = (*body.roles, *([ROOT] if body.admin else []))
        if body.password is None:
            self._context.propose(request, UserAdd(body.name, None, roles), respond)
        else:
            self._hashed(request, body.password, lambda made: UserAdd(body.name, made, roles), respond)

    def password(self, request: Request, respond: Respond) -> None:
        """Change a password."""
        name = name_of(request)
        require_own(request, name)
        body = self._context.read(request, PASSWORD_BODY)
        if body.password is None:
            self._context.propose(request, UserPassword(name), respond)
        else:
            self._user(name)
            self._hashed(request, body.password, lambda made: UserPassword(name, made), respond)

    def _hashed(
        self,
        request: Request,
        password: str,
        command: Callable[[PasswordVerifier], UserAdd | UserPassword],
        respond: Respond,
    ) -> None:
        """Propose a command with the verifier of a password, which is made on another thread."""
        data = _password(password)

        async def work(request: Request) -> Response:
            made = await self._context.gate.passwords.make(data)
            return await self._context.proposed(request, command(made))

        coroutine(self._context.tasks, work, explain=self._context.explain)(request, respond)

    def remove(self, request: Request, respond: Respond) -> None:
        """Remove a user and its tokens."""
        self._context.propose(request, UserRemove(name_of(request)), respond)

    def _role(self, granted: bool, request: Request, respond: Respond) -> None:
        role = self._context.read(request, ROLE_BODY).role
        self._context.propose(request, UserRoleChange(name_of(request), role, granted), respond)

    def token(self, request: Request, respond: Respond) -> None:
        """Make a token."""
        name = name_of(request)
        require_own(request, name)
        body = self._context.read(request, TOKEN_BODY)
        ttl_s = parse_duration(body.ttl)
        if ttl_s is None or not LEAST_TOKEN_S <= ttl_s <= MOST_TOKEN_S:
            raise RequestError(
                f"'ttl' is {body.ttl[:40]!r}; accepted is a time such as 24h, from {LEAST_TOKEN_S:g}s to"
                f" {MOST_TOKEN_S:.0f}s"
            )
        now_ms = round(self._context.wall_ms())
        expires_ms = now_ms + round(ttl_s * 1000)
        text = new_token(self._context.entropy)
        hashed = hash_of_token(text.encode())
        assert hashed is not None
        token_id = id_of_token(hashed)
        command = TokenAdd(token_id, hashed, name, expires_ms, now_ms, body.about)

        def done(respond: Respond, result: AuthAnswer) -> None:
            del result
            respond(json_response(TokenReply(text, token_id.hex(), name, _time(expires_ms))))

        self._context.propose(request, command, respond, done)

    def end_token(self, request: Request, respond: Respond) -> None:
        """End a token."""
        AUTH_QUERY.parse(request.query)
        if _ID.fullmatch(request.argument) is None:
            raise RequestError("the id of a token has 16 hexadecimal digits, in lower case")
        self._context.propose(request, TokenRemove(bytes.fromhex(request.argument.decode())), respond)


def _no_body(request: Request) -> None:
    if request.body not in (b"", b"{}"):
        raise RequestError(f"{request.path.decode('ascii', 'replace')} takes no body; nothing was done")


def _password(text: str) -> bytes:
    try:
        password = text.encode()
    except UnicodeEncodeError:
        raise RequestError("the password is not text") from None
    if not password:
        raise RequestError("the password is empty")
    if b"\0" in password:
        raise RequestError("the password holds a zero character (U+0000)")
    if len(password) > MAX_PASSWORD_BYTES:
        raise RequestError(
            f"the password has {len(password)} bytes; the limit is {MAX_PASSWORD_BYTES}", status=413, code="too_large"
        )
    return password


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
