"""Stage 1: a dictionary in memory.

python -m examples.tutorial.memory
"""

from __future__ import annotations

from threading import Event

from examples.tutorial.web import ABSENT, FIRST_PORT, NO_ROUTE, OK, Answer, start


class Store:
    """Keys and values, as long as this process lives."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.data.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.data[key] = value

    def delete(self, key: str) -> None:
        self.data.pop(key, None)

    def respond(self, method: str, path: str, body: bytes) -> Answer:
        key = path.removeprefix("/key/")
        if key == path or not key:
            return NO_ROUTE
        if method == "GET":
            value = self.get(key)
            return ABSENT if value is None else (200, value)
        if method == "DELETE":
            self.delete(key)
        else:
            self.set(key, body)
        return OK


if __name__ == "__main__":
    start("memory", FIRST_PORT, Store().respond)
    Event().wait()
