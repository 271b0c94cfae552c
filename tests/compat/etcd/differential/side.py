"""One of the two servers: calls to it over gRPC, and what must differ taken out of its answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self, TypeAlias, cast

import grpc

from syncline.server.etcd.messages import Message
from syncline.server.etcd.methods import METHODS
from syncline.server.etcd.protobuf import decode, encode
from tests.compat.etcd.differential.calls import KEEP_ALIVE, WATCH, Call, DrawnLease, Revision, resolved

__all__ = ["ROOT_PASSWORD", "SHORT_LEASE", "Answer", "Side", "wait_until"]

Answer: TypeAlias = object
"""What is compared: a message, or the code and text of an error."""

CALL_S: Final = 30.0
SHORT_LEASE: Final = 901
"""The id of leases that may end during a sequence: when they do is left to each server."""

ROOT_PASSWORD: Final = "root-password"

MARK: Final = b"\xff\xfe-mark"
MARK_WATCH: Final = 4242

_OPTIONS: Final = (("grpc.max_receive_message_length", 1 << 26), ("grpc.max_send_message_length", 1 << 26))


class Side:
    """A server, named in reports by `name`. `wait_s`: how long an answer to a watch may take."""

    def __init__(self, name: str, url: str, *, wait_s: float = CALL_S) -> None:
        self.name = name
        self.wait_s = wait_s
        self.begin = 0
        """The revision at which the sequence begins."""
        self.watches: WatchTranscript | None = None
        self._channel = grpc.insecure_channel(url.removeprefix("http://"), options=_OPTIONS)
        self._calls: dict[str, Any] = {}
        self._tokens: dict[str, str] = {}
        self._drawn: list[int] = []
        self.needs_users = False
        """Clients need credentials. Without that etcd 3.4 refuses a token that it does not know; 3.5 looks at none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the watches and the connection."""
        self._end_watches()
        self._channel.close()

    # --- calls

    def answer(self, call: Call) -> Answer:
        """Carry out a call, and return what is to be compared. An answer to a watch is in `watches`."""
        message = cast("Message", resolved(call.message, self._number))
        if call.method == WATCH:
            if self.watches is None:
                self.watches = WatchTranscript(self._stub(WATCH), self._metadata(call.user), self.wait_s, self._drawn)
                self.watches.send({"create_request": {"key": MARK, "watch_id": MARK_WATCH}})
            self.watches.send(message)
            return None
        if call.method == KEEP_ALIVE:
            return self._error_or(lambda: next(self._stub(KEEP_ALIVE)(iter([message]), timeout=CALL_S)), call)
        metadata = self._metadata(call.user)
        return self._error_or(lambda: self._stub(call.method)(message, timeout=CALL_S, metadata=metadata), call)

    def _error_or(self, ask: Callable[[], Message], call: Call) -> Answer:
        try:
            answer = ask()
        except grpc.RpcError as error:
            return error.code().name, error.details()
        if call.method == "Auth/Authenticate":
            self._tokens[cast("str", call.message.get("name", ""))] = cast("str", answer["token"])
        if call.method in ("Auth/AuthEnable", "Auth/AuthDisable"):
            self.needs_users = call.method == "Auth/AuthEnable"
            if not self.needs_users:
                self._tokens.clear()  # those of etcd end, and those of ours do not
        if call.method == "Lease/LeaseGrant" and not call.message.get("ID"):
            self._drawn.append(cast("int", answer["ID"]))
        return normal(call.method, answer, self._drawn)

    def ask(self, method: str, message: Message, user: str = "") -> Message:
        """Carry out a call that must succeed."""
        answer = self._stub(method)(message, timeout=CALL_S, metadata=self._metadata(user))
        return cast("Message", answer)

    def tried(self, method: str, message: Message, user: str = "") -> None:
        """Carry out a call that may fail."""
        try:
            self.ask(method, message, user)
        except grpc.RpcError:
            return

    def _number(self, part: int) -> int:
        if isinstance(part, Revision):
            return max(0, self.begin + int(part))
        assert isinstance(part, DrawnLease), part
        return self._drawn[part] if int(part) < len(self._drawn) else 77_777

    def _metadata(self, user: str) -> list[tuple[str, str]]:
        if not self.needs_users:
            return []
        token = "wrong.1" if user == "nobody" else self._tokens.get(user)
        return [("token", token)] if token else []

    def _stub(self, method: str) -> Any:
        if (stub := self._calls.get(method)) is None:
            known = METHODS[f"/etcdserverpb.{method}"]
            make = self._channel.unary_unary
            if known.takes_stream:
                make = self._channel.stream_stream
            stub = self._calls[method] = make(
                known.name,
                request_serializer=partial(encode, known.request),
                response_deserializer=partial(decode, known.response),
            )
        return stub

    def mark(self) -> bool:
        """Write what the watches are given after all that was written before. Whether they are given it."""
        try:
            self.ask("KV/Put", {"key": MARK}, "root")
        except grpc.RpcError:
            return False
        return self.watches is not None and self.watches.is_live(MARK_WATCH)

    # --- between sequences

    def clear(self) -> None:
        """Leave no key, lease, user, role and watch of an earlier sequence."""
        self._end_watches()
        self._drawn.clear()
        if self.needs_users:
            login = self.ask("Auth/Authenticate", {"name": "root", "password": ROOT_PASSWORD})
            self._tokens["root"] = cast("str", login["token"])
            self.ask("Auth/AuthDisable", {}, "root")
            self.needs_users = False
        self._tokens.clear()
        for user in cast("list[str]", self.ask("Auth/UserList", {}).get("users", [])):
            self.ask("Auth/UserDelete", {"name": user})
        for role in cast("list[str]", self.ask("Auth/RoleList", {}).get("roles", [])):
            self.ask("Auth/RoleDelete", {"role": role})
        for lease in cast("list[Message]", self.ask("Lease/LeaseLeases", {}).get("leases", [])):
            self.tried("Lease/LeaseRevoke", {"ID": lease["ID"]})
        self.ask("KV/DeleteRange", {"key": b"\0", "range_end": b"\0"})

    @property
    def revision(self) -> int:
        """The present one."""
        header = self.ask("KV/Range", {"key": b"none"})["header"]
        return cast("int", cast("Message", header)["revision"])

    def write(self) -> None:
        """Write something, which makes one revision."""
        self.ask("KV/Put", {"key": b"before"})

    def start(self) -> None:
        """Begin a sequence at the present revision, without a key and a history."""
        self.write()
        self.ask("KV/DeleteRange", {"key": b"before"})
        self.begin = self.revision
        self.ask("KV/Compact", {"revision": self.begin, "physical": True})

    def _end_watches(self) -> None:
        if self.watches is not None:
            self.watches.close()
            self.watches = None


class WatchTranscript:
    """A stream of watches, and what it has sent, by watch."""

    def __init__(self, stub: Any, metadata: list[tuple[str, str]], wait_s: float, drawn: list[int]) -> None:
        self._wait_s = wait_s
        self._drawn = drawn
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._error: tuple[str, str] | None = None
        self._live: set[int] = set()
        self._call = stub(self._sent(), metadata=metadata)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the stream."""
        self._call.cancel()
        self._requests.put(None)
        self._thread.join()

    def send(self, message: Message) -> None:
        """Send a request, and wait until the server has carried it out."""
        cancelled = cast("Message", message.get("cancel_request", {})).get("watch_id", 0)
        silent = "cancel_request" in message and cancelled not in self._live
        before = self._answers()
        self._requests.put(message)
        if not silent:
            with self._changed:
                self._changed.wait_for(lambda: self._answers() > before or self._error is not None, self._wait_s)

    def is_live(self, watch: int) -> bool:
        """Whether a watch was created, and has not ended."""
        return watch in self._live

    def marks(self) -> int:
        """How often a mark was seen."""
        with self._changed:
            return sum(
                [
                    len(cast("list[Message]", one.get("events", [])))
                    for one in self._messages
                    if one.get("watch_id") == MARK_WATCH
                ]
            )

    def _answers(self) -> int:
        """Messages that answer a request: those of compacted watches come by themselves."""
        return sum([1 for one in self._messages if not one.get("events") and not one.get("compact_revision")])

    def _sent(self) -> Iterator[Message]:
        while (message := self._requests.get()) is not None:
            yield message

    def _read(self) -> None:
        try:
            for message in self._call:
                with self._changed:
                    self._messages.append(message)
                    watch = cast("int", message.get("watch_id", 0))
                    if message.get("canceled"):
                        self._live.discard(watch)
                    elif message.get("created"):
                        self._live.add(watch)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            with self._changed:
                self._error = error.code().name, error.details()
                self._changed.notify_all()

    def seen(self) -> Mapping[str, object]:
        """By watch: its answers, and then its events, whatever messages they came in."""
        with self._changed:
            messages, error = list(self._messages), self._error
        seen: dict[str, list[object]] = {}
        for message in messages:
            of = seen.setdefault(f"watch {message.get('watch_id', 0)}", [])
            if events := cast("list[Message]", message.get("events", [])):
                of += [normal(WATCH, event, self._drawn) for event in events]
            else:
                of.append(normal(WATCH, {name: part for name, part in message.items() if name != "fragment"}, []))
        return {**seen, "error": error}


# --- what must differ

_TAKEN: Final = frozenset({"cluster_id", "member_id", "raft_term", "token", "hash", "hash_revision"})
"""Ids, terms, secrets and digests; and what etcd 3.4 has not."""

_STATUS: Final = ("version", "dbSize", "dbSizeInUse", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "errors")


def normal(method: str, answer: Message, drawn: list[int]) -> Message:
    """An answer without what must differ, and without fields that have their default value."""
    answer = cast("Message", _without(answer, drawn))
    match method:
        case "Maintenance/Alarm":  # etcd 3.4 has no header, and 3.5 has one
            return {name: part for name, part in answer.items() if name != "header"}
        case "Lease/LeaseLeases":  # etcd's order is by the time that is left
            leases = cast("list[Message]", answer.get("leases", []))
            ids = sorted([str(one["ID"]) for one in leases if one["ID"] != SHORT_LEASE])
            return {**answer, "leases": ids}
        case "Lease/LeaseTimeToLive" | "Lease/LeaseKeepAlive":
            left = cast("int", answer.pop("TTL", 0))
            answer["keys"] = sorted(cast("list[bytes]", answer.get("keys", [])))  # etcd's order is that of a hash
            return {**answer, "alive": (left > 0) - (left < 0)}
        case "Maintenance/Status":
            return {name: part for name, part in answer.items() if name not in _STATUS}
        case "Auth/RoleGet":  # etcd sorts by the key, without regard to the end
            perms = cast("list[Message]", answer.get("perm", []))
            return {**answer, "perm": sorted(perms, key=str)}
        case "Cluster/MemberList":
            members = cast("list[Message]", answer["members"])
            return {**answer, "members": [member.get("isLearner", False) for member in members]}
    return answer


def _without(part: object, drawn: list[int]) -> object:
    if isinstance(part, dict):
        kept = {name: _without(inner, drawn) for name, inner in part.items() if name not in _TAKEN}
        for name in ("ID", "lease"):
            if (number := kept.get(name)) in drawn:
                kept[name] = f"drawn {drawn.index(number)}"
        return {name: inner for name, inner in kept.items() if inner or isinstance(inner, dict)}
    if isinstance(part, list):
        return [_without(inner, drawn) for inner in part]
    return part


def wait_until(true: Callable[[], bool], deadline_s: float) -> bool:
    """Poll a condition of two servers; whether it came true in time."""
    end_s = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.002)  # poll: the state is in other processes
    return True
