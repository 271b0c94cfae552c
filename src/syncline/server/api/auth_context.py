"""What the routes of users and roles have in common: names in paths, and commands that go into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from syncline.client.user_schemas import AuthReply
from syncline.kv.auth.checks import denied
from syncline.kv.auth.commands import AuthAnswer, AuthCommand
from syncline.kv.auth.state import AuthState
from syncline.kv.commands import encode_command
from syncline.platform.entropy import Entropy
from syncline.server.api.answering import answering
from syncline.server.api.backend import Backend
from syncline.server.api.bodies import JsonBody
from syncline.server.api.errors import RequestError
from syncline.server.api.idempotency import FIELD
from syncline.server.api.parameters import Query
from syncline.server.api.reads import TIMEOUT
from syncline.server.api.router import Explain
from syncline.server.auth.gate import AccessGate
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response, json_response
from syncline.server.tasks import Tasks

__all__ = ["AUTH_QUERY", "AuthContext", "name_of", "require_own"]

T = TypeVar("T")

AUTH_QUERY: Final = Query(TIMEOUT)


class AuthContext:
    """The node for these routes."""

    def __init__(
        self,
        backend: Backend,
        tasks: Tasks,
        gate: AccessGate,
        *,
        wall_ms: Callable[[], float],
        entropy: Entropy,
        explain: Explain,
    ) -> None:
        self.backend = backend
        self.tasks = tasks
        self.gate = gate
        self.wall_ms = wall_ms
        self.entropy = entropy
        self.explain = explain

    @property
    def state(self) -> AuthState:
        """The users as applied here."""
        return self.backend.store.auth

    def read(self, request: Request, body: JsonBody[T]) -> T:
        """The body of a request whose parameters are sound. Raises `RequestError`."""
        AUTH_QUERY.parse(request.query)
        return body.read(request)

    def propose(
        self,
        request: Request,
        command: AuthCommand,
        respond: Respond,
        done: Callable[[Respond, AuthAnswer], None] | None = None,
    ) -> None:
        """Propose a change, and answer with its result, or as `done` does. Raises `RequestError`, `Rejected`."""
        if FIELD in request.headers:
            raise RequestError("Idempotency-Key has no meaning for users and roles; nothing was done")
        timeout_s = TIMEOUT.of(AUTH_QUERY.parse(request.query))
        data = encode_command(command)
        if request.principal is not None:
            data = request.principal.authorised(data)

        def then(result: object, error: BaseException | None) -> None:
            if error is not None:
                respond(self.explain(error))
                return
            assert isinstance(result, AuthAnswer), result
            if done is not None:
                done(respond, result)
            else:
                respond(json_response(AuthReply(result.revision, result.changed)))

        self.backend.propose(data, timeout_s, answering(respond, then), frees_space=True)

    async def proposed(self, request: Request, command: AuthCommand) -> Response:
        """`propose` for a coroutine."""
        answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def respond(response: Response) -> None:
            if not answered.done():
                answered.set_result(response)

        self.propose(request, command, respond)
        return await answered


def name_of(request: Request) -> str:
    """The name in the path. Raises `RequestError`."""
    try:
        return request.argument.decode()
    except UnicodeDecodeError:
        raise RequestError("the name in the path is not UTF-8") from None


def require_own(request: Request, user: str) -> None:
    """Raise `PermissionDenied` if the request is of another user, and not of an administrator."""
    principal = request.principal
    if principal is not None and principal.user != user and not principal.permissions.is_admin:
        raise denied("do this for another user: it takes the role 'root'")
