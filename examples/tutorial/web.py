"""The HTTP of all stages: a function answers a request. What is behind that function is the tutorial's subject."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

from syncline.errors import ConfigError, Rejected, SynclineError

HOST = "127.0.0.1"
FIRST_PORT = int(os.environ.get("TUTORIAL_PORT", "9001"))
LIMIT_BYTES = 1 << 20
SECONDS = 40.0  # more than any operation takes, so that only a client that is too slow meets it

Answer = tuple[int, bytes]
OK: Answer = (200, b"ok\n")
ABSENT: Answer = (404, b"no such key\n")
NO_ROUTE: Answer = (404, b"there is /key/NAME, for GET, PUT, POST and DELETE\n")
Respond = Callable[[str, str, bytes], Answer]


class Handler(BaseHTTPRequestHandler):
    timeout = SECONDS
    respond: Respond

    def answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        status, body = 413, b"a value may have %d bytes\n" % LIMIT_BYTES
        if size <= LIMIT_BYTES:
            try:
                status, body = type(self).respond(self.command, unquote(self.path), self.rfile.read(size))
            except (ValueError, LookupError, TypeError, ConfigError) as failure:
                status, body = 400, f"not understood: {failure}\n".encode()
            except SynclineError as failure:
                outcome = getattr(failure, "outcome", "unknown")  # not_applied: it is safe to try again
                status = 409 if isinstance(failure, Rejected) else 503
                body = f"{failure} ({outcome})\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Print nothing for each request."""


def start(name: str, port: int, respond: Respond) -> None:
    """Answer requests with `respond(method, path, body)`, in threads beside the program."""
    handler = type("Answering", (Handler,), {"respond": staticmethod(respond)})
    Thread(target=ThreadingHTTPServer((HOST, port), handler).serve_forever, daemon=True).start()
    print(f"{name} serves http://{HOST}:{port}", flush=True)


def start_log(name: str) -> None:
    """What Syncline logs goes to a file: which node leads, which links are up, and why not."""
    os.makedirs(f"tutorial-data/{name}", exist_ok=True)
    logging.basicConfig(filename=f"tutorial-data/{name}/log", level=logging.INFO)
    with open(f"tutorial-data/{name}/pid", "w") as file:
        file.write(f"{os.getpid()}\n")


def usage(module: str, arguments: str, names: Iterable[str], most: int) -> list[str]:
    """The command line's arguments. Without any, and for another name than these, say what they are."""
    given = sys.argv[1:]
    if not 1 <= len(given) <= most or given[0] not in names:
        sys.exit(f"usage: python -m {module} {arguments}")
    return given
