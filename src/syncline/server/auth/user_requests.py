"""How many requests of one user are answered at a time: no user may take the whole node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from syncline.server.api.errors import RequestError
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response

__all__ = ["UserRequests"]


class UserRequests:
    """The requests of each user that are not answered. `limit`: the most of one user; 0: no limit."""

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.running: Counter[str] = Counter()
        """By user; none for users without requests."""

    def call(self, user: str, handler: Callable[[Request, Respond], None], request: Request, respond: Respond) -> None:
        """Call a handler, and count its request until it is answered, or refused by an exception.

        A read that waits for a change is not counted: the watches have limits of their own.

        Raises:
            RequestError: the user has too many (429, `limit`).
        """
        if not self.limit or request.waits:
            handler(request, respond)
            return
        self._check(user)
        counted = _CountedAnswer(self.running, user, respond)
        try:
            handler(request, counted)
        except BaseException:
            counted.end()
            raise

    def begin(self, user: str) -> Callable[[], None] | None:
        """Count a request of another interface; what is to be called at its end, None without a limit.

        Raises:
            RequestError: the user has too many (429, `limit`).
        """
        if not self.limit:
            return None
        self._check(user)
        return _CountedAnswer(self.running, user, _nowhere).end

    def _check(self, user: str) -> None:
        if self.running.get(user, 0) >= self.limit:
            text = f"{self.limit} requests of the user {user} are being answered by this node; nothing was done"
            raise RequestError(text, status=429, code="limit")


def _nowhere(response: Response) -> None:
    """The answer of a request that is answered by other means."""


class _CountedAnswer:
    """The `Respond` of one counted request."""

    __slots__ = ("_counted", "_respond", "_running", "_user")

    def __init__(self, running: Counter[str], user: str, respond: Respond) -> None:
        running[user] += 1
        self._running = running
        self._user = user
        self._respond = respond
        self._counted = True

    def __call__(self, response: Response) -> None:
        self.end()
        self._respond(response)

    def end(self) -> None:
        """Count it no more."""
        if self._counted:
            self._counted = False
            self._running[self._user] -= 1
            if not self._running[self._user]:
                del self._running[self._user]
