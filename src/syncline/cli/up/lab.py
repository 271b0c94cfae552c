"""The lab of `up`: a door on loopback by which the console's page Learn breaks and mends this run's nodes.

    POST /lab/kill/n1      POST /lab/pause/n1      POST /lab/resume/n1      POST /lab/start/n1
    POST /lab/cut/n1       POST /lab/connect/n1    GET  /lab/nodes

Each request shows the token of this run, which `up` prints as a part of the console's address, behind the #. It is new
at each start. Pages of other origins than the nodes' are refused, as on the nodes, and other names than loopback's.
"""

from __future__ import annotations

import hmac
import secrets
import signal
from typing import Final

import msgspec

from syncline.cli.up.plan import HOST, UpPlan
from syncline.cli.up.supervisor import Supervisor
from syncline.platform.network import TcpNetwork
from syncline.server.api.errors import RequestError, error_response
from syncline.server.api.router import Router, coroutine
from syncline.server.http.cross_site import CrossSitePolicy
from syncline.server.http.limits import KIB, HttpLimits
from syncline.server.http.request import Request
from syncline.server.http.response import NO_STORE, Response, json_response, status_line
from syncline.server.http.server import HttpServer
from syncline.server.tasks import Tasks

__all__ = ["Lab"]

TOKEN_BYTES: Final = 16
LIMITS: Final = HttpLimits(max_body_bytes=KIB, max_connections=32)

CUTS: Final = {"cut": True, "connect": False}
SIGNALS: Final = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP, "resume": signal.SIGCONT}


class Lab:
    """The door of one run."""

    def __init__(self, plan: UpPlan, supervisor: Supervisor) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._token = secrets.token_urlsafe(TOKEN_BYTES)
        self._paused: set[str] = set()
        self._tasks = Tasks()
        origins = [node.http_url for node in plan.nodes]
        self._router = Router(policy=CrossSitePolicy(loopback=True, allowed_origins=origins))
        self._router.mount("/lab/", coroutine(self._tasks, self._answer, explain=error_response))
        self._server = HttpServer(self._router.handle, limits=LIMITS)

    async def open(self) -> UpPlan:
        """Listen on a free port; return the plan with the door's URL and token."""
        host, port = await self._server.start(TcpNetwork(), HOST, 0)
        return msgspec.structs.replace(self._plan, lab=f"http://{host}:{port}", lab_token=self._token)

    async def close(self) -> None:
        """Take no more orders. A node that is paused goes on, so that it can stop in order."""
        await self._server.close(drain_s=0)
        await self._tasks.close()

    async def _answer(self, request: Request) -> Response:
        if request.method == "OPTIONS":  # what a browser asks before it sends the token; the policy has answered
            return Response(204, status_line(204) + NO_STORE)
        self._check_token(request)
        action, _, name = request.path.decode("ascii", "replace").removeprefix("/lab/").partition("/")
        known = {node.name for node in self._plan.nodes}
        if request.method == "GET" and action == "nodes" and not name:
            return json_response(
                {"nodes": sorted(known), "paused": sorted(self._paused), "cut": self._supervisor.cut_off}
            )
        if request.method != "POST" or action not in {*SIGNALS, *CUTS, "start"}:
            known_orders = "kill|pause|resume|start|cut|connect"
            raise RequestError(f"the lab takes POST /lab/{known_orders}/NODE", status=404, code="unknown_route")
        if name not in known:
            names = ", ".join(sorted(known))
            raise RequestError(f"no node {name[:80]!r}: there are {names}", status=404, code="unknown_member")
        if not await self._do(action, name):
            does = "runs already, or needs a repair" if action == "start" else "does not run"
            raise RequestError(f"{name} {does}", status=409, code="membership")
        return json_response({"status": "success"})

    async def _do(self, action: str, name: str) -> bool:
        if action == "start":
            return await self._supervisor.start_again(name)
        if action in CUTS:
            return self._supervisor.cut(name, off=CUTS[action])
        if not self._supervisor.send(name, SIGNALS[action]):
            return False
        (self._paused.add if action == "pause" else self._paused.discard)(name)
        return True

    def _check_token(self, request: Request) -> None:
        given = request.headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if not hmac.compare_digest(given, self._token.encode()):
            raise RequestError(
                "open the console by the address that this run of 'syncline up' has printed",
                status=401,
                code="unauthenticated",
            )
