"""The tutorial's web server: `GET`, `POST` and `DELETE /key/{key}`, and `POST /raft/add`, on every node.

python -m examples.tutorial.server NAME FOLDER HTTP_PORT RAFT_PORT [URL_OF_A_MEMBER]
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from examples.tutorial.store import Store, encode, read, replace
from syncline import Config, Raft
from syncline.errors import OperationError, SynclineError

HOST = "127.0.0.1"
LIMIT_BYTES = 1 << 20
JOIN_S = 30.0
REQUEST_S = 40.0  # more than any operation takes, so that only a client that is too slow meets it
SUCCESS: dict[str, object] = {"status": "success"}


async def set_up(name: str, folder: str, raft_port: int, member: str) -> tuple[Raft, Store]:
    """Open the node: one that starts a cluster of its own, or, given a member's URL, one that joins that member's."""
    store, address, data_dir = Store(folder), f"{HOST}:{raft_port}", os.path.join(folder, "raft")
    config = Config(name=name, data_dir=data_dir, listen=address, peers={name: address})
    if member:
        ids = await join(name, folder, address, member)
        config = Config(name=name, data_dir=data_dir, listen=address, node_id=ids["node"], cluster_id=ids["cluster"])
    return await Raft.open(config, store), store


async def join(name: str, folder: str, address: str, member: str) -> dict[str, int]:
    """Be taken in, once. Our id is chosen and kept before we ask, so asking again (and again) is harmless."""
    path = os.path.join(folder, "joined.json")
    ids: dict[str, int] = json.loads(read(path) or "{}")
    if "node" not in ids:
        ids["node"] = secrets.randbits(62) + 1
        replace(path, json.dumps(ids))
    deadline_s = asyncio.get_running_loop().time() + JOIN_S
    while "cluster" not in ids:
        question = json.dumps({"ID": name, "Address": address, "Node": ids["node"]}).encode()
        try:
            answer = await asyncio.to_thread(urllib.request.urlopen, f"{member}/raft/add", question, JOIN_S)
        except OSError as error:  # not started yet, or without a leader
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or asyncio.get_running_loop().time() > deadline_s:
                raise
            await asyncio.sleep(0.2)
        else:
            with answer:
                ids["cluster"] = json.load(answer)["cluster"]
            replace(path, json.dumps(ids))
    return ids


class Server:
    def __init__(self, raft: Raft, store: Store) -> None:
        self._raft = raft
        self._store = store

    async def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes | Mapping[str, object]]:
        """A request's status and body. A write is answered once a majority has it, by whichever node it came to."""
        if (method, path) == ("POST", "/raft/add"):
            new = json.loads(body)
            await self._raft.add_learner(new["ID"], new["Address"], node_id=new.get("Node", 0))  # a voter soon
            return 200, SUCCESS | {"cluster": self._raft.cluster_id}
        if (method, path) == ("GET", "/"):
            members = self._raft.membership().members.values()
            return 200, {"hello": self._raft.config.name, "members": {member.name: member.role for member in members}}
        key = encode(urllib.parse.unquote_to_bytes(path.removeprefix("/key/")))
        if not path.startswith("/key/") or not key:
            return 404, {"error": "no such route"}
        if method == "GET":
            await asyncio.shield(self._raft.read_index())  # from here on the local file is up to date
            value = await asyncio.to_thread(self._store.local_get, key)  # the lock may have to be waited for
            return (404, {"error": "no such key"}) if value is None else (200, value)
        if method not in ("POST", "DELETE"):
            return 405, {"error": "use GET, POST or DELETE"}
        command = {"action": "set", "key": key, "value": encode(body)} if method == "POST" else {
            "action": "delete", "key": key
        }  # fmt: skip
        await self._raft.apply(json.dumps(command).encode())
        return 200, SUCCESS

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: the tutorial is about the data, not about HTTP."""
        with contextlib.suppress(ConnectionError, TimeoutError), contextlib.closing(writer):
            async with asyncio.timeout(REQUEST_S):
                status, body = await self._respond(reader)
                kind, data = ("application/octet-stream", body) if isinstance(body, bytes) else (
                    "application/json; charset=utf-8", json.dumps(body).encode()
                )  # fmt: skip
                head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
                writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
                await writer.drain()

    async def _respond(self, reader: asyncio.StreamReader) -> tuple[int, bytes | Mapping[str, object]]:
        try:
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            fields = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
            size = int(fields.get("content-length", "0"))
            if size > LIMIT_BYTES:
                return 413, {"error": f"a value may have {LIMIT_BYTES} bytes"}
            return await self.answer(method, path, await reader.readexactly(size))
        except OperationError as failure:
            return 503, {"error": str(failure), "outcome": failure.outcome}
        except (ValueError, LookupError, TypeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as failure:
            return 400, {"error": f"not understood: {failure}"}
        except SynclineError as failure:  # this node is in trouble: no space, or stopped
            return 500, {"error": str(failure)}


async def main(name: str, folder: str, http_port: str, raft_port: str, member: str = "") -> None:
    try:
        raft, store = await set_up(name, folder, int(raft_port), member)
    except (SynclineError, OSError, ValueError) as error:
        sys.exit(f"{name} can't start: {error}")
    serving = asyncio.current_task()
    assert serving is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    async with raft, await asyncio.start_server(Server(raft, store).serve, HOST, int(http_port)):
        print(f"{name} serves http://{HOST}:{http_port}", flush=True)
        sys.exit(str(await raft.failed()))  # runs until it is told to stop, or stops itself


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(*sys.argv[1:]))
