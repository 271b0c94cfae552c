"""Offer gRPC on the HTTP server, if the package that it needs is there; else explain to its clients what is missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from syncline.server.etcd.grpc.service import GrpcService
from syncline.server.http.server import HttpServer

__all__ = ["NOT_OFFERED", "has_extra", "offer_grpc"]

NOT_OFFERED: Final = "this node does not serve clients of etcd (etcd_api), and has no other use for HTTP/2"
NO_EXTRA: Final = "gRPC needs a package that is not installed: pip install 'syncline[etcd-api]'"


def has_extra() -> bool:
    """Whether HTTP/2 can be spoken: the package of the extra is installed."""
    return find_spec("hpack") is not None


def offer_grpc(http: HttpServer, *, observe: Callable[[str, int, float], None]) -> GrpcService | None:
    """The service for etcd's clients, or None: then they are told what is missing, and so is the log."""
    if not has_extra():
        http.explain_http2(NO_EXTRA)
        return None
    import_module("hpack")  # now: it takes 0.2 s, which the first client's connection would take from the event loop
    service = GrpcService(http.shared.total, http.limits, observe=observe)
    http.offer_http2(service.application)
    return service
