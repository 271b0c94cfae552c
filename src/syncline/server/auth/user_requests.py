"""How much of one user is answered at a time, in requests and in bytes of writes: no user may take the whole node."""

from __future__ import annotations

from collections.abc import Callable

from syncline.server.api.errors import RequestError
from syncline.server.http.fields import SAFE_METHODS
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response

__all__ = ["UserRequests"]


class UserRequests:
    """The requests of each user that are not answered.

    `limit`: the most of one user; 0: no limit. `limit_bytes`: the same of the bytes that they may propose, which are
    those of all requests that do not only read. One request is taken in any case: its size has limits of its own.
    """

    def __init__(self, limit: int, limit_bytes: int = 0) -> None:
        self.limit: int = limit
        self.limit_bytes: int = limit_bytes
        self.running: dict[str, int] = {}
        """By user; none for users without requests."""
        self.proposed_bytes: dict[str, int] = {}
        """The same of their bytes."""

    def call(self, user: str, handler: Callable[[Request, Respond], None], request: Request, respond: Respond) -> None:
        """Call a handler, and count its request until it is answered, or refused by an exception.

        A read that waits for a change is not counted: the watches have limits of their own.

        Raises:
            RequestError: the user has too many (429, `limit`).
        """
        if not (self.limit or self.limit_bytes) or request.waits:
            handler(request, respond)
            return
        size_bytes = 0 if request.method in SAFE_METHODS else len(request.body) + len(request.path) + len(request.query)
        self._check(user, size_bytes)
        counted = _CountedAnswer(self, user, size_bytes, respond)
        try:
            handler(request, counted)
        except BaseException:
            counted.end()
            raise

    def begin(self, user: str, size_bytes: int) -> Callable[[], None] | None:
        """Count a request that does not go by `call`; what is to be called at its end, None without a limit.

        Raises:
            RequestError: the user has too many (429, `limit`).
        """
        if not (self.limit or self.limit_bytes):
            return None
        self._check(user, size_bytes)
        return _CountedAnswer(self, user, size_bytes, _nowhere).end

    def start(self, user: str, size_bytes: int) -> None:
        """Count a request until `ended`, which must be called once: the shorter way, for the fast paths.

        Raises:
            RequestError: the user has too many (429, `limit`).
        """
        running = self.running.get(user, 0)
        if running:  # one is taken in any case
            self._check(user, size_bytes)
        self.running[user] = running + 1
        if size_bytes:
            self.proposed_bytes[user] = self.proposed_bytes.get(user, 0) + size_bytes

    def _check(self, user: str, size_bytes: int) -> None:
        if self.limit and self.running.get(user, 0) >= self.limit:
            text = f"{self.limit} requests of the user {user} are being answered by this node; nothing was done"
            raise RequestError(text, status=429, code="limit")
        before = self.proposed_bytes.get(user, 0)
        if self.limit_bytes and size_bytes and before and before + size_bytes > self.limit_bytes:
            text = (
                f"writes of the user {user} with {before} bytes are being answered by this node, and with this one they"
                f" would be above {self.limit_bytes}; nothing was done"
            )
            raise RequestError(text, status=429, code="limit")

    def begun(self, user: str, size_bytes: int) -> None:
        """Count a request."""
        self.running[user] = self.running.get(user, 0) + 1
        if size_bytes:
            self.proposed_bytes[user] = self.proposed_bytes.get(user, 0) + size_bytes

    def ended(self, user: str, size_bytes: int) -> None:
        """Count it no more."""
        left = self.running[user] - 1
        if left:
            self.running[user] = left
        else:
            del self.running[user]
        if size_bytes:
            _subtract(self.proposed_bytes, user, size_bytes)


def _subtract(counts: dict[str, int], user: str, number: int) -> None:
    left = counts[user] - number
    if left:
        counts[user] = left
    else:
        del counts[user]


def _nowhere(response: Response) -> None:
    """The answer of a request that is answered by other means."""


class _CountedAnswer:
    """The `Respond` of one counted request."""

    __slots__ = ("_counted", "_requests", "_respond", "_size_bytes", "_user")

    def __init__(self, requests: UserRequests, user: str, size_bytes: int, respond: Respond) -> None:
        requests.begun(user, size_bytes)
        self._requests = requests
        self._user = user
        self._size_bytes = size_bytes
        self._respond = respond
        self._counted = True

    def __call__(self, response: Response) -> None:
        self.end()
        self._respond(response)

    def end(self) -> None:
        """Count it no more."""
        if self._counted:
            self._counted = False
            self._requests.ended(self._user, self._size_bytes)
