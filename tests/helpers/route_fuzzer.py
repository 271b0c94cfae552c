"""Requests of every kind to every route of a live server: what must hold for whatever a client sends.

The routes are those that the router declares. Their parameters and fields are asked of the server itself: a request
with an unknown one is refused with those that are accepted. So a route that is added is walked without a word here.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from tests.helpers.route_paths import path_of

__all__ = ["Fault", "RouteFuzzer"]

PATIENCE_S: Final = 40.0
"""For an answer: longer than the longest deadline that a route has if the request names none (30 s)."""

ALLOWED_5XX: Final = frozenset({501, 503, 507})
CONTINUE: Final = 100
BODILESS: Final = frozenset({204, 304})
DEADLINE_EXCEEDED: Final = 504
"""Right if the request named a deadline itself."""

METHODS: Final = ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "PROPFIND")
KEYS: Final = (
    b"a", b"a/b", b"a/../b", b".", b"..", b"", b"\xff\x00", "é".encode(), b"%", b"+ ", b"?#", b"base64:", b"k" * 1024,
    b"k" * 1025,
)  # fmt: skip
VALUES: Final = (
    b"", b"1", b"0", b"-1", b"true", b"false", b"5s", b"0.5", b"1ms", b"60", b"61s", b"99999999999999999999", b"nan",
    b"1e9", b"stale", b"leader", b"linearizable", b"base64", b"base64:YQ", b"base64:!", b"a", b"node",
    b"local_read,digest", b"\xff", b"%00",
)  # fmt: skip
SENSIBLE: Final = (b"1", b"true", b"5s", b"stale", b"a") * 5
TIMEOUTS: Final = (b"100ms", b"0.2s", b"0.05")
WAITS: Final = (*TIMEOUTS, b"0", b"61s", b"nan", b"")
FIELDS: Final = (
    "Last-Event-ID: 1", "Last-Event-ID: x", "Accept: application/x-ndjson",
    "If-Match: *", 'If-Match: "1"', "If-Match: 7, 8", 'If-Match: W/"1"', "If-Match: rubbish", "If-None-Match: *",
    'If-None-Match: "1"', "If-Unmodified-Since: now", "If-Range: x", "Range: bytes=0-1", "Content-Range: bytes 0-0/1",
    "Content-Encoding: gzip", "Content-Encoding: identity", "Content-Type: application/json; charset=utf-16",
    "Content-Type: text/plain", "Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site",
    "Access-Control-Request-Method: PUT", "Idempotency-Key: 1", "X-HTTP-Method-Override: DELETE",
    "Expect: 100-continue", "Expect: money", "Upgrade: h2c", "Connection: close", "Connection: upgrade",
    "TE: trailers", "Cookie: a=b", "Accept-Encoding: gzip", "Authorization: Basic eDp5", "Forwarded: for=x",
    "X-Forwarded-Host: evil.example", "A: " + "b" * 2000,
)  # fmt: skip
HOSTS: Final = ("localhost", "127.0.0.1:80", "evil.example", "x", "", "a b", "[::1]", "[::1")
WORDS: Final = (
    "a", "b", "d", "0123456789abcdef", "127.0.0.1:1", "0.0.0.0:1", "http://127.0.0.1:1", "hold", "é", "", "x" * 300,
)  # fmt: skip
TXN_WORDS: Final = (
    "op", "put", "delete", "get", "delete_range", "range", "txn", "key", "key_base64", "value", "value_base64",
    "prefix", "start", "end", "limit", "reverse", "values", "compare", "then", "else", "target", "mod_revision",
    "version", "number", "==", "<",
)  # fmt: skip


class Fault(AssertionError):
    """An answer that no request may get. The text holds the request."""


@dataclass
class _Answer:
    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class RouteFuzzer:
    """Asks the server at a port on loopback. `seen` counts the answers by route and status. All is drawn from `rng`."""

    def __init__(self, rng: random.Random, port: int, routes: dict[str, tuple[str, ...]]) -> None:
        self.seen: Counter[tuple[str, str, int]] = Counter()
        self._rng = rng
        self._port = port
        self._routes = routes
        self._parameters: dict[tuple[str, str], list[str]] = {}
        self._fields: dict[tuple[str, str], list[str]] = {}

    @property
    def walked(self) -> set[tuple[str, str]]:
        """Methods and patterns that were asked."""
        return {(method, pattern) for method, pattern, _ in self.seen}

    async def learn(self) -> None:
        """Ask each route for what it accepts."""
        for pattern, methods in self._routes.items():
            for method in methods:
                path = self._path(pattern, b"a")
                for found, sent in (
                    (self._parameters, self._head(method, path + self._joint(path) + "bogus=1", b"{}") + b"{}"),
                    (self._fields, self._head(method, path, b'{"Bogus":1}') + b'{"Bogus":1}'),
                ):
                    if method == "HEAD" or (found is self._fields and method != "POST"):
                        continue
                    [answer] = await self._ask(sent, [method])
                    listed = re.search(rb"accepted here: ([^\"]*)", answer.body)
                    known = listed[1].decode().split(", ") if listed else []
                    found[method, pattern] = [name for name in known if name != "none"]

    async def rounds(self, count: int) -> None:
        """So many times one request to each method of each route, and one to a path that is none."""
        for _ in range(count):
            await self._round()

    async def _round(self) -> None:
        for pattern, methods in self._routes.items():
            for method in methods:
                await self._one(method, pattern)
        await self._one(
            self._rng.choice(METHODS), self._rng.choice(["*", "/nothing", "//", "/key", "http:///", "http://x/key/a"])
        )

    # --- making

    async def _one(self, declared: str, pattern: str) -> None:
        """One request, or three that are pipelined, damaged or not."""
        rng = self._rng
        sent, methods, timed = b"", [], False
        for _ in range(rng.choice([1, 1, 1, 1, 3])):
            method = declared if rng.random() < 0.9 else rng.choice(METHODS)
            target, with_limit = self._target(declared, pattern)
            sent += self._framed(method, target, self._body(declared, pattern))
            methods.append(method)
            timed |= with_limit
        damaged = rng.random() < 0.05
        if damaged:
            at = rng.randrange(len(sent))
            sent = sent[:at] + rng.randbytes(rng.randrange(3)) + sent[at + rng.randrange(2) :]
        answers = await self._ask(sent, methods)
        if not answers and not damaged:
            raise Fault(f"closed without an answer to {sent[:1000]!r}")
        for answer in answers:
            self.seen[declared, pattern, answer.status] += 1
            self._judge(sent, answer, timed=timed or damaged)

    def _path(self, pattern: str, argument: bytes) -> str:
        return path_of(pattern, argument, safe="/" if self._rng.random() < 0.5 else "")

    @staticmethod
    def _joint(path: str) -> str:
        return "&" if "?" in path else "?"

    def _target(self, method: str, pattern: str) -> tuple[str, bool]:
        rng = self._rng
        path = self._path(pattern, rng.choice([*KEYS, b"node", b"linearizable_read"]))
        known = self._parameters.get((method, pattern), [])
        names = [name for name in known if rng.random() < 0.3]
        if rng.random() < 0.05:
            names += [rng.choice(["bogus", "ttl", "revision", "%zz", *(names or ["a"])])]
        if "timeout" in known and pattern.startswith("/raft/") and "timeout" not in names:
            names.append("timeout")
        pairs = []
        for name in names:
            value = rng.choice(TIMEOUTS) if name == "timeout" and rng.random() < 0.8 else rng.choice(VALUES + SENSIBLE)
            if name == "wait":
                value = rng.choice(WAITS)  # an answer may take so long
            pairs.append(f"{name}={quote(value)}" if rng.random() < 0.95 else name)
        return path + (self._joint(path) + "&".join(pairs) if pairs else ""), "timeout" in names

    def _body(self, method: str, pattern: str) -> bytes:
        rng = self._rng
        if method not in ("PUT", "POST"):
            return b"" if rng.random() < 0.9 else b"{}"
        if pattern.startswith("/key"):
            return rng.randbytes(rng.choice([0, 1, 100, 5000, 70_000]))
        body = json.dumps(self._document(self._fields.get((method, pattern), []), pattern)).encode()
        drawn = rng.random()
        if drawn < 0.05:
            return rng.choice([b"", b"[" * 5000, b"null", b'{"a":' * 2000, b"\xff", rng.randbytes(50), b"9" * 5000])
        if drawn < 0.1 and len(body) > 2:
            at = rng.randrange(len(body))
            return body[:at] + rng.choice([b'"', b",", b"{", b"0", b"\\ud800"]) + body[at + 1 :]
        return body[:-1] + b"," + body[1:] if drawn < 0.15 and len(body) > 2 else body

    def _document(self, fields: list[str], pattern: str) -> object:
        rng = self._rng
        if not fields:
            return {} if pattern.startswith("/raft/") else self._transaction()
        if rng.random() < 0.5:
            return {name: self._value(name) for name in fields if rng.random() < 0.6}
        sensible = {"ID": rng.choice(["a", "d", "d", "e"])}
        sensible |= {"Address": f"127.0.0.1:{rng.choice([1, 2])}", "Http": "http://127.0.0.1:1", "Action": "hold"}
        return {name: sensible[name] for name in fields if name in sensible and rng.random() < 0.9}

    def _value(self, name: str) -> object:
        """Never a true Force: one forced change leaves a cluster of one node without a quorum."""
        rng = self._rng
        if name == "Force":
            return rng.choice([False, None, "true", 1])
        return rng.choice([*WORDS, *WORDS, True, False, None, 5, -1, [], {}])

    def _transaction(self) -> object:
        rng = self._rng
        key = rng.choice(["a", "b", ".."])
        compares = [
            {"key": key, "target": rng.choice(["mod_revision", "version", "x"]), "number": rng.choice([0, 1, 2**63])},
            {"key": key, "target": "value", "value": rng.choice(["", "a"])},
            {"key": key, "number": 0, "op": rng.choice(["==", "!=", "<", ">", "~"])},
        ]
        operations = [
            {"op": "put", "key": key, "value": rng.choice(WORDS)},
            {"op": "delete", "key": key},
            {"op": "get", "key": key},
            {"op": "range", "prefix": "", "limit": rng.choice([0, 5, -1, 10**10]), "values": True},
            {"op": "delete_range", "start": "x", "end": rng.choice(["y", ""])},
            self._words(3),
        ]
        branch = [rng.choice(operations) for _ in range(rng.randrange(4))]
        if rng.random() < 0.3:
            branch.append({"op": "txn", "compare": compares[:1], "then": branch[:1], "else": []})
        return rng.choice(
            [{"compare": rng.sample(compares, rng.randrange(3)), "then": branch, "else": branch[:1]}, self._words(4)]
        )

    def _words(self, depth: int) -> object:
        rng = self._rng
        drawn = rng.random()
        if depth == 0 or drawn < 0.3:
            return rng.choice([*TXN_WORDS, "", 0, -1, 2**64, 1.5, True, None])
        if drawn < 0.7:
            return {rng.choice(TXN_WORDS): self._words(depth - 1) for _ in range(rng.randrange(5))}
        return [self._words(depth - 1) for _ in range(rng.randrange(4))]

    def _head(self, method: str, target: str, body: bytes, *fields: str) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields, "", ""]
        return "\r\n".join(lines).encode()

    def _framed(self, method: str, target: str, body: bytes) -> bytes:
        rng = self._rng
        fields = rng.sample(FIELDS, rng.choice([0, 0, 0, 1, 1, 3]))
        head = self._head(method, target, body, *fields)
        if rng.random() < 0.1:
            head = head.replace(b"Host: localhost", b"Host: " + rng.choice(HOSTS).encode(), 1)
        drawn = rng.random()
        if drawn < 0.1:
            length = b"Content-Length: %d" % len(body)
            parts = [part for part in (body[: len(body) // 2], body[len(body) // 2 :]) if part]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))
            return head.replace(length, b"Transfer-Encoding: chunked", 1) + chunks
        if drawn < 0.13 and not body:
            return head.replace(b"Content-Length: 0\r\n", b"", 1)
        if drawn < 0.17:
            return head.replace(b"HTTP/1.1", rng.choice([b"HTTP/1.0", b"HTTP/2.0"]), 1) + body
        return head + body

    # --- asking

    async def _ask(self, sent: bytes, methods: list[str]) -> list[_Answer]:
        """Send requests on a connection of their own, and no more; the answers until the server closes it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return _parsed(await self._exchange(sent), methods)
        except TimeoutError:
            raise Fault(f"no end of the answers within {PATIENCE_S:g} s to {sent[:1000]!r}") from None

    async def _exchange(self, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        received = b""
        try:
            writer.write(sent)
            if writer.can_write_eof():
                writer.write_eof()
            with suppress(ConnectionError):  # a server that has refused the input need not read the rest of it
                while data := await reader.read(65536):
                    received += data
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return received

    def _judge(self, sent: bytes, answer: _Answer, *, timed: bool) -> None:
        status = answer.status
        shown = f"{status} {answer.body[:300]!r} to {sent[:1000]!r}"
        if status >= 500 and status not in ALLOWED_5XX and not (status == DEADLINE_EXCEEDED and timed):
            raise Fault(shown)
        if answer.fields.get("content-type") != "application/json" or not answer.body:
            return
        try:
            found = json.loads(answer.body)
            if status >= 400 and "health" not in found:
                error = found["error"]
                assert error["code"], "a code"
                assert error["message"], "a message"
                assert error["outcome"] in ("not_applied", "unknown"), "an outcome"
        except (ValueError, LookupError, TypeError, AssertionError) as reason:
            raise Fault(f"{reason!r}: {shown}") from reason


def _parsed(received: bytes, methods: list[str]) -> list[_Answer]:
    """Answers in order. Each of ours has a length, is in chunks, is one without a body, or ends with the connection."""
    answers: list[_Answer] = []
    while received:
        head, blank, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.1 (\d{3}) .+", first)
        if not blank or found is None:
            raise Fault(f"no answer of HTTP: {head[:300]!r}")
        status = int(found[1])
        if status == CONTINUE:
            continue
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        if fields.get("content-type") == "text/event-stream" and method != "HEAD":
            answers.append(_Answer(status, fields, received))  # it has no end of its own: it stops with the connection
            return answers
        if "content-length" not in fields and status not in BODILESS and method != "HEAD":
            chunked = fields.get("transfer-encoding") == "chunked"
            body, received = _unchunked(received) if chunked else (received, b"")
            answers.append(_Answer(status, fields, body))
            continue
        size = int(fields.get("content-length", "0"))
        if method == "HEAD":  # without a body, but for a refusal of what could not be read as HEAD
            size = min(len(received), size) if fields.get("connection") == "close" else 0
        answers.append(_Answer(status, fields, received[:size]))
        received = received[size:]
    return answers


def _unchunked(received: bytes) -> tuple[bytes, bytes]:
    """A body in chunks, and what is behind it."""
    body = b""
    while True:
        size, found, received = received.partition(b"\r\n")
        if not found or received[int(size, 16) :][:2] != b"\r\n":
            raise Fault(f"no chunk: {size[:100]!r}")
        body += received[: int(size, 16)]
        received = received[int(size, 16) + 2 :]
        if int(size, 16) == 0:
            return body, received
