"""A double of etcd's JSON gateway: tests of `import --from-etcd` and `export --to-etcd` need no etcd."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.helpers.http_server import HttpRequest, Reply, json_reply

__all__ = ["EtcdDouble", "EtcdStored"]

Body = dict[str, object]


@dataclass(frozen=True)
class EtcdStored:
    value: bytes
    lease: int = 0


@dataclass
class EtcdDouble:
    """A handler with the states of all revisions, leases, and one user. 64-bit numbers in its answers are text."""

    keys: dict[bytes, EtcdStored] = field(default_factory=dict)
    leases: dict[int, int] = field(default_factory=dict)
    """Granted seconds by id."""
    version: str = "3.5.1"
    user: tuple[str, str] | None = None
    most_bytes: int = 1 << 20
    compacted: int = 0
    """Revisions below it can't be read."""
    after_page: Callable[[], None] = lambda: None
    kept_alive: list[int] = field(default_factory=list)
    pages: int = 0
    logins: int = 0

    def __post_init__(self) -> None:
        self.revision = 1
        self._past: dict[int, dict[bytes, EtcdStored]] = {1: dict(self.keys)}
        self._token = ""

    def write(self, changes: dict[bytes, EtcdStored | None]) -> None:
        """One revision."""
        for key, stored in changes.items():
            if stored is None:
                self.keys.pop(key, None)
            else:
                self.keys[key] = stored
        self.revision += 1
        self._past[self.revision] = dict(self.keys)

    def end_token(self) -> None:
        """Refuse the token that was given last."""
        self._token = "ended"

    async def __call__(self, request: HttpRequest) -> Reply:
        if request.path == "/version":
            return json_reply({"etcdserver": self.version, "etcdcluster": "3.5.0"})
        body = request.json()
        if request.path == "/v3/auth/authenticate":
            return self._authenticate(body)
        if self.user is not None and request.headers.get("authorization", "") != self._token:
            return refusal(401, 16, "etcdserver: invalid auth token")
        routes = {
            "/v3/kv/range": self._range,
            "/v3/kv/txn": self._txn,
            "/v3/lease/grant": self._grant,
            "/v3/lease/keepalive": self._keep_alive,
            "/v3/lease/timetolive": self._time_to_live,
            "/v3/lease/leases": self._leases,
        }
        if request.path not in routes:
            return Reply(404, b"Not Found")
        return routes[request.path](body)

    def _authenticate(self, body: Body) -> Reply:
        if (body["name"], body["password"]) != self.user:
            return refusal(400, 3, "etcdserver: authentication failed, invalid user ID or password")
        self.logins += 1
        self._token = f"token.{self.logins}"
        return json_reply({"token": self._token})

    def _range(self, body: Body) -> Reply:
        at = number(body.get("revision", 0)) or self.revision
        if at < self.compacted:
            return refusal(400, 11, "etcdserver: mvcc: required revision has been compacted")
        start, end = blob(body["key"]), blob(body["range_end"])
        found = sorted(
            (key, stored) for key, stored in self._past[at].items() if key >= start and (end == b"\0" or key < end)
        )
        answer: Body = {"header": {"revision": str(self.revision)}, "count": str(len(found))}
        if body.get("count_only") is not True:
            limit = number(body["limit"])
            answer["kvs"] = [
                {
                    "key": text(key),
                    **({"value": text(stored.value)} if stored.value else {}),
                    **({"lease": str(stored.lease)} if stored.lease else {}),
                    "version": "1",
                }
                for key, stored in found[:limit]
            ]
            answer["more"] = len(found) > limit
            self.pages += 1
            self.after_page()
        return json_reply(answer)

    def _txn(self, body: Body) -> Reply:
        operations = body["success"]
        assert isinstance(operations, list)
        assert len(operations) <= 128
        puts = [operation["request_put"] for operation in operations]
        if sum(len(blob(put["value"])) for put in puts) > self.most_bytes:
            return refusal(400, 3, "etcdserver: request is too large")
        changes: dict[bytes, EtcdStored | None] = {}
        for put in puts:
            lease = number(put["lease"])
            if lease and lease not in self.leases:
                return refusal(404, 5, "etcdserver: requested lease not found")
            changes[blob(put["key"])] = EtcdStored(blob(put["value"]), lease)
        self.write(changes)
        return json_reply({"succeeded": True})

    def _grant(self, body: Body) -> Reply:
        if number(body["ID"]) in self.leases:
            return refusal(400, 9, "etcdserver: lease already exists")
        self.leases[number(body["ID"])] = number(body["TTL"])
        return json_reply({"ID": str(body["ID"]), "TTL": str(body["TTL"])})

    def _keep_alive(self, body: Body) -> Reply:
        self.kept_alive.append(number(body["ID"]))
        return json_reply({"result": {"ID": str(body["ID"]), "TTL": str(self.leases[number(body["ID"])])}})

    def _time_to_live(self, body: Body) -> Reply:
        granted = self.leases.get(number(body["ID"]))
        if granted is None:
            return json_reply({"ID": str(body["ID"]), "TTL": "-1"})
        return json_reply({"ID": str(body["ID"]), "TTL": str(max(1, granted - 1)), "grantedTTL": str(granted)})

    def _leases(self, _: Body) -> Reply:
        return json_reply({"leases": [{"ID": str(number)} for number in self.leases]})


def refusal(status: int, code: int, told: str) -> Reply:
    return json_reply({"error": told, "message": told, "code": code}, status)


def blob(value: object) -> bytes:
    assert isinstance(value, str)
    return base64.b64decode(value, validate=True)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def number(value: object) -> int:
    found = json.loads(value) if isinstance(value, str) else value
    assert isinstance(found, int)
    return found
