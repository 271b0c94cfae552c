"""Routes for operators: liveness, readiness, version and health, in etcd's form.

`/livez`: the process works; if not, restart it. `/readyz`: it can serve clients now; if not, send them elsewhere.
Both consist of named checks, each at a path of its own, with `?verbose` and `?exclude=`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from syncline.client.schemas import HealthReply, IndexReply, VersionReply
from syncline.kv.serving.reads import ConfirmedReads
from syncline.server.api.backend import Backend
from syncline.server.api.declare import Content, Field, Reply, Route
from syncline.server.api.error_codes import UNKNOWN_ROUTE
from syncline.server.api.errors import RequestError
from syncline.server.api.parameters import Boolean, Choice, Query, Seconds, Text
from syncline.server.api.router import Router
from syncline.server.auth.access import OPEN, STATUS, Access
from syncline.server.http.request import Request
from syncline.server.http.response import TEXT, Deferred, Respond, Response, bare, json_response
from syncline.version import __version__

__all__ = ["API_VERSION", "HealthRoutes"]

API_VERSION: Final = 1
"""The version of the HTTP interface: raised when a valid request becomes invalid."""
READ_TIMEOUT_S: Final = 2.0
"""For the check that reads: shorter than an election would fail too often; probes commonly allow less."""
MAX_TIMEOUT_S: Final = 60.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
METRICS: Final = b"Content-Type: %s\r\n" % METRICS_TYPE.encode()

LIVE: Final = ("node", "local_read")
READY: Final = ("node", "local_read", "not_stopping", "digest", "disk", "linearizable_read")
READING: Final = "linearizable_read"
SHORTAGES: Final = ("disk_space", "store_space")
"""Checks of `/readyz` that never fail: reads and deletes go on. `?verbose` and `/health` show them."""

Results = dict[str, str]
"""By check: the reason of its failure; empty if it passed."""

NO_QUERY: Final = Query()
TIMEOUT: Final = Seconds("timeout", "The deadline of the read.", default_s=READ_TIMEOUT_S, high_s=MAX_TIMEOUT_S)
VERBOSE: Final = Boolean("verbose", "Show each check also if all passed.")
EXCLUDE: Final = Text("exclude", "Checks to leave out, with commas between them.")
SERIALIZABLE: Final = Boolean("serializable", "Check this node alone.")
PROBE_QUERY: Final = Query(VERBOSE, EXCLUDE, TIMEOUT)
HEALTH_QUERY: Final = Query(SERIALIZABLE, EXCLUDE, TIMEOUT)
"""`exclude` is accepted because etcd's clients send it."""

PLAIN: Final = "text/plain; charset=utf-8"
PROBE: Final = Route(
    "GET",
    "/",
    summary="Check this node",
    access=OPEN,
    query=PROBE_QUERY,
    answers={200: Reply("All checks passed.", (PLAIN,)), 503: Reply("A check failed.", (PLAIN,))},
)
HEALTH: Final = Route(
    "GET",
    "/health",
    summary="Check the cluster, in etcd's form",
    access=OPEN,
    query=HEALTH_QUERY,
    answers={200: Reply("It is healthy.", (HealthReply,)), 503: Reply("It is not healthy.", (HealthReply,))},
)

TO_CONSOLE: Final = Reply("To `Accept: text/html`: the console is there.", (), (Field("Location", "The console."),))


def _route(pattern: str, summary: str, content: Content, access: Access = OPEN) -> Route:
    answers = {200: Reply("The answer.", (content,))}
    return Route("GET", pattern, summary=summary, access=access, query=NO_QUERY, answers=answers)


class HealthRoutes:
    """Routes for operators. Set `stopping` before the server drains: it is not ready then."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads[Respond],
        *,
        name: str,
        metrics: Callable[[], bytes],
        routes: Callable[[], list[str]],
        console: bool = False,
    ) -> None:
        """`console`: a browser that asks for `/` is sent to the console."""
        self._backend = backend
        self._reads = reads
        self._name = name
        self._metrics = metrics
        self._routes = routes
        self._console = console
        self.stopping = False
        self.etcd_version = ""
        """The version of etcd whose clients are served; empty: they are not."""

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        for path, checks in (("/livez", LIVE), ("/readyz", READY)):
            handler, check = (
                partial(self._probe, checks),
                Choice("check", "One check alone.", choices=checks, required=True),
            )
            router.declare(replace(PROBE, pattern=path), handler)
            one = replace(PROBE, pattern=f"{path}/{{check}}", argument=check, errors=(UNKNOWN_ROUTE,))
            router.declare(one, handler)
        router.declare(HEALTH, self._health)
        router.declare(_route("/version", "Show the versions", VersionReply), self._version)
        metrics = _route("/metrics", "Show the metrics, for Prometheus", METRICS_TYPE, STATUS)
        router.declare(metrics, self._get_metrics)
        index = _route("/", "List the routes", IndexReply)
        if self._console:
            index = replace(index, answers={**index.answers, 303: TO_CONSOLE})
        router.declare(index, self._index)

    def _probe(self, checks: tuple[str, ...], request: Request, respond: Respond) -> None:
        parameters = PROBE_QUERY.parse(request.query)
        timeout_s, verbose = TIMEOUT.of(parameters), VERBOSE.of(parameters)
        if request.argument:
            alone = request.argument.decode("utf-8", "replace")
            if alone not in checks:
                known = ", ".join(checks)
                raise RequestError(f"no check {alone[:80]!r}; there are: {known}", status=404, code="unknown_route")
            checks = (alone,)
        excluded = set(EXCLUDE.of(parameters).split(","))
        tells_shortages = verbose and checks == READY
        checks = tuple(check for check in checks if check not in excluded)
        results = {check: self._check(check) for check in checks if check != READING}
        short: Results = {}
        if tells_shortages:
            short = {check: why for check, why in self._backend.shortages.items() if check not in excluded}
        if READING not in checks:
            respond(_report(results, short, verbose=verbose))
            return
        self._reads.within(timeout_s, partial(_read_checked, verbose, short), results, respond)

    def _check(self, check: str) -> str:
        match check:
            case "node":
                failure = self._backend.failure
                return f"the node has stopped: {failure}" if failure is not None else ""
            case "local_read":
                self._backend.store.get(b"health")
                return ""
            case "not_stopping":
                return "the server is shutting down" if self.stopping else ""
            case "digest":
                return self._backend.state_alarm
            case "disk":
                return self._backend.disk_stall
            case _:
                raise AssertionError(check)

    def _health(self, request: Request, respond: Respond) -> None:
        parameters = HEALTH_QUERY.parse(request.query)
        timeout_s, serializable = TIMEOUT.of(parameters), SERIALIZABLE.of(parameters)
        if (failure := self._backend.failure) is not None:
            respond(_health(f"NODE FAILED: {failure}", []))
            return
        warnings = [why for why in self._backend.shortages.values() if why]
        if serializable:
            respond(_health("", warnings))
        elif stall := self._backend.disk_stall:
            respond(_health(f"DISK HANGS: {stall}", warnings))
        elif self._backend.leader() is None:
            respond(_health("RAFT NO LEADER", warnings))
        else:
            self._reads.within(timeout_s, _read_health, warnings, respond)

    def _version(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(json_response(VersionReply(__version__, API_VERSION, self.etcd_version, self.etcd_version)))

    def _get_metrics(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        respond(
            Deferred.by(lambda: bare(200, METRICS, self._metrics()))
        )  # large: not made for a client that does not read its answers

    def _index(self, request: Request, respond: Respond) -> None:
        NO_QUERY.parse(request.query)
        if self._console and b"text/html" in request.headers.get(b"accept", b""):
            place = b"Location: %s/console/\r\nVary: Accept\r\n" % request.mount.encode("ascii", "replace")
            respond(bare(303, place, b""))
            return
        respond(json_response(IndexReply(__version__, self._name, self._routes())))


def _read_health(warnings: list[str], respond: Respond, error: BaseException | None) -> None:
    respond(_health(f"READ ERROR: {error}" if error else "", warnings))


def _read_checked(
    verbose: bool, short: Results, results: Results, respond: Respond, error: BaseException | None
) -> None:
    results[READING] = str(error) or type(error).__name__ if error is not None else ""
    respond(_report(results, short, verbose=verbose))


def _report(results: Results, short: Results, *, verbose: bool) -> Response:
    healthy = not any(results.values())
    if healthy and not verbose:
        return bare(200, TEXT, b"ok\n")
    lines = [f"[-]{check} failed: {why}" if why else f"[+]{check} ok" for check, why in results.items()]
    lines += [f"[!]{check} short: {why}" if why else f"[+]{check} ok" for check, why in short.items()]
    lines.append("ok" if healthy else "failed")
    return bare(200 if healthy else 503, TEXT, "\n".join([*lines, ""]).encode())


def _health(reason: str, warnings: list[str]) -> Response:
    reply = HealthReply("false" if reason else "true", reason, warnings)
    return json_response(reply, status=503 if reason else 200)
