"""Routes for operators: liveness, readiness, version and health, in etcd's form.

`/livez`: the process works; if not, restart it. `/readyz`: it can serve clients now; if not, send them elsewhere.
Both consist of named checks, each at a path of its own, with `?verbose` and `?exclude=`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from syncline.server.api.backend import Backend
from syncline.server.api.errors import RequestError
from syncline.server.api.reads import ConfirmedReads
from syncline.server.api.router import Router
from syncline.server.http.request import Parameters, Request
from syncline.server.http.response import TEXT, Deferred, Respond, Response, bare, json_response
from syncline.version import __version__

__all__ = ["API_VERSION", "HealthRoutes"]

API_VERSION: Final = 1
"""The version of the HTTP interface: raised when a valid request becomes invalid."""
READ_TIMEOUT_S: Final = 2.0
"""For the check that reads: shorter than an election would fail too often; probes commonly allow less."""
MAX_TIMEOUT_S: Final = 60.0
METRICS: Final = b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"

LIVE: Final = ("node", "local_read")
READY: Final = ("node", "local_read", "not_stopping", "digest", "disk", "linearizable_read")
READING: Final = "linearizable_read"
SHORTAGES: Final = ("disk_space", "store_space")
"""Checks of `/readyz` that never fail: reads and deletes go on. `?verbose` and `/health` show them."""

Results = dict[str, str]
"""By check: the reason of its failure; empty if it passed."""


class HealthRoutes:
    """Routes for operators. Set `stopping` before the server drains: it is not ready then."""

    def __init__(
        self,
        backend: Backend,
        reads: ConfirmedReads,
        *,
        name: str,
        metrics: Callable[[], bytes],
        routes: Callable[[], list[str]],
    ) -> None:
        self._backend = backend
        self._reads = reads
        self._name = name
        self._metrics = metrics
        self._routes = routes
        self.stopping = False

    def add_to(self, router: Router) -> None:
        """Register the routes."""
        for path, checks in (("/livez", LIVE), ("/readyz", READY)):
            router.add("GET", path, partial(self._probe, checks))
            router.add("GET", f"{path}/{{check}}", partial(self._probe, checks))
        router.add("GET", "/health", self._health)
        router.add("GET", "/version", self._version)
        router.add("GET", "/metrics", self._get_metrics)
        router.add("GET", "/", self._index)

    def _probe(self, checks: tuple[str, ...], request: Request, respond: Respond) -> None:
        parameters = Parameters(request.query, frozenset({"verbose", "exclude", "timeout"}))
        timeout_s = parameters.duration_s("timeout", READ_TIMEOUT_S, high=MAX_TIMEOUT_S)
        verbose = parameters.boolean("verbose")
        if request.argument:
            alone = request.argument.decode("utf-8", "replace")
            if alone not in checks:
                known = ", ".join(checks)
                raise RequestError(f"no check {alone[:80]!r}; there are: {known}", status=404, code="unknown_route")
            checks = (alone,)
        excluded = set(parameters.text("exclude", "").split(","))
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
        parameters = Parameters(request.query, frozenset({"serializable", "timeout", "exclude"}))
        timeout_s = parameters.duration_s("timeout", READ_TIMEOUT_S, high=MAX_TIMEOUT_S)
        if (failure := self._backend.failure) is not None:
            respond(_health(f"NODE FAILED: {failure}", []))
            return
        warnings = [why for why in self._backend.shortages.values() if why]
        if parameters.boolean("serializable"):
            respond(_health("", warnings))
        elif stall := self._backend.disk_stall:
            respond(_health(f"DISK HANGS: {stall}", warnings))
        elif self._backend.leader() is None:
            respond(_health("RAFT NO LEADER", warnings))
        else:
            self._reads.within(timeout_s, _read_health, warnings, respond)

    def _version(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(json_response({"syncline": __version__, "api": API_VERSION}))

    def _get_metrics(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(
            Deferred.by(lambda: bare(200, METRICS, self._metrics()))
        )  # large: not made for a client that does not read its answers

    def _index(self, request: Request, respond: Respond) -> None:
        Parameters(request.query, frozenset())
        respond(json_response({"syncline": __version__, "name": self._name, "routes": self._routes()}))


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
    body: dict[str, str | list[str]] = {"health": "false" if reason else "true", "reason": reason}
    if warnings:
        body["warnings"] = warnings
    return json_response(body, status=503 if reason else 200)
