"""Stage 5: the finished web server. `a`, `b` and `c` start a cluster; any other name joins one.

python -m examples.tutorial.server NAME [URL_OF_A_MEMBER]
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request

from msgspec import msgpack

from examples.tutorial.store import Add, Command, Delete, Set, Store
from examples.tutorial.web import ABSENT, FIRST_PORT, HOST, NO_ROUTE, OK, SECONDS, Answer, start, start_log, usage
from syncline import Config, Raft
from syncline.errors import SynclineError

PORTS = {name: FIRST_PORT + at for at, name in enumerate("abcdefg")}
PEERS = {name: f"{HOST}:{PORTS[name] + 100}" for name in "abc"}


async def open_node(name: str, member: str) -> tuple[Raft[object], Store]:
    """Open the node: with the others of the first three, or, given a member's URL, as one that joins."""
    store, address = Store(f"tutorial-data/{name}"), f"{HOST}:{PORTS[name] + 100}"

    async def ask(node_id: int) -> int:
        """Have the member add this node; wait for a member that is not up yet."""
        new = json.dumps({"name": name, "address": address, "id": node_id}).encode()
        while True:
            try:
                with await asyncio.to_thread(urllib.request.urlopen, f"{member}/join", new, SECONDS) as answer:
                    return int(answer.read())
            except urllib.error.URLError as failure:
                print(f"{name} waits for {member}: {failure}", flush=True)
                await asyncio.sleep(1)

    config = Config(name=name, data_dir=f"tutorial-data/{name}/raft", listen=address, peers={} if member else PEERS)
    return await (Raft.join(config, store, ask) if member else Raft.open(config, store)), store


async def respond(raft: Raft[object], store: Store, method: str, path: str, body: bytes) -> Answer:
    """A request's status and body. A write is answered once a majority has it, on whichever node it came in."""
    command: Command | None = None
    match method, path.split("/", 2)[1:]:
        case "GET", [""]:
            lines = [f"{member.name} {member.role}\n" for member in raft.membership().members.values()]
            return 200, "".join(sorted(lines)).encode()
        case "GET", ["leader"]:
            return 200, f"{raft.leader.name if raft.leader else 'none'}\n".encode()
        case "POST", ["join"]:
            new = json.loads(body)
            await raft.add_learner(
                new["name"], new["address"], node_id=new["id"]
            )  # a voter as soon as it has caught up
            return 200, b"%d\n" % raft.cluster_id
        case "GET", ["key", key] if key:
            await raft.read_index(timeout=10.0)  # from here on the local file is up to date
            value = await asyncio.to_thread(store.local_get, key)  # the lock may have to be waited for
            return ABSENT if value is None else (200, value)
        case "PUT" | "POST", ["key", key] if key:
            command = Set(key, body)
        case "DELETE", ["key", key] if key:
            command = Delete(key)
        case "POST", ["count", key] if key:
            command = Add(key)
    if command is None:
        return NO_ROUTE
    answer = await raft.apply(msgpack.encode(command), timeout=10.0)
    return OK if answer is None else (200, f"{answer}\n".encode())


async def main(name: str, member: str = "") -> None:
    raft, store = await open_node(name, member)
    loop = asyncio.get_running_loop()

    def on_loop(method: str, path: str, body: bytes) -> Answer:
        """Called in a thread of the web server: the node lives on the event loop."""
        return asyncio.run_coroutine_threadsafe(respond(raft, store, method, path, body), loop).result(SECONDS)

    async with raft:
        start(name, PORTS[name], on_loop)
        await raft.until_stopped()


if __name__ == "__main__":
    arguments = usage("examples.tutorial.server", "NAME [URL_OF_A_MEMBER]   (a, b and c start; d to g join)", PORTS, 2)
    if len(arguments) == 1 and arguments[0] not in PEERS:
        sys.exit(f"{arguments[0]} joins: give the URL of a member, such as http://{HOST}:{FIRST_PORT}")
    start_log(arguments[0])
    try:
        asyncio.run(main(*arguments))
    except (SynclineError, OSError, LookupError) as error:
        sys.exit(f"{arguments[0]} can't run: {error}")
