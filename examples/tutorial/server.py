"""The tutorial's web server: `GET`, `POST` and `DELETE /key/{key}`, and `POST /raft/add`, on every node.

python -m examples.tutorial.server NAME FOLDER HTTP_PORT RAFT_PORT [URL_OF_A_MEMBER]
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.parse
import urllib.request
from contextlib import closing, suppress
from functools import partial

from msgspec import msgpack

from examples.tutorial.store import Command, Store
from syncline import Config, Raft
from syncline.errors import SynclineError

HOST = "127.0.0.1"
LIMIT_BYTES = 1 << 20
REQUEST_S = 40.0  # more than any operation takes, so that only a client that is too slow meets it
Answer = tuple[int, bytes | dict[str, object]]


async def set_up(name: str, folder: str, raft_port: int, member: str) -> tuple[Raft, Store]:
    """Open the node: one that starts a cluster of its own, or, given a member's URL, one that joins that member's."""
    store, address = Store(folder), f"{HOST}:{raft_port}"

    async def ask(node_id: int) -> int:
        new = json.dumps({"ID": name, "Address": address, "Node": node_id}).encode()
        with await asyncio.to_thread(urllib.request.urlopen, f"{member}/raft/add", new, REQUEST_S) as answer:
            return int(json.load(answer)["cluster"])

    config = Config(name=name, data_dir=f"{folder}/raft", listen=address, peers={} if member else {name: address})
    return await (Raft.join(config, store, ask) if member else Raft.open(config, store)), store


async def answer(raft: Raft, store: Store, method: str, path: str, body: bytes) -> Answer:
    """A request's status and body. A write is answered once a majority has it, by whichever node it came to."""
    key = urllib.parse.unquote_to_bytes(path.removeprefix("/key/")) if path.startswith("/key/") else b""
    match method, path:
        case "POST", "/raft/add":
            new = json.loads(body)
            await raft.add_learner(new["ID"], new["Address"], node_id=new.get("Node", 0))  # a voter soon
            return 200, {"status": "success", "cluster": raft.cluster_id}
        case "GET", "/":
            return 200, {"members": {member.name: member.role for member in raft.membership().members.values()}}
        case "GET", _ if key:
            await raft.read_index()  # from here on the local file is up to date
            value = await asyncio.to_thread(store.local_get, key)  # the lock may have to be waited for
            return (404, {"error": "no such key"}) if value is None else (200, value)
        case "POST" | "DELETE", _ if key:
            await raft.apply(msgpack.encode(Command(key, body if method == "POST" else None)))
            return 200, {"status": "success"}
    return (405, {"error": "use GET, POST or DELETE"}) if key else (404, {"error": "no such route"})


async def respond(raft: Raft, store: Store, reader: asyncio.StreamReader) -> Answer:
    """Read a request and answer it; what went wrong is an answer, too."""
    try:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        fields = {name.lower(): value for name, _, value in (line.partition(":") for line in lines)}
        size = int(fields.get("content-length", "0"))
        if size > LIMIT_BYTES:
            return 413, {"error": f"a value may have {LIMIT_BYTES} bytes"}
        return await answer(raft, store, method, path, await reader.readexactly(size))
    except (ValueError, LookupError, TypeError, EOFError, asyncio.LimitOverrunError) as failure:
        return 400, {"error": f"not understood: {failure}"}
    except SynclineError as failure:
        return 503, {"error": str(failure), "outcome": getattr(failure, "outcome", "unknown")}


async def serve(raft: Raft, store: Store, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request per connection: the tutorial is about the data, not about HTTP."""
    with suppress(ConnectionError, TimeoutError), closing(writer):
        async with asyncio.timeout(REQUEST_S):
            status, body = await respond(raft, store, reader)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            head = b"HTTP/1.1 %d \r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(data))
            writer.write(head + data)
            await writer.drain()


async def main(name: str, folder: str, http_port: str, raft_port: str, member: str = "") -> None:
    raft, store = await set_up(name, folder, int(raft_port), member)
    async with raft, await asyncio.start_server(partial(serve, raft, store), HOST, int(http_port)):
        print(f"{name} serves http://{HOST}:{http_port}", flush=True)
        await raft.until_stopped()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (SynclineError, OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]} can't run: {error}")
