"""One client that asks the same all the time and remembers the longest wait."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Self

EVERY_S = 0.001
"""Between an answer and the next request: pauses are found to about this."""

TIMEOUT_S = 30.0


class Prober(threading.Thread):
    """Asks while it is entered. A failed request ends it, and `longest_ms` says so."""

    def __init__(self, address: str, method: str, path: str, body: bytes | None = None) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        self._request = method, path, body
        self._longest_s = 0.0
        self._asked_at: float | None = None
        self._ending = threading.Event()
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(TIMEOUT_S)
        self._connection.close()

    def longest_ms(self) -> float:
        """The longest wait since this was asked last, one that goes on included."""
        if self._failure is not None:
            raise self._failure
        asked_at = self._asked_at
        longest_s, self._longest_s = self._longest_s, 0.0
        return max(longest_s, 0.0 if asked_at is None else time.monotonic() - asked_at) * 1000

    def run(self) -> None:
        try:
            while not self._ending.wait(EVERY_S):
                self._ask()
        except (OSError, http.client.HTTPException) as error:
            self._failure = error

    def _ask(self) -> None:
        self._asked_at = start = time.monotonic()
        self._connection.request(*self._request)
        answer = self._connection.getresponse()
        answer.read()
        self._asked_at = None
        self._longest_s = max(self._longest_s, time.monotonic() - start)
        if answer.status != 200:
            raise OSError(f"{self._request[1]} was answered with {answer.status}")
