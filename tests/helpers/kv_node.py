"""A node for tests of the routes: the real state machine, without Raft. Answers at once, later, or with an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from syncline.client.schemas import Added, LeaderInfo, MemberAbility, MemberInfo, Members, NodeView, UpgradeResult
from syncline.errors import Closed, MembershipError, NothingToSnapshot, SynclineError
from syncline.kv.auth.flag import AuthFlag
from syncline.kv.commands import authorised
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lease_calls import decode_call
from syncline.kv.machine import KvMachine
from syncline.kv.store import KeyStore
from syncline.node.fsm import Entry
from syncline.node.futures import ReadFuture, Then
from syncline.node.session_calls import ThenOnce
from syncline.server.api.site import Site
from syncline.server.console.routes import Console
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.limits import HttpLimits
from syncline.server.http.server import HttpServer
from syncline.sessions.answers import AnswerCodec, verdict_error
from syncline.sessions.entries import OnceKey, SessionChange, SessionCommand, fingerprint_of
from syncline.sessions.table import KeyFault, SessionTable
from tests.helpers.http_wire import Answer, Wire

IDS = {"a": 0x1111, "b": 0x2222, "c": 0x3333}


class FakeBackend:
    """A backend of three members, a being this node and the leader."""

    def __init__(self) -> None:
        self.machine = KvMachine()
        self.sessions = SessionTable()
        self.codec = AnswerCodec(self.machine.dump_answer, self.machine.load_answer)
        self.keys: list[OnceKey] = []
        """Of the writes that had one."""
        self.index = 0
        self.observers: list[Callable[[], None]] = []
        self.is_leader = True
        self.state_age_s: float | None = 0.0
        self.catching_up = False
        self.failure: BaseException | None = None
        self.propose_error: SynclineError | None = None
        self.read_error: SynclineError | None = None
        self.change_error: SynclineError | None = None
        self.hold = False
        """Whether proposals and reads wait until the test releases them."""
        self.held: list[tuple[asyncio.Future[object], bytes | None]] = []
        self.timeouts_s: list[float] = []
        self.reads = 0
        self.leases = 0
        """Ids of leases that were drawn: 1, 2, 3, …"""
        self.names = dict(IDS)
        self.learners: set[int] = set()
        self.changes: list[tuple[object, ...]] = []
        self.leader_name: str | None = "a"
        self.nothing_to_snapshot = False
        self.levels_held = False
        self.shortages = {"disk_space": "", "store_space": ""}
        self.freeing: list[bool] = []
        self.refusals: list[BaseException] = []

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name in {"is_leader", "leader_name"}:
            for observer in self.observers:
                observer()

    def observe_leader(self, callback: Callable[[], None]) -> None:
        self.observers.append(callback)

    @property
    def store(self) -> KeyStore:
        return self.machine.store

    def propose(self, command: bytes, timeout_s: float, then: Then, *, frees_space: bool = False) -> None:
        self.freeing.append(frees_space)
        self.timeouts_s.append(timeout_s)
        if self.hold:
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            future.add_done_callback(partial(_tell, then))
            self.held.append((future, command))
        elif self.propose_error is not None:
            then(None, self.propose_error)
        else:
            then(*self._apply(command))

    @property
    def lease_calls(self) -> LeaseCaller:
        return LeaseCaller(self, gather_s=0.0)

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes:
        """Answer a call about leases by the book, as if no time passed."""
        self.timeouts_s.append(timeout)
        if self.propose_error is not None:
            raise self.propose_error
        records = [self.store.leases.get(lease) for lease in decode_call(data).leases]
        return msgspec.msgpack.encode([(one.ttl_ms, one.rest_ms) if one else (0, 0) for one in records])

    def propose_once(
        self,
        command: bytes,
        key: OnceKey,
        timeout_s: float,
        then: ThenOnce,
        *,
        frees_space: bool = False,
        fingerprint: bytes = b"",
    ) -> None:
        """As the runtime does it, with the runtime's own table."""
        self.keys.append(key)
        if self.propose_error is not None:
            then(None, self.propose_error, False)
            return
        held = self.sessions.begin(SessionCommand(key, fingerprint_of(fingerprint or command), command), self.index + 1)
        if held is None:
            self.freeing.append(frees_space)
            self.timeouts_s.append(timeout_s)
            answer, error = self._apply(command)
            self.sessions.finish(key, *self.codec.dump(answer if error is None else error))
            then(answer, error, False)
        elif isinstance(held, KeyFault):
            error = verdict_error(held)
            then(None, error, False)
        else:
            recorded = self.codec.load(held)
            refused = recorded if isinstance(recorded, SynclineError) else None
            then(None if refused else recorded, refused, True)

    session_idle_s = 3600.0

    async def open_session(self, timeout_s: float) -> int:
        self.timeouts_s.append(timeout_s)
        self.index += 1
        self.sessions.change(SessionChange(opened=self.index << 32), self.index, 1)
        return self.index << 32

    async def end_session(self, session_id: int, timeout_s: float) -> bool:
        self.timeouts_s.append(timeout_s)
        self.index += 1
        return self.sessions.change(SessionChange(ended=(session_id,)), self.index, 1)

    def observe(self, callback: Callable[[], None]) -> None:
        self.machine.observe(callback)

    @property
    def auth_flag(self) -> AuthFlag:
        return self.machine.auth_flag

    def observe_auth(self, callback: Callable[[], None]) -> None:
        self.machine.observe_auth(callback)

    def new_lease(self) -> int:
        self.leases += 1
        return self.leases

    def read_index(self, timeout_s: float) -> ReadFuture:
        self.timeouts_s.append(timeout_s)
        self.reads += 1
        if self.hold and self.held and self.held[-1][1] is None:
            shared = self.held[-1][0]
            assert isinstance(shared, ReadFuture)
            return shared
        future = ReadFuture(loop=asyncio.get_running_loop())
        if self.hold:
            self.held.append((future, None))
        elif self.read_error is not None:
            future.set_exception(self.read_error)
        else:
            future.set_result(self.index)
        return future

    def release(self, position: int = 0) -> None:
        """Let a held operation happen."""
        future, command = self.held.pop(position)
        if command is None:
            future.set_result(self.index)
            return
        answer, error = self._apply(command)
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def _apply(self, command: bytes) -> tuple[object, SynclineError | None]:
        self.index += 1
        try:
            return self.machine.apply(Entry(self.index, 1, command)), None
        except SynclineError as error:
            return None, error

    def member_command(self, command: bytes) -> bytes:
        return authorised(command, "", b"", self.store.auth.revision) if self.machine.auth_flag.on else command

    cluster_id = 7
    node_id = IDS["a"]
    term = 3
    state_alarm = ""
    election_s = 1.0
    disk_stall = ""

    def note_refusal(self, error: BaseException) -> None:
        self.refusals.append(error)

    def leader(self) -> LeaderInfo | None:
        if self.leader_name is None:
            return None
        return LeaderInfo(f"{self.names[self.leader_name]:016x}", self.leader_name, f"http://{self.leader_name}:8080")

    def _members(self) -> tuple[MemberInfo, ...]:
        return tuple(
            MemberInfo(
                id=f"{node_id:016x}",
                name=name,
                role="learner" if node_id in self.learners else "voter",
                peer=f"{name}:7100",
                http=f"http://{name}:8080",
            )
            for name, node_id in self.names.items()
        )

    def members(self) -> Members:
        return Members(membership_index=5, joint=False, leader=self.leader(), members=self._members())

    def view(self) -> NodeView:
        return NodeView(
            cluster_id=f"{7:016x}",
            cluster="test",
            id=f"{IDS['a']:016x}",
            name="a",
            role="leader",
            term=3,
            leader=self.leader(),
            commit=self.index,
            applied=self.index,
            last_index=self.index,
            first_index=1,
            snapshot_index=0,
            membership_index=5,
            lag=0,
            data_dir="/data/a",
            http="http://a:8080",
            peer="a:7100",
            last_contact_s=0.0,
            level=1,
            machine_version=1,
            members=self._members(),
        )

    async def add_member(
        self, name: str, address: str, *, http: str, node_id: int | None, learner: bool, timeout_s: float
    ) -> Added:
        self._changed("add", name, address, http, node_id, learner, timeout_s)
        added = name not in self.names
        self.names.setdefault(name, node_id or 0x4444)
        member = next(member for member in self._members() if member.name == name)
        return Added(
            added=added,
            cluster_id=f"{7:016x}",
            cluster="test",
            membership_index=6,
            member=member,
            members=self._members(),
        )

    async def remove_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        self._changed("remove", node_id, timeout_s, *(["force"] if force else []))
        self.names = {name: known for name, known in self.names.items() if known != node_id}

    async def promote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        self._changed("promote", node_id, timeout_s, *(["force"] if force else []))
        if node_id not in self.learners:
            raise MembershipError("it is no learner")
        self.learners.discard(node_id)

    async def demote_member(self, node_id: int, timeout_s: float, *, force: bool) -> None:
        self._changed("demote", node_id, timeout_s, *(["force"] if force else []))
        self.learners.add(node_id)

    async def update_member(self, node_id: int, address: str, timeout_s: float) -> None:
        self._changed("update", node_id, address, timeout_s)

    async def transfer_leadership(self, to: int | None, timeout_s: float) -> None:
        self._changed("transfer", to, timeout_s)
        self.leader_name = next(name for name, known in self.names.items() if known == (to or IDS["b"]))

    def upgrade(self) -> UpgradeResult:
        return UpgradeResult(
            level=1,
            machine_version=1,
            possible_level=2,
            possible_machine_version=1,
            held=self.levels_held,
            hold_level=0,
            members=tuple(
                MemberAbility(id=f"{node_id:016x}", name=name, level=2, machine_version=1)
                for name, node_id in self.names.items()
            ),
        )

    async def hold_upgrade(self, timeout_s: float) -> UpgradeResult:
        self._changed("hold", timeout_s)
        self.levels_held = True
        return self.upgrade()

    async def finalize_upgrade(self, timeout_s: float) -> UpgradeResult:
        self._changed("finalize", timeout_s)
        self.levels_held = False
        return self.upgrade()

    async def snapshot(self, timeout_s: float) -> int:
        self._changed("snapshot", timeout_s)
        if self.nothing_to_snapshot:
            raise NothingToSnapshot("nothing new")
        return self.index

    def _changed(self, *what: object) -> None:
        self.changes.append(what)
        if self.change_error is not None:
            raise self.change_error


class KvWire(Wire):
    """A connection to a site over a fake backend."""

    def __init__(
        self,
        backend: FakeBackend | None = None,
        *,
        max_value_bytes: int = 1000,
        limits: HttpLimits | None = None,
        policy: CrossSitePolicy | None = None,
        console: Console | None = None,
    ) -> None:
        self.backend = FakeBackend() if backend is None else backend
        policy = policy or CrossSitePolicy()
        self.site = Site(
            self.backend,
            name="a",
            max_key_bytes=100,
            max_value_bytes=max_value_bytes,
            metrics=lambda: b"up 1\n",
            policy=policy,
            console=console,
        )
        self._seen = 0
        super().__init__(
            server=HttpServer(self.site, limits=limits, knows_host=policy.knows_host, wall_time_s=lambda: 0.0)
        )
        self.server.serve(self.site, self.site.fast_get, self.site.fast_writes)
        self.site.watches.given = self.server.write_streams

    async def ask(self, method: str, path: str, body: bytes = b"", *fields: str) -> Answer:
        """Send one request and take its answer."""
        return await self.ask_as("x", method, path, body, f"Content-Length: {len(body)}", *fields)

    async def ask_as(self, host: str, method: str, path: str, body: bytes = b"", *fields: str) -> Answer:
        """Send one request under a host name, with these fields and no others; take its answer."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        self.send("\r\n".join(lines).encode() + body)
        await self.settle()
        return self.next_answer(head=method == "HEAD")

    def next_answer(self, *, head: bool = False) -> Answer:
        """The first answer that was not taken yet."""
        data = self.received[self._seen :]
        if head:  # its length is that of a body which is not there
            block, _, rest = data.partition(b"\r\n\r\n")
            assert not rest
            self._seen += len(data)
            lines = block.decode().split("\r\n")
            named = dict(line.split(": ", 1) for line in lines[1:])
            return Answer(int(lines[0].split()[1]), {key.lower(): value for key, value in named.items()})
        self._seen += len(data)
        answers = _parse(data)
        assert len(answers) == 1, data
        return answers[0]


def _parse(data: bytes) -> list[Answer]:
    from tests.helpers.http_wire import parse_answers

    return parse_answers(data)


def error_in(answer: Answer) -> dict[str, Any]:
    """The error of an answer, whose form is checked."""
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    error = body["error"]
    assert {"code", "message", "outcome"} <= set(error) <= {"code", "message", "outcome", "details", "leader"}
    assert answer.headers["content-type"] == "application/json"
    assert isinstance(error, dict)
    return error


def _tell(then: Then, future: asyncio.Future[object]) -> None:
    error = Closed("the node is closing") if future.cancelled() else future.exception()
    assert error is None or isinstance(error, SynclineError)
    then(None if error else future.result(), error)
