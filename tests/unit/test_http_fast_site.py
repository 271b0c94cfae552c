"""A whole site with the fast paths answers any sequence of requests as one without: bytes, order, counts, state."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

from hypothesis import example, given, settings
from hypothesis import strategies as st

from syncline.kv.auth.commands import AuthSwitch, UserAdd
from syncline.server.http.limits import HttpLimits
from syncline.server.http.request import Request
from tests.helpers.auth_site import NOW_S, AuthWire, apply, basic, bearer, grant, token_add, withdraw
from tests.helpers.http_wire import Wire

LEASE: Final = "00000000000000a1"
MANY: Final = json.dumps({"ids": [LEASE, "00000000000000ff"]}).encode()
LIMITS: Final = HttpLimits(max_in_flight=3, max_held_bytes=3000)

Step: TypeAlias = tuple[str, int, bytes]


def message(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


GRANT: Final = message("POST", "/lease", json.dumps({"ttl": "30s", "id": LEASE}).encode(), bearer("root"))
CREDENTIALS: Final = ((bearer("ann"),), (bearer("cat"),), (), (bearer("bob"),), (basic("ann"),), (bearer("nobody"),))
MESSAGES: Final = [
    message(method, path, body, *fields)
    for fields in CREDENTIALS
    for method, path, body in (
        ("GET", "/key/a", b""),
        ("GET", "/key/s/1", b""),
        ("GET", "/key/none", b""),
        ("PUT", "/key/a", b"abc"),
        ("PUT", "/key/b", b"xyz"),
        ("PUT", "/key/a", b""),
        ("PUT", "/key/a", bytes(1001)),
        ("PUT", "/key/" + "k" * 101, b"abc"),
        ("POST", f"/lease/{LEASE}/keepalive", b""),
        ("POST", f"/lease/{'e' * 16}/keepalive", b""),
        ("POST", "/lease/keepalive", MANY),
        ("POST", f"/lease/{LEASE}", b""),
    )
]
EACH: Final = 12
"""As many for each credential. The token of cat expires."""
OPENING: Final = (0, 3, 8)
"""Those that open the fast paths."""
ODD: Final = [
    message("PUT", "/key/a", b"abc", bearer("ann"), "If-Match: 1"),
    message("PUT", "/key/a", b"abc", bearer("ann"), "Idempotency-Key: one"),
    message("GET", "/key/a", b"", bearer("ann"), 'If-None-Match: "1"'),
    message("GET", "/key/a?consistency=stale", b"", bearer("ann")),
    message("DELETE", "/key/a", b"", bearer("ann")),
    message("GET", "/key/%61", b"", bearer("ann")),
    b"\r\n",
]
one: st.SearchStrategy[bytes] = st.one_of(
    st.sampled_from(MESSAGES[:EACH]), st.sampled_from(MESSAGES), st.sampled_from(ODD)
)
few: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("own"), st.integers(0, EACH - 1), st.just(b"")),
    st.tuples(st.just("own"), st.sampled_from(OPENING), st.just(b"")),
    st.tuples(st.just("own"), st.sampled_from(OPENING), st.just(b"")),
    st.tuples(st.just("send"), st.just(0), one),
    st.tuples(st.just("warm"), st.just(0), one),
    st.tuples(st.just("split"), st.integers(1, 400), st.lists(one, min_size=1, max_size=3).map(b"".join)),
    st.tuples(st.just("send"), st.just(0), st.lists(one, min_size=2, max_size=6).map(b"".join)),
    st.tuples(
        st.sampled_from(["hold", "release", "users", "grant", "withdraw", "late"]), st.integers(0, 3), st.just(b""),
    ),
)  # fmt: skip


READ: Final = ("own", 0, b"")
WRITE: Final = ("own", 3, b"")
KEEP: Final = ("own", 8, b"")
HOLD: Final = ("hold", 0, b"")
RELEASE: Final = ("release", 0, b"")
USERS: Final = ("users", 0, b"")
LATE: Final = ("late", 0, b"")


class SiteWire(AuthWire):
    """A connection to a site with users, and what the server has told of its answers."""

    def __init__(self, *, fast: bool, limit: int, user: int) -> None:
        super().__init__(max_user_requests=limit)
        self.user = user
        self.told: list[tuple[object, ...]] = []
        server = self.server
        server.shared.limits = LIMITS
        server.shared.clock = lambda: 0.0
        server.shared.observe = self.observe
        Wire.__init__(self, server=server)
        if not fast:
            server.serve(self.site)

    def observe(self, route: str, status: int, took_s: float, request: Request | None, code: str) -> None:
        of = () if request is None else (request.method, request.headers.get(b"authorization"), len(request.headers))
        self.told.append((route, status, took_s, code, *of))

    async def do(self, step: Step) -> None:
        kind, number, octets = step
        backend = self.backend
        match kind:
            case "own":
                self.send(MESSAGES[self.user * EACH + number])
            case "send":
                self.send(octets)
            case "warm":  # the first two teach the header, and the third opens the lane
                for _ in range(4):
                    self.send(octets)
                    await self.settle()
            case "split":
                at = number % len(octets)
                self.send(octets[:at])
                await self.settle()
                self.send(octets[at:])
            case "hold":
                backend.hold = not backend.hold
            case "release" if backend.held:
                backend.release(number % len(backend.held))
            case "users":
                apply(backend, AuthSwitch(not backend.machine.auth_flag.on), "root")
            case "grant":
                grant(backend, reads=[(b"a", b"b")][:number], writes=[(b"a", b"z")][: number - 1])
            case "withdraw" if "some" in backend.store.auth.users["ann"].roles:
                withdraw(backend)
            case "late":
                self.wall_s += 10.0
        await self.rest()

    async def rest(self) -> None:
        """Let all happen that needs no further step: pipelined keep-alives take many turns, one after the other."""
        before: tuple[int, ...] = ()
        while (now := self._progress()) != before:
            before = now
            await self.settle()

    def _progress(self) -> tuple[int, ...]:
        queue = self.connection._queue
        return len(self.received), len(queue.slots), len(queue.unstarted), queue.in_flight, len(self.backend.held)

    def seen(self) -> dict[str, object]:
        connection, backend = self.connection, self.backend
        connection.check()
        users, queue = self.site.gate.user_requests, connection._queue
        return {
            "written": self.received,
            "told": self.told,
            "counted": (users.running, users.proposed_bytes) if users.limit else None,
            "total": (self.server.held_bytes, self.server.shared.total.requests),
            "queue": (len(queue.slots), len(queue.unstarted), queue.in_flight),
            "reader": (connection._reader.phase, connection._reader.messages, connection._link.read_paused),
            "state": (backend.store.revision, backend.store.digest, backend.reads, len(backend.held)),
            "transport": (self.transport.closed, self.transport.closing),
        }

    async def finish(self) -> None:
        """Let all that waits happen."""
        self.backend.hold = False
        for _ in range(1000):
            if not self.backend.held:
                break
            self.backend.release()
            await self.rest()


@settings(max_examples=50, deadline=None)
@example(steps=[HOLD, READ, ("withdraw", 0, b""), RELEASE, READ], limit=0, user=0, off=False)
@example(steps=[HOLD, WRITE, ("withdraw", 0, b""), RELEASE, WRITE], limit=1, user=0, off=False)
@example(steps=[HOLD, READ, LATE, LATE, RELEASE, READ], limit=1, user=1, off=False)
@example(steps=[LATE, LATE, WRITE, READ, KEEP], limit=1, user=1, off=False)
@example(steps=[HOLD, READ, USERS, RELEASE, READ, WRITE, KEEP, USERS, READ, WRITE, KEEP], limit=0, user=2, off=True)
@example(steps=[HOLD, WRITE, USERS, RELEASE, USERS, READ, WRITE, KEEP], limit=0, user=2, off=True)
@example(steps=[READ, WRITE, KEEP], limit=0, user=2, off=False)
@given(st.lists(few, max_size=14), st.sampled_from([0, 1, 2]), st.integers(0, 2), st.booleans())
async def test_site_with_the_fast_paths_does_what_one_without_does(
    steps: list[Step], limit: int, user: int, off: bool
) -> None:
    wires = [SiteWire(fast=fast, limit=limit, user=user) for fast in (True, False)]
    for wire in wires:
        grant(wire.backend, reads=[(b"a", b"b")], writes=[(b"a", b"b")])
        apply(wire.backend, UserAdd("cat", None, ("some",)), "root")
        apply(wire.backend, token_add("cat", round(NOW_S + 15) * 1000), "root")
        await wire.do(("send", 0, GRANT))
        if off:
            await wire.do(("users", 0, b""))
        for number in OPENING:
            await wire.do(("warm", 0, MESSAGES[user * EACH + number]))
        connection = wire.connection
        assert bool(connection._lane) == (len(connection._write_lanes) == 2) == (wire is wires[0])
    for step in steps:
        for wire in wires:
            await wire.do(step)
        assert wires[0].seen() == wires[1].seen(), step
    for wire in wires:
        await wire.finish()
        users = wire.site.gate.user_requests
        assert (users.running, users.proposed_bytes) == ({}, {}), "none is counted any more"
        assert wire.server.shared.total.requests == 0
    assert wires[0].seen() == wires[1].seen()
