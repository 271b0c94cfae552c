"""A stand-in for `syncline serve` in tests of `up`: it answers `/raft/status`, ends as it is told, and writes down how.

The first node (n1) leads. Started with FAKE_NODE_FAIL=<name>,<name> in the environment these nodes fail at once. With
FAKE_NODE_GUARDED=1 they ask for a credential. With FAKE_NODE_ROT=<name> it says that its data is damaged, as long as
there is no file "rot is gone".
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--config", required=True)
    parser.add_argument("--log-file")
    parser.add_argument("--parent-fd", type=int)
    parser.add_argument("--lab-fd", type=int)
    arguments = parser.parse_args()
    with open(arguments.config, "rb") as file:
        settings = tomllib.load(file)
    name = settings["name"]
    journal = os.path.join(os.path.dirname(settings["data_dir"]), "journal")
    if name in os.environ.get("FAKE_NODE_FAIL", "").split(","):
        print(f"syncline: {name} is broken", file=sys.stderr)
        return 1
    rotten = os.environ.get("FAKE_NODE_ROT") == name
    if rotten and not os.path.exists(os.path.join(os.path.dirname(journal), "rot is gone")):
        print(f"syncline: {name} is rotten", file=sys.stderr)
        return 7
    host, port = settings["http_listen"].split(":")
    server = ThreadingHTTPServer((host, int(port)), _handler(settings))
    stop = threading.Event()

    def leave(number: int, frame: object) -> None:
        if os.environ.get("FAKE_NODE_HANG") != name:
            stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, lambda number, frame: _drain(journal, name))
    signal.signal(signal.SIGINT, lambda number, frame: _write(journal, f"{name} got SIGINT"))
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    serving.start()
    if arguments.parent_fd is not None:
        threading.Thread(target=_watch, args=(arguments.parent_fd, stop), daemon=True).start()
    print(f"syncline: node {name} serves", file=sys.stderr, flush=True)
    while not stop.wait(3600):
        pass
    _write(journal, f"{name} stopped")
    server.shutdown()
    serving.join()
    server.server_close()
    return 0


def _drain(journal: str, name: str) -> None:
    if os.environ.get("FAKE_NODE_HANG") != name:
        _write(journal, f"{name} drained")
        print("syncline: no client waits", file=sys.stderr, flush=True)


def _write(journal: str, line: str) -> None:
    with open(journal, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _watch(descriptor: int, stop: threading.Event) -> None:
    select.select([descriptor], [], [])
    stop.set()


def _handler(settings: dict[str, str]) -> type[BaseHTTPRequestHandler]:
    leads = settings["name"] == "n1"
    status = {
        "cluster_id": "ab", "id": settings["name"], "name": settings["name"], "role": "leader" if leads else "follower",
        "term": 1, "commit": 5, "applied": 5, "last_index": 5, "pid": os.getpid(), "data_dir": settings["data_dir"],
        "leader": {"id": "n1", "name": "n1"},
    }  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if os.environ.get("FAKE_NODE_GUARDED"):
                _write(os.path.join(os.path.dirname(settings["data_dir"]), "journal"), f"{settings['name']} refused")
                body = b'{"error":{"code":"unauthenticated","message":"no","outcome":"not_applied"}}'
                self.send_response(401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            body = json.dumps(status).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


if __name__ == "__main__":
    sys.exit(main())
